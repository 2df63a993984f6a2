"""The input benchmark makes videos of its own where it is given none."""

import argparse

import numpy as np

from benchmarks import input as inputs
from vmae_jax.data.decode import read_frames
from vmae_jax.data.video import Encoded


def test_files_are_made_and_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "LENGTH", 3)
    inputs.make_files(tmp_path, argparse.Namespace(count=2, group=2, videos=None))
    one, other = (read_frames(Encoded(path=str(path)), range(3)) for path in sorted(tmp_path.iterdir()))
    assert one.shape == (3, inputs.HEIGHT, inputs.WIDTH, 3)
    assert one.std() > 20  # texture
    assert np.abs(one.astype(int) - other).mean() > 10
    assert np.abs(np.diff(one.astype(int), axis=0)).mean() > 1  # which moves
