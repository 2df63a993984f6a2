"""Images beside each clip, from loaders of their own: what `images` of `data.pipeline.loader` adds to a batch."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vmae_jax.data.faults import Fault, TooManyBadVideos, too_many
from vmae_jax.data.order import fold

__all__ = ["WithImages", "examples_of", "images_of", "rows_of", "seed_of"]


def images_of(videos: Any, images: Any) -> int:
    """Return how many images of a loader are beside each row of the batch of videos."""
    return images.clips_per_step // videos.clips_per_step


def rows_of(rows: Sequence[int], each: int) -> list[int]:
    """Return the rows of the images that are beside these rows, `each` a row."""
    return [row * each + number for row in rows for number in range(each)]


def examples_of(examples: int, videos: Any, images: Any) -> int:
    """Return how many images precede the batch that `examples` videos precede."""
    return examples * images.global_batch // videos.global_batch


def seed_of(seed: int, name: str) -> int:
    """Return a seed of the images' own, so that their order and crops do not follow those of the videos."""
    return fold(seed, zlib.crc32(name.encode())) >> 1  # TensorFlow has no unsigned arithmetic


class WithImages(Iterator[dict[str, np.ndarray]]):
    """Batches of videos with images beside each row: NAME, uint8 [b k h w c], and NAME_valid, bool [b k].

    Args:
      videos: the batches of videos, which count.
      images: by name, batches of as many images as belong beside those rows, opened at the same step.
      opened: by name, where these come from (`data.opened.Opened`).
      first: the number of the first image in the list of everything that is read; videos come before.
    """

    def __init__(self, videos: Any, images: Mapping[str, Any], opened: Mapping[str, Any], first: int) -> None:
        self._videos, self._images, self._opened = videos, dict(images), opened
        self._first: dict[str, int] = {}
        for name in images:
            self._first[name] = first
            first += len(opened[name])
        self._seen = dict.fromkeys(images, 0)
        self._bad: dict[str, dict[int, Fault]] = {name: {} for name in images}
        self._faults: list[Fault] = []

    @property
    def position(self) -> int:
        """Of the next batch, in videos."""
        return self._videos.position

    @property
    def worker_seconds(self) -> float:
        """Processor time that all decoding processes have spent so far."""
        return sum(one.worker_seconds for one in (self._videos, *self._images.values()))

    def __next__(self) -> dict[str, np.ndarray]:
        """Return the next batch.

        Raises:
          StopIteration: if the one pass over the videos has ended.
          TooManyBadVideos: if nothing can be read, or too many of the images cannot.
        """
        try:
            batch = dict(next(self._videos))
        except StopIteration:
            self.close()
            raise
        rows = len(batch["valid"])
        for name, images in self._images.items():
            found = next(images)
            self._judge(name, images.faults())
            pictures, valid = found["video"][:, 0], found["valid"]
            batch[name] = pictures.reshape(rows, -1, *pictures.shape[1:])
            batch[f"{name}_valid"] = valid.reshape(rows, -1)
        return batch

    def faults(self, before: int | None = None) -> list[Fault]:
        """Return the videos and images that could not be read since the last call.

        Images come after the videos in the numbers. They are not `drawn`: their share is judged here, by the limit of
        their own loader, and not with that of the videos.

        Args:
          before: of videos, positions below this one, as in `feed.Batches.faults`.
        """
        found, self._faults = self._faults, []
        return [*self._videos.faults(before), *found]

    def _judge(self, name: str, faults: Sequence[Fault]) -> None:
        loader, videos = self._opened[name].loader, len(self._opened[name])
        bad = self._bad[name]
        bad |= {fault.index: fault for fault in faults if fault.drawn}
        self._faults += [one._replace(index=self._first[name] + one.index, drawn=False) for one in faults]
        self._seen[name] += loader.global_batch
        if too_many(len(bad), self._seen[name], videos, loader.max_bad_fraction):
            seen = min(max(self._seen[name], len(bad)), videos)
            raise TooManyBadVideos(
                f"{len(bad):,} of {seen:,} images of images[{name!r}] could not be read ({len(bad) / seen:.0%}, limit "
                f"{loader.max_bad_fraction:.0%}), such as {next(iter(bad.values())).key}. Raise "
                f"--config.data.images.{name}.max_bad_fraction to continue."
            )

    def close(self) -> None:
        """End the decoding processes and everything that is read ahead."""
        for one in (self._videos, *self._images.values()):
            one.close()

    def __enter__(self) -> "WithImages":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
