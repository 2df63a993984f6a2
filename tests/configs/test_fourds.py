"""4DS: its sizes, and where the published evaluation reads them."""

import jax
import numpy as np
import pytest
from flax.core import meta

from vmae_jax.commands.config import load_config
from vmae_jax.commands.experiment import experiment
from vmae_jax.configs.fourds import SIZES


@pytest.mark.parametrize("size", SIZES)
def test_features_at_95_percent_of_the_depth_are_the_encoders(size):
    """The code reads entry int(0.95 n) - 1 of n = depth + 1: the input twice, then the outputs of layers 1, 2, …"""
    depth = SIZES[size].depth
    read = int(0.95 * (depth + 1)) - 2
    assert read == depth - SIZES[size].late - (size == "g")


@pytest.mark.parametrize(("size", "millions"), [("B", 88), ("e", 3800)])
def test_parameters_are_as_many_as_published(size, millions):
    config = load_config(f"configs/fourds.py:{size}")
    config.data.source.path = "videos"
    params = meta.unbox(experiment(config).abstract_params())
    # Not in the published network: the decoder's own positions, the layer before it, and the pixels it predicts.
    own = [params["decoder"].pop(name) for name in ("Learned_0", "project", "head_pixels")]
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(own)) < 0.04 * millions * 1e6
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == pytest.approx(millions * 1e6, rel=0.01)
