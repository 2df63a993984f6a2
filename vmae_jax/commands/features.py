"""`vmae features`: the outputs of a network for whole videos, window by window."""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from vmae_jax.commands.named_videos import NAMES, named_videos
from vmae_jax.commands.restore import Trained, restore
from vmae_jax.commands.streams import only_video
from vmae_jax.commands.windowed import Video, check_reading, computed, network
from vmae_jax.data.faults import too_many
from vmae_jax.features.files import FILES, FeatureFiles, files_of
from vmae_jax.features.shards import Shards
from vmae_jax.features.windows import Windows, chunks
from vmae_jax.io.paths import write_bytes, write_text
from vmae_jax.runtime import distributed, sharing
from vmae_jax.runtime.cache import enable_cache
from vmae_jax.runtime.preemption import Preemption
from vmae_jax.spec import ConfigError, build

__all__ = ["Options", "run"]

log = logging.getLogger(__name__)

LIKE = ("pretraining", "tad")
FORMATS = (*FILES, "array_record")
TAILS = ("end", "drop")
SETTINGS, COMPLETE, BROKEN = "features.json", "complete.json", ".broken"
SHARD = 64  # videos of an array_record file, on average
SHOWN = 3  # names that a message lists
LOGGED = 20  # unreadable videos that get a line of their own


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of `vmae features`.

    Attributes:
      like: "pretraining": frames at the stride of training, resized with antialiasing, normalized by the model;
        windows do not overlap. "tad": as the official script for temporal action detection: consecutive frames, a
        window every 4, resized without antialiasing, and divided by 255 *without* the ImageNet normalization that the
        network was trained with.
      fps: sample videos at this rate by their time stamps, so that windows of all videos cover the same time; windows
        and strides then count samples, and a window has consecutive ones. None counts the videos' own frames.
      window: frames per window, a multiple of the model's.
      stride: frames from one window to the next.
      tail: what happens to frames after the last whole window: "end" adds a window that ends with the video, "drop"
        leaves them out and counts them. The default is "end", and with like="tad" "drop", as in the official script.
      layer: the block whose output is taken; None is the last.
      tokens: store every token instead of the mean.
      format: "npz" or "hdf5" (features, frames, seconds, uncovered), "npy" (features, and seconds in a second file) or
        "array_record" (files of about 64 videos, each record the npz of one; see `features.shards.read_shards`).
      name: outputs are named after a video's path below the given folder, "stem" without the suffix, "path" with it.
      half: store float16.
      batch: windows per batch.
      ema: use the averaged parameters.
      rate: frames per second of folders of pictures; videos have time stamps.
      max_bad_fraction: share of unreadable videos above which the result is an error (`data.faults.too_many`).
    """

    like: str = "pretraining"
    fps: float | None = None
    window: int | None = None
    stride: int | None = None
    tail: str | None = None
    layer: int | None = None
    tokens: bool = False
    format: str = "npz"
    name: str = "stem"
    half: bool = False
    batch: int = 16
    ema: bool = False
    rate: float = 25.0
    max_bad_fraction: float = 0.05

    def __post_init__(self) -> None:
        for option, value, known in (
            ("like", self.like, LIKE),
            ("format", self.format, FORMATS),
            ("name", self.name, NAMES),
            ("tail", self.tail or TAILS[0], TAILS),
        ):
            if value not in known:
                raise ConfigError(f"--{option}={value}: expected {' or '.join(known)}")
        for option, value in (("window", self.window), ("stride", self.stride), ("batch", self.batch)):
            if value is not None and value < 1:
                raise ConfigError(f"--{option}={value}: expected at least 1")
        check_reading(self.rate, self.fps, self.max_bad_fraction)


class _Job(NamedTuple):
    """The settings and videos that all processes of a job must agree on."""

    trained: Trained
    source: Any
    names: list[str]
    windows: Windows
    settings: dict[str, Any]  # the options with their defaults resolved
    written: dict[str, Any]  # `settings` and the checkpoint, as stored in OUT

    def facts(self) -> dict[str, Any]:
        """Return what must be the same in every process."""
        videos = hashlib.sha256("\n".join(self.names).encode(errors="surrogateescape")).hexdigest()[:12]
        return {"settings": self.written, "number of videos": len(self.names), "names of the videos": videos}


def run(
    checkpoint: str, *, videos: Sequence[str], out: str, options: Options, shard: str | None = None
) -> dict[str, Any]:
    """Write the features of each video below OUT; existing files are kept.

    The processes of a job (`runtime.distributed.start`) share the videos by their names, and so do the commands of a
    batch job with `shard`. The files do not depend on the number of processes. `complete.json` is written once every
    video has been processed.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      videos: files, folders of videos or pictures (OUT mirrors their tree), or lists ending in .csv.
      out: a folder, local or gs://, shared by all processes.
      options: what to compute and how to store it.
      shard: "i/n" computes only the i-th of n parts, counted from 0.

    Raises:
      ConfigError: if there is no such checkpoint or video, a window does not suit the model, OUT has other settings,
        or no video can be read.
    """
    distributed.start()
    part = sharing.share(shard)
    enable_cache()
    folder = epath.Path(out)
    with distributed.naming_lost_peers():
        job = distributed.together("features", lambda: _job(checkpoint, videos, folder, options), facts=_Job.facts)
        result = _compute(job, folder, part, options)
        sharing.meet("features_end", stopping="resume" in result)
    return result | _state(job, folder, part, result, options.max_bad_fraction)


def _job(checkpoint: str, videos: Sequence[str], folder: epath.Path, options: Options) -> _Job:
    trained = restore(checkpoint, ema=options.ema)
    windows, settings = _plan(options, trained, _clip(trained)[0])
    written = settings | {"checkpoint": str(trained.workdir.path), "step": trained.step}
    old = json.loads((folder / SETTINGS).read_text()) if (folder / SETTINGS).exists() else None
    files = functools.partial(files_of, options.format)
    source, names = named_videos(videos, options.rate, options.name, files, images=_clip(trained)[0] == 1)
    if options.format == "array_record":
        written["record_files"] = (old or {}).get("record_files", -(-len(names) // SHARD))
    for name, value in written.items():
        if old is not None and old.get(name) != value:
            raise ConfigError(
                f"--out={folder} has features with {name} {old.get(name)}, not {value}: use another folder"
            )
    return _Job(trained, source, names, windows, settings, written)


def _clip(trained: Trained) -> tuple[int, ...]:
    """Return the shape of the method's clips, [t h w c]."""
    return tuple(only_video(trained.made.method, trained.made.batch_spec, "vmae features").shape[1:])


