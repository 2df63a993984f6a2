"""moving_shapes in memory: the clips of `vmae_jax.data.synthetic.shapes`, drawn once and kept as uint8.

A loader as `data.pipeline.loader` is one, without video files and decoding between the program
that draws the clips and the one that learns from them. Clips are a function of settings, split
and number, batches of (seed, position), as everywhere.
"""

import concurrent.futures
import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from vmae_jax.data.containers import open_video
from vmae_jax.data.display import BLOCK
from vmae_jax.data.encode import encode_h264
from vmae_jax.data.faults import Fault
from vmae_jax.data.opened import Budget, available_memory
from vmae_jax.data.order import Windows, apart, clip_seeds, fold, past
from vmae_jax.data.synthetic.moving_shapes import SPLITS, Settings
from vmae_jax.data.synthetic.shapes import MOTIONS, draw
from vmae_jax.data.video import Limits
from vmae_jax.registry import register

__all__ = ["Memory", "codec_motion", "drawn", "memory"]

CHUNK = 250  # clips of a file in the cache: so much is lost when the drawing is stopped
ENLARGED = 8


@dataclasses.dataclass(frozen=True)
class Memory:
    """See `memory`."""

    settings: Settings
    split: str
    first: int
    count: int
    global_batch: int
    labels: bool
    cache: str
    motion: bool = False
    repeat: int = 1
    views: int = 1
    clips_per_video: int = 1
    prefetch: int = 0
    max_bad_fraction: float = 0.0
    service: None = None  # as in the pipeline's loader: nothing is decoded on other machines

    @property
    def clips_per_step(self) -> int:
        return self.global_batch

    def spec(self) -> dict[str, Any]:
        """Shape and type of each part of a batch."""
        import jax

        b, scene = self.global_batch, self.settings.scene
        shapes = {
            "video": ((b, scene.frames, scene.size, scene.size, 3), np.uint8),
            "seed": ((b, 2), np.uint32),
            "index": ((b,), np.int32),
            "valid": ((b,), np.bool_),
        }
        if self.labels:
            shapes["label"] = ((b,), np.int32)
        if self.motion:
            shapes["motion"] = ((b, scene.frames, scene.size, scene.size, 2), np.float32)
            shapes["motion_mask"], shapes["motion_valid"] = ((b, scene.frames), np.bool_), ((b,), np.bool_)
        return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}

    def open(self) -> "Opened":
        """Reads the clips, drawing first what is not in the cache yet."""
        until = self.first + self.count
        clips = drawn(self.settings, self.split, until, self.cache)[self.first :]
        vectors = kept(_vectors_chunk, self.settings, self.split, until, self.cache) if self.motion else None
        return Opened(self, clips, vectors[self.first :] if vectors is not None else None)


class Opened:
    """The clips, and batches of them."""

    label_names = {"label": MOTIONS}  # noqa: RUF012 - read only
    source = None  # there are no files

    def __init__(self, loader: Memory, clips: np.ndarray, vectors: np.ndarray | None = None):
        self.loader = loader
        self.clips = clips
        self.vectors = vectors

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self) // self.loader.global_batch)

    def memory(self, rows: Sequence[int]) -> Budget:
        """The host memory that the clips take, and batches of these rows on their way."""
        kept = [self.clips, *([] if self.vectors is None else [self.vectors])]
        size = sum(array[0].nbytes for array in kept) * len(rows)
        clips = sum(array.nbytes for array in kept)
        return Budget(0, 0, decoders=0, records=0, clips=clips, batches=3 * size, limit=available_memory())

    def batches(
        self, *, rows: Sequence[int], seed: int, start: int = 0, skips: Sequence[tuple[int, int]] = ()
    ) -> "Batches":
        """Batches without end; every clip once an epoch, in an order of its own."""
        return Batches(self, tuple(rows), seed, start, stop=None, skips=apart(skips))

    def once(self, *, rows: Sequence[int], seed: int = 0) -> "Batches":
        """Every clip once, in order; the last batch is filled up with rows that are not valid."""
        return Batches(self, tuple(rows), seed, 0, stop=len(self))


class Batches(Iterator[dict[str, np.ndarray]]):
    """Batches from a position on, a position counting clips."""

    def __init__(
        self, opened: Opened, rows: tuple[int, ...], seed: int, start: int, *, stop: int | None, skips: Windows = ()
    ):
        self.opened = opened
        self.rows = np.asarray(rows)
        self.seed = seed
        self.examples, self.skips = start, skips
        self.stop = stop
        self._order = functools.lru_cache(2)(self._permutation)

    @property
    def position(self) -> int:
        """Of the next batch."""
        return past(self.examples, self.skips)

    def __next__(self) -> dict[str, np.ndarray]:
        if self.stop is not None and self.position >= self.stop:
            raise StopIteration
        positions = self.position + self.rows
        self.examples += self.opened.loader.global_batch
        valid = np.ones(len(positions), bool) if self.stop is None else positions < self.stop
        places = np.array([self._place(int(p)) if good else -1 for p, good in zip(positions, valid, strict=True)])
        loader = self.opened.loader
        batch = {
            "video": np.where(valid[:, None, None, None, None], self.opened.clips[places], np.uint8(0)),
            "seed": np.concatenate([clip_seeds(self.seed, int(p), 1) for p in positions]),
            "index": places.astype(np.int32),
            "valid": valid,
        }
        if loader.labels:
            batch["label"] = np.where(valid, (loader.first + places) % len(MOTIONS), 0).astype(np.int32)
        if self.opened.vectors is not None:
            vectors = self.opened.vectors[places]
            batch["motion"] = np.nan_to_num(vectors)
            batch["motion_mask"] = ~np.isnan(vectors[:, :, 0, 0, 0]) & valid[:, None]
            batch["motion_valid"] = batch["motion_mask"].any(axis=1)
        return batch

    def faults(self, before: int | None = None) -> list[Fault]:
        """None: nothing is decoded that could be broken."""
        del before
        return []

    def close(self) -> None:
        """Nothing is open."""

    def _place(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.opened))
        return offset if self.stop is not None else int(self._order(epoch)[offset])

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.Generator(np.random.Philox(key=fold(self.seed, epoch))).permutation(len(self.opened))


