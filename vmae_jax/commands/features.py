"""`vmae features`: what a network makes of whole videos, window by window."""

import dataclasses
import io
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from vmae_jax.commands.named_videos import named_videos
from vmae_jax.commands.restore import Trained, restore
from vmae_jax.data.shards import Shards
from vmae_jax.data.windows import Chunk, Windows, chunks
from vmae_jax.io.paths import write_bytes, write_text
from vmae_jax.runtime import distributed
from vmae_jax.runtime.cache import enable_cache
from vmae_jax.runtime.preemption import Preemption
from vmae_jax.spec import ConfigError, build
from vmae_jax.train import sharding
from vmae_jax.train.on_mesh import on_mesh, replicated

__all__ = ["Options", "run"]

log = logging.getLogger(__name__)

LIKE = ("pretraining", "tad")
FORMATS = ("npz", "npy", "array_record")
SETTINGS = "features.json"
SHARD = 64  # videos


@dataclasses.dataclass(frozen=True)
class Options:
    """What is computed, and how it is stored.

    Attributes:
      like: "pretraining": frames as far apart as in training, resized with antialiasing,
        normalised by the model; windows do not overlap. "tad": as the official script for
        temporal action detection: consecutive frames, a window every 4, resized plainly, and
        divided by 255 *without* the ImageNet normalisation that the network was trained with.
      window: frames that a window covers, a multiple of the model's.
      stride: frames from one window to the next.
      layer: the tokens after so many blocks; None is the end.
      tokens: every token instead of their mean.
      format: "npz" (features, frames, seconds), "npy" (features; times beside it) or "array_record"
        (shards of 64 videos, each record the npz of one; `data.shards.read_shards` reads them).
      half: store float16.
      batch: windows computed at once.
      ema: use the averaged parameters.
      rate: frames a second of folders of pictures, for their times; videos say their own.
    """

    like: str = "pretraining"
    window: int | None = None
    stride: int | None = None
    layer: int | None = None
    tokens: bool = False
    format: str = "npz"
    half: bool = False
    batch: int = 16
    ema: bool = False
    rate: float = 25.0

    def __post_init__(self) -> None:
        for name, value, known in (("like", self.like, LIKE), ("format", self.format, FORMATS)):
            if value not in known:
                raise ConfigError(f"--{name}={value}: it is {' or '.join(known)}")
        for name, value in (("window", self.window), ("stride", self.stride), ("batch", self.batch)):
            if value is not None and value < 1:
                raise ConfigError(f"--{name}={value}: at least 1")
        if self.rate <= 0:
            raise ConfigError(f"--rate={self.rate}: above 0")


def run(checkpoint: str, *, videos: Sequence[str], out: str, options: Options) -> dict[str, Any]:
    """Writes one file for each video, OUT/NAME.npz, or shards; what is there already is left alone.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      videos: files, folders of them or of pictures (whose tree OUT then repeats), or lists ending in .csv.
      out: a folder, local or gs://.

    Raises:
      ConfigError: no such checkpoint or video, a window that does not suit the model, OUT made
        with other settings, no video that can be read, or a job of several processes.
    """
    distributed.start_alone("vmae features", "start one for each share of --videos, each with an --out of its own")
    enable_cache()
    trained = restore(checkpoint, ema=options.ema)
    config: Any = trained.made.config
    model = build(config.method.model, "model")
    frames, size, _, channels = model.video_shape
    plan, settings = _plan(options, trained, frames)
    folder = epath.Path(out)
    told = settings | {"checkpoint": str(trained.workdir.path), "step": trained.step}
    _check_settings(folder / SETTINGS, told)
    source, names = named_videos(videos, options.rate)
    store = Shards(str(folder), SHARD) if options.format == "array_record" else _Files(folder, options)
    todo = [i for i, name in enumerate(names) if not store.has(name)]
    compute, batch = _network(trained, model, options)
    done = 0
    broken: list[str] = []
    if not (folder / SETTINGS).exists():  # only now: a command that fails before leaves nothing
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / SETTINGS, json.dumps(told, indent=2) + "\n")
    pieces = chunks(source, todo, plan, size=size, channels=channels, antialias=options.like == "pretraining")
    with Preemption() as preemption:
        for video, parts in _videos(pieces, compute, batch):
            if parts is None:
                broken.append(names[video[0]])
                log.warning("%s cannot be read: %s", names[video[0]], video[1])
                continue
            features, frames, seconds = parts
            features = features.astype(np.float16 if options.half else np.float32)
            store.add(names[video[0]], {"features": features, "frames": frames, "seconds": seconds})
            done += 1
            if preemption.requested(done):
                break
    store.flush()
    stopped = preemption.reason if done + len(broken) < len(todo) else ""
    if todo and not done and not stopped:
        raise ConfigError(f"none of the {len(todo)} videos can be read; the first: {broken[0]}")
    return {
        "step": trained.step,
        "videos": done,
        "already": len(names) - len(todo),
        "broken": broken,
        "out": str(folder),
        **settings,
        **({"resume": True, "error": f"stopped by {stopped}; the same command goes on"} if stopped else {}),
    }


