"""CLIP's image tower in the layout of transformers: imports, their outputs, and what is refused."""

import json

import jax
import numpy as np
import pytest

from vmae_jax.cli import main
from vmae_jax.commands.restore import restore
from vmae_jax.io.checkpoint import read_tree
from vmae_jax.spec import ConfigError
from vmae_jax.weights import export_checkpoint, import_weights
from vmae_jax.weights.clip import MEAN, STD
from vmae_jax.weights.formats.tensors import write_safetensors

WIDTH, HIDDEN, PROJECTION, DEPTH, SIDE, PATCH = 32, 48, 16, 3, 4, 8
ABOUT = {
    "model_type": "clip_vision_model",
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "projection_dim": PROJECTION,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "image_size": SIDE * PATCH,
    "patch_size": PATCH,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def shapes():
    """The names and shapes that transformers 5.23 writes."""
    found = {
        "vision_model.embeddings.class_embedding": (WIDTH,),
        "vision_model.embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "vision_model.embeddings.position_embedding.weight": (SIDE**2 + 1, WIDTH),
        "visual_projection.weight": (PROJECTION, WIDTH),
    }
    linear = {f"self_attn.{letter}_proj": (WIDTH, WIDTH) for letter in ("q", "k", "v", "out")}
    linear |= {"mlp.fc1": (HIDDEN, WIDTH), "mlp.fc2": (WIDTH, HIDDEN)}
    norms = [f"encoder.layers.{i}.layer_norm{j}" for i in range(DEPTH) for j in (1, 2)]
    for name in ("pre_layrnorm", "post_layernorm", *norms):
        found |= {f"vision_model.{name}.{leaf}": (WIDTH,) for leaf in ("weight", "bias")}
    for i in range(DEPTH):
        for name, shape in linear.items():
            found[f"vision_model.encoder.layers.{i}.{name}.weight"] = shape
            found[f"vision_model.encoder.layers.{i}.{name}.bias"] = shape[:1]
    return found


def state():
    rng = np.random.default_rng(0)
    return {name: np.float32(0.2 * rng.standard_normal(shape)) for name, shape in shapes().items()}


def write(folder, arrays, **about):
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", arrays, {})
    (folder / "config.json").write_text(json.dumps({**ABOUT, **about}))
    return folder


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The report of an import of a whole CLIP, and the network."""
    folder = tmp_path_factory.mktemp("clip")
    arrays = state() | {"text_model.final_layer_norm.weight": np.ones(4, np.float32), "logit_scale": np.ones(1)}
    arrays["logit_scale"] = arrays["logit_scale"].astype(np.float32)
    report = import_weights(write(folder / "given", arrays), out=folder / "run")
    return report, restore(str(folder / "run"))


def video():
    return np.random.default_rng(1).integers(0, 256, (2, 1, SIDE * PATCH, SIDE * PATCH, 3), np.uint8)


def test_an_import_is_a_network_with_features(imported):
    report, trained = imported
    assert (report["family"], report["kind"], report["config"]) == ("clip", "encoder", "made from the weights")
    assert report["used"] == len(state()) - DEPTH
    assert set(report["dropped"]) - {"logit_scale", "text_model.final_layer_norm.weight"} == {
        f"vision_model.encoder.layers.{i}.self_attn.k_proj.bias" for i in range(DEPTH)
    }
    features = trained.made.method.features
    assert features(trained.params, {"video": video()}).shape == (2, PROJECTION)
    assert features(trained.params, {"video": video()}, pool=False).shape == (2, SIDE**2, WIDTH)


@pytest.mark.torch
def test_outputs_are_those_of_transformers(imported):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**ABOUT)).eval()
    given = {name: torch.from_numpy(array) for name, array in state().items()}
    assert {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()} == shapes()
    theirs.load_state_dict(given)
    pixels = (video()[:, 0].astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    with torch.no_grad():
        found = theirs(torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))))
        tokens = theirs.vision_model.post_layernorm(found.last_hidden_state)[:, 1:]
    trained = imported[1]
    features = trained.made.method.features
    np.testing.assert_allclose(features(trained.params, {"video": video()}), found.image_embeds, atol=2e-5)
    np.testing.assert_allclose(features(trained.params, {"video": video()}, pool=False), tokens, atol=2e-5)


@pytest.mark.parametrize(
    ("change", "about", "message"),
    [
        ({}, {"hidden_act": "gelu"}, "hidden_act='gelu'; only 'quick_gelu'"),
        ({}, {"layer_norm_eps": 1e-6}, "layer_norm_eps=1e-06"),
        ({}, {"num_attention_heads": 7}, "heads"),
        ({"vision_model.encoder.layers.1.self_attn.k_proj.weight": None}, {}, "queries, keys and values"),
        ({"vision_model.post_layernorm.bias": None}, {}, "post_layernorm.bias is missing"),
        ({"more": np.zeros(3, np.float32)}, {}, "the model has no place for more"),
        ({"vision_model.embeddings.class_embedding": np.full(WIDTH, np.nan, np.float32)}, {}, "not finite"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(tmp_path, change, about, message):
    arrays = {name: array for name, array in {**state(), **change}.items() if array is not None}
    with pytest.raises(ConfigError, match=message) as error:
        import_weights(write(tmp_path / "bad", arrays, **about), out=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_import_becomes_a_teacher(imported, tmp_path):
    """The arrays of a run of UMT that has not begun: those of the import, the projection among them."""
    run, trained = tmp_path / "run", imported[1]
    config = f"configs/umt.py:B,teacher={trained.workdir.path},smoke"
    assert main(["train", f"--config={config}", f"--workdir={run}", "--config.train.length.steps=0"]) == 0
    frozen = read_tree(run, select="frozen")
    assert set(frozen) == {"teacher", "projector"}
    for name, want in (("teacher", trained.params["encoder"]), ("projector", trained.params["projection"])):
        jax.tree.map(np.testing.assert_array_equal, frozen[name], want)


@pytest.mark.parametrize("layout", ["mae", "videomae"])
def test_no_published_layout_has_its_blocks(imported, tmp_path, layout):
    """Without the first norm and with another activation it would be another network."""
    with pytest.raises(ConfigError, match="another style than 'vit': use --format=params"):
        export_checkpoint(imported[1].workdir.path, format=layout, part="encoder", out=tmp_path / "out.pth")


def test_a_network_without_a_loss_is_not_trained(imported):
    made, params = imported[1].made, imported[1].params
    with pytest.raises(ConfigError, match="no loss to train"):
        made.method.loss(params, {"video": video()}, None)
