"""SiamMAE and CropMAE in the layout of CropMAE's code: imports, exports, and what is refused."""

import pathlib

import numpy as np
import pytest

from vmae_jax.commands.restore import restore
from vmae_jax.spec import ConfigError, from_json
from vmae_jax.weights import export_checkpoint, import_weights
from vmae_jax.weights.formats.tensors import read_file, write_safetensors

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "cropmae" / "small_ff.pth"
HEADS = {"num_attention_heads": 4, "decoder_num_attention_heads": 2}


@pytest.fixture
def given(tmp_path):
    """A file of the official code with the numbers of heads, which a golden has beside it."""
    file = read_file(GOLDEN)
    write_safetensors(tmp_path / "given.safetensors", dict(file.state), HEADS)
    return tmp_path / "given.safetensors"


def test_there_and_back(given, tmp_path):
    found = import_weights(given, out=tmp_path / "run")
    assert (found["family"], found["config"]) == ("cropmae", "made from the weights")
    assert all("keys' third" in name for name in found["dropped"])
    export_checkpoint(tmp_path / "run", format="cropmae", out=tmp_path / "out.pth")
    theirs, ours = read_file(given).state, read_file(tmp_path / "out.pth").state
    assert theirs.keys() == ours.keys()
    for name, array in theirs.items():
        one, other = np.array(array), np.array(ours[name])
        if name.endswith(("in_proj_bias", "attn.qkv.bias")):
            one, other = np.delete(np.split(one, 3), 1, axis=0), np.delete(np.split(other, 3), 1, axis=0)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6, err_msg=name)  # the tables of positions are computed


def test_an_import_has_features_and_pictures_of_pairs(given, tmp_path):
    import_weights(given, out=tmp_path / "run")
    trained = restore(str(tmp_path / "run"))
    assert (trained.made.method.views, trained.made.loader.views) == (2, 2)
    video = np.zeros((1, 2, 20, 20, 3), np.uint8)
    assert trained.made.method.features(trained.params, {"video": video}, pool=False).shape == (1, 50, 28)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder_embed.weight": None}, "decoder_embed.weight is missing"),
        ({"decoder_blocks.1.norm3.weight": None}, "decoder_blocks.1.norm3.weight is missing"),
        ({"more": np.zeros(3, np.float32)}, "the model has no place for more"),
        ({"decoder_pos_embed": np.zeros((1, 26, 20), np.float32)}, "decoder_pos_embed"),
        ({"mask_token": np.full((1, 1, 20), np.nan, np.float32)}, "mask_token has"),
        ({"decoder_blocks.0.self_attn.in_proj_weight": np.zeros((4, 20), np.float32)}, "not three times a width"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(given, tmp_path, change, message):
    state = {name: array for name, array in {**read_file(given).state, **change}.items() if array is not None}
    width = len(state["mask_token"][0, 0])
    if width != 20 and "mask_token" in change:
        state["mask_token"] = np.full((1, 1, width), np.nan, np.float32)
    write_safetensors(tmp_path / "bad.safetensors", state, HEADS)
    with pytest.raises(ConfigError, match=message) as error:
        import_weights(tmp_path / "bad.safetensors", out=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_numbers_of_heads_are_needed(tmp_path):
    with pytest.raises(ConfigError, match="attention heads of a width of 28: give --config"):
        import_weights(GOLDEN, out=tmp_path / "run")


def test_other_methods_have_no_place_there(given, small, tmp_path):
    config = small.config_of()
    run = small.write_run(tmp_path / "run", config, small.random_params(config))
    with pytest.raises(ConfigError, match=r"CropMAE's layout is of methods.siamese.build"):
        export_checkpoint(run, format="cropmae", out=tmp_path / "x.pth")
    import_weights(given, out=tmp_path / "siamese")
    with pytest.raises(ConfigError, match="use --format=cropmae, or export --part=encoder"):
        export_checkpoint(tmp_path / "siamese", format="mae", out=tmp_path / "x.pth")
    export_checkpoint(tmp_path / "siamese", format="mae", part="encoder", out=tmp_path / "encoder.pth")
    with pytest.raises(ConfigError, match="--fresh and --resize"):
        import_weights(given, out=tmp_path / "new", resize=True)
    path = tmp_path / "siamese" / "config.json"
    config = from_json(path.read_text())
    config.method.norm = "pre"
    with pytest.raises(ConfigError, match="norm='post'"):
        import_weights(given, out=tmp_path / "new", config=config)
