"""Few-shot recognition with frozen features: many small tasks, each with a few labelled videos of a few classes."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from vmae_jax.eval.collect import About, Programs, Results, per_video, unit
from vmae_jax.eval.scores import finite, single
from vmae_jax.registry import register
from vmae_jax.types import Batch, Method, Params

__all__ = ["Episode", "FewShot", "episodes", "few_shot", "logistic", "prototypes"]

TOLERANCE = 1e-8  # of the gradient of a logistic regression, per support video
NEWTON = 50  # steps at most


class Episode(NamedTuple):
    """A task: `support` [ways shots] and `query` [ways queries] are places of videos, a row for each of its classes."""

    support: np.ndarray
    query: np.ndarray


@dataclasses.dataclass(frozen=True)
class FewShot:
    """See `few_shot`."""

    ways: int
    shots: int
    queries: int
    episodes: int
    classifier: str
    of: str
    normalize: bool
    repeat: bool
    seed: int
    layer: int | None
    label: str

    def __call__(self, method: Method, params: Params, batches: Iterable[Batch], about: About | None = None) -> Results:
        """Return the mean accuracy, half of its 95% interval, chance, and the numbers of episodes and videos."""
        found = per_video(self._compiled(method, (about or About()).programs), params, batches, (self.label,))
        label = found.label(self.label)
        single(label, found.index, self.label)
        finite(found.outputs, found.index, f"the {self.of}")
        features = unit(found.outputs) if self.normalize else found.outputs
        classify = CLASSIFIERS[self.classifier]
        scores: list[float] = []
        rows: list[list[Any]] = [["episode", "accuracy", "classes"]]
        for number, episode in enumerate(self.drawn(label)):
            known, asked = features[episode.support], features[episode.query]
            answer = classify(known, asked.reshape(-1, asked.shape[-1])).reshape(episode.query.shape)
            scores.append(float((answer == np.arange(self.ways)[:, None]).mean()))
            rows.append([number, scores[-1], " ".join(map(str, label[episode.support[:, 0]]))])
        spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else float("nan")
        numbers = {
            "accuracy": float(np.mean(scores)),
            "interval95": 1.96 * spread / len(scores) ** 0.5,
            "chance": 1 / self.ways,
            "episodes": float(len(scores)),
            "videos": float(len(label)),
        }
        return Results(numbers, {"episodes.csv": rows})

    def drawn(self, label: np.ndarray) -> Iterator[Episode]:
        """Return the episodes, which depend on the seed and the labels alone."""
        places = {int(one): np.flatnonzero(label == one) for one in np.unique(label)}
        settings = {"ways": self.ways, "shots": self.shots, "queries": self.queries, "repeat": self.repeat}
        return episodes(places, count=self.episodes, seed=self.seed, **settings)

    def check(self, method: Method, params: Params, spec: Batch, carried: Any) -> None:
        """Raise ValueError if the method has no outputs, and they are asked for."""
        del params, spec, carried
        if self.of == "logits" and method.predict is None:
            raise ValueError("of='logits' needs a method with heads, and that of this run has none: use of='features'")

    def _compiled(self, method: Method, programs: Programs) -> Any:
        layer, predict = self.layer, method.predict
        if self.of == "logits":
            assert predict is not None
            return programs((predict,), predict)
        return programs((method.features, layer, True), lambda p, b: method.features(p, b, layer=layer, pool=True))


def episodes(
    places: dict[int, np.ndarray], *, ways: int, shots: int, queries: int, repeat: bool, count: int, seed: int
) -> Iterator[Episode]:
    """Return `count` episodes; number n is a function of seed and n.

    Args:
      places: of the videos of each class, in a fixed order. Classes of fewer than shots + queries videos are left out.
      repeat: draw classes with replacement, so that an episode may have a class twice, under two names.

    Raises:
      ValueError: if there are fewer classes than `ways` with as many videos.
    """
    large = [one for one in sorted(places) if len(places[one]) >= shots + queries]
    if len(large) < ways:
        needed = f"{shots + queries} videos ({shots} shots and {queries} queries)"
        raise ValueError(
            f"{len(large)} of {len(places)} classes have {needed}; an episode has {ways} classes: set ways, "
            "shots or queries"
        )
    for number in range(count):
        draw = np.random.default_rng([seed, number])
        chosen = [large[place] for place in draw.choice(len(large), ways, replace=repeat)]
        videos = np.stack([draw.permutation(places[one])[: shots + queries] for one in chosen])
        yield Episode(videos[:, :shots], videos[:, shots:])


def prototypes(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the class of the nearest mean for each query (Snell et al. 2017).

    Args:
      support: features [ways shots d].
      query: features [queries d].
    """
    means = support.mean(axis=1)
    return ((query[:, None] - means) ** 2).sum(axis=-1).argmin(axis=1)


