"""Clips of `synthetic.world` for its tests."""

import hashlib

import numpy as np

from vmae_jax.data.streams.tables import read_columns
from vmae_jax.data.synthetic import world

RATE = 16000
SMALL = {"train": 3, "validation": 0, "test": 0, "size": 48, "frames": 24, "silent": 0.5}
SETTINGS = world.settings(**{**SMALL, "frames": 48, "shapes": 3})


def scenes(count=6, settings=SETTINGS):
    return [world.make_world(settings, "train", number) for number in range(count)]


def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


def table(settings, number, side, *columns):
    return read_columns(world.make_clip(settings, "train", number).sides[side].data, columns)
