"""RAFT-small against torchvision, and MGMAE's maps and masks against its official code."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from raft_weights import state_of

from vmae_jax.masking.flow_guided import EARLIER, LATER, flow_guided, followed, gaussians, moved
from vmae_jax.methods.flow import outward_pairs
from vmae_jax.models.raft import Raft
from vmae_jax.types import Grid
from vmae_jax.weights.flow import params_of
from vmae_jax.weights.formats.tensors import File

FOLDER = pathlib.Path(__file__).parents[1] / "goldens" / "raft"
GRID, PATCH = Grid(3, 6, 6), (8, 8)


@pytest.fixture(scope="module")
def numbers():
    return dict(np.load(FOLDER / "flow.npz"))


@pytest.fixture(scope="module")
def masks():
    return dict(np.load(FOLDER / "mask.npz"))


@pytest.fixture(scope="module")
def flows(numbers):
    """The flow of both pairs after the first and the last iteration, there and back."""
    frames = jnp.asarray(np.stack([numbers["first"], numbers["second"]], axis=1), jnp.float32) / 127.5 - 1
    params = params_of(File(state_of("torchvision"), {}))

    @jax.jit
    def both(params, frames):
        return Raft(1).flow(params, frames, [(0, 1)]), Raft(6).flow(params, frames, [(0, 1), (1, 0)])

    once, often = both(params, frames)
    return {"flow1": once[:, 0, ::4, ::4], "flow6": often[:, 0], "flow6_back": often[:, 1, ::4, ::4]}


@pytest.mark.parametrize(("name", "limit"), [("flow1", 2e-5), ("flow6", 2e-4), ("flow6_back", 2e-4)])
def test_flow(numbers, flows, name, limit):
    """Relative to the largest flow: each iteration reads at places that those before it have found."""
    wanted = numbers[name]
    assert np.abs(wanted).max() > 10
    np.testing.assert_allclose(flows[name], wanted, rtol=0, atol=limit * np.abs(wanted).max())


def test_the_original_and_torchvision_are_one_network():
    about = json.loads((FOLDER / "raft_small.json").read_text())
    assert about["original_minus_torchvision"] == 0
    original, torchvision = (params_of(File(state_of(layout), {})) for layout in ("raft", "torchvision"))
    jax.tree.map(np.testing.assert_array_equal, original, torchvision)
    assert sum(leaf.size for leaf in jax.tree.leaves(original)) == 990_162


def test_drawn_maps(masks):
    found = gaussians(jnp.asarray(masks["places"]), GRID, PATCH)
    np.testing.assert_allclose(found, masks["drawn"], rtol=0, atol=1e-6)


def test_warp(masks):
    found = moved(jnp.asarray(masks["warp_map"]), jnp.moveaxis(jnp.asarray(masks["warp_flow"]), 1, -1))
    assert (masks["warped"] == 0).any()
    np.testing.assert_allclose(found, masks["warped"], rtol=0, atol=1e-5)


def directed(masks, base, *, fix_backward):
    """The recorded flow of the pairs that a clip's maps follow: before the base frame, and after it."""
    stored = np.moveaxis(masks["flows"].astype(np.float32), 3, -1)  # [b pair direction y x 2]
    of = lambda pair: stored[:, min(pair), 0 if pair[0] < pair[1] else 1]  # noqa: E731
    empty = np.zeros((len(stored), 0, *stored.shape[3:]), np.float32)
    sides = outward_pairs(stored.shape[1] + 1, base, fix_backward=fix_backward)
    return [np.stack([of(pair) for pair in pairs], axis=1) if pairs else empty for pairs in sides]


@pytest.mark.parametrize("name", ["middle", "first", "over_clip"])
def test_maps_and_masks_of_the_official_code(masks, name, monkeypatch):
    base = 0 if name == "first" else 3
    earlier, later = directed(masks, base, fix_backward=False)
    found = followed(jnp.asarray(masks["drawn"]), jnp.asarray(earlier), jnp.asarray(later))
    np.testing.assert_allclose(found, masks[f"{name}_maps"], rtol=0, atol=1e-5)
    if base:
        fixed = directed(masks, base, fix_backward=True)
        other = followed(jnp.asarray(masks["drawn"]), *map(jnp.asarray, fixed))
        assert np.abs(other[:, :base] - found[:, :base]).max() > 0.1
        np.testing.assert_array_equal(other[:, base:], found[:, base:])
    monkeypatch.setattr("vmae_jax.masking.flow_guided.gaussians", lambda *_: jnp.asarray(masks["drawn"]))
    keys = jax.random.split(jax.random.key(0), 2)
    mask = flow_guided(0.7, over_clip=name == "over_clip")
    seen = mask.score(keys, {EARLIER: earlier, LATER: later}, GRID)
    np.testing.assert_array_equal(np.asarray(seen) == 0, masks[f"{name}_hidden"])
    assert mask.keep(GRID) == (~masks[f"{name}_hidden"][0]).sum()
