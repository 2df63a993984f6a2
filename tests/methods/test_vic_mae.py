"""ViC-MAE: two frames of a video, each reconstructed, and contrasted by the means of their visible tokens."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from random_batch import batch_of

from vmae_jax.augment.colors import by_view, jitter
from vmae_jax.commands.config import load_config
from vmae_jax.data.clips import pair
from vmae_jax.data.video import VideoInfo
from vmae_jax.inputs.readers import video
from vmae_jax.masking.random import random
from vmae_jax.methods import joint, masked
from vmae_jax.methods.parts.nce import nce
from vmae_jax.methods.parts.reconstruct import reconstruct
from vmae_jax.models.positions import sincos_2d
from vmae_jax.models.variants import vit
from vmae_jax.spec import build
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Context

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=True)
ROWS = 16
MODEL = vit(
    "micro", frames=1, tubelet=1, resolution=16, patch=4, decoder_depth=1, dtype="float32", initial="mae",
    prefix=1, decoder_prefix="kept", project_bias=True, positions=sincos_2d(),
)  # fmt: skip
TARGET = {"pixels": objective(pixels(joint=True), weight=0.97)}
VIEWS = joint.Joint(
    {"video": joint.modality(MODEL, random(0.5), video(), TARGET)},
    {"reconstruct": reconstruct(), "contrast": nce("video", "video", widths=[32, 32, 16], temperature=1.0)},
    None,
)
MAE = masked.build(MODEL, random(0.5), TARGET)


def frames():
    given = batch_of(ROWS)
    return {**given, "video": given["video"][:, :1]}


@functools.cache
def found():
    """Terms of a batch, of the same with its views swapped, and of MAE; and what is contrasted."""
    method = VIEWS.method()
    given = frames()
    swapped = {name: value.reshape(-1, 2, *value.shape[1:])[:, ::-1].reshape(value.shape) for name, value in
               given.items()}  # fmt: skip

    @jax.jit
    def run(key):
        params = meta.unbox(method.init(key, given)[0])
        terms = [method.total_loss(params, one, CONTEXT).terms for one in (given, swapped)]
        plain = {"encoder": params["video"], "decoder": params["reconstruct"]["video"]}
        seen = VIEWS.seen(params, given, train=True)["video"]
        pooled = VIEWS.parts["contrast"].rows({}, {"video": seen}, dict)["video"]
        return *terms, MAE.loss(plain, given, CONTEXT).terms, seen.own, pooled

    return run(jax.random.key(1))


def value(term):
    return float(term.total / term.count)


def test_the_contrast_begins_at_chance_among_all_other_frames():
    terms = found()[0]
    assert value(terms["contrast"]) == pytest.approx(math.log(ROWS - 1), abs=0.15)
    assert float(terms["contrast"].count) == ROWS


def test_without_the_contrast_it_is_mae():
    terms, _, plain, *_ = found()
    assert value(terms["video_pixels"]) == value(plain["pixels"]) > 0
    assert float(terms["video_pixels"].weight) == np.float32(0.97)


def test_the_order_of_both_views_does_not_matter():
    terms, swapped, *_ = found()
    for name in ("video_pixels", "contrast"):
        assert value(swapped[name]) == pytest.approx(value(terms[name]), rel=1e-6), name


def test_frames_are_compared_by_their_visible_tokens_without_the_class_token():
    *_, tokens, pooled = found()
    assert tokens.shape[1] == 1 + 8
    np.testing.assert_allclose(pooled, np.asarray(tokens)[:, 1:].mean(axis=1), rtol=1e-5, atol=1e-6)


def test_views_are_two_frames_of_a_video_and_an_image_twice():
    sampler = build(load_config("configs/vic_mae.py:B").data.sampler)
    assert isinstance(sampler, type(pair()))
    about = {"height": 8, "width": 8, "codec": "", "container": "", "rate": 10.0}
    for count, least in ((300, 10), (7, 6), (1, 0)):
        info = VideoInfo(num_frames=count, times=np.arange(count) / 10, **about)
        for seed in range(20):
            (first,), (second,) = sampler(info, np.array([seed, 1], np.uint32))
            assert 0 <= first <= second - least < count
            assert second - first <= 80


def test_counts_of_tokens_and_weights():
    config = load_config("configs/vic_mae.py:B,images=pictures,videos=clips")
    one = build(config.method.modalities.video, "modality")
    assert (one.model.grid.size, one.mask.keep(one.model.grid)) == (196, 98)
    assert (one.objectives["pixels"].weight, config.method.parts.contrast.weight) == (0.97, 0.03)
    first, second = one.read.colors.changes
    assert (first.blur, first.solarise, second.blur, second.solarise) == (1.0, 0.0, 0.0, 0.2)
    assert config.data.source.parts.images.source.path == "pictures"
    assert config.data.source.parts.videos.source.call == "data.sources.folder"


def test_colours_of_two_views_need_a_loss_or_a_loader_of_two():
    colors = by_view([jitter(), jitter()])
    one = joint.modality(MODEL, random(0.5), video(colors), TARGET)
    assert joint.build({"video": one}, {"reconstruct": reconstruct()}).views == 2
    with pytest.raises(ValueError, match=r"views are \{'contrast': 3, 'video': 2\}"):
        joint.build({"video": one}, {"contrast": nce("video", "video", views=3)})
