"""The loss of the method on held-out videos."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from vmae_jax.eval.collect import About
from vmae_jax.registry import register
from vmae_jax.types import Batch, Carried, Mean, Method, Params

__all__ = ["HeldOut", "held_out"]


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The evaluator of `held_out`."""

    seed: int
    reads_views: ClassVar[bool] = True  # the data must have as many views as the loss reads

    def check(self, method: Method, params: Params, batch: Batch, carried: Carried) -> None:
        """Trace the loss over shapes; raise ValueError if it needs more than the data have."""
        try:
            jax.eval_shape(self._measure(method), params, batch, carried)
        except KeyError as error:
            raise ValueError(f"the method's loss needs {error}, which the data do not have") from error

    def __call__(
        self, method: Method, params: Params, batches: Iterable[Batch], about: About | None = None
    ) -> Mapping[str, float]:
        about = about or About()
        carried = about.carried()
        compiled = about.programs((method.loss, self.seed), self._measure(method))
        sums: dict[str, list[float]] = {}
        weights: dict[str, jax.Array] = {}
        videos = 0
        for batch in batches:
            means, weights = compiled(params, batch, carried)
            videos += int(batch["valid"].sum())
            for name, mean in jax.device_get(means).items():
                total, count = sums.get(name, (0.0, 0.0))
                sums[name] = [total + float(mean.total), count + float(mean.count)]
        if not videos:
            raise ValueError("there is nothing to evaluate: none of the held-out videos can be read")
        results = {name: total / max(count, 1.0) for name, (total, count) in sums.items()}
        results["loss"] = sum(float(weight) * results[name] for name, weight in weights.items())
        return results | {"clips": float(videos)}

    def _measure(self, method: Method) -> Callable[..., tuple[dict[str, Mean], dict[str, jax.Array]]]:
        """Return (params, batch, carried) -> means by name, and the weights of the terms."""

        def measure(params: Params, batch: Batch, carried: Carried) -> tuple[dict[str, Mean], dict[str, jax.Array]]:
            loss = method.total_loss(params, batch, carried.context(jax.random.key(self.seed)))
            terms = {f"loss/{name}": Mean(term.total, term.count) for name, term in loss.terms.items()}
            weights = {f"loss/{name}": jnp.asarray(term.weight, jnp.float32) for name, term in loss.terms.items()}
            return terms | loss.metrics, weights

        return measure


@register("evaluator")
def held_out(seed: int = 0) -> HeldOut:
    """Loss, its terms and the method's metrics over all videos, each counted once, no drop path.

    A method's teachers and carried state are those of the evaluated state.

    Args:
      seed: of random draws that belong to no example; masks follow the seeds of the examples.
    """
    return HeldOut(seed)
