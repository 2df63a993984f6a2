"""A linear probe: logistic regression on frozen features; the encoder does not change."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vmae_jax.eval.collect import About, Results, embed_both
from vmae_jax.eval.scores import places, top
from vmae_jax.registry import register
from vmae_jax.types import Batch, Method, Params

__all__ = ["Probe", "fit", "fit_many", "probe"]

HELD = 5  # every fifth training video chooses the penalty


@dataclasses.dataclass(frozen=True)
class Probe:
    """See `probe`."""

    train: Any
    penalties: tuple[float, ...]
    iterations: int
    layer: int | None
    label: str

    def __call__(
        self, method: Method, params: Params, batches: Iterable[Batch], train: Iterable[Batch],
        about: About | None = None,
    ) -> Results:  # fmt: skip
        """Return top1, top5 (for more than five classes), the accuracy on training videos, and the chosen penalty."""
        (known, label), (query, target) = embed_both(
            method, params, batches, train, about, layer=self.layer, label=self.label
        )
        classes = int(max(label.max(), target.max())) + 1
        mean, spread = known.mean(axis=0), known.std(axis=0) + 1e-6
        x, y = (known - mean) / spread, (query - mean) / spread
        penalty = self._choose(x, label, classes)
        weights = fit(x, label, classes, penalty=penalty, iterations=self.iterations)
        numbers = top(places(_outputs(weights, y), target), classes) | {
            "train_top1": float((_outputs(weights, x).argmax(axis=1) == label).mean()),
            "penalty": penalty,
            "videos": float(len(target)),
        }
        return Results(numbers)

    def _choose(self, x: np.ndarray, label: np.ndarray, classes: int) -> float:
        """Return the best penalty on a held-out part of the training videos, without test videos."""
        if len(self.penalties) == 1 or len(label) < 2 * HELD:
            return self.penalties[0]
        held = np.random.default_rng(0).permutation(len(label)) % HELD == 0

        def score(penalty: float) -> float:
            weights = fit(x[~held], label[~held], classes, penalty=penalty, iterations=self.iterations)
            return float((_outputs(weights, x[held]).argmax(axis=1) == label[held]).mean())

        return max(self.penalties, key=score)


@register("evaluator", train="loader")
def probe(
    train: Any,
    penalties: Sequence[float] = (1e-2, 1e-1, 1e-3, 1e-4),
    iterations: int = 100,
    layer: int | None = None,
    label: str = "label",
) -> Probe:
    """A linear classifier on pooled, standardized features, by L-BFGS.

    Args:
      train: a `data.pipeline.loader` with labels; the section's own data are the test.
      penalties: weights of half the squared norm of the kernel; the best on a fifth of the
        training videos is used, the first one among equals.
      iterations: of L-BFGS.
      layer: the block whose output is taken; None is the last.
      label: key of the classes in the batch.

    Raises:
      ValueError: if a number is out of range.
    """
    if not penalties or min(penalties) < 0 or iterations < 1:
        raise ValueError(f"penalties={list(penalties)}, iterations={iterations}: penalties at least 0, iterations 1")
    return Probe(train, tuple(penalties), iterations, layer, label)


def fit(x: np.ndarray, label: np.ndarray, classes: int, *, penalty: float, iterations: int = 100) -> dict[str, Any]:
    """Multinomial logistic regression of `label` [n] on `x` [n d]: {"kernel": …, "bias": …}."""
    hot = jax.nn.one_hot(jnp.asarray(label), classes)
    return _fitted(x, hot, penalty, iterations, many=False)


def fit_many(x: np.ndarray, truth: np.ndarray, *, penalty: float, iterations: int = 100) -> dict[str, Any]:
    """Logistic regressions of several classes at once, `truth` [n classes] on `x` [n d]: {"kernel": …, "bias": …}."""
    return _fitted(x, jnp.asarray(truth, jnp.float32), penalty, iterations, many=True)


def _fitted(x: np.ndarray, truth: jax.Array, penalty: float, iterations: int, *, many: bool) -> dict[str, Any]:
    data, classes = jnp.asarray(x, jnp.float32), truth.shape[1]
    start = {"kernel": jnp.zeros((x.shape[1], classes)), "bias": jnp.zeros(classes)}
    return jax.device_get(_minimise(data, truth, start, jnp.float32(penalty), iterations=iterations, many=many))


@jax.jit(static_argnames=("iterations", "many"))
def _minimise(data: jax.Array, truth: jax.Array, start: Any, penalty: jax.Array, *, iterations: int, many: bool) -> Any:
    def loss(weights: Any) -> jax.Array:
        logits = data @ weights["kernel"] + weights["bias"]
        every = optax.sigmoid_binary_cross_entropy(logits, truth).sum(axis=1)
        errors = every if many else optax.softmax_cross_entropy(logits, truth)
        return errors.mean() + 0.5 * penalty * jnp.square(weights["kernel"]).sum()

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def body(_: Any, carry: Any) -> Any:
        weights, state = carry
        value, grad = value_and_grad(weights, state=state)
        updates, state = solver.update(grad, state, weights, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(weights, updates), state

    return jax.lax.fori_loop(0, iterations, body, (start, solver.init(start)))[0]


def _outputs(weights: dict[str, Any], x: np.ndarray) -> np.ndarray:
    return x @ weights["kernel"] + weights["bias"]