@register("loader", settings="drawing")
def memory(
    settings: Settings,
    split: str = "train",
    count: int = 1000,
    first: int = 0,
    global_batch: int = 32,
    labels: bool = True,
    cache: str = "",
    motion: bool = False,
) -> Memory:
    """A loader of clips that are drawn by the program and kept in memory.

    Args:
      settings: `data.synthetic.moving_shapes.settings`; its numbers of clips are not used.
      split: one of its splits.
      count, first: which clips of the split; a multiple of ten holds every class equally often.
      global_batch: clips a step.
      labels: batches carry "label".
      cache: a folder that keeps drawn clips; by default one in the folder for temporary files.
      motion: batches carry the stream "motion" as `data.streams.motion` has it, one vector a pixel.

    Raises:
      ValueError: an unknown split, or no clips.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: there are {', '.join(SPLITS)}")
    if min(count, global_batch) < 1 or first < 0:
        raise ValueError(f"count={count}, first={first}, global_batch={global_batch}: at least 1, 0 and 1")
    return Memory(settings, split, first, count, global_batch, labels, cache, motion)


def drawn(settings: Settings, split: str, count: int, cache: str = "") -> np.ndarray:
    """The first `count` clips of a split, uint8 [count t h w 3]."""
    return kept(_clips_chunk, settings, split, count, cache)


@functools.lru_cache(8)
def kept(
    make: Callable[[Settings, str, range, str], np.ndarray], settings: Settings, split: str, count: int, cache: str
) -> np.ndarray:
    """What `make` makes of the first `count` clips of a split, on all cores where it is not in the cache."""
    name = dataclasses.replace(settings, train=0, validation=0, test=0).name
    folder = pathlib.Path(cache or pathlib.Path(tempfile.gettempdir()) / f"vmae_learning_{os.getuid()}") / name / split
    folder = folder / "motion" if make is _vectors_chunk else folder
    folder.mkdir(parents=True, exist_ok=True)
    files = {first: folder / f"{first:07d}.npy" for first in range(0, count, CHUNK)}
    missing = [first for first, file in files.items() if not file.exists()]

    def one(first: int) -> None:
        part = folder / f".{first:07d}.{os.getpid()}.npy"  # a chunk's file is there whole or not at all
        np.save(part, make(settings, split, range(first, first + CHUNK), cache))
        part.rename(files[first])

    if len(missing) > 1:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(one, missing))
    elif missing:
        one(missing[0])
    return np.concatenate([np.load(file) for file in files.values()])[:count]


def _clips_chunk(settings: Settings, split: str, numbers: range, cache: str) -> np.ndarray:
    del cache
    return np.stack([_clip(settings, split, number) for number in numbers])


def _vectors_chunk(settings: Settings, split: str, numbers: range, cache: str) -> np.ndarray:
    """The codec's motion vectors of each pixel, in pixels, float32 [clips t h w 2]; nan in frames that have none."""
    clips = drawn(settings, split, numbers.stop, cache)
    return np.stack([codec_motion(clips[number]) for number in numbers])


def codec_motion(clip: np.ndarray) -> np.ndarray:
    """The motion vectors that H.264 stores of a clip [t h w 3], float32 [t h w 2], nan in frames that have none.

    The clip is enlarged eight times before it is encoded, since blocks of the codec are 4 to 16 pixels wide.
    """
    large = clip.repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)
    video = open_video(encode_h264(large), limits=Limits(), motion=True)
    video.pictures(range(len(clip)), 3)
    vectors = np.full((*clip.shape[:3], 2), np.nan, np.float32)
    step = ENLARGED // BLOCK
    for number in range(len(clip)):
        found = video.motion(number)
        if found is not None:
            vectors[number] = found.upright[::step, ::step] * clip.shape[1]
    return vectors


def _clip(settings: Settings, split: str, index: int) -> np.ndarray:
    """What `synthetic.moving_shapes.make_clip` would encode."""
    generator = np.random.Generator(np.random.Philox(key=fold(settings.seed, SPLITS.index(split), index)))
    return draw(settings.scene, MOTIONS[index % len(MOTIONS)], generator)
