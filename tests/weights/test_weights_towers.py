"""Towers by name: rules for parts of a tree, the layouts of MAE, parameters of any method under their own names."""

import json
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict
from test_weights_mae_st import Theirs

from vmae_jax.configs import quickstart
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.models.variants import IMAGENET_MEAN, IMAGENET_STD
from vmae_jax.spec import ConfigError, call, to_json
from vmae_jax.weights import export_checkpoint, import_weights, load, serving
from vmae_jax.weights.checkpoint import read_checkpoint
from vmae_jax.weights.formats.tensors import File, read_file
from vmae_jax.weights.layouts import rules, vit_mae
from vmae_jax.weights.layouts.fit import sinusoid
from vmae_jax.weights.layouts.names import official
from vmae_jax.weights.layouts.rules import MATRIX, MismatchError, Rule, Tower, linear, nested, norm
from vmae_jax.weights.subject import fresh_params, normalized, outputs, probe, subject

MAE_ST = {
    "prefix_positions": True,
    "project_bias": True,
    "prefix": 1,
    "positions": call("models.positions.separable"),
    "mean": [0.45] * 3,
    "std": [0.225] * 3,
}
IMAGE = {"frames": 1, "tubelet": 1, "prefix": 1, "positions": call("models.positions.learned")}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


# A decoder that attends to another view, as a layout would name its parts.
CROSS = [
    *nested("blocks", "layers.{}", [*norm("norm", "norm3"), *linear("cross/q", "cross_attn.q"), *linear("mlp", "fc")]),
    Rule("project/kernel", "embed.weight", MATRIX),
]
TOWERS = [Tower("encoder", "vit.", linear("embed", "embed")), Tower("decoder", "decoder.", CROSS)]


def cross_attending():
    rng = np.random.default_rng(0)
    leaf = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    blocks = {
        "norm": {"scale": leaf(3, 4), "bias": leaf(3, 4)},
        "cross": {"q": {"kernel": leaf(3, 4, 6), "bias": leaf(3, 6)}},
        "mlp": {"kernel": leaf(3, 4, 8)},
    }
    return {
        "encoder": {"embed": {"kernel": leaf(5, 4), "bias": leaf(4)}},
        "decoder": {"blocks": blocks, "project": {"kernel": leaf(4, 2)}},
    }


def test_rules_apply_to_each_tower_by_its_name():
    params = cross_attending()
    state = rules.to_state(params, TOWERS)
    assert state["decoder.layers.2.cross_attn.q.weight"].shape == (6, 4)
    np.testing.assert_array_equal(state["vit.embed.weight"], params["encoder"]["embed"]["kernel"].T)
    assert "decoder.layers.0.fc.bias" not in state  # the layer has none
    same(rules.from_state(state, TOWERS, params), params)
    assert "decoder/project/kernel" in rules.paths(params, TOWERS)
    only = {"encoder": params["encoder"]}
    assert set(rules.to_state(only, TOWERS)) == {"vit.embed.weight", "vit.embed.bias"}


def test_rules_account_for_every_tensor_of_both_sides():
    params = cross_attending()
    state = rules.to_state(params, TOWERS)
    with pytest.raises(MismatchError, match=r"no place for decoder.more \(1 tensors are left over\)"):
        rules.from_state({**state, "decoder.more": np.zeros(1)}, TOWERS, params)
    with pytest.raises(MismatchError, match="has no place for decoder/mask_token, a parameter of the model"):
        rules.from_state(state, TOWERS, {**params, "decoder": {**params["decoder"], "mask_token": np.zeros(2)}})
    with pytest.raises(MismatchError, match=r"vit.embed.weight gives encoder/embed/kernel of shape \[3, 2\]; .*5, 4"):
        rules.from_state({**state, "vit.embed.weight": np.zeros((2, 3))}, TOWERS, params)
    del state["decoder.layers.1.cross_attn.q.bias"]
    with pytest.raises(MismatchError, match=r"decoder.layers.1.cross_attn.q.bias is missing"):
        rules.from_state(state, TOWERS, params)


def run_of(small, folder, kind="pretraining", **dims):
    config = small.config_of(kind, **dims)
    params = small.random_params(config)
    return small.write_run(folder / "run", config, params), subject(config), params


def separate(state):
    """One matrix and one bias for each of q, k and v, as MAE-ST has them."""
    result = dict(state)
    for name in state:
        if ".attn.qkv." in name:
            for letter, part in zip("qkv", np.split(result.pop(name), 3), strict=True):
                result[name.replace("qkv", letter)] = part
    return result


