"""Whatever the weights' names, the same parameters come out, and every tensor is accounted for."""

import jax
import numpy as np
import pytest

from vmae_jax.spec import ConfigError, call
from vmae_jax.weights.formats.tensors import File
from vmae_jax.weights.infer import config_of
from vmae_jax.weights.layouts import huggingface
from vmae_jax.weights.layouts.fit import fit, sinusoid
from vmae_jax.weights.layouts.names import official
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.layouts.videomae import to_official
from vmae_jax.weights.subject import fresh_params, subject


@pytest.fixture(scope="module", params=["pretraining", "classifier"])
def model(request, small):
    """A subject, its random parameters, and they in the official names."""
    one = subject(small.config_of(request.param))
    params = small.random_params(one.config)
    return one, params, to_official(params, one.facts)


def read(state, about=None):
    return official(File(dict(state), about or {}))


def fitted(model, weights, **options):
    one, _, _ = model
    return fit(weights, one.facts, fresh_params(one, None), one.model.grid, **options)


def assert_same_params(model, weights):
    params, account = fitted(model, weights)
    jax.tree.map(np.testing.assert_array_equal, params, model[1])
    return account


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "backbone."])
def test_prefixes(model, prefix):
    state = {prefix + name: array for name, array in model[2].items()}
    account = assert_same_params(model, read(state))
    assert len(account.used) == len(state)
    assert not account.dropped


def test_an_encoder_prefix_on_a_classifier(model):
    if "head.weight" not in model[2]:
        pytest.skip("a pre-training model always has it")
    tops = ("head.", "fc_norm.")
    assert_same_params(model, read({n if n.startswith(tops) else f"encoder.{n}": a for n, a in model[2].items()}))


def test_half_precision_and_buffers(model):
    half = {name: array.astype(np.float16) for name, array in model[2].items()}
    weights = read(half | {"num_batches_tracked": np.array(3)})
    params, account = fitted(model, weights)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float16)), params, model[1])
    assert account.dropped == {"num_batches_tracked": "whole numbers, no weights"}


def test_transformers_names(model):
    """Versions before 5.5.1 have q_bias, later ones query.bias and a key bias; our exports have all of them."""
    state = model[2]
    both = huggingface.to_state(state, "classifier" if "head.weight" in state else "pretraining")
    assert not any("qkv" in name for name in both)
    old = {name: array for name, array in both.items() if not name.endswith(("query.bias", "key.bias", "value.bias"))}
    new = {name: array for name, array in both.items() if not name.endswith(("q_bias", "v_bias"))}
    layers = sum(name.endswith("q_bias") for name in both)
    assert (len(both) - len(old), len(both) - len(new)) == (3 * layers, 2 * layers)
    for name in [name for name in both if name.endswith("q_bias")]:
        np.testing.assert_array_equal(both[name], both[name.replace("q_bias", "query.bias")])
        np.testing.assert_array_equal(
            both[name.replace("q_bias", "v_bias")], both[name.replace("q_bias", "value.bias")]
        )
        assert not both[name.replace("q_bias", "key.bias")].any()
    for spelling in (both, old, new):
        assert not assert_same_params(model, read(spelling)).dropped
    keys = {name: array + 1 for name, array in new.items() if name.endswith("key.bias")}
    account = assert_same_params(model, read(new | keys))  # trained further by a version with a key bias
    assert len(account.dropped) == len(keys)
    assert all("softmax" in reason for reason in account.dropped.values())


