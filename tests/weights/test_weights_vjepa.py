"""V-JEPA and V-JEPA 2 in the layouts of their code and of transformers: imports, exports, and what is refused."""

import json
import pathlib

import numpy as np
import pytest

from vmae_jax.commands.restore import restore
from vmae_jax.spec import ConfigError
from vmae_jax.weights import export_checkpoint, import_weights, load
from vmae_jax.weights.formats.tensors import read_file, write_safetensors
from vmae_jax.weights.formats.torch_file import read_pth
from vmae_jax.weights.formats.torch_write import write_pth

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "vjepa2"
DENSE = GOLDENS.with_name("vjepa2_1")
ABOUT = {"num_frames": 8, "image_size": 16, "num_attention_heads": 3}
SETS = {
    "rope": ABOUT | {"image_size": 20, "predictor_num_attention_heads": 2},
    "sincos": ABOUT | {"predictor_num_attention_heads": 4},
}


def official(name: str, path: pathlib.Path, **change) -> pathlib.Path:
    """A checkpoint of the official code, with the numbers of heads that a golden has beside it."""
    contents = read_pth(GOLDENS / f"pretrain_{name}.pth")
    networks = {key: dict(contents[key]) for key in ("encoder", "target_encoder", "predictor")}
    for key, array in change.items():
        network, _, parameter = key.partition("/")
        if array is None:
            del networks[network][parameter]
        else:
            networks[network][parameter] = array
    write_pth(path, {**networks, "vmae_jax": SETS[name]})
    return path


@pytest.mark.parametrize("name", list(SETS))
def test_there_and_back(name, tmp_path):
    """All networks come back; keys' biases without rotation and unused mask tokens are zeros."""
    found = import_weights(official(name, tmp_path / "given.pth"), out=tmp_path / "run")
    assert (found["family"], found["config"]) == ("vjepa", "made from the weights")
    export_checkpoint(tmp_path / "run", format="vjepa", out=tmp_path / "out.pth")
    theirs, ours = read_pth(tmp_path / "given.pth"), read_pth(tmp_path / "out.pth")
    for network in ("encoder", "target_encoder", "predictor"):
        for key, array in theirs[network].items():
            want = np.array(array)
            if name == "sincos" and key.endswith("qkv.bias"):
                np.split(want, 3)[1][:] = 0
            if name == "rope" and ".mask_tokens." in key and not key.endswith(".0"):
                want[:] = 0
            np.testing.assert_allclose(ours[network][key], want, rtol=0, atol=1e-6, err_msg=key)
        assert set(theirs[network]) <= set(ours[network])
    assert len([key for key in ours["predictor"] if "mask_tokens" in key]) == (10 if name == "rope" else 2)


@pytest.mark.slow
def test_an_import_has_the_features_of_both_encoders(tmp_path):
    import_weights(official("rope", tmp_path / "given.pth"), out=tmp_path / "run")
    numbers = np.load(GOLDENS / "pretrain_rope.npz")
    trained = restore(str(tmp_path / "run"), ema=True)
    found = trained.made.method.features(trained.params, {"video": numbers["video"]}, pool=False)
    np.testing.assert_allclose(found, numbers["target_raw"], rtol=0, atol=1e-5)
    online = restore(str(tmp_path / "run"))
    other = online.made.method.features(online.params, {"video": numbers["video"]}, pool=False)
    assert not np.allclose(other, found, atol=1e-2)
    method, params = load(tmp_path / "run", ema=True)
    np.testing.assert_array_equal(method.features(params, {"video": numbers["video"]}, pool=False), found)


@pytest.mark.slow
def test_v_jepa_2_1_there_and_back(tmp_path):
    """Both tokenizers, modalities and levels, of both encoders."""
    contents = read_pth(DENSE / "pretrain_dense.pth")
    networks = {key: contents[key] for key in ("encoder", "target_encoder", "predictor")}
    about = ABOUT | {"predictor_num_attention_heads": 2, "levels": [0, 2, 3, 4]}
    write_pth(tmp_path / "given.pth", {**networks, "vmae_jax": about})
    found = import_weights(tmp_path / "given.pth", out=tmp_path / "run")
    assert set(found["dropped"].values()) == {"a mask token that training never uses"}
    export_checkpoint(tmp_path / "run", format="vjepa", out=tmp_path / "out.pth", dtype="float32")
    ours = read_pth(tmp_path / "out.pth")
    for network, state in networks.items():
        for key, array in state.items():
            unused = ".mask_tokens." in key and not key.endswith(".0")
            np.testing.assert_array_equal(ours[network][key], np.zeros_like(array) if unused else array, err_msg=key)
    numbers = np.load(DENSE / "pretrain_dense.npz")
    trained = restore(str(tmp_path / "run"), ema=True)
    last = trained.made.method.features(trained.params, {"video": numbers["video"]}, pool=False)
    centred = last - last.mean(-1, keepdims=True)
    normed = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(normed, numbers["video/target_output"][..., -48:], rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="and this is another model: use --format=vjepa or params"):
        export_checkpoint(tmp_path / "run", format="hf", out=tmp_path / "hf")
    write_pth(tmp_path / "bare.pth", {**networks, "vmae_jax": {**about, "levels": [0, 1]}})
    with pytest.raises(ConfigError, match="4 levels of an encoder of 5 blocks; give --config"):
        import_weights(tmp_path / "bare.pth", out=tmp_path / "other")


