"""Methods that draw more than masks (noise, latent variables, lengths), or have a guide, resume to the bit."""

import functools
import shutil

import clip_weights
import jax
import numpy as np
import pytest
from raft_weights import state_of
from small_runs import write_videos

from vmae_jax.cli import main
from vmae_jax.commands.restore import restore
from vmae_jax.weights import import_weights
from vmae_jax.weights.formats.tensors import write_safetensors

pytestmark = pytest.mark.slow


def write_features(folder, count=9):
    for number in range(count):
        begin = 5.0 * np.arange(4 + 3 * number)
        vectors = np.random.default_rng(number).normal(size=(len(begin), 6)).astype(np.float32)
        np.savez(folder / f"{number}.npz", features=vectors, seconds=np.stack([begin, begin + 5], 1))


FOLDER = ["--config.data.source.path={source}"]
TWO = [f"--config.data.source.parts.{name}.source.path={{source}}" for name in ("source", "target")]
LV = [*FOLDER, "--config.data.streams.embeddings.width=6", "--config.data.streams.embeddings.of=none"]
RUNS = {
    "siammcvae": ("configs/siammcvae.py:B16,smoke", write_videos, FOLDER),
    "diffmae": ("configs/diffmae.py:B,video,smoke", write_videos, FOLDER),
    "cdfslv": ("configs/cdfslv.py:adapt,smoke,weights={first}", write_videos, TWO),
    "levjepa": ("configs/levjepa.py:B,smoke", write_videos, FOLDER),
    "moco": ("configs/contrast.py:moco,S,smoke", write_videos, FOLDER),
    "byol": ("configs/contrast.py:byol,S,views=3,smoke", write_videos, FOLDER),
    "teg": ("configs/contrast.py:teg,S,smoke", write_videos, FOLDER),
    "ascnet": ("configs/contrast.py:ascnet,S,smoke", write_videos, FOLDER),
    "const_cl": ("configs/contrast.py:const_cl,S,smoke", write_videos, FOLDER),
    "controlled": ("configs/contrast.py:controlled,S,smoke", write_videos, FOLDER),
    "sigma": ("configs/sigma.py:B,k400,smoke,teacher={first}", write_videos, FOLDER),
    "ttt": ("configs/ttt.py:B,smoke,weights={first}", write_videos, []),
    "marlin": ("configs/marlin.py:B,smoke", write_videos, []),  # of drawn clips
    "lvmae": ("configs/lvmae.py:smoke", write_features, LV),
    "masdt": ("configs/masdt.py:temporal,smoke,flow={first}", write_videos, FOLDER),
    "mme": ("configs/mme.py:smoke,flow={first}", write_videos, FOLDER),
    "mgmae": ("configs/mgmae.py:smoke,flow={first}", write_videos, FOLDER),
    "mvd": ("configs/mvd.py:B,smoke,video={first}", write_videos, FOLDER),
    "tgm": ("configs/tgm.py:smoke,clip={first}", write_videos, []),  # of drawn clips with captions
    "umt": ("configs/umt.py:B,smoke,teacher={first}", write_videos, FOLDER),
    "av_mae": ("configs/av_mae.py:L,audioset,smoke", write_videos, []),  # of drawn clips with sound
    "av_mae_finetuned": ("configs/av_mae.py:L,audioset,finetune,smoke,weights={first}", write_videos, []),
    "mavil": ("configs/mavil.py:B,audioset,smoke", write_videos, []),
    "mavil_student": ("configs/mavil.py:B,audioset,student,smoke,teacher={first}", write_videos, []),
    "mbt": ("configs/mbt.py:audioset_mini,smoke,weights={first}", write_videos, []),
}


def write_flow(first, options):
    """RAFT's weights, as `vmae import` takes them."""
    del options
    path = first.with_suffix(".safetensors")
    write_safetensors(path, {name: np.ascontiguousarray(array) for name, array in state_of("raft").items()}, {})
    import_weights(path, out=first)


def write_clip(first, options):
    """CLIP's weights, as `vmae import` takes them."""
    del options
    about = {"vision_config": clip_weights.ABOUT, "text_config": clip_weights.TEXT}
    arrays = clip_weights.state() | clip_weights.text_state()
    import_weights(clip_weights.write(first.with_suffix(".given"), arrays, **about), out=first)


def begin(config, first, options):
    """A run that has not made a step: only its initial weights are needed."""
    command = [f"--config=configs/{config}", "--config.train.length.steps=0", f"--workdir={first}"]
    assert main(["train", *command, *options]) == 0


FIRST = {
    "cdfslv": functools.partial(begin, "cdfslv.py:smoke"),
    "ttt": lambda first, options: begin("mae.py:B,smoke", first, []),  # of drawn clips
    "av_mae_finetuned": lambda first, options: begin("av_mae.py:L,audioset,smoke", first, []),
    "mavil_student": lambda first, options: begin("mavil.py:B,audioset,smoke", first, []),
    "mbt": lambda first, options: begin("mae.py:B,smoke", first, []),
    "masdt": write_flow,
    "mgmae": write_flow,
    "mme": write_flow,
    "mvd": functools.partial(begin, "videomae_v2.py:B,smoke"),
    "tgm": write_clip,
    "umt": functools.partial(begin, "videomae_v2.py:B,smoke"),
    "sigma": functools.partial(begin, "videomae_v2.py:B,smoke"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_to_the_bit(name, tmp_path):
    config, write, options = RUNS[name]
    source, first, whole, again = (tmp_path / part for part in ("data", "first", "whole", "again"))
    source.mkdir()
    write(source)
    options = ["--config.data.global_batch=8", *(option.format(source=source) for option in options)]
    if name in FIRST:
        FIRST[name](first, options)
    command = ["train", f"--config={config.format(first=first)}", "--config.checkpoint.every.steps=2", *options]
    assert main([*command, f"--workdir={whole}"]) == 0
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / "4")
    assert main([*command, "--config.train.pictures_every=none", f"--workdir={again}"]) == 0  # drawn before
    first, second = (restore(str(path)) for path in (whole, again))
    assert first.step == second.step == 4
    for one, other in zip(*map(jax.tree.leaves, (first.params, second.params)), strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.isfinite(one).all()
    carried = [jax.tree.leaves(run.carried().extra) for run in (first, second)]
    for one, other in zip(*carried, strict=True):
        np.testing.assert_array_equal(one, other)
