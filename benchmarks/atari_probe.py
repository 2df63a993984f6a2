"""The probes of "Unsupervised State Representation Learning in Atari" (Anand et al. 2019): how well the variables of a
game can be read from features, a linear classifier of 256 values for each.

As the authors' code has it: Adam at 3e-4 with ε = 1e-5, batches of 64 frames (an episode drawn uniformly, then one of
its frames), as many draws an epoch as there are frames, a fifth of the rate after more than five epochs without a
better accuracy on the validation frames, the end after fifteen, at most 100 epochs, and the weights at the end. The
test frames are drawn in the same way. Variables of low entropy are left out.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

__all__ = [
    "Patience",
    "Probing",
    "Set",
    "accuracy",
    "draws",
    "entropy",
    "f1",
    "informative",
    "majority",
    "probe",
    "scores",
]

VALUES = 256


@dataclasses.dataclass(frozen=True)
class Probing:
    """The protocol's figures.

    Attributes:
      threshold: of the entropy, in nats, below which a variable is left out.
      factor, wait, least: of the rate, which is multiplied after more than `wait` epochs without a better accuracy.
    """

    threshold: float = 0.6
    rate: float = 3e-4
    epsilon: float = 1e-5
    batch: int = 64
    epochs: int = 100
    patience: int = 15
    factor: float = 0.2
    wait: int = 5
    least: float = 1e-5


class Set(NamedTuple):
    """The frames of a split: features [n d], int32 labels [n variables], and the episode of each frame, ascending."""

    features: np.ndarray
    labels: np.ndarray
    episode: np.ndarray


def entropy(values: np.ndarray) -> float:
    """Return the entropy of the values of a variable, in nats."""
    share = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(share * np.log(share)).sum())


def informative(labels: Mapping[str, np.ndarray], threshold: float) -> tuple[str, ...]:
    """Return the variables whose entropy, over all frames of all splits, is not below the threshold."""
    return tuple(name for name, values in labels.items() if entropy(values) >= threshold)


def f1(truth: np.ndarray, found: np.ndarray) -> float:
    """Return the F1 of the classes that are there, weighted by how often each one is."""
    true = np.bincount(truth, minlength=VALUES)
    named = np.bincount(found, minlength=VALUES)
    both = np.bincount(truth[truth == found], minlength=VALUES)
    return float((true * 2 * both / np.maximum(true + named, 1)).sum() / len(truth))


def accuracy(truth: np.ndarray, found: np.ndarray) -> float:
    """Return the share of frames whose value is found."""
    return float((truth == found).mean())


def scores(names: Sequence[str], truth: np.ndarray, found: np.ndarray) -> dict[str, dict[str, float]]:
    """Return F1 and accuracy by variable, of labels [n variables]."""
    columns = lambda measure: {n: measure(truth[:, i], found[:, i]) for i, n in enumerate(names)}  # noqa: E731
    return {"f1": columns(f1), "accuracy": columns(accuracy)}


def majority(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the value of each variable [n variables] that is most frequent in training, for every test frame."""
    most = [np.bincount(column, minlength=VALUES).argmax() for column in train.T]
    return np.broadcast_to(np.array(most, np.int32), test.shape)


