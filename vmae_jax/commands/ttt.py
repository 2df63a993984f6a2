"""`vmae ttt`: test-time training, a network that goes on learning from a video while it predicts its frames."""

import contextlib
import copy
import dataclasses
import hashlib
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from vmae_jax.commands.named_videos import NAMES, named_videos
from vmae_jax.commands.restore import Trained, restore
from vmae_jax.commands.streams import only_video
from vmae_jax.commands.windowed import check_reading
from vmae_jax.data.faults import too_many
from vmae_jax.data.video import BadVideo
from vmae_jax.eval.streams import Moment, comparison, moments, table
from vmae_jax.features.windows import Chunk, Windows, chunks
from vmae_jax.io.paths import write_text
from vmae_jax.names import message
from vmae_jax.runtime.cache import enable_cache
from vmae_jax.runtime.preemption import Preemption
from vmae_jax.spec import ConfigError
from vmae_jax.train.online import Adapter, Settings, adapter

__all__ = ["Options", "run"]

log = logging.getLogger(__name__)

RESETS = ("video", "frame", "never")
SETTINGS, COMPARISON = "ttt.json", "comparison.json"
CHUNK = 16  # clips that are decoded at once
SHOWN = 3  # names that a message lists


@dataclasses.dataclass(frozen=True)
class Options(Settings):
    """The options of `vmae ttt`: those of the steps, and the following.

    Attributes:
      reset: when weights return to those of the checkpoint: at the beginning of each "video", before each "frame" (only
        the window is remembered), or "never" (videos are one stream, in their order).
      fps: read videos at this rate by their time stamps; None reads every frame.
      stride: frames, or with `fps` samples, from one prediction to the next.
      name: outputs are named after a video's path below the given folder, "stem" without the suffix, "path" with it.
      rate: frames per second of folders of pictures; videos have time stamps.
      max_bad_fraction: share of unreadable videos above which the result is an error (`data.faults.too_many`).
      ema: use the averaged parameters.
    """

    reset: str = "video"
    fps: float | None = None
    stride: int = 1
    name: str = "stem"
    rate: float = 25.0
    max_bad_fraction: float = 0.05
    ema: bool = False

    def __post_init__(self) -> None:
        for option, value, known in (("reset", self.reset, RESETS), ("name", self.name, NAMES)):
            if value not in known:
                raise ConfigError(f"--{option}={value}: expected {' or '.join(known)}")
        for option in ("window", "batch", "steps", "accumulate", "stride"):
            if getattr(self, option) < 1:
                raise ConfigError(f"--{option}={getattr(self, option)}: expected at least 1")
        if self.batch % self.accumulate:
            raise ConfigError(f"--batch={self.batch} does not divide into --accumulate={self.accumulate} parts")
        for option in ("learning_rate", "encoder_share", "weight_decay"):
            if not 0 <= getattr(self, option) < np.inf:
                raise ConfigError(f"--{option.replace('_', '-')}={getattr(self, option)}: expected at least 0")
        if not 0 < self.clip_norm < np.inf:
            raise ConfigError(f"--clip-norm={self.clip_norm}: expected more than 0")
        check_reading(self.rate, self.fps, self.max_bad_fraction)


class _Job(NamedTuple):
    """What is to be done."""

    follower: Adapter
    source: Any
    names: list[str]
    windows: Windows
    clip: tuple[int, ...]
    folder: epath.Path
    options: Options
    written: dict[str, Any]  # the settings as stored in OUT

    def file(self, number: int) -> epath.Path:
        """The table of a video."""
        return self.folder / f"{self.names[number]}.csv"


def run(checkpoint: str, *, videos: Sequence[str], out: str, options: Options) -> dict[str, Any]:
    """Predict every frame of each video, with and without learning from it; write OUT/NAME.csv and a comparison.

    Tables that exist are kept, except with reset="never", where each video depends on those before it.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      videos: files, folders of videos or pictures, or lists ending in .csv, whose labels are compared with.
      out: a folder.
      options: of the adaptation, and how videos are read.

    Raises:
      ConfigError: if there is no such checkpoint or video, its method cannot adapt, OUT has other settings, or no video
        can be read.
    """
    enable_cache()
    job = _job(checkpoint, videos, epath.Path(out), options)
    numbers = range(len(job.names))
    done = [number for number in numbers if job.file(number).exists()]
    if options.reset == "never" and len(done) < len(job.names):
        done = []
    if not (job.folder / SETTINGS).exists():  # not earlier: a command that is refused leaves nothing
        write_text(job.folder / SETTINGS, json.dumps(job.written, indent=2) + "\n")
    broken, stopped = _follow(job, [number for number in numbers if number not in done])
    result = {"already": len(done), "out": str(job.folder), "step": job.written["step"]}
    if stopped:
        return result | {"resume": True, "error": f"stopped by {stopped}; the same command continues"}
    return result | _compare(job, broken)


def _job(checkpoint: str, videos: Sequence[str], folder: epath.Path, options: Options) -> _Job:
    trained = restore(checkpoint, ema=options.ema)
    _check(trained, checkpoint)
    clip = tuple(only_video(trained.made.method, trained.made.batch_spec, "vmae ttt").shape[1:])
    windows = Windows(clip[0], _apart(trained, clip[0], options), options.stride, CHUNK, options.fps)
    written = dataclasses.asdict(options) | {"checkpoint": str(trained.workdir.path), "step": trained.step}
    del written["max_bad_fraction"]  # it changes no output
    source, names = named_videos(videos, options.rate, options.name, lambda name: [f"{name}.csv"])
    if options.reset == "never":
        written["videos"] = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()[:12]
    old = json.loads((folder / SETTINGS).read_text()) if (folder / SETTINGS).exists() else None
    for name, value in written.items():
        if old is not None and old.get(name) != value:
            raise ConfigError(f"--out={folder} has predictions with {name} {old.get(name)}, not {value}: "
                              "use another folder")  # fmt: skip
    made = trained.made
    follower = adapter(made.method, trained.params, trained.carried(), made.batch_spec, options)
    return _Job(follower, source, names, windows, clip, folder, options, written)