def test_an_export_for_mae_st_computes_there_what_it_does_here(small, tmp_path):
    """Class token, places and times, decoder: MAE-ST's forward pass written out, on the exported file."""
    run, one, params = run_of(small, tmp_path, normalize=False, **MAE_ST)
    report = export_checkpoint(run, format="mae", out=tmp_path / "x.safetensors")
    assert report["checked_by"] == "round trip"
    assert not report["left_out"]
    theirs = Theirs(safetensors.numpy.load_file(tmp_path / "x.safetensors"))
    batch = probe(one)
    ours, hidden = outputs(one, params, batch)
    pixels = normalized(one.model, batch["video"]).astype(np.float64)
    np.testing.assert_allclose(ours["tokens"], theirs.encode(pixels, np.arange(8)[None]), atol=2e-4)
    seen = np.stack([np.flatnonzero(~row) for row in hidden])
    prediction = theirs.predict(theirs.encode(pixels, seen), seen)
    expected = np.stack([row[mask] for row, mask in zip(prediction, hidden, strict=True)])
    np.testing.assert_allclose(ours["prediction"], expected, atol=2e-4)
    import_weights(tmp_path / "x.safetensors", out=tmp_path / "back")
    same(read_checkpoint(tmp_path / "back").params, params)


def test_of_a_decoder_with_two_heads_that_of_the_pixels_is_written(small, tmp_path):
    """As for a decoder with one; the other head is listed, and a decoder without pixels is refused in one line."""
    config = small.config_of(**MAE_ST)
    config.method.objectives["change"] = call("targets.core.objective", target=call("targets.motion.difference"))
    params = small.random_params(config)
    run = small.write_run(tmp_path / "run", config, params)
    report = export_checkpoint(run, format="mae", out=tmp_path / "x.safetensors")
    assert sorted(report["left_out"]) == ["decoder/head_change/bias", "decoder/head_change/kernel"]
    del config.method.objectives["change"], params["decoder"]["head_change"]
    alone = small.write_run(tmp_path / "alone", config, params)
    export_checkpoint(alone, format="mae", out=tmp_path / "y.safetensors")
    one, other = (safetensors.numpy.load_file(tmp_path / f"{name}.safetensors") for name in "xy")
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)
    del config.method.objectives["pixels"]
    config.method.objectives["change"] = call("targets.core.objective", target=call("targets.motion.difference"))
    other = small.write_run(tmp_path / "other", config, small.random_params(config))
    with pytest.raises(ConfigError, match=r"^export: the decoder predicts no pixels.*--part=encoder$"):
        export_checkpoint(other, format="mae", out=tmp_path / "z.safetensors")


def test_an_image_model_with_a_class_token_goes_to_mae_and_back(small, tmp_path):
    run, one, params = run_of(small, tmp_path, **IMAGE)
    with pytest.raises(ConfigError, match=r"MAE's decoder decodes the class token.*--part=encoder"):
        export_checkpoint(run, format="mae", out=tmp_path / "x.pth")
    export_checkpoint(run, format="mae", out=tmp_path / "x.pth", part="encoder")
    state = read_file(tmp_path / "x.pth").state
    assert state["patch_embed.proj.weight"].shape == (24, 3, 8, 8)
    assert state["pos_embed"].shape == (1, 1 + one.model.grid.size, 24)
    assert state["blocks.0.attn.qkv.bias"].shape == (72,)
    report = import_weights(tmp_path / "x.pth", out=tmp_path / "back", config=one.config, fresh=["decoder"])
    assert report["family"] == "mae"
    same(read_checkpoint(tmp_path / "back").params["encoder"], params["encoder"])
    method, loaded = load(tmp_path / "x.pth")
    batch = probe(one)
    ours, theirs = (jax.jit(one.features)(own, batch) for one, own in ((one.method, params), (method, loaded)))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_positions_that_the_model_computes_are_written_for_mae(small, tmp_path):
    run, one, _ = run_of(small, tmp_path, "classifier", frames=1, tubelet=1, prefix=1)
    export_checkpoint(run, format="mae", out=tmp_path / "x.safetensors")
    table = read_file(tmp_path / "x.safetensors").state["pos_embed"]
    np.testing.assert_allclose(table[0, 1:], sinusoid(one.model.grid.size, 24), atol=1e-6)
    assert not table[0, 0].any()


@pytest.mark.parametrize(("dims", "message"), [
    ({"cosine_attention": True}, "cosine attention cannot be represented in MAE"),
    ({"layer_scale": 0.1}, "layer scale cannot be represented in MAE"),
    ({"prefix": 2}, "MAE has one class token"),
])  # fmt: skip
def test_what_mae_has_no_place_for_is_refused(small, tmp_path, dims, message):
    run, _, _ = run_of(small, tmp_path, **{**IMAGE, **dims})
    with pytest.raises(ConfigError, match=message):
        export_checkpoint(run, format="mae", out=tmp_path / "x.pth", part="encoder")
    assert not (tmp_path / "x.pth").exists()


