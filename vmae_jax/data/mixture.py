"""Several sources as one, each with a weight and, where it needs one, a stride of its own.

    call("data.mixture", parts={
        "kinetics": call("data.mixture.part", source=call("data.sources.tfds", …)),
        "ssv2": call("data.mixture.part", source=call("data.sources.tfds", …), stride=2),
        "mine": call("data.mixture.part", source=call("data.sources.folder", path=…), weight=0.5),
    })

**What an epoch is.** Every part has a number of places in an epoch, the same in every epoch, and the
places of all parts are shuffled together. With `weigh="passes"` (the default) a weight is how
often an epoch goes through the part: at 1 each video once, at 2 twice, at 0.5 every other one (the
other half comes in the next epoch). With `weigh="shares"` weights are the parts' shares of an epoch
that has as many places as there are videos. Whatever its weight, a part shows each of its videos
once before any of them again. So where all weights are 1 an epoch is exactly every video of every part.

**Order.** As without a mixture a function of (seed, position) alone: a run resumes anywhere at once, and
hosts make no difference. In which order the parts are written does not matter; their names do.

**Labels.** Classes are merged by name, label by label; where some parts name the classes of a label,
those that only number them have no such label.
"""

import bisect
import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vmae_jax.data.faults import Missing
from vmae_jax.data.order import Epoch
from vmae_jax.data.source import Opener, Source, record_bytes
from vmae_jax.data.video import Encoded
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError

__all__ = ["Mixed", "Mixture", "Part", "mixture", "part"]

UNLABELLED = -1  # the class of a video without one


@dataclasses.dataclass(frozen=True)
class Part:
    """See `part`."""

    source: Opener
    weight: float
    stride: int | None
    labels: tuple[tuple[str, Any], ...] = ()


@register("part", source="source", smoke={"stride": None})
def part(
    source: Any, weight: float = 1.0, stride: int | None = None, labels: Mapping[str, int | float] | None = None
) -> Part:
    """A source of a mixture.

    Args:
      source: from `data.sources`.
      weight: how often an epoch goes through it, or its share (see `mixture`); at 0 it is left out,
        and need not be there.
      stride: frames from one that is seen to the next, in place of the sampler's.
      labels: that all of its videos have, by name, such as {"domain": 1}. {"label": -1} leaves all of them without a
        class, whatever classes the source has.
    """
    if not 0 <= weight < 1e6 or (stride is not None and stride < 1):
        raise ConfigError(f"data.mixture.part: weight={weight:g}, stride={stride}: not negative, and at least 1")
    return Part(source, weight, stride, tuple(sorted((labels or {}).items())))


@register("source", parts="part")
def mixture(parts: Mapping[str, Any], weigh: str = "passes") -> "Mixture":
    """Several sources as one.

    Args:
      parts: each from `data.mixture.part`, by name.
      weigh: "passes": weights are passes through a part in an epoch; "shares": shares of an epoch.
    """
    if weigh not in ("passes", "shares"):
        raise ConfigError(f"data.mixture: weigh={weigh!r}: it is 'passes' or 'shares'")
    wrong = [name for name, one in parts.items() if not isinstance(one, Part)]
    if wrong or not parts:
        which = f"{wrong[0]!r} is not" if wrong else "there is none"
        raise ConfigError(f"data.mixture: parts are calls of data.mixture.part by name; {which}")
    taken = tuple(sorted((name, one) for name, one in parts.items() if one.weight))
    if not taken:
        raise ConfigError("data.mixture: all weights are 0")
    return Mixture(taken, weigh)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """See `mixture`."""

    parts: tuple[tuple[str, Part], ...]
    weigh: str

    @property
    def strides(self) -> bool:
        """Some part has a stride of its own: the sampler must have one, too."""
        return any(one.stride is not None for _, one in self.parts)

    def open(self) -> "Mixed":
        """Opens every part. Raises ConfigError: one that is not there, with its name."""
        opened = []
        for name, one in self.parts:
            try:
                opened.append(one.source.open())
            except ConfigError as error:
                raise ConfigError(f"part {name!r} of the mixture: {error}") from error
        videos = [len(source) for source in opened]
        weights = [one.weight for _, one in self.parts]
        return Mixed(self.parts, opened, Epoch(tuple(videos), places(videos, weights, self.weigh), self._streams))

    @property
    def _streams(self) -> tuple[int, ...]:
        return tuple(zlib.crc32(name.encode()) for name, _ in self.parts)


