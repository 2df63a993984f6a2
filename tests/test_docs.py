"""The documentation's examples in Python compute what the pages describe."""

import importlib
import pkgutil
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vmae_jax
from tests.docs.pages import ROOT, blocks
from vmae_jax import registry
from vmae_jax.masking.core import plan
from vmae_jax.types import Grid


def python(page: str, word: str) -> str:
    """The one block of a page in Python that contains `word`."""
    [text] = [one.text for one in blocks(ROOT / page) if one.language == "python" and word in one.text]
    return text


def test_the_mask_of_the_example_hides_what_its_ratio_asks_for():
    names: dict = {"__name__": "example"}
    exec(python("docs/add_a_mask.md", "@register"), names)
    grid = Grid(4, 4, 4)
    for ratio in (0.25, 0.75, 0.9):  # as STRATEGIES of tests/masking calls it
        made = plan(jax.random.split(jax.random.key(0), 2), {}, grid, names["checkerboard"](ratio))
        assert made.decode.shape == (2, int(ratio * grid.size))
    made = plan(jax.random.split(jax.random.key(0), 6), {}, grid, names["checkerboard"]())
    assert made.visible.shape == (6, 32)
    assert len({np.asarray(row).tobytes() for row in made.visible}) == 2


def test_the_target_of_the_example_is_the_difference_of_frames():
    names: dict = {"__name__": "example"}
    exec(python("docs/add_a_target.md", "@register"), names)
    from vmae_jax.patches import Patch

    video = np.random.default_rng(0).integers(0, 256, (1, 4, 8, 8, 3), np.uint8)
    target = names["frame_difference"]()({"video": video}, jnp.array([[1, 4]]), Patch(2, 4, 4))
    expected = (video[:, 1::2].astype(np.float32) - video[:, ::2]) / 255  # [1 slot y x c]
    np.testing.assert_allclose(target[0, 0], expected[0, 0, :4, 4:].ravel(), atol=1e-6)
    np.testing.assert_allclose(target[0, 1], expected[0, 1, :4, :4].ravel(), atol=1e-6)
    with pytest.raises(ValueError, match="tubelet"):
        names["frame_difference"]()({"video": video}, jnp.array([[0]]), Patch(1, 4, 4))


def test_the_transform_of_the_example_is_the_same_in_tf_data():
    tf = pytest.importorskip("tensorflow")
    names: dict = {"__name__": "example"}
    exec(python("docs/add_a_part.md", "@register"), names)
    transform = names["brightness"](0.5)
    video = np.full((2, 4, 4, 3), 100, np.uint8)
    eager = transform({"video": video, "index": 7}, np.array([1, 2]))
    assert eager["index"] == 7
    pixels = np.asarray(eager["video"])
    assert pixels.dtype == np.uint8
    assert len(np.unique(pixels)) == 1
    assert 50 <= pixels[0, 0, 0, 0] <= 150
    clips = tf.data.Dataset.from_tensors(video)
    mapped = clips.map(lambda one: transform({"video": one}, tf.constant([1, 2]))["video"])
    np.testing.assert_array_equal(next(iter(mapped)), pixels)
    assert not np.array_equal(np.asarray(transform({"video": video}, np.array([3, 4]))["video"]), pixels)
    with pytest.raises(ValueError, match="strength"):
        names["brightness"](1.0)


def test_the_method_of_the_example_learns_the_direction():
    """Its loss is log 2 for a head of zeros, and rows that only fill up a batch count for nothing."""
    names: dict = {"__name__": "arrow_of_time"}
    exec(python("docs/add_a_method.md", "@register"), names)
    from vmae_jax.models.variants import vit
    from vmae_jax.types import Context

    model = vit(size="micro", frames=4, resolution=16, dtype="float32")
    method = names["build"](model)
    random = np.random.default_rng(0)
    batch = {
        "video": random.integers(0, 256, (4, *model.video_shape), np.uint8),
        "seed": random.integers(0, 2**32, (4, 2), np.uint32),
        "valid": np.array([True, True, True, False]),
    }
    params, _ = method.init(jax.random.key(0), batch)
    params["head"] = jax.tree.map(jnp.zeros_like, params["head"])
    loss = method.loss(params, batch, Context(jax.random.key(0), jnp.int32(0)))
    assert float(loss.terms["direction"].count) == 3.0
    assert float(loss.terms["direction"].total) == pytest.approx(3 * np.log(2), rel=1e-5)
    assert method.features(params, batch).shape == (4, model.encoder.width)


@pytest.mark.parametrize("page", ["README.md", "docs/config.md"])
def test_the_method_of_a_page_builds(page):
    from ml_collections import ConfigDict

    from vmae_jax.spec import build, call

    config = ConfigDict()
    exec(python(page, "config.method = call"), {"call": call, "config": config})
    assert build(config.method).reconstruct is not None


def test_a_config_that_builds_on_ours():
    names: dict = {}
    exec(python("docs/config.md", "def get_config"), names)
    assert names["get_config"]("S").method.encoder_mask.ratio == 0.75


@pytest.mark.torch
@pytest.mark.slow
def test_a_video_s_features_are_the_same_three_times(tmp_path, monkeypatch):
    """The example of the page on weights, as it stands, on exports of the quick start's model."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from vmae_jax import weights
    from vmae_jax.commands.config import load_config
    from vmae_jax.io.checkpoint import Checkpoints
    from vmae_jax.spec import to_json
    from vmae_jax.weights.subject import fresh_params, subject

    config = load_config("configs/quickstart.py")
    one = subject(config)
    assert one.facts.heads == 4
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(to_json(config))
    saver = Checkpoints(tmp_path / "run" / "checkpoints", asynchronous=False)
    saver.save(0, {"params": fresh_params(one)}, {})
    saver.close()
    for form, out in (("hf", "mine-hf"), ("videomae", "mine.pth")):
        weights.export_checkpoint(str(tmp_path / "run"), format=form, out=str(tmp_path / out))
    np.save(tmp_path / "clip.npy", np.random.default_rng(0).integers(0, 256, one.model.video_shape, np.uint8))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(python("docs/weights.md", "in_pytorch"), names)
    wanted = np.asarray(names["in_jax"])
    for other in ("in_transformers", "in_pytorch"):
        np.testing.assert_allclose(np.asarray(names[other]), wanted, atol=1e-5, err_msg=other)


def test_the_page_on_components_lists_every_kind():
    for module in pkgutil.walk_packages(vmae_jax.__path__, "vmae_jax."):
        if module.name.split(".")[1] in registry.COMPONENTS:
            importlib.import_module(module.name)
    ours = [one for path, one in registry.components().items() if path.startswith("vmae_jax.")]
    kinds = {one.kind for one in map(registry.registered, ours) if one is not None}
    section = (ROOT / "docs" / "extend.md").read_text().split("## Kinds")[1].split("##")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    listed = {kind for row in rows for kind in re.findall(r"`(\w+)`", row)}
    assert listed == kinds