def logistic(support: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the class of each query by logistic regression at its minimum, as scikit-learn's `newton-cg` with C = 1.

    The minimum of the summed cross-entropies plus half the squared norm of the kernel is in the span of the support,
    so it is found there, by Newton's method. Biases are not penalised.

    Args:
      support: features [ways shots d].
      query: features [queries d].
    """
    ways, shots, width = support.shape
    x = support.reshape(-1, width).astype(np.float64)
    _, sizes, basis = np.linalg.svd(x, full_matrices=False)
    basis = basis[sizes > 1e-9 * max(sizes[0], 1e-300)]
    x = np.concatenate([x @ basis.T, np.ones((len(x), 1))], axis=1)
    hot = np.repeat(np.eye(ways), shots, axis=0)
    weights = _minimum(x, hot)
    asked = np.concatenate([query.astype(np.float64) @ basis.T, np.ones((len(query), 1))], axis=1)
    return (asked @ weights).argmax(axis=1)


def _minimum(x: np.ndarray, hot: np.ndarray) -> np.ndarray:
    """The weights [d classes] at the minimum, the last row being the biases."""
    weights = np.zeros((x.shape[1], hot.shape[1]))
    penalised = np.ones(len(weights))
    penalised[-1] = 0.0

    def value(weights: np.ndarray) -> float:
        logits = x @ weights
        most = logits.max(axis=1, keepdims=True)
        error = np.log(np.exp(logits - most).sum(axis=1)) + most[:, 0] - (logits * hot).sum(axis=1)
        return float(error.sum() + 0.5 * (penalised[:, None] * weights**2).sum())

    for _ in range(NEWTON):
        logits = x @ weights
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        slope = x.T @ (share - hot) + penalised[:, None] * weights
        if np.abs(slope).max() < TOLERANCE * len(x):
            break
        step = _newton(x, share, slope, penalised)
        length, now, gain = 1.0, value(weights), float((slope * step).sum())
        while length > 1e-6 and value(weights - length * step) > now - 1e-4 * length * gain:
            length /= 2
        weights = weights - length * step
    return weights


def _newton(x: np.ndarray, share: np.ndarray, slope: np.ndarray, penalised: np.ndarray) -> np.ndarray:
    """The Newton step: the slope times the inverse of the second derivatives."""
    d, classes = slope.shape
    curve = np.einsum("nk,kl->nkl", share, np.eye(classes)) - share[:, :, None] * share[:, None, :]
    second = np.einsum("ni,nkl,nj->ikjl", x, curve, x, optimize=True).reshape(d * classes, d * classes)
    second += np.diag(np.repeat(penalised, classes))
    second[-classes:, -classes:] += 1 / classes  # the sum of all biases changes nothing: it stays 0
    return np.linalg.solve(second, slope.reshape(-1)).reshape(d, classes)


CLASSIFIERS = {"logistic": logistic, "prototype": prototypes}


@register("evaluator")
def few_shot(
    ways: int = 5,
    shots: int = 5,
    queries: int = 15,
    episodes: int = 600,
    classifier: str = "logistic",
    of: str = "features",
    normalize: bool = False,
    repeat: bool = False,
    seed: int = 0,
    layer: int | None = None,
    label: str = "label",
) -> FewShot:
    """Few-shot recognition: the mean accuracy over episodes of N classes with K labelled videos each.

    Episodes follow from the seed and the labels of the section's data, so they are the same for every model.

    Args:
      ways: classes of an episode.
      shots: labelled videos of each class.
      queries: videos of each class to be recognized, other ones.
      episodes: how many; the 95% interval is 1.96 standard errors of their accuracies.
      classifier: "logistic", logistic regression, or "prototype", the nearest mean.
      of: "features", or "logits", the outputs of the method's heads (CDFSL-V).
      normalize: whether features are scaled to length 1 first.
      repeat: draw the classes of an episode with replacement, as CDFSL-V's code does.
      seed: of the episodes.
      layer: the block whose output is taken; None is the last.
      label: key of the classes in the batch.

    Raises:
      ValueError: if a number is out of range, or a name unknown.
    """
    if ways < 2 or min(shots, queries, episodes) < 1 or seed < 0:
        raise ValueError(
            f"ways={ways}, shots={shots}, queries={queries}, episodes={episodes}, seed={seed}: ways at least 2, seed "
            "at least 0, the others at least 1"
        )
    for name, value, known in (
        ("classifier", classifier, tuple(CLASSIFIERS)),
        ("of", of, ("features", "logits")),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r}: it must be one of {', '.join(known)}")
    if of == "logits" and layer is not None:
        raise ValueError("layer= is about features, and of='logits' takes the outputs of the heads")
    return FewShot(ways, shots, queries, episodes, classifier, of, normalize, repeat, seed, layer, label)
