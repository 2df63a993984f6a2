"""Which streams a method needs of a loader, and what is refused where they are not there."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.commands.streams import check_expected, check_streams, only_video
from vmae_jax.data.streams.audio import audio
from vmae_jax.masking.core import Masker
from vmae_jax.methods import masked
from vmae_jax.methods.guides import Guide
from vmae_jax.models.variants import vit
from vmae_jax.spec import ConfigError
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Method


def method(**fields):
    return Method(init=print, loss=print, features=print, **fields)


def spec(*names):
    every = ("seed", "index", "valid", *names)
    return {name: jax.ShapeDtypeStruct((2, 8, 32, 32, 3), np.uint8) for name in every}


def test_what_the_loss_alone_reads_is_needed_by_training_alone():
    one = method(supervision=("label",))
    check_streams(one, spec("video"), "config.data")
    check_streams(one, spec("video", "label"), "config.data", trains=True)
    with pytest.raises(ConfigError) as caught:
        check_streams(one, spec("video"), "config.data", trains=True)
    assert str(caught.value) == (
        "config.method reads 'label', which config.data does not provide: its batches have video; "
        "set config.data.labels=True"
    )


def test_the_error_names_the_stream_and_what_there_is():
    one = method(inputs=("video", "audio"))
    with pytest.raises(ConfigError, match=r"reads 'audio', which config.eval.data does .* have video, audios "):
        check_streams(one, spec("video", "audios"), "config.eval.data")
    with pytest.raises(ConfigError, match="its batches have no streams"):
        check_streams(one, spec(), "config.data")
    check_streams(one, spec("audio", "video"), "config.data", trains=True)


def test_sound_of_another_rate_is_refused():
    one = method(inputs=("audio",), expects={"audio": {"rate": 16000, "channels": 1}})
    loader = SimpleNamespace(streams={"audio": audio(seconds=1.0, rate=16000)})
    check_expected(one, loader, "config.data")
    loader.streams["audio"] = audio(seconds=1.0, rate=44100)
    with pytest.raises(ConfigError) as caught:
        check_expected(one, loader, "config.data")
    assert str(caught.value) == (
        "config.method reads 'audio' with rate=16000, and config.data.streams.audio has rate=44100: set one of them"
    )
    of_loss = method(inputs=("video",), expects={"actions": {"classes": 3}})
    check_expected(of_loss, loader, "config.eval.data")  # a probe's data have no such labels


def test_masks_targets_and_guides_name_the_streams_that_training_needs():
    class Flow:
        """A target that reads a plane of the loader's, and the guide's annotation of each clip."""

        inputs = ("flow", "attention", "video")

        def __call__(self, batch, decode, patch):
            return jnp.take_along_axis(batch["flow"][:, None], decode[..., None], 1)

    guide = Guide(
        init=lambda key, batch: {},
        annotate=lambda params, batch: {"attention": batch["hints"]},
        inputs=("hints",),
        gives=("attention",),
    )
    moving = Masker(lambda grid: grid.size // 2, lambda keys, batch, grid: batch["motion"], inputs=("motion",))
    model = vit("micro", frames=4, resolution=32, patch=8)
    plain = masked.build(model, moving._replace(inputs=()), {"pixels": objective(pixels())})
    assert (plain.inputs, plain.supervision) == (("video",), ())
    one = masked.build(model, moving, {"flow": objective(Flow())}, guides={"attention": guide})
    assert (one.inputs, one.supervision) == (("video",), ("hints", "motion", "flow"))
    check_streams(one, spec("video"), "config.eval.data")
    with pytest.raises(ConfigError, match=r"reads 'motion', which config.data does not provide"):
        check_streams(one, spec("video", "hints"), "config.data", trains=True)
    assert only_video(one, spec("video"), "vmae features").shape == (2, 8, 32, 32, 3)
    with pytest.raises(ConfigError, match=r"--videos reads video files only.*'video', 'hints', 'motion', 'flow'"):
        only_video(one, spec("video"), "--videos", trains=True)


def test_commands_that_open_videos_refuse_methods_that_read_more():
    assert only_video(method(), spec("video"), "vmae features").shape == (2, 8, 32, 32, 3)
    for inputs in (("video", "audio"), ("audio",), ()):
        with pytest.raises(ConfigError, match="vmae features reads video files only"):
            only_video(method(inputs=inputs), spec("video", "audio"), "vmae features")
