"""The order of the examples and their randomness: functions of (seed, position) and of what an epoch is made of.

A position counts videos from the start of the training. So a run resumes at any position at no
cost, and the batch at a position does not depend on how many hosts read it. A run that leaves a window of
positions out still has a position for each of its examples, which follows from the number of the example.
"""

import dataclasses
from collections.abc import Sequence, Sized
from typing import Any

import numpy as np

from vmae_jax.data.tf import tensorflow

__all__ = [
    "Epoch",
    "Windows",
    "apart",
    "clip_seeds",
    "epoch_of",
    "fold",
    "generator",
    "index_at",
    "kept",
    "past",
    "stream",
    "video_at",
]

Windows = tuple[tuple[int, int], ...]  # what is left out, as ranges [first, last) in order and apart (see `apart`)

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def fold(seed: int, *values: int) -> int:
    """A 64-bit seed for `values` under `seed` (SplitMix64, one round a value).

    Every bit of the result depends on every bit of every value, and their order counts.
    """
    state = _mix(seed & _MASK)
    for value in values:
        state = _mix((state + _GOLDEN * ((value & _MASK) + 1)) & _MASK)
    return state


def clip_seeds(seed: int, position: int, clips: int) -> np.ndarray:
    """The seeds of the clips of the video at `position`, uint32 [clips 2]."""
    words = [fold(seed, position, clip) for clip in range(clips)]
    return np.array([[word >> 32, word & 0xFFFFFFFF] for word in words], np.uint32)


def stream(seed: Any, number: int) -> Any:
    """An independent seed of the part `number` of a clip's making, two words in int64.

    Written so that it is the same for NumPy arrays and for tensors, eager or in a graph.
    """
    return (seed + np.array([0, number * _GOLDEN & 0xFFFFFFFF], np.int64)) % (1 << 32)


def generator(seed: np.ndarray) -> np.random.Generator:
    """Random numbers that are a function of a seed of two words."""
    return np.random.Generator(np.random.Philox(key=np.asarray(seed, np.uint64)))


def apart(windows: Sequence[tuple[int, int]]) -> Windows:
    """Return the windows in order and apart; they may be given in any order, and one may hold another."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(windows):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return tuple(merged)


def past(number: Any, windows: Windows) -> Any:
    """Return what `number`, counted from 0, is among the numbers in none of the windows: an int or int64 tensor."""
    for first, last in windows:
        beyond = number >= first
        number += (last - first) * (beyond if isinstance(beyond, bool) else tensorflow().cast(beyond, "int64"))
    return number


def kept(position: int, windows: Windows) -> int:
    """Return how many numbers below `position` are in none of the windows; `past` of that is the next such number."""
    return position - sum(min(last, position) - first for first, last in windows if first < position)


def video_at(position: Any, *, videos: int, seed: int, shuffle: bool = True) -> Any:
    """Which video is at `position` (an int64 tensor): each once in every epoch, in its own order.

    The order is `tf.random.experimental.index_shuffle`, a keyed permutation that needs no memory
    and no time to start in the middle. Works eagerly and inside `Dataset.map`.
    """
    tf = tensorflow()
    offset = position % videos
    if not shuffle:
        return offset
    epoch = tf.cast(position // videos, tf.uint32)
    key = tf.stack([tf.constant(fold(seed) & 0xFFFFFFFF, tf.uint32), epoch])
    return tf.random.experimental.index_shuffle(offset, seed=key, max_index=tf.constant(videos - 1, tf.int64))


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What an epoch is made of.

    Attributes:
      videos: how many each part of the source has; the numbers of a part follow the one before.
      places: how many places each part has in an epoch.
      streams: a number for the randomness of each part.
    """

    videos: tuple[int, ...]
    places: tuple[int, ...]
    streams: tuple[int, ...] = (0,)

    @property
    def length(self) -> int:
        """Places in an epoch."""
        return sum(self.places)


def epoch_of(source: Sized) -> Epoch:
    """A source's own epoch; of one that is no mixture, every video once."""
    return getattr(source, "epoch", None) or Epoch((len(source),), (len(source),))


def index_at(position: Any, *, epoch: Epoch, seed: int, shuffle: bool = True) -> Any:
    """Which video is at `position` (an int64 tensor), eagerly and inside `Dataset.map`.

    A position is a place of its epoch, shuffled. The place determines the part, and the number of places that the
    part had before determines the video: a part's videos come in passes, each in an order of its own.
    """
    tf = tensorflow()
    place = video_at(position, videos=epoch.length, seed=seed, shuffle=shuffle)
    if epoch.places == epoch.videos:
        return place  # every video once: its place is its number
    firsts = np.cumsum([0, *epoch.places])[:-1]
    chosen = tf.searchsorted(tf.constant(firsts[1:], tf.int64), place[None], side="right")[0]
    of = lambda values: tf.gather(tf.constant(values, tf.int64), chosen)  # noqa: E731 - of the chosen part
    videos, per_epoch = of(epoch.videos), of(epoch.places)
    turn = position // epoch.length * per_epoch + place - of(firsts)
    offset = turn % videos
    if shuffle:
        keys = [fold(seed, stream) & 0xFFFFFFFF for stream in epoch.streams]
        key = tf.stack([tf.gather(tf.constant(keys, tf.uint32), chosen), tf.cast(turn // videos, tf.uint32)])
        offset = tf.random.experimental.index_shuffle(offset, seed=key, max_index=videos - 1)
    return of(np.cumsum([0, *epoch.videos])[:-1]) + offset


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
