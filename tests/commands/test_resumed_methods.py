"""Methods that draw more than masks (noise, latent variables, lengths), or have a guide, resume to the bit."""

import shutil

import jax
import numpy as np
import pytest
from small_runs import write_videos

from vmae_jax.cli import main
from vmae_jax.commands.restore import restore

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
    "marlin": ("configs/marlin.py:B,smoke", write_videos, []),  # of drawn clips
    "lvmae": ("configs/lvmae.py:smoke", write_features, LV),
    "mgmae": ("configs/mgmae.py:smoke", write_videos, ["--config.init_from={}"]),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_to_the_bit(name, tmp_path):
    config, write, options = RUNS[name]
    source, first, whole, again = (tmp_path / part for part in ("data", "first", "whole", "again"))
    source.mkdir()
    write(source)
    options = ["--config.data.global_batch=8", *(option.format(source=source) for option in options)]
    if "{first}" in config:  # of which only the initial weights are needed
        begin = [f"--config=configs/{name}.py:smoke", "--config.train.length.steps=0", f"--workdir={first}"]
        assert main(["train", *begin, *options]) == 0
    command = ["train", f"--config={config.format(first=first)}", "--config.checkpoint.every.steps=2", *options]
    assert main([*command, f"--workdir={whole}"]) == 0
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / "4")
    assert main([*command, f"--workdir={again}"]) == 0
    first, second = (restore(str(path)) for path in (whole, again))
    assert first.step == second.step == 4
    for one, other in zip(*map(jax.tree.leaves, (first.params, second.params)), strict=True):
        np.testing.assert_array_equal(one, other)