@pytest.mark.parametrize("which", ["q_bias", "v_bias", "query.bias", "value.bias"])
def test_spellings_that_contradict_each_other(model, which):
    both = huggingface.to_state(model[2], "classifier" if "head.weight" in model[2] else "pretraining")
    name = next(name for name in both if name.endswith(which))
    with pytest.raises(MismatchError, match="one bias in two spellings, and their values differ"):
        read(both | {name: both[name] * 0})


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"num_frames": 0}, "num_frames=0, where a whole number"),
        ({"num_frames": True}, "num_frames=True"),
        ({"num_frames": 16384, "image_size": 16384}, "tokens"),
        ({"num_attention_heads": 7}, "do not divide a width"),
        ({"num_attention_heads": "12"}, "num_attention_heads='12'"),
        ({"num_attention_heads": -2}, "num_attention_heads=-2"),
        ({"image_size": [[16]]}, "image_size=a list"),
        ({"image_size": []}, "image_size=a list"),
        ({"image_size": {"a": 1}}, "image_size=a dict"),
        ({"layer_norm_eps": "x" * 5000}, "layer_norm_eps='xxx"),
        ({"hidden_act": {"relu": []}}, "hidden_act=a dict"),
        ({"image_mean": [float("nan")] * 3}, "image_mean=a list"),
        ({"image_std": "abc"}, "image_std='abc'"),
        ({"image_std": [0, 1, 1]}, "image_std is not 3 numbers"),
        ({"norm_pix_loss": []}, "norm_pix_loss=a list"),
        ({"model_config": {"num_heads": 10**30}}, "num_attention_heads=a int"),
    ],
)
def test_configs_of_no_model(model, about, message):
    good = {"num_frames": 4, "image_size": 16, "num_attention_heads": 2, "decoder_num_attention_heads": 2}
    with pytest.raises((MismatchError, ConfigError), match=message) as error:
        config_of(read(model[2], good | about))
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("patch_embed.proj.weight", (24,), "4 or 5 axes"),
        ("patch_embed.proj.weight", (24, 3, 2, 0, 8), "none of length 0"),
        ("blocks.0.attn.qkv.weight", (72,), "2 axes"),
        ("blocks.0.mlp.fc1.weight", (), "2 axes"),
        ("blocks.0.norm1.weight", (24, 1), "1 axes"),
        ("blocks.0.attn.qkv.bias", (71,), "three times a width"),
        ("pos_embed", (5,), "3 axes"),
        ("patch_embed.proj.weight", (1 << 16, 3, 2, 8, 1), "describe a model of"),
    ],
)
def test_shapes_of_no_model(model, name, shape, message):
    """Also a few long vectors that describe a model of many gigabytes."""
    prefix = "" if "head.weight" in model[2] else "encoder."
    about = {"num_frames": 4, "image_size": 16, "num_attention_heads": 2, "decoder_num_attention_heads": 2}
    with pytest.raises((MismatchError, ConfigError), match=message):
        config_of(read(model[2] | {prefix + name: np.zeros(shape, np.float32)}, about))


NAMES = (
    "pos_embed", "encoder.pos_embed_spatial", "encoder.pos_embed_temporal", "encoder.cls_token", "cls_token",
    "decoder_pos_embed_temporal", "decoder_pred.weight", "mask_token", "decoder_embed.bias", "decoder_cls_token",
    "encoder.blocks.0.attn.scale", "encoder.blocks.0.gamma_1", "blocks.0.attn.q.weight", "head.weight",
    "fc_norm.weight", "blocks.7.norm1.weight", "encoder.blocks.0.attn.qkv.bias", "decoder_embed.weight",
    "patch_embed.proj.weight",
)  # fmt: skip
SHAPES = (
    (),
    (1,),
    (24,),
    (0,),
    (1, 1, 24),
    (1, 8, 24),
    (5, 24),
    (72, 24),
    (2, 1, 1),
    (24, 3, 2, 8, 8),
    (3,) * 6,
    (71,),
)


def test_shapes_and_names_at_random(model):
    """Tensors removed, added, turned round or of other shapes: understood or refused, never another error."""
    rng = np.random.default_rng(0)
    about = {"num_frames": 4, "image_size": 16, "num_attention_heads": 2, "decoder_num_attention_heads": 2}
    kind, refused = "classifier" if "head.weight" in model[2] else "pretraining", 0
    for number in range(400):
        state = dict(model[2]) if number % 2 else huggingface.to_state(model[2], kind)
        for _ in range(rng.choice((1, 1, 2, 3))):
            name, shape = list(state)[rng.integers(len(state))], SHAPES[rng.integers(len(SHAPES))]
            match rng.integers(4):
                case 0:
                    del state[name]
                case 1:
                    state[name] = np.ones(shape, np.float32)
                case 2:
                    state[NAMES[rng.integers(len(NAMES))]] = np.ones(shape, np.float32)
                case 3:
                    state[name] = state[name].T
        try:
            config_of(read(state, about))
        except (MismatchError, ConfigError):
            refused += 1
    assert 100 < refused < 400


