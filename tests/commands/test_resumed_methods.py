"""Methods that draw more than masks (noise, latent variables, lengths), or have a guide, resume to the bit.

Those that a page of the documentation trains resume there (`tests/docs/test_docs_commands.py`).
"""

import functools
import re
import shutil

import clip_weights
import numpy as np
import pytest
from raft_weights import state_of
from small_runs import same_run, write_videos

from tests import quick_xla
from tests.forks import Process
from vmae_jax.weights import import_weights
from vmae_jax.weights.formats.tensors import write_safetensors

pytestmark = pytest.mark.slow


def write_features(folder, count=9):
    for number in range(count):
        begin = 5.0 * np.arange(4 + 3 * number)
        vectors = np.random.default_rng(number).normal(size=(len(begin), 6)).astype(np.float32)
        np.savez(folder / f"{number}.npz", features=vectors, seconds=np.stack([begin, begin + 5], 1))


FOLDER = ["--config.data.source.path={source}"]
LV = [*FOLDER, "--config.data.streams.embeddings.width=6", "--config.data.streams.embeddings.of=none"]
RUNS = {
    "moco": ("configs/contrast.py:moco,S,smoke", write_videos, FOLDER),
    "teg": ("configs/contrast.py:teg,S,smoke", write_videos, FOLDER),
    "ascnet": ("configs/contrast.py:ascnet,S,smoke", write_videos, FOLDER),
    "const_cl": ("configs/contrast.py:const_cl,S,smoke", write_videos, FOLDER),
    "controlled": ("configs/contrast.py:controlled,S,smoke", write_videos, FOLDER),
    "marlin": ("configs/marlin.py:B,smoke", write_videos, []),  # of drawn clips
    "ego_only": ("configs/ego_only.py:L,mq,smoke,weights={first}", write_videos, []),  # of drawn clips with moments
    "lvmae": ("configs/lvmae.py:smoke", write_features, LV),
    "masdt": ("configs/masdt.py:temporal,smoke,flow={first}", write_videos, FOLDER),
    "mme": ("configs/mme.py:smoke,flow={first}", write_videos, FOLDER),
    "mgmae": ("configs/mgmae.py:smoke,flow={first}", write_videos, FOLDER),
    "tgm": ("configs/tgm.py:smoke,clip={first}", write_videos, []),  # of drawn clips with captions
    "av_mae": ("configs/av_mae.py:L,audioset,smoke", write_videos, []),  # of drawn clips with sound
    "av_mae_finetuned": ("configs/av_mae.py:L,audioset,finetune,smoke,weights={first}", write_videos, []),
    "mavil": ("configs/mavil.py:B,audioset,smoke", write_videos, []),
    "mavil_student": ("configs/mavil.py:B,audioset,student,smoke,teacher={first}", write_videos, []),
    "vic_mae": ("configs/vic_mae.py:B,smoke,videos={source}", write_videos, []),
    "crossvideomae": ("configs/crossvideomae.py:smoke,image={first}", write_videos, FOLDER),
    "mbt": ("configs/mbt.py:audioset_mini,smoke,weights={first}", write_videos, []),
}


def flow_weights(first):
    """RAFT's weights, as `vmae import` takes them."""
    path = first.with_suffix(".safetensors")
    write_safetensors(path, {name: np.ascontiguousarray(array) for name, array in state_of("raft").items()}, {})
    import_weights(path, out=first)


def clip_of_texts(first):
    """CLIP's weights, as `vmae import` takes them."""
    about = {"vision_config": clip_weights.ABOUT, "text_config": clip_weights.TEXT}
    arrays = clip_weights.state() | clip_weights.text_state()
    import_weights(clip_weights.write(first.with_suffix(".given"), arrays, **about), out=first)


@pytest.fixture(scope="module")
def train(forks):
    """`vmae train` in a process of its own, with one device."""

    def run(workdir, *words):
        process = Process(forks, ["train", *words, f"--workdir={workdir}"], quick_xla.on_devices(1))
        assert process.wait(600) == 0, process.err[-3000:]

    return run


@pytest.fixture(scope="module")
def first(train, tmp_path_factory):
    """What methods begin from, made once: weights, or a run that has not made a step."""
    folder = tmp_path_factory.mktemp("first")

    @functools.cache
    def made(what):
        path = folder / re.sub(r"\W", "_", getattr(what, "__name__", what))
        if callable(what):
            what(path)
        else:
            train(path, f"--config=configs/{what}", "--config.train.length.steps=0")
        return path

    return made


FIRST = {
    "ego_only": "ego_only.py:L,smoke",
    "av_mae_finetuned": "av_mae.py:L,audioset,smoke",
    "mavil_student": "mavil.py:B,audioset,smoke",
    "crossvideomae": "mae.py:B,smoke",
    "mbt": "mae.py:B,smoke",
    "masdt": flow_weights,
    "mgmae": flow_weights,
    "mme": flow_weights,
    "tgm": clip_of_texts,
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_to_the_bit(name, tmp_path, train, first):
    config, write, options = RUNS[name]
    source, whole, again = (tmp_path / part for part in ("data", "whole", "again"))
    source.mkdir()
    write(source)
    config = config.format(first=first(FIRST[name]) if name in FIRST else "", source=source)
    options = ["--config.data.global_batch=8", *(option.format(source=source) for option in options)]
    command = [f"--config={config}", "--config.checkpoint.every.steps=2", *options]
    train(whole, *command)
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / "4")
    train(again, *command, "--config.train.pictures_every=none")  # drawn before
    same_run(whole, again)