def _plan(options: Options, trained: Trained, frames: int) -> tuple[Windows, dict[str, Any]]:
    """The windows, and all settings spelled out."""
    config: Any = trained.made.config
    apart = 1 if options.like == "tad" else getattr(trained.made.loader.sampler, "stride", None)
    if apart is None and options.window is None:
        raise ConfigError(
            f"the run's sampler {config.data.sampler.call} has no stride: say how many frames a window covers with "
            f"--window={frames}, --window={4 * frames}, … (and, where windows are to overlap, --stride)"
        )
    window = options.window or frames * (apart or 1)
    if window % frames:
        raise ConfigError(f"--window={window}: a multiple of the model's {frames} frames")
    stride = options.stride or (4 if options.like == "tad" else window)
    settings = dataclasses.asdict(options) | {"window": window, "stride": stride}
    del settings["batch"]
    return Windows(frames, window // frames, stride, options.batch), settings


def _check_settings(file: epath.Path, settings: dict[str, Any]) -> None:
    """Raises ConfigError where the folder holds what was made with others."""
    old = json.loads(file.read_text()) if file.exists() else settings
    for name, value in settings.items():
        if old.get(name) != value:
            raise ConfigError(
                f"--out={file.parent} has features with {name} {old.get(name)}, not {value}: use another folder"
            )


def _network(trained: Trained, model: Any, options: Options) -> tuple[Any, int]:
    """(clips [batch t h w c]) -> features, over all devices; and the batch."""
    mesh = sharding.make_mesh({"data": -1})
    batch = -(-options.batch // mesh.size) * mesh.size
    place = sharding.batch_sharding(mesh)
    params = replicated(trained.params, mesh)
    raw = options.like == "tad"

    def compute(params: Any, video: jax.Array) -> jax.Array:
        if raw:  # what the model's normalisation turns into pixels / 255
            video = video * np.asarray(model.std, np.float32) + 255.0 * np.asarray(model.mean, np.float32)
        return trained.made.method.features(params, {"video": video}, layer=options.layer, pool=not options.tokens)

    program = on_mesh(compute, mesh)
    spec = jax.ShapeDtypeStruct((batch, *model.video_shape), np.float32 if raw else np.uint8, sharding=place)
    try:
        program.trace(params, spec)
    except ValueError as error:
        raise ConfigError(f"--layer={options.layer}: {error}") from error
    return lambda clips: np.asarray(program(params, jax.device_put(clips, place))), batch


def _videos(pieces: Iterator[Chunk], compute: Any, batch: int) -> Iterator[tuple[tuple[int, str], Any]]:
    """Each video, when all its windows are computed; batches go across videos.

    Gives ((number, reason), None) for a broken one, else (…, (features, frames, seconds)).
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

    def ready() -> Iterator[tuple[tuple[int, str], Any]]:
        for video in list(about):
            if len(found[video]) == about[video][0].total:
                parts = about.pop(video)
                frames, seconds = (np.concatenate([getattr(p, key) for p in parts]) for key in ("frames", "seconds"))
                yield (video, ""), (np.stack(found.pop(video)), frames, seconds)

    for chunk in pieces:
        if chunk.clips is None:
            if chunk.video not in bad:
                yield (chunk.video, chunk.reason), None
            bad.add(chunk.video)
            about.pop(chunk.video, None)
            found.pop(chunk.video, None)
            waiting[:] = [item for item in waiting if item[0] != chunk.video]
            continue
        if chunk.video in bad:
            continue
        found.setdefault(chunk.video, [])
        # A chunk is told apart from its windows: all are needed before the video is whole.
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


class _Files:
    """One file a video, OUT/NAME.npz or .npy."""

    def __init__(self, folder: epath.Path, options: Options) -> None:
        self._folder, self._format = folder, options.format

    def has(self, name: str) -> bool:
        return (self._folder / f"{name}.{self._format}").exists()

    def add(self, name: str, arrays: dict[str, Any]) -> None:
        """Writes the files of a video; the one that says "done" comes last, whole or not at all."""
        file = self._folder / f"{name}.{self._format}"
        file.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        if self._format == "npz":
            np.savez(content, **arrays)
        else:
            times = io.BytesIO()
            np.save(times, arrays["seconds"])
            write_bytes(self._folder / f"{name}.seconds.npy", times.getvalue())
            np.save(content, arrays["features"])
        write_bytes(file, content.getvalue())

    def flush(self) -> None:
        """Nothing waits."""