def _check(trained: Trained, checkpoint: str) -> None:
    """Raise ConfigError if the method cannot adapt, or does not predict one class of a video."""
    method = trained.made.method
    if method.adaptation is None or method.predict is None:
        raise ConfigError(
            f"{checkpoint} was trained by a method without a loss for test-time training: train configs/ttt.py"
        )
    if set(method.adaptation.inputs) != {"video"}:
        reads = ", ".join(map(repr, method.adaptation.inputs))
        raise ConfigError(f"vmae ttt reads video files only, but the loss of {checkpoint} reads {reads}")
    if method.heads is not None and [head.kind for head in method.heads.values()] != ["one"]:
        raise ConfigError(f"vmae ttt compares predictions of one class, and {checkpoint} has other heads")


def _apart(trained: Trained, frames: int, options: Options) -> int:
    """Return the distance of a clip's frames."""
    if frames == 1 or options.fps is not None:
        return 1
    apart = getattr(trained.made.loader.sampler, "stride", None)
    if apart is None:
        raise ConfigError("the run's sampler has no stride: set the frames that are read with --fps")
    return apart


def _follow(job: _Job, todo: list[int]) -> tuple[dict[str, str], str]:
    """Write the tables of these videos; return why some cannot be read, by name, and the signal to stop, if any."""
    broken: dict[str, str] = {}
    pieces = chunks(job.source, todo, job.windows, size=job.clip[1], channels=job.clip[3], antialias=True)
    with contextlib.closing(pieces), Preemption() as preemption:
        for number, parts in itertools.groupby(pieces, key=lambda chunk: chunk.video):
            follower = job.follower
            if job.options.reset != "never":
                follower.forget()
            before = follower.params, copy.copy(follower.memory)
            try:
                rows = []
                for row in _moments(job, number, parts):
                    rows.append(row)
                    if preemption.caught:
                        return broken, preemption.caught
            except BadVideo as error:
                name = job.names[number]
                broken[name] = message(error)
                follower.params, follower.memory = before
                log.warning("%s cannot be read: %s", name, broken[name])
                continue
            write_text(job.file(number), table(rows))
            log.info("%s: %d predictions, %s", job.names[number], len(rows), json.dumps(comparison(rows)))
    return broken, ""


def _moments(job: _Job, number: int, parts: Iterator[Chunk]) -> Iterator[Moment]:
    """Yield the predictions of a video; raise BadVideo if it cannot be read to its end."""
    label = _label(job.source, number)
    count = itertools.count()
    for chunk in parts:
        if chunk.clips is None:
            raise BadVideo(chunk.reason)
        for clip, (_, frame), (_, seconds) in zip(chunk.clips, chunk.frames, chunk.seconds, strict=True):
            if job.options.reset == "frame":
                job.follower.params = job.follower.base
            found = job.follower(clip, next(count))
            if not (np.isfinite(found.without).all() and np.isfinite(found.adapted).all()):
                raise ArithmeticError(f"{job.names[number]}, frame {frame}: the outputs are not finite")
            two = [(int(out.argmax()), float(jax.nn.softmax(out).max())) for out in (found.without, found.adapted)]
            yield Moment(int(frame), float(seconds), label, *two[0], *two[1], found.loss, found.refused)


def _label(source: Any, number: int) -> int | None:
    """Return the class of a video, if its list has one."""
    label = source.fetch(number).labels.get("label")
    return int(label) if isinstance(label, int | np.integer) and label >= 0 else None


def _read(file: epath.Path) -> list[Moment]:
    try:
        return moments(file.read_text())
    except ValueError as error:
        raise ConfigError(f"{file} is not a table of vmae ttt ({error}): delete it, or use another folder") from error


def _compare(job: _Job, broken: dict[str, str]) -> dict[str, Any]:
    """Write the comparison of all tables, and return it; report unreadable videos."""
    if len(broken) == len(job.names):
        name, reason = next(iter(broken.items()))
        raise ConfigError(f"none of the {len(broken)} videos can be read; the first: {name}: {reason}")
    read = {name: number for number, name in enumerate(job.names) if name not in broken}
    videos = {name: comparison(_read(job.file(number))) for name, number in read.items()}
    whole = comparison(row for number in read.values() for row in _read(job.file(number)))
    content = {"settings": job.written, "all": whole, "videos": videos, "broken": broken}
    write_text(job.folder / COMPARISON, json.dumps(content, indent=2) + "\n")
    result = {"videos": len(read), "broken": list(broken), **whole}
    if too_many(len(broken), len(job.names), len(job.names), job.options.max_bad_fraction):
        names = ", ".join(list(broken)[:SHOWN]) + (" …" if len(broken) > SHOWN else "")
        error = (
            f"{len(broken):,} of {len(job.names):,} videos could not be read: {names}. The limit is "
            f"{job.options.max_bad_fraction:.0%}; raise --max-bad-fraction to accept this. All others are written"
        )
        result |= {"exit": 1, "error": error}
    return result
