"""CrossVideoMAE: clips and frames of them; contrast of whole videos; a network of images that stays as it is."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.commands.config import load_config
from vmae_jax.inputs.readers import frame, video
from vmae_jax.masking.random import random
from vmae_jax.methods import joint, masked
from vmae_jax.methods.parts.nce import nce
from vmae_jax.methods.parts.reconstruct import reconstruct
from vmae_jax.models.variants import vit
from vmae_jax.spec import build
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.train.optim import matching
from vmae_jax.types import Context, row_keys

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=True)
TINY = {"size": "micro", "resolution": 16, "patch": 4, "decoder_depth": 1, "dtype": "float32"}
CLIPS, STILLS = vit(frames=4, **TINY), vit(frames=1, tubelet=1, **TINY)
TARGET = {"pixels": objective(pixels())}
CROSS = nce("video", "image", temperature=1.0, widths=[32, 16], merged=True)
BOTH = joint.build(
    {
        "video": joint.modality(CLIPS, random(0.75), video(), TARGET),
        "image": joint.modality(STILLS, random(0.5), frame(), TARGET),
    },
    {"reconstruct": reconstruct(), "cross": CROSS},
)
VIDEOMAE = masked.build(CLIPS, random(0.75), TARGET)


@functools.cache
def found():
    """The terms of a batch, and VideoMAE's."""
    given = batch_of(32)

    @jax.jit
    def run(key):
        params = meta.unbox(BOTH.init(key, given)[0])
        plain = {"encoder": params["video"], "decoder": params["reconstruct"]["video"]}
        return BOTH.total_loss(params, given, CONTEXT).terms, VIDEOMAE.loss(plain, given, CONTEXT).terms

    return run(jax.random.key(1))


def value(term):
    return float(term.total / term.count)


def test_without_frames_and_contrast_it_is_videomae():
    terms, plain = found()
    assert terms.keys() == {"video_pixels", "image_pixels", "cross"}
    assert value(terms["video_pixels"]) == value(plain["pixels"]) > 0


def test_the_contrast_of_videos_begins_at_chance():
    assert (BOTH.views, BOTH.group) == (2, 2)
    term = found()[0]["cross"]
    assert float(term.count) == 16  # videos of two views each
    assert value(term) == pytest.approx(math.log(16), abs=0.2)


def test_views_are_averaged_before_videos_are_compared():
    rng = np.random.default_rng(2)
    rows = {name: rng.normal(size=(8, 5)).astype(np.float32) for name in ("video", "image")}
    valid = np.array([1, 1, 1, 0, 1, 1, 1, 1], bool)
    mean = {name: x.reshape(4, 2, 5).mean(axis=1)[[0, 2, 3]] for name, x in rows.items()}
    unit = {name: x / np.linalg.norm(x, axis=1, keepdims=True) for name, x in mean.items()}
    logits = unit["video"] @ unit["image"].T / 0.5
    wanted = -sum(np.diag(one) - np.log(np.exp(one).sum(axis=1)) for one in (logits, logits.T)) / 2
    part = nce("video", "image", temperature=0.5, merged=True)
    term = part.compare({}, {**rows, "": jnp.asarray(valid)}, None, CONTEXT).terms["nce"]
    assert (float(term.total), float(term.count)) == (pytest.approx(wanted.sum(), rel=1e-5), 3)
    other = {**rows, "image": np.roll(rows["video"], 2, axis=0), "": jnp.asarray(valid)}
    same = {**rows, "image": rows["video"], "": jnp.asarray(valid)}
    right, wrong = (float(part.compare({}, one, None, CONTEXT).terms["nce"].total) for one in (same, other))
    assert right < wrong  # frames of another video


def test_a_frame_is_one_of_its_clip():
    given = batch_of(64)
    keys = row_keys(given["seed"])
    one = frame()
    drawn, still = one.read(given, 1, keys), one.read(given, 1)
    np.testing.assert_array_equal(still.video, given["video"][:, 2:3])
    same = (np.asarray(drawn.video) == given["video"]).all(axis=(2, 3, 4))
    assert (same.sum(axis=1) == 1).all()
    assert (same.sum(axis=0) > 4).all()  # of 64, about 16 each
    np.testing.assert_array_equal(one.read({n: x[5:9] for n, x in given.items()}, 1, keys[5:9]).video, drawn.video[5:9])
    with pytest.raises(ValueError, match="gives one frame, and the model takes 4"):
        joint.build({"image": joint.modality(CLIPS, random(0.5), frame(), TARGET)}, {"r": reconstruct()}).init(
            jax.random.key(0), given
        )


def test_counts_of_tokens_and_what_is_trained():
    config = load_config("configs/crossvideomae.py:image=runs/mae", [("data.source.path", "videos")])
    for name, wanted in {"video": (1568, 78), "image": (196, 49)}.items():
        one = build(config.method.modalities[name], "modality")
        assert (one.model.grid.size, one.mask.keep(one.model.grid)) == wanted
    assert {name: one.get("merged") for name, one in config.method.parts.items() if name != "reconstruct"} == {
        "clips": False,
        "frames": False,
        "cross": True,
    }
    params = {"image": {"a": 0}, "video": {"a": 0}, "frames": {"image": {"a": 0}}}
    assert matching(params, tuple(config.optimizer.freeze), "freeze") == {
        "image/a"
    }  # projections of frames are trained
    assert (config.init_from["params/image"].path, config.init_from["params/image"].select) == (
        "runs/mae",
        "params/encoder",
    )


def test_what_is_refused():
    for arguments in ({"paired": True}, {"second": "video"}):
        with pytest.raises(ValueError, match="merged=True is for two modalities"):
            nce(**{"first": "video", "second": "image", "merged": True, **arguments})


def test_frames_are_drawn_as_stills_below_their_clips():
    given = batch_of(4)
    params = jax.eval_shape(lambda: meta.unbox(BOTH.init(jax.random.key(0), given)[0]))
    drawn = jax.eval_shape(lambda p: BOTH.reconstruct(p, given, CONTEXT), params)
    assert {row.shape for row in drawn.rows.values()} == {(4, 4, 16, 16, 3)}
    assert {"original", "masked", "image: original", "image: masked"} <= set(drawn.rows)
