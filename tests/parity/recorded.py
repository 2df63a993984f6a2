"""Training steps with the learning rates, masks and losses that official code recorded."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from vmae_jax.train.optim import adamw
from vmae_jax.train.schedule import Clock
from vmae_jax.train.sharding import unbox
from vmae_jax.train.state import make_init
from vmae_jax.train.step import make_step

FOLDER = pathlib.Path(os.environ.get("VMAE_GOLDENS") or pathlib.Path(__file__).parent.parent / "goldens")


class Recorded:
    """The schedule that the golden was made with, step by step."""

    def __init__(self, rates: np.ndarray):
        self.rates = rates

    def at(self, clock):
        return self

    def value(self, step: int) -> float:
        return float(self.rates[step])

    def __call__(self, step):
        return jnp.asarray(self.rates, jnp.float32)[step]


def rows(count):
    """Return what every batch has beside its streams."""
    return {
        "seed": np.zeros((count, 2), np.uint32),
        "index": np.arange(count, dtype=np.int32),
        "valid": np.ones(count, bool),
    }


def widths(dims):
    """Return arguments of `models.variants.vit` from the official names of VideoMAE's code."""
    return {
        "patch": dims["patch_size"],
        "tubelet": dims["tubelet_size"],
        "width": dims["encoder_embed_dim"],
        "depth": dims["encoder_depth"],
        "heads": dims["encoder_num_heads"],
        "mlp_ratio": dims["mlp_ratio"],
        "decoder_width": dims["decoder_embed_dim"],
        "decoder_depth": dims["decoder_depth"],
        "decoder_heads": dims["decoder_num_heads"],
    }


def trained(method, params, batch, numbers, **options):
    """Return the parameters after the recorded steps; every loss and gradient norm on the way is compared.

    Args:
      method, params: ours, with the official weights.
      batch: step -> its batch.
      numbers: `train_lrs`, `train_losses` and `train_grad_norms`.
      **options: of AdamW.
    """
    rates = numbers["train_lrs"]
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), batch(0))[0])
    tx, _ = adamw(Recorded(rates), **options).build(shapes, Clock(len(rates), 1.0, 1))
    params = jax.tree.map(jnp.asarray, params)
    state = jax.eval_shape(lambda: unbox(make_init(method, tx)(jax.random.key(0), batch(0))))
    state = state.replace(step=jnp.int32(0), params=params, opt_state=tx.init(params), first_bad_step=jnp.int32(-1))
    step = jax.jit(make_step(method, tx))
    for i in range(len(rates)):
        state, metrics = step(state, batch(i))
        np.testing.assert_allclose(metrics["loss"], numbers["train_losses"][i], rtol=0, atol=1e-5)
        np.testing.assert_allclose(metrics["grad_norm"], numbers["train_grad_norms"][i], rtol=1e-5)
    return jax.device_get(state.params)


def same_gradients(found, wanted):
    """Assert that two trees have the same gradients, none of which is 0, within 2e-5 of each tensor's largest."""

    def compare(path, one, other):
        largest = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * largest, err_msg=str(path))
        assert largest > 0

    jax.tree_util.tree_map_with_path(compare, found, wanted)
