"""CLIP in the layout of transformers: imports, their outputs, and what is refused."""

import functools

import jax
import numpy as np
import pytest
from clip_weights import ABOUT, DEPTH, PATCH, PROJECTION, SIDE, TEXT, WIDTH, shapes, state, text_state, write

from vmae_jax.cli import main
from vmae_jax.commands.begin_from import begin_from
from vmae_jax.commands.config import load_config
from vmae_jax.commands.experiment import experiment
from vmae_jax.commands.restore import restore
from vmae_jax.io.checkpoint import read_tree
from vmae_jax.spec import ConfigError, build
from vmae_jax.train import sharding
from vmae_jax.weights import export_checkpoint, import_weights
from vmae_jax.weights.clip import MEAN, STD
from vmae_jax.weights.layouts.names import K_BIAS


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The report of an import of a whole CLIP, and the network."""
    folder = tmp_path_factory.mktemp("clip")
    arrays = state() | {"text_model.final_layer_norm.weight": np.ones(4, np.float32), "logit_scale": np.ones(1)}
    arrays["logit_scale"] = arrays["logit_scale"].astype(np.float32)
    report = import_weights(write(folder / "given", arrays), out=folder / "run")
    return report, restore(str(folder / "run"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The workdir of an import of both towers, and the report."""
    folder = tmp_path_factory.mktemp("whole")
    about = {"model_type": "clip", "vision_config": ABOUT, "text_config": TEXT}
    report = import_weights(write(folder / "given", state() | text_state(), **about), out=folder / "run")
    return folder / "run", report


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
    assert jax.jit(features)(trained.params, {"video": video()}).shape == (2, PROJECTION)
    tokens = jax.jit(functools.partial(features, pool=False))(trained.params, {"video": video()})
    assert tokens.shape == (2, SIDE**2, WIDTH)


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


def texts():
    """Numbers of texts of several lengths, each ended by the last of the vocabulary, and which are there."""
    numbers = np.random.default_rng(2).integers(1, 299, (4, 9)).astype(np.int32)
    lengths = np.array([9, 2, 5, 7])
    there = np.arange(9) < lengths[:, None]
    numbers[np.arange(4), lengths - 1] = 299
    return np.where(there, numbers, 0), there


def test_a_text_tower_is_imported_with_the_image_tower(whole, imported):
    run, report = whole
    assert report["used"] == len(state()) + len(text_state()) - DEPTH - 2
    assert set(report["dropped"].values()) == {K_BIAS}
    trained = restore(str(run))
    jax.tree.map(np.testing.assert_array_equal, trained.params["encoder"], imported[1].params["encoder"])
    kernel = text_state()["text_model.encoder.layers.1.self_attn.v_proj.weight"]
    np.testing.assert_array_equal(trained.params["text"]["blocks"]["attention"]["qkv"]["kernel"][1, 2], kernel.T)
    text = trained.made.config.method.text
    assert (text.vocabulary, text.length, text.width, text.size, text.heads) == (300, 9, 24, PROJECTION, 3)
    own = load_config(f"configs/tgm.py:B,clip={run},tokenizer=CLIP", [])
    assert own.method.image.resolution == 14 * PATCH  # as many patches as the student has tokens
    assert own.method.text.width == 24


@pytest.mark.torch
def test_embeddings_of_texts_are_those_of_transformers(whole):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**TEXT)).eval()
    given = {name: torch.from_numpy(array) for name, array in text_state().items()}
    assert {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()} == {
        name: array.shape for name, array in text_state().items()
    }
    theirs.load_state_dict(given)
    numbers, there = texts()
    with torch.no_grad():
        found = theirs(torch.from_numpy(numbers).long()).text_embeds
    trained = restore(str(whole[0]))
    model = build(trained.made.config.method.text)
    ours = model.embed(trained.params["text"], numbers, there)
    np.testing.assert_allclose(ours, found, atol=2e-5)
    changed = np.where(there, numbers, 17)  # what comes after the end
    np.testing.assert_array_equal(model.embed(trained.params["text"], changed, there), ours)


@pytest.mark.parametrize(
    ("change", "about", "message"),
    [
        ({}, {"text_config": {**TEXT, "hidden_act": "gelu"}}, "hidden_act='gelu'; only 'quick_gelu'"),
        ({"text_model.final_layer_norm.bias": None}, {}, "final_layer_norm.bias is missing"),
        ({"text_model.embeddings.position_embedding.weight": None}, {}, "position_embedding.weight is missing"),
        ({"text_model.more": np.zeros(3, np.float32)}, {}, "the model has no place for text_model.more"),
    ],
)
def test_text_towers_that_do_not_fit_are_one_line(tmp_path, change, about, message):
    arrays = {name: one for name, one in {**state(), **text_state(), **change}.items() if one is not None}
    about = {"vision_config": ABOUT, "text_config": TEXT, **about}
    with pytest.raises(ConfigError, match=message) as error:
        import_weights(write(tmp_path / "bad", arrays, **about), out=tmp_path / "run")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_an_import_guides_a_training(whole, imported):
    """The arrays of a run of TGM that has not begun are those of the import; one tower alone is refused."""
    config = load_config(f"configs/tgm.py:B,clip={whole[0]},smoke", [])
    made = experiment(config, trains=True)
    mesh = sharding.make_mesh({"data": 1}, devices=jax.devices()[:1])
    state, _ = sharding.create(made.make_init(made.optimizer_without_data()), jax.random.key(0), made.batch_spec, mesh)
    state, reports = begin_from(state, made.init_from, config)
    assert [report.kept for report in reports] == [{}] * 3
    trained = restore(str(whole[0]))
    for ours, theirs in (("image", "encoder"), ("projection", "projection"), ("text", "text")):
        jax.tree.map(np.testing.assert_array_equal, state.frozen[ours], trained.params[theirs])
    with pytest.raises(ConfigError, match="is no workdir of a whole CLIP"):
        load_config(f"configs/tgm.py:B,clip={imported[1].workdir.path}", [])


@pytest.mark.parametrize("layout", ["mae", "videomae"])
def test_no_published_layout_has_its_blocks(imported, tmp_path, layout):
    """Without the first norm and with another activation it would be another network."""
    with pytest.raises(ConfigError, match="another style than 'vit': use --format=params"):
        export_checkpoint(imported[1].workdir.path, format=layout, part="encoder", out=tmp_path / "out.pth")


def test_a_network_without_a_loss_is_not_trained(imported):
    made, params = imported[1].made, imported[1].params
    with pytest.raises(ConfigError, match="no loss to train"):
        made.method.loss(params, {"video": video()}, None)