def _normalized_model(trained: Trained) -> Any:
    """Return the model whose normalization --like=tad leaves out."""
    section: Any = trained.made.config.method
    model = build(section.model, "model") if "model" in section else None
    if not (hasattr(model, "mean") and hasattr(model, "std")):
        raise ConfigError(
            "--like=tad leaves out the model's normalization, but the model of this run has none that is known"
        )
    return model


def _store(job: _Job, folder: epath.Path) -> Any:
    """Return the writer of the outputs, with the present state of OUT."""
    if job.settings["format"] == "array_record":
        return Shards(str(folder), job.written["record_files"])
    return FeatureFiles(str(folder), job.settings["format"], write_bytes)


def _plan(options: Options, trained: Trained, frames: int) -> tuple[Windows, dict[str, Any]]:
    """Return the windows, and all settings with their defaults resolved."""
    config: Any = trained.made.config
    consecutive = options.like == "tad" or options.fps is not None
    apart = 1 if consecutive else getattr(trained.made.loader.sampler, "stride", 1 if frames == 1 else None)
    if apart is None and options.window is None:
        raise ConfigError(
            f"the run's sampler {config.data.sampler.call} has no stride: set the frames of a window with "
            f"--window={frames}, --window={4 * frames}, … (and --stride for windows that overlap)"
        )
    window = options.window or frames * (apart or 1)
    if window % frames:
        raise ConfigError(f"--window={window}: expected a multiple of the model's {frames} frames")
    stride = options.stride or (4 if options.like == "tad" else window)
    tail = options.tail or ("drop" if options.like == "tad" else "end")
    settings = dataclasses.asdict(options) | {"window": window, "stride": stride, "tail": tail}
    del settings["batch"], settings["max_bad_fraction"]  # these change no output
    return Windows(frames, window // frames, stride, options.batch, options.fps, tail), settings


def _compute(job: _Job, folder: epath.Path, part: sharing.Share, options: Options) -> dict[str, Any]:
    """Compute and write this process's part of the missing outputs."""
    store, names = _store(job, folder), job.names
    mine = [number for number, name in enumerate(names) if part.has(store.unit(name))]
    todo = [number for number in mine if not store.has(names[number])]
    if options.format == "array_record":
        todo.sort(key=lambda number: (store.unit(names[number]), names[number]))
    clip, raw = _clip(job.trained), _normalized_model(job.trained) if options.like == "tad" else None
    compute, batch = network(
        job.trained, clip, batch=options.batch, layer=options.layer, tokens=options.tokens, raw=raw
    )
    if not (folder / SETTINGS).exists():  # not earlier: a command that is refused leaves nothing
        write_text(folder / SETTINGS, json.dumps(job.written, indent=2) + "\n")
    if todo:
        (folder / COMPLETE).unlink(missing_ok=True)
    pieces = chunks(job.source, todo, job.windows, size=clip[1], channels=clip[3], antialias=raw is None)
    made = computed(pieces, compute, batch, np.float16 if options.half else np.float32)
    result = _write(made, names, len(todo), store, folder)
    return result | {"step": job.trained.step, "already": len(mine) - len(todo), "out": str(folder), **job.settings}


def _write(videos: Iterator[Video], names: Sequence[str], count: int, store: Any, folder: epath.Path) -> dict[str, Any]:
    """Write the outputs of `count` videos until all are written, or the job has to stop."""
    done, broken, uncovered, stopped = 0, list[str](), dict[str, int](), ""
    with Preemption() as preemption:
        for video in videos:
            name = names[video.number]
            mark = folder / f"{name}{BROKEN}"
            if video.arrays is None:
                broken.append(name)
                if len(broken) <= LOGGED:
                    log.warning("%s cannot be read: %s", name, video.reason)
                write_text(mark, video.reason + "\n")
                continue
            store.add(name, video.arrays)
            mark.unlink(missing_ok=True)
            done += 1
            if video.arrays["uncovered"]:
                uncovered[name] = int(video.arrays["uncovered"])
            stopped = sharing.asked_to_stop(preemption) if done + len(broken) < count else ""
            if stopped:
                break
    store.flush()
    _log_uncovered(uncovered)
    result = {"videos": done, "broken": broken}
    result |= {"uncovered": {"videos": len(uncovered), "frames": sum(uncovered.values())}}
    if stopped:
        result |= {"resume": True, "error": f"stopped by {stopped}; the same command continues"}
    return result


def _log_uncovered(uncovered: dict[str, int]) -> None:
    """Log which videos have frames that no window covers."""
    if uncovered:
        names = ", ".join(list(uncovered)[:SHOWN]) + (" …" if len(uncovered) > SHOWN else "")
        log.warning(
            "%d frames of %d videos (%s) are after the last window: --tail=end covers them; `uncovered` in each output "
            "has their number", sum(uncovered.values()), len(uncovered), names,
        )  # fmt: skip


def _state(job: _Job, folder: epath.Path, part: sharing.Share, result: dict[str, Any], limit: float) -> dict[str, Any]:
    """Return whether all videos of all parts have been dealt with, and record it in OUT; report unreadable ones."""
    store = _store(job, folder)
    left = [name for name in job.names if not store.has(name)]
    broken = [name for name in left if (folder / f"{name}{BROKEN}").exists()]
    missing = len(left) - len(broken)
    if missing == 0 and len(broken) == len(job.names):
        reason = (folder / f"{broken[0]}{BROKEN}").read_text().strip()
        raise ConfigError(f"none of the {len(broken)} videos can be read; the first: {broken[0]}: {reason}")
    if missing == 0 and (result["videos"] or not (folder / COMPLETE).exists()):
        write_text(folder / COMPLETE, json.dumps({"videos": len(job.names), "broken": broken}, indent=2) + "\n")
    shard = {"shard": str(part)} if part.count > 1 else {}
    return {"complete": missing == 0, "missing": missing, **shard, **_unreadable(job, folder, broken, missing, limit)}


def _unreadable(job: _Job, folder: epath.Path, broken: Sequence[str], missing: int, limit: float) -> dict[str, Any]:
    """Log how many videos could not be read; once all have been tried, too many of them are an error."""
    if not broken:
        return {}
    tried = len(job.names) - missing
    names = ", ".join(broken[:SHOWN]) + (" …" if len(broken) > SHOWN else "")
    message = (
        f"{len(broken):,} of {tried:,} videos could not be read ({len(broken) / tried:.0%}): {names}; the reasons are "
        f"in {folder}/NAME{BROKEN}" + ("" if missing else f", all names in {folder}/{COMPLETE}")
    )
    if missing == 0 and too_many(len(broken), len(job.names), len(job.names), limit):
        message += f". The limit is {limit:.0%}; raise --max-bad-fraction to accept this. All others are written"
        log.error("%s", message)
        return {"exit": 1, "error": message}
    log.warning("%s", message)
    return {}
