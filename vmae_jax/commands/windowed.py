"""Features of windows, in batches that span videos."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from vmae_jax.commands.restore import Trained
from vmae_jax.features.windows import Chunk
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding
from vmae_jax.train.on_mesh import on_mesh, replicated

__all__ = ["Video", "check_reading", "computed", "network"]

MOST = 1000.0  # frames a second


def check_reading(rate: float | None, fps: float | None, max_bad_fraction: float) -> None:
    """Raise ConfigError if an option of reading videos, `--rate`, `--fps` or `--max-bad-fraction`, is out of range."""
    for option, value in (("rate", rate), ("fps", fps)):
        if value is not None and not 0 < value <= MOST:
            raise ConfigError(f"--{option}={value}: expected more than 0 and at most {MOST:g} frames a second")
    if not 0 <= max_bad_fraction <= 1:
        raise ConfigError(f"--max-bad-fraction={max_bad_fraction}: expected 0 to 1")


def network(
    trained: Trained, clip: tuple[int, ...], *, batch: int, layer: int | None, tokens: bool, raw: Any = None
) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Return (clips [batch t h w c]) -> features, on the devices of this process, and the batch.

    Args:
      trained: the network.
      clip: shape of one clip, [t h w c].
      batch: least number of clips, rounded up to what the devices need.
      layer: the block whose output is taken; None is the last.
      tokens: return every token instead of the mean.
      raw: a model (its mean and std), whose clips are only divided by 255, without its normalization.

    Raises:
      ConfigError: if the model has no such layer.
    """
    mesh = sharding.make_mesh({"data": -1}, devices=jax.local_devices())
    batch = -(-batch // mesh.size) * mesh.size
    place = sharding.batch_sharding(mesh)
    params = replicated(trained.params, mesh)

    def compute(params: Any, video: jax.Array) -> jax.Array:
        if raw is not None:  # the model's normalization turns this into pixels / 255
            video = video * np.asarray(raw.std, np.float32) + 255.0 * np.asarray(raw.mean, np.float32)
        return trained.made.method.features(params, {"video": video}, layer=layer, pool=not tokens)

    program = on_mesh(compute, mesh)
    spec = jax.ShapeDtypeStruct((batch, *clip), np.uint8 if raw is None else np.float32, sharding=place)
    try:
        program.trace(params, spec)
    except ValueError as error:
        raise ConfigError(f"--layer={layer}: {error}") from error
    return lambda clips: np.asarray(program(params, jax.device_put(clips, place))), batch


class Video(NamedTuple):
    """The outputs of a video.

    Attributes:
      number: in the source.
      arrays: "features", "frames", "seconds" and "uncovered"; None if the video cannot be read.
      reason: why it cannot be read.
    """

    number: int
    arrays: dict[str, np.ndarray] | None
    reason: str = ""


def computed(
    pieces: Iterator[Chunk], compute: Callable[[np.ndarray], np.ndarray], batch: int, dtype: Any
) -> Iterator[Video]:
    """Yield each video once all its windows are computed; batches span videos.

    Args:
      pieces: of `features.windows.chunks`.
      compute: clips -> features.
      batch: number of clips that `compute` takes.
      dtype: of the features.
    """
    waiting: list[tuple[int, np.ndarray]] = []  # windows that are not computed yet
    found: dict[int, list[np.ndarray]] = {}
    about: dict[int, list[Chunk]] = {}
    bad: set[int] = set()

    def flush(rows: int) -> None:
        taken = [waiting.pop(0) for _ in range(rows)]
        clips = np.stack([clip for _, clip in taken])
        clips = np.concatenate([clips, np.repeat(clips[-1:], batch - rows, axis=0)])
        for (video, _), row in zip(taken, compute(clips), strict=False):
            found[video].append(row)

    def ready() -> Iterator[Video]:
        for video in list(about):
            if len(found[video]) == about[video][0].total:
                parts = about.pop(video)
                arrays = {"features": np.stack(found.pop(video)).astype(dtype)}
                arrays |= {key: np.concatenate([getattr(p, key) for p in parts]) for key in ("frames", "seconds")}
                yield Video(video, arrays | {"uncovered": np.asarray(parts[0].uncovered, np.int64)})

    for chunk in pieces:
        if chunk.clips is None:
            if chunk.video not in bad:
                yield Video(chunk.video, None, chunk.reason)
            bad.add(chunk.video)
            about.pop(chunk.video, None)
            found.pop(chunk.video, None)
            waiting[:] = [item for item in waiting if item[0] != chunk.video]
            continue
        if chunk.video in bad:
            continue
        found.setdefault(chunk.video, [])
        # Chunks are kept until all windows of the video are computed.
        about.setdefault(chunk.video, []).append(_without_clips(chunk))
        waiting += [(chunk.video, clip) for clip in chunk.clips]
        while len(waiting) >= batch:
            flush(batch)
        yield from ready()
    while waiting:
        flush(min(batch, len(waiting)))
    yield from ready()


def _without_clips(chunk: Chunk) -> Chunk:
    """Return a chunk without its clips, to free their memory."""
    return chunk._replace(clips=np.zeros(0))