def test_transformers_layout_there_and_back(tmp_path):
    import_weights(official("rope", tmp_path / "given.pth"), out=tmp_path / "run")
    export_checkpoint(tmp_path / "run", format="hf", out=tmp_path / "hf", ema=True)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["model_type"], config["hidden_size"], config["pred_num_mask_tokens"]) == ("vjepa2", 48, 10)
    assert int(config["mlp_ratio"] * 48) == 96
    state = read_file(tmp_path / "hf").state
    query = state["encoder.layer.1.attention.query.weight"]
    given = read_pth(tmp_path / "given.pth")["target_encoder"]
    np.testing.assert_array_equal(query, given["module.backbone.blocks.1.attn.qkv.weight"][:48])
    assert state["predictor.embeddings.mask_tokens"].shape == (10, 1, 1, 36)
    import_weights(tmp_path / "hf", out=tmp_path / "again")
    numbers = np.load(GOLDENS / "pretrain_rope.npz")
    method, params = load(tmp_path / "again")
    found = method.features(params, {"video": numbers["video"]}, pool=False)
    np.testing.assert_allclose(found, numbers["target_raw"], rtol=0, atol=1e-5)


def test_transformers_computes_the_same(tmp_path):
    """The features of the whole clip, in transformers itself."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    import_weights(official("rope", tmp_path / "given.pth"), out=tmp_path / "run")
    export_checkpoint(tmp_path / "run", format="hf", out=tmp_path / "hf", ema=True)
    model, info = transformers.VJEPA2Model.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    numbers = np.load(GOLDENS / "pretrain_rope.npz")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = ((numbers["video"] / 255 - mean) / std).astype(np.float32).transpose(0, 1, 4, 2, 3)
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(np.ascontiguousarray(pixels)), skip_predictor=True).last_hidden_state
    np.testing.assert_allclose(found.numpy(), numbers["target_raw"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictor/module.backbone.predictor_norm.weight": None}, "predictor_norm.weight is missing"),
        ({"encoder/module.backbone.patch_embed.proj.weight": None}, "patch_embed.proj.weight is missing"),
        ({"encoder/module.backbone.more": np.zeros(3, np.float32)}, "the model has no place for more"),
        ({"encoder/module.backbone.pos_embed": np.zeros((1, 64, 48), np.float32)}, "pos_embed differs from the fixed"),
        ({"predictor/module.backbone.mask_tokens.0": np.full((1, 1, 40), np.nan, np.float32)}, "mask_tokens.0 has"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(tmp_path, change, message):
    given = official("sincos", tmp_path / "bad.pth", **change)
    with pytest.raises(ConfigError, match=message) as error:
        import_weights(given, out=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_what_is_refused(small, tmp_path):
    import_weights(official("sincos", tmp_path / "given.pth"), out=tmp_path / "run")
    with pytest.raises(ConfigError, match="transformers has V-JEPA 2, with rotary positions"):
        export_checkpoint(tmp_path / "run", format="hf", out=tmp_path / "hf")
    with pytest.raises(ConfigError, match="a latent predictor is none of these models: use --format=vjepa, hf or par"):
        export_checkpoint(tmp_path / "run", format="videomae", out=tmp_path / "x.pth")
    with pytest.raises(ConfigError, match="--fresh and --resize are not possible"):
        import_weights(tmp_path / "given.pth", out=tmp_path / "other", fresh=["decoder"])
    config = small.config_of()
    run = small.write_run(tmp_path / "masked", config, small.random_params(config))
    with pytest.raises(ConfigError, match=r"V-JEPA's layout is of methods.latent.build or"):
        export_checkpoint(run, format="vjepa", out=tmp_path / "x.pth")


def test_numbers_of_heads_are_needed(tmp_path):
    contents = read_pth(GOLDENS / "pretrain_rope.pth")
    write_pth(tmp_path / "bare.pth", {name: contents[name] for name in ("encoder", "predictor")})
    with pytest.raises(ConfigError, match="attention heads of a width of 48: give --config"):
        import_weights(tmp_path / "bare.pth", out=tmp_path / "run")


def test_names_of_transformers_that_are_unknown_are_refused(tmp_path):
    import_weights(official("rope", tmp_path / "given.pth"), out=tmp_path / "run")
    export_checkpoint(tmp_path / "run", format="hf", out=tmp_path / "hf")
    state = dict(read_file(tmp_path / "hf").state)
    for change, message in (
        ({"encoder.layer.0.attention.key.bias": None}, "encoder.layer.0.attention.key.bias is missing"),
        ({"pooler.layer.0.weight": np.zeros(2, np.float32)}, "no place for pooler"),
        ({"encoder.other": np.zeros(2, np.float32)}, "no place for encoder.other"),
    ):
        bad = {name: array for name, array in {**state, **change}.items() if array is not None}
        write_safetensors(tmp_path / "hf" / "model.safetensors", bad, {})
        with pytest.raises(ConfigError, match=message):
            import_weights(tmp_path / "hf", out=tmp_path / "x")
