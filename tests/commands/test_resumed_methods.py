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


LV = ["--config.data.streams.embeddings.width=6", "--config.data.streams.embeddings.of=none"]
RUNS = {
    "siammcvae": ("configs/siammcvae.py:B16,smoke", write_videos, []),
    "diffmae": ("configs/diffmae.py:B,video,smoke", write_videos, []),
    "lvmae": ("configs/lvmae.py:smoke", write_features, LV),
    "mgmae": ("configs/mgmae.py:smoke", write_videos, ["--config.init_from={}"]),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_to_the_bit(name, tmp_path):
    config, write, options = RUNS[name]
    source, whole, again = (tmp_path / part for part in ("data", "whole", "again"))
    source.mkdir()
    write(source)
    command = ["train", f"--config={config}", f"--config.data.source.path={source}", "--config.data.global_batch=8"]
    command += ["--config.checkpoint.every.steps=2", *options]
    assert main([*command, f"--workdir={whole}"]) == 0
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / "4")
    assert main([*command, f"--workdir={again}"]) == 0
    first, second = (restore(str(path)) for path in (whole, again))
    assert first.step == second.step == 4
    for one, other in zip(*map(jax.tree.leaves, (first.params, second.params)), strict=True):
        np.testing.assert_array_equal(one, other)