def test_a_full_qkv_bias(model):
    """timm's fused bias: the keys' third is dropped."""
    state = dict(model[2])
    for name in [name for name in state if name.endswith("q_bias")]:
        q, v = state.pop(name), state.pop(name.replace("q_bias", "v_bias"))
        state[name.replace("q_bias", "qkv.bias")] = np.concatenate([q, np.ones_like(q), v])
    account = assert_same_params(model, read(state))
    assert all("keys' third" in name for name in account.dropped)


def test_mmaction(model):
    if "head.weight" not in model[2]:
        pytest.skip("MMAction2 has classifiers")
    state = {}
    for name, array in model[2].items():
        name = name.replace("patch_embed.proj.", "patch_embed.projection.")
        name = name.replace("mlp.fc1.", "mlp.layers.0.0.").replace("mlp.fc2.", "mlp.layers.1.")
        name = name.replace("head.", "cls_head.fc_cls.") if name.startswith("head.") else f"backbone.{name}"
        state[name] = array
    assert_same_params(model, read(state))


def test_the_config_is_inferred(model, small):
    one, params, state = model
    about = {"num_frames": 4, "image_size": 16, "num_attention_heads": 2, "decoder_num_attention_heads": 2}
    weights = read(state, about)
    found = subject(config_of(weights))
    if weights.kind == "pretraining":
        assert found.facts == one.facts
    assert found.model.video_shape == one.model.video_shape
    jax.tree.map(
        np.testing.assert_array_equal,
        fit(weights, found.facts, fresh_params(found, None), found.model.grid)[0],
        params,
    )
    with pytest.raises(ConfigError, match="do not determine how many heads a width of 24 has"):
        config_of(read(state))


def test_v1_huge_has_a_decoder_of_640(small):
    config = small.config_of(width=1280, heads=16, decoder_width=640, decoder_heads=8, depth=1)
    one = subject(config)
    state = to_official(fresh_params(one, None), one.facts)
    found = subject(config_of(read(state)))
    assert (found.facts.heads, found.facts.decoder_heads) == (16, 8)
    assert (found.model.encoder.width, found.model.decoder["width"]) == (1280, 640)
    two = subject(small.config_of(width=1280, heads=16, decoder_width=512, decoder_heads=8, depth=1))
    with pytest.raises(MismatchError, match="decoder_width 640, not 512, decoder_hidden 2560"):
        fit(read(state), two.facts, fresh_params(two, None), two.model.grid)


def test_the_giants_mlp_is_inferred_exactly(small):
    one = subject(small.config_of(width=44, heads=2, mlp_ratio=48 / 11, decoder_width=24))
    weights = read(to_official(fresh_params(one, None), one.facts), {"num_attention_heads": 2, "num_frames": 4,
        "image_size": 16, "decoder_num_attention_heads": 2})  # fmt: skip
    found = subject(config_of(weights))
    assert found.model.encoder.blocks["hidden"] == one.model.encoder.blocks["hidden"]
    assert found.model.decoder["blocks"]["hidden"] == one.model.decoder["blocks"]["hidden"]


def encoder_only(state):
    return {n: a for n, a in state.items() if not n.startswith(("decoder.", "mask_token", "encoder_to"))}


