"""Latent predictors with other target encoders than a moving average, for `benchmarks.collapse`.

They are `methods.latent.build` in all but where the targets come from:

- "own": the encoder itself, with gradients into it, so that constant features minimize the loss;
- "fixed": an untrained encoder, which cannot collapse.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax.core import meta

from vmae_jax.masking.multiblock import Multiblock
from vmae_jax.methods.encoding import encoded
from vmae_jax.methods.latent import Latent
from vmae_jax.models.classifier import everything
from vmae_jax.models.variants import Model
from vmae_jax.registry import register
from vmae_jax.targets.core import l1
from vmae_jax.types import Batch, Context, Loss, Method, Params

__all__ = ["build"]

SOURCES = ("own", "fixed")


@dataclasses.dataclass(frozen=True)
class Other(Latent):
    """A latent predictor whose targets come from the encoder itself or from an untrained one."""

    source: str = "own"

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the loss, with the target encoder in the place of the average."""
        encoder = params["encoder"] if self.source == "own" else self._untrained(batch)
        return super().loss(params, batch, dataclasses.replace(context, average={"encoder": encoder}))

    def targets(self, weights: Params, batch: Batch) -> Any:
        """Return the features of all tokens; gradients flow into the weights."""
        whole = everything(batch["video"].shape[0], self.model.grid.size)
        return encoded(self.model, weights, batch, whole, train=False)[:, self.model.encoder.prefix :]

    def method(self) -> Method:
        """Return these functions as a method, which needs no average."""
        return super().method()._replace(averaged=False)

    def _untrained(self, batch: Batch) -> Params:
        return meta.unbox(super().init(jax.random.key(7), batch)[0]["encoder"])


@register("method", model="model", masks="blocks")
def build(model: Model, masks: Mapping[str, Multiblock], source: str = "own", normalize: bool = False) -> Method:
    """Return a latent predictor without a moving average.

    Args:
      model: as of `methods.latent.build`.
      masks: likewise.
      source: of the targets, "own" or "fixed".
      normalize: whether targets are normalized, as in V-JEPA.

    Raises:
      ValueError: if there is no such source.
    """
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {source!r}")
    return Other(model, dict(masks), None, l1(), normalize, source).method()