def test_vit_mae_of_transformers_is_mae_under_other_names(small, tmp_path):
    run, _, _ = run_of(small, tmp_path, **IMAGE)
    export_checkpoint(run, format="mae", out=tmp_path / "x.safetensors", part="encoder")
    state = separate(read_file(tmp_path / "x.safetensors").state)
    pairs = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "blocks": "encoder.layer",
        "attn.proj": "attention.output.dense",
        "attn.q.": "attention.attention.query.",
        "attn.k.": "attention.attention.key.",
        "attn.v.": "attention.attention.value.",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    theirs = {}
    for name, array in state.items():
        name = f"layernorm.{name.removeprefix('norm.')}" if name.startswith("norm.") else name
        for before, after in pairs.items():
            name = name.replace(before, after)
        theirs[f"vit.{name}"] = array
    assert set(vit_mae.from_names(theirs)) == set(state)
    found, expected = official(File(theirs, {})), official(File(read_file(tmp_path / "x.safetensors").state, {}))
    assert found.family == expected.family == "mae"
    assert found.state.keys() == expected.state.keys()
    for name, array in expected.state.items():
        np.testing.assert_array_equal(found.state[name], array, err_msg=name)


@pytest.fixture
def brightness(users_model) -> Any:
    """A config of the plugin's method, for which there is no layout."""
    config: Any = quickstart.get_config("smoke")
    config.method = call("brightness.build", width=8)
    return config


def test_the_method_of_a_plugin_is_exported_imported_and_served(brightness, small, tmp_path):
    params = small.random_params(brightness)
    run = small.write_run(tmp_path / "run", brightness, params)
    for format_ in ("hf", "videomae", "mae"):
        with pytest.raises(ConfigError, match=r"--format=params and stablehlo take any, and method 'brightness.build'"):
            export_checkpoint(run, format=format_, out=tmp_path / "x.pth" if format_ != "hf" else tmp_path / "x")
    export_checkpoint(run, format="params", out=tmp_path / "x.safetensors")
    assert "eye/stack/filters" in safetensors.numpy.load_file(tmp_path / "x.safetensors")
    import_weights(tmp_path / "x.safetensors", out=tmp_path / "back", config=brightness)
    same(read_checkpoint(tmp_path / "back").params, params)
    export_checkpoint(run, format="stablehlo", out=tmp_path / "served")
    video = np.random.default_rng(0).integers(0, 256, (3, *subject(brightness).spec["video"].shape[1:]), np.uint8)
    expected = jax.jit(subject(brightness).method.features)(params, {"video": video})
    np.testing.assert_allclose(serving.run(tmp_path / "served")(video), expected, atol=1e-5)
    assert "eye/out" not in read_file(tmp_path / "served" / "weights.safetensors").state  # features do not read it


def test_own_names_open_without_a_config_and_hold_any_tower(small, tmp_path):
    run, _, params = run_of(small, tmp_path, **IMAGE)
    report = export_checkpoint(run, format="params", out=tmp_path / "all.safetensors")
    assert report["left_out"] == {}
    _, loaded = load(tmp_path / "all.safetensors")
    same(loaded, params)
    export_checkpoint(run, format="params", part="decoder", out=tmp_path / "decoder.safetensors")
    same(load(tmp_path / "decoder.safetensors")[1], {"decoder": params["decoder"]})
    with pytest.raises(ConfigError, match=r"have no encoder/.*--fresh=encoder"):
        import_weights(tmp_path / "decoder.safetensors", out=tmp_path / "no")
    report = import_weights(tmp_path / "decoder.safetensors", out=tmp_path / "yes", fresh=["encoder"])
    assert all(name.startswith("encoder/") for name in report["fresh"])
    same(read_checkpoint(tmp_path / "yes").params["decoder"], params["decoder"])
    with pytest.raises(ConfigError, match=r"no tower and no frozen network of that name .* are all, decoder, encoder"):
        export_checkpoint(run, format="params", part="teacher", out=tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="--part=decoder: one of all"):
        export_checkpoint(run, format="stablehlo", part="decoder", out=tmp_path / "x")


def test_own_names_are_resized_for_another_model(small, tmp_path):
    run, _, params = run_of(small, tmp_path, **IMAGE)
    export_checkpoint(run, format="params", out=tmp_path / "x.safetensors")
    larger = small.config_of(**{**IMAGE, "resolution": 32})
    with pytest.raises(ConfigError, match=r"decoder/Learned_0/table has shape \[4, 16\], the model's has \[16, 16\]"):
        import_weights(tmp_path / "x.safetensors", out=tmp_path / "no", config=larger)
    report = import_weights(tmp_path / "x.safetensors", out=tmp_path / "yes", config=larger, resize=True)
    assert "encoder/Learned_0/table" in report["changed"]
    back = read_checkpoint(tmp_path / "yes").params
    assert back["encoder"]["Learned_0"]["table"].shape == (16, 24)
    same(back["encoder"]["blocks"], params["encoder"]["blocks"])


