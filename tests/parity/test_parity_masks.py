"""The same masks as the official generators."""

import json
import re

import numpy as np

from vmae_jax.masking import running_cell
from vmae_jax.masking.random import random
from vmae_jax.masking.tube import tube
from vmae_jax.types import Grid


def test_running_cell_phases(phases):
    assert phases
    for key, packed in phases.items():
        *sides, ratio = re.fullmatch(r"(\d+)x(\d+)x(\d+)@([\d.]+)", key).groups()
        grid = Grid(*map(int, sides))
        dropped = np.unpackbits(packed, axis=-1)[:, : grid.size].astype(bool)
        ours = running_cell.patterns(grid, int(float(ratio) * 4)) == 0
        assert {row.tobytes() for row in ours} == {row.tobytes() for row in dropped}, key


def test_mask_counts(goldens):
    counts = json.loads((goldens / "recipes.json").read_text())["mask_counts"]
    assert counts
    for key, expected in counts.items():
        sides, ratio = key.split("@")
        grid = Grid(*map(int, re.findall(r"\d+", sides)))
        assert grid.size - tube(float(ratio)).keep(grid) == expected["tube_masked"], key
        assert grid.size - random(float(ratio)).keep(grid) == expected["random_masked"], key