def test_from_one_kind_to_another(small):
    pretraining, classifier = subject(small.config_of()), subject(small.config_of("classifier"))
    state = to_official(small.random_params(pretraining.config), pretraining.facts)
    model = (classifier, None, None)
    with pytest.raises(MismatchError, match=r"no fc_norm.weight \(4 tensors are missing\): --fresh=norm"):
        fitted(model, read(state))
    params, account = fitted(model, read(state), fresh=["norm", "head"])
    assert account.dropped["decoder.head.weight"] == "the model has no decoder"
    assert "encoder.norm.weight" in account.dropped
    assert set(account.fresh) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert len(account.used) + len(account.dropped) == len(state)
    np.testing.assert_array_equal(params["encoder"]["embed"]["bias"], state["encoder.patch_embed.proj.bias"])
    back = to_official(params, classifier.facts)
    model = (pretraining, None, None)
    with pytest.raises(MismatchError, match="--fresh="):
        fitted(model, read(back))
    assert fitted(model, read(back), fresh=["decoder", "norm"])[1].dropped["head.weight"].startswith("the model has no")
    bare = {name.removeprefix("encoder."): array for name, array in encoder_only(state).items()}
    assert (
        fitted(model, read(bare), fresh=["decoder"])[1].used
        == fitted(model, read(encoder_only(state)), fresh=["decoder"])[1].used
    )
    with pytest.raises(MismatchError, match=r"no mask_token|no decoder\..*--fresh=decoder|no encoder_to_decoder"):
        fitted(model, read(bare))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("encoder.blocks.1.attn.q_bias"), "no encoder.blocks.1.attn.q_bias"),
        (
            lambda s: s.update({"encoder.blocks.0.mlp.fc2.bias": np.zeros(3)}),
            r"blocks.0.mlp.fc2.bias has shape \[3\], the model's has \[24\]",
        ),
        (
            lambda s: s.update({"encoder.norm.bias": np.zeros(3)}),
            r"encoder.norm.bias has shape \[3\]",
        ),
        (lambda s: s.update({"encoder.extra": np.zeros(3)}), "no place for encoder.extra"),
        (lambda s: s["encoder.norm.bias"].__setitem__(0, np.nan), "encoder.norm.bias has 1 values that are not finite"),
        (lambda s: s.update({"encoder.pos_embed": np.ones((1, 8, 24))}), "learned positions"),
        (lambda s: s.pop("encoder.patch_embed.proj.weight"), "another family"),
    ],
)
def test_faults(small, change, message):
    one = subject(small.config_of())
    state = {n: a.copy() for n, a in to_official(small.random_params(one.config), one.facts).items()}
    change(state)
    with pytest.raises(MismatchError, match=message) as error:
        fitted((one, None, None), read(state))
    assert "\n" not in str(error.value)


def test_another_model(small):
    one, two = subject(small.config_of()), subject(small.config_of(width=32, patch=4, depth=3))
    weights = read(to_official(fresh_params(one, None), one.facts))
    with pytest.raises(MismatchError, match=r"width 24, not 32, depth 2, not 3, hidden 96 .*patch 8, not 4; --resize"):
        fitted((two, None, None), weights)
    with pytest.raises(MismatchError, match=r"another family.*begin with conv1"):
        read({"conv1.weight": np.zeros((3, 3))})


def test_resized_on_import(small):
    one, two = (
        subject(small.config_of()),
        subject(small.config_of(frames=8, resolution=24, patch=4, tubelet=4, channels=6)),
    )
    weights = read(to_official(small.random_params(one.config), one.facts))
    params, account = fitted((two, None, None), weights, resized=True)
    assert params["encoder"]["embed"]["kernel"].shape == (4 * 4 * 4 * 6, 24)
    assert set(account.changed) == {"encoder.patch_embed.proj.weight", "decoder.head"}
    np.testing.assert_array_equal(params["encoder"]["norm"]["bias"], weights.state["encoder.norm.bias"])
    same, account = fitted((one, None, None), weights, resized=True)
    assert not account.changed
    jax.tree.map(np.testing.assert_array_equal, same, fitted((one, None, None), weights)[0])