def test_a_frozen_network_is_a_file_of_its_own(small, tmp_path):
    """The teacher of a run, under the names that it has as a model."""
    config = small.config_of("classifier")
    student, teacher = small.random_params(config, 1), small.random_params(config, 2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(to_json(ConfigDict(config)))
    saver = Checkpoints(tmp_path / "run" / "checkpoints", asynchronous=False)
    saver.save(3, {"params": student, "frozen": {"teacher": teacher}}, {})
    saver.close()
    report = export_checkpoint(tmp_path / "run", format="params", part="teacher", out=tmp_path / "t.safetensors")
    assert report["weights"] == "a frozen network"
    with pytest.raises(ConfigError, match="without the method that it belongs to"):
        load(tmp_path / "t.safetensors")
    import_weights(tmp_path / "t.safetensors", out=tmp_path / "back", config=config)
    same(read_checkpoint(tmp_path / "back").params, teacher)
    assert fresh_params(subject(config), None).keys() == teacher.keys()


def mae_of_images(small, folder):
    """A run of MAE as it is published, but tiny: its positions, class token, projection and target."""
    config = small.config_of(
        resolution=32,
        frames=1,
        tubelet=1,
        prefix=1,
        decoder_prefix="kept",
        project_bias=True,
        positions=call("models.positions.sincos_2d"),
        initial="mae",
    )
    statistics = {"mean": list(IMAGENET_MEAN), "deviation": list(IMAGENET_STD)}
    config.method.objectives.pixels.target = call("targets.pixels", joint=True, **statistics)
    params = small.random_params(config)
    return small.write_run(folder / "run", config, params), params


@pytest.mark.parametrize(("format_", "name"), [("mae", "x.pth"), ("mae", "x.safetensors"), ("hf", "x")])
def test_mae_of_images_goes_out_whole_and_back(small, tmp_path, format_, name):
    """Encoder, class token and decoder; the config of the import is that of the export."""
    run, params = mae_of_images(small, tmp_path)
    report = export_checkpoint(run, format=format_, out=tmp_path / name)
    assert not report["left_out"]
    report = import_weights(tmp_path / name, out=tmp_path / "back")
    assert (report["family"], report["changed"]) == ("mae", {})
    assert {name for name in report["dropped"] if "pos_embed" in name} == {"encoder.pos_embed", "decoder.pos_embed"}
    back = read_checkpoint(tmp_path / "back")
    same(back.params, params)
    model, target = back.config.method.model, back.config.method.objectives.pixels.target
    assert (model.frames, model.prefix, model.decoder_prefix, model.initial) == (1, 1, "kept", "mae")
    assert model.positions.call == "models.positions.sincos_2d"
    assert (target.joint, list(target.mean)) == (True, list(IMAGENET_MEAN))
    if format_ == "hf":
        about = json.loads((tmp_path / name / "config.json").read_text())
        assert about["architectures"] == ["ViTMAEForPreTraining"]
        # transformers rounds the visible tokens down, and has to come to the eight of ours.
        assert int(16 * (1 - about["mask_ratio"])) == 8


def test_a_kept_class_token_has_no_position_in_the_decoder(small, tmp_path):
    run, _ = mae_of_images(small, tmp_path)
    export_checkpoint(run, format="mae", out=tmp_path / "x.safetensors")
    state = dict(read_file(tmp_path / "x.safetensors").state)
    state["decoder_pos_embed"] = state["decoder_pos_embed"] + 1
    safetensors.numpy.save_file(state, tmp_path / "y.safetensors")
    config = read_checkpoint(run).config
    with pytest.raises(ConfigError, match=r"decoder.pos_embed_class is not 0: this model's decoder adds no position"):
        import_weights(tmp_path / "y.safetensors", out=tmp_path / "back", config=config)


def test_the_bias_of_a_projection_needs_a_model_with_one(small, tmp_path):
    run, _ = mae_of_images(small, tmp_path)
    export_checkpoint(run, format="mae", out=tmp_path / "x.safetensors")
    config = read_checkpoint(run).config
    config.method.model.project_bias = False
    with pytest.raises(ConfigError, match=r"encoder_to_decoder.bias is not 0.*use project_bias"):
        import_weights(tmp_path / "x.safetensors", out=tmp_path / "back", config=config)
