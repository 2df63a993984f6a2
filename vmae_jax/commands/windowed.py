"""Features of windows, computed in batches that go across videos."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from vmae_jax.commands.restore import Trained
from vmae_jax.features.windows import Chunk
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding
from vmae_jax.train.on_mesh import on_mesh, replicated

__all__ = ["Video", "computed", "network"]


def network(
    trained: Trained, clip: tuple[int, ...], *, batch: int, layer: int | None, tokens: bool, raw: Any = None
) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """(clips [batch t h w c]) -> features, over the devices of this process; and the batch.

    Args:
      clip: the shape of one, [t h w c].
      batch: clips at least; as many more as the devices need.
      layer: the tokens after so many blocks; None is the end.
      tokens: every token instead of their mean.
      raw: a model (its mean and std), whose clips are divided by 255 alone, without its own normalisation.

    Raises:
      ConfigError: if the model has no such layer.
    """
    mesh = sharding.make_mesh({"data": -1}, devices=jax.local_devices())
    batch = -(-batch // mesh.size) * mesh.size
    place = sharding.batch_sharding(mesh)
    params = replicated(trained.params, mesh)

    def compute(params: Any, video: jax.Array) -> jax.Array:
        if raw is not None:  # what the model's normalisation turns into pixels / 255
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
    """What was made of a video.

    Attributes:
      number: in the source.
      arrays: "features", "frames", "seconds" and "uncovered"; None where it cannot be read.
      reason: why there are none.
    """

    number: int
    arrays: dict[str, np.ndarray] | None
    reason: str = ""


def computed(
    pieces: Iterator[Chunk], compute: Callable[[np.ndarray], np.ndarray], batch: int, dtype: Any
) -> Iterator[Video]:
    """Each video, when all its windows are computed; batches go across videos.

    Args:
      pieces: as `features.windows.chunks` gives them.
      compute: of `batch` clips.
      dtype: of the features.
    """
    waiting: list[tuple[int, np.ndarray]] = []  # windows that no batch has taken yet
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
    """The chunk without its clips, which need not be kept."""
    return chunk._replace(clips=np.zeros(0))