def places(videos: Sequence[int], weights: Sequence[float], weigh: str) -> tuple[int, ...]:
    """The places of each part in an epoch, at least one each."""
    if weigh == "passes":
        return tuple(max(1, round(weight * count)) for weight, count in zip(weights, videos, strict=True))
    total = sum(videos)
    exact = [total * weight / sum(weights) for weight in weights]
    given = [max(1, int(share)) for share in exact]
    remainders = np.argsort([int(share) - share for share in exact], kind="stable")  # the largest first
    for number in remainders[: max(0, total - sum(given))]:
        given[number] += 1
    return tuple(given)


class Mixed:
    """The open parts of a mixture as one source (see `source.Source`)."""

    def __init__(self, parts: Sequence[tuple[str, Part]], sources: Sequence[Source], epoch: Epoch) -> None:
        self.epoch = epoch
        self._parts = parts
        self.sources = sources
        self._firsts = [int(first) for first in np.cumsum([0, *epoch.videos])]
        names = [
            {
                label: classes
                for label, classes in source.label_names.items()
                if dict(one.labels).get(label) != UNLABELLED
            }
            for (_, one), source in zip(parts, sources, strict=True)
        ]
        for label in {label for _, one in parts for label, value in one.labels if value != UNLABELLED}:
            if any(label in known for known in names):
                raise ConfigError(f"data.mixture: labels={{{label!r}: …}}: a part has classes of that name already")
        self.label_names, self._numbers = _merged(names)
        self.refused = [
            (f"{name}/{key}", kind, reason)
            for (name, _), source in zip(parts, sources, strict=True)
            for key, kind, reason in getattr(source, "refused", ())
        ]
        self.record_bytes = max(record_bytes(source) for source in sources)

    def __len__(self) -> int:
        return self._firsts[-1]

    @property
    def missing(self) -> Missing | None:
        """What the lists of the parts name and is not there, in all."""
        found = [(getattr(source, "missing", None), len(source)) for source in self.sources]
        absent = [one for one, _ in found if one is not None and one.count]
        if not absent:
            return None
        names = [name for one in absent for name in one.names[:1]]
        where = ", ".join(one.where for one in absent)
        looked = sum(videos if one is None else one.looked for one, videos in found)
        listed = sum(videos if one is None else one.listed for one, videos in found)
        return Missing(where, sum(one.count for one in absent), looked, listed, tuple(names[:3]), absent[0].hint)

    def fetch(self, index: int) -> Encoded:
        """The example of the part that has this number, with the mixture's class numbers and the part's stride."""
        number = bisect.bisect_right(self._firsts, index) - 1
        name, one = self._parts[number]
        encoded = self.sources[number].fetch(index - self._firsts[number])
        changes = self._numbers[number]
        labels = {
            label: _renumbered(value, changes[label]) if label in changes else value
            for label, value in encoded.labels.items()
            if label in changes or label not in self.label_names  # numbers without names, among classes with names
        }
        labels |= dict(one.labels)
        return dataclasses.replace(encoded, labels=labels, stride=one.stride, key=f"{name}/{encoded.key}")


_Names = Mapping[str, tuple[str, ...]]


def _merged(parts: Sequence[_Names]) -> tuple[dict[str, tuple[str, ...]], list[dict[str, np.ndarray]]]:
    """The names of all parts' classes, the first part's first, and each part's numbers among them."""
    merged: dict[str, dict[str, int]] = {}
    numbers: list[dict[str, np.ndarray]] = []
    for names in parts:
        numbers.append({})
        for label, classes in names.items():
            known = merged.setdefault(label, {})
            numbers[-1][label] = np.array([known.setdefault(name, len(known)) for name in classes], np.int64)
    return {label: tuple(known) for label, known in merged.items()}, numbers


def _renumbered(value: Any, numbers: np.ndarray) -> Any:
    if isinstance(value, tuple | list):
        return tuple(int(numbers[one]) for one in value)
    return int(numbers[value]) if value is not None and value >= 0 else value