def mae(small, one, video):
    """Weights as image MAE or MAE-ST have them, of the encoder of `one`."""
    rng = np.random.default_rng(1)
    state = encoder_only(to_official(small.random_params(one.config), one.facts))
    state = {name.removeprefix("encoder."): array for name, array in state.items() if "pos_embed" not in name}
    for i in range(2):
        q, v = state.pop(f"blocks.{i}.attn.q_bias"), state.pop(f"blocks.{i}.attn.v_bias")
        if video:
            for letter, part, bias in zip("qkv", np.split(state.pop(f"blocks.{i}.attn.qkv.weight"), 3), (q, q * 2, v)):
                state |= {f"blocks.{i}.attn.{letter}.weight": part, f"blocks.{i}.attn.{letter}.bias": bias}
        else:
            state[f"blocks.{i}.attn.qkv.bias"] = np.concatenate([q, q * 2, v])
    if video:
        state["pos_embed_spatial"], state["pos_embed_temporal"] = (
            rng.standard_normal((1, 4, 24)),
            rng.standard_normal((1, 2, 24)),
        )
        state["pos_embed_class"] = np.zeros((1, 1, 24))
    else:
        state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].sum(axis=2)
        state["pos_embed"] = rng.standard_normal((1, 5, 24))
    other = {
        "cls_token": np.ones((1, 1, 24)),
        "decoder_embed.weight": np.ones((16, 24)),
        "mask_token": np.ones((1, 1, 16)),
    }
    return state | other


@pytest.mark.parametrize("positions", [None, "learned", "separable"])
@pytest.mark.parametrize("video", [False, True])
def test_mae(small, video, positions):
    one = subject(small.config_of(positions=call(f"models.positions.{positions}") if positions else None))
    state = mae(small, one, video)
    weights = read(state)
    assert weights.family == ("mae-st" if video else "mae")
    fresh = ["decoder"]
    params, account = fitted((one, None, None), weights, fresh=fresh)
    assert "encoder.cls_token" in account.dropped
    assert "decoder_embed.weight" in account.dropped
    encoder = params["encoder"]
    space = state["pos_embed_spatial"][0] if video else state["pos_embed"][0, 1:]
    time = state["pos_embed_temporal"][0] if video else np.zeros((2, 24))
    full = (time[:, None] + space[None]).reshape(8, 24)
    if positions == "learned":
        np.testing.assert_allclose(encoder["Learned_0"]["table"], full, atol=1e-5)
    elif positions == "separable":
        tables = encoder["Separable_0"]
        got = (tables["time_table"][:, None] + tables["space_table"][None]).reshape(8, 24)
        np.testing.assert_allclose(got, full, atol=1e-5)
    else:
        assert any("pos_embed" in name for name in account.dropped)
    if not video:
        kernel = encoder["embed"]["kernel"].reshape(2, 8, 8, 3, 24)
        expected = state["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_allclose(kernel.sum(axis=0), expected, atol=1e-5)
        central, _ = fitted((one, None, None), weights, fresh=fresh, inflation="central")
        assert not central["encoder"]["embed"]["kernel"].reshape(2, -1)[0].any()


def test_the_sinusoid_in_a_file_is_the_models(small):
    one = subject(small.config_of())
    state = to_official(small.random_params(one.config), one.facts)
    _, account = fitted((one, None, None), read(state | {"encoder.pos_embed": sinusoid(8, 24)[None]}))
    assert account.dropped == {"encoder.pos_embed": "the positions that the model computes"}


def test_learned_positions_of_another_size(small):
    options = {"positions": call("models.positions.learned")}
    one, two = (subject(small.config_of("classifier", **options, resolution=size)) for size in (16, 24))
    weights = read(to_official(small.random_params(one.config), one.facts))
    with pytest.raises(MismatchError, match="pos_embed is for a grid of 2x2x2 tokens, the model has 2x3x3: --resize"):
        fitted((two, None, None), weights)
    params, account = fitted((two, None, None), weights, resized=True)
    assert params["encoder"]["Learned_0"]["table"].shape == (18, 24)
    assert list(account.changed) == ["pos_embed"]