def draws(episode: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return `count` numbers of frames: an episode drawn uniformly, then one of its frames.

    Args:
      episode: of each frame, ascending.
    """
    _, first, length = np.unique(episode, return_index=True, return_counts=True)
    chosen = generator.integers(len(first), size=count)
    return first[chosen] + (generator.random(count) * length[chosen]).astype(np.int64)


@dataclasses.dataclass
class Patience:
    """The rate of each variable's probe, and which probes still learn, by their accuracies on the validation frames."""

    probing: Probing
    count: int

    def __post_init__(self) -> None:
        self.rate = np.full(self.count, self.probing.rate)
        self.learning = np.ones(self.count, bool)
        self._best, self._peak = np.full(self.count, -math.inf), np.full(self.count, -math.inf)
        self._without, self._waited = np.zeros(self.count, int), np.zeros(self.count, int)

    def see(self, found: np.ndarray) -> None:
        """Take the accuracies [variables] after an epoch."""
        own = self.probing
        better = found > self._best
        self._best = np.where(self.learning & better, found, self._best)
        self._without = np.where(self.learning, np.where(better, 0, self._without + 1), self._without)
        self.learning &= self._without < own.patience
        # The schedule counts on its own, and an accuracy is better only by a ten thousandth of the best one.
        rising = found > np.where(np.isinf(self._peak), self._peak, self._peak * (1 + 1e-4))
        self._peak = np.where(self.learning & rising, found, self._peak)
        self._waited = np.where(self.learning, np.where(rising, 0, self._waited + 1), self._waited)
        slower = self.learning & (self._waited > own.wait)
        self.rate = np.where(slower, np.maximum(self.rate * own.factor, own.least), self.rate)
        self._waited[slower] = 0


def probe(
    names: Sequence[str],
    train: Set,
    validation: Set,
    test: Set,
    *,
    seed: int,
    probing: Probing | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a linear probe for each variable and test it.

    Args:
      names: of the variables, the columns of the labels.
      note: takes a line after every epoch.

    Returns:
      f1 and accuracy by variable, and the number of epochs.
    """
    own = probing or Probing()
    generator = np.random.Generator(np.random.Philox(seed))
    params = _initial(jax.random.key(seed), train.features.shape[1], len(names))
    tx = optax.scale_by_adam(eps=own.epsilon)
    state, patience, epochs = (params, tx.init(params)), Patience(own, len(names)), 0
    features, labels = jnp.asarray(train.features, jnp.float32), jnp.asarray(train.labels)
    while patience.learning.any() and epochs < own.epochs:
        state = _epoch(tx, state, features, labels, _batches(train, own, generator), patience.rate, patience.learning)
        rows = _batches(validation, own, generator).reshape(-1)
        found = predictions(state[0], validation.features[rows])
        patience.see((found == validation.labels[rows]).mean(0))
        epochs += 1
        note(f"epoch {epochs}: {patience.learning.sum()} of {len(names)} probes learn")
    rows = _batches(test, own, generator).reshape(-1)
    return scores(names, test.labels[rows], predictions(state[0], test.features[rows])) | {"epochs": epochs}


def _batches(data: Set, own: Probing, generator: np.random.Generator) -> np.ndarray:
    """Frames of an epoch, [batches, batch]; what fills no batch is left out."""
    count = max(1, len(data.episode) // own.batch)
    return draws(data.episode, count * own.batch, generator).reshape(count, own.batch)


def _initial(key: jax.Array, width: int, variables: int) -> dict[str, jax.Array]:
    """PyTorch's: uniform within 1/sqrt(width), weights and biases."""
    bound = 1 / math.sqrt(width)
    kernel, bias = jax.random.split(key)
    draw = functools.partial(jax.random.uniform, minval=-bound, maxval=bound)
    return {"kernel": draw(kernel, (variables, width, VALUES)), "bias": draw(bias, (variables, VALUES))}


@functools.partial(jax.jit, static_argnums=0)
def _epoch(tx: Any, state: Any, features: Any, labels: Any, batches: Any, rate: Any, learning: Any) -> Any:
    """A step for each batch of frames; probes that do not learn any more keep their weights."""

    def loss(params: Any, rows: Any) -> Any:
        logits = jnp.einsum("bd,vdc->bvc", features[rows], params["kernel"]) + params["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean(0).sum()

    def step(state: Any, rows: Any) -> Any:
        params, moments = state
        updates, moments = tx.update(jax.grad(loss)(params, rows), moments)
        scale = -jnp.asarray(rate * learning, jnp.float32)
        moved = jax.tree.map(lambda p, u: p + u * scale.reshape(-1, *[1] * (u.ndim - 1)), params, updates)
        return (moved, moments), None

    return jax.lax.scan(step, state, batches)[0]


def predictions(params: Any, features: np.ndarray, rows: int = 4096) -> np.ndarray:
    """Return the likeliest value of each variable, int32 [n variables]."""
    parts = [features[first : first + rows] for first in range(0, len(features), rows)]
    return np.concatenate([np.asarray(_likeliest(params, jnp.asarray(part, jnp.float32))) for part in parts])


@jax.jit
def _likeliest(params: Any, features: Any) -> Any:
    return (jnp.einsum("bd,vdc->bvc", features, params["kernel"]) + params["bias"]).argmax(-1).astype(jnp.int32)
