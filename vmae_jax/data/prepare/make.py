"""Makes one shard: every video of it in turn, each record written as soon as it is encoded."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from vmae_jax.data.prepare.examples import examples
from vmae_jax.data.prepare.inputs import Part
from vmae_jax.data.prepare.produce import alarm
from vmae_jax.data.prepare.record import SIDE_BYTES, Options, serialize, stored_label
from vmae_jax.data.prepare.shards import Layout, write_whole
from vmae_jax.data.streams.core import side_of
from vmae_jax.data.video import BadVideo, Encoded, Kind, MachineFault

__all__ = ["make_shard"]

_ARRAY_RECORD = "group_size:1,uncompressed,max_parallelism:1"  # videos do not compress; little waits in memory


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """All that the process which makes a shard has to know.

    Attributes:
      number: of the shard.
      shards: how many there are.
      layout: where it goes.
      options: how videos are stored.
      part: its videos.
      keys: their names, or None: the source's records have their own.
      kinds: the labels that are stored.
      timeout: seconds in which a decoder has to give the next frame.
    """

    number: int
    shards: int
    layout: Layout
    options: Options
    part: Part
    keys: Sequence[str] | None
    kinds: dict[str, Any]
    timeout: float

    def run(self, crashed: Mapping[int, str], report: Callable[..., None]) -> None:
        """Make the shard, in a process of its own; see `produce.Job`."""
        make_shard(self, crashed, report)


def make_shard(job: ShardJob, crashed: Mapping[int, str], report: Callable[..., None]) -> None:
    """Write a shard and its summary, each whole or not at all.

    Args:
      job: the shard.
      crashed: videos that cannot even be tried, and why.
      report: called with `at=`, the video that is begun, and with `done=` and what came of it.
    """
    total = _Total()
    with _temporary(job) as path:
        with _writer(path, job.options.file_format) as write:
            for index in range(len(job.part)):
                report(at=index)
                before = total.examples
                try:
                    _write_video(job, index, crashed, write, total)
                except BadVideo as error:
                    total.reject(_key(job, index), error, kept=total.examples - before)
                report(done=index, rejected=len(total.rejected), seconds=total.seconds)
        summary = {
            "shard": job.number,
            "file_bytes": os.path.getsize(path),
            "sha256": _digest(path),
            **dataclasses.asdict(total),
            "seconds": round(total.seconds, 3),
        }
        _publish(path, job.layout.shard(job.number, job.shards))
    write_whole(job.layout.report(job.number), summary)


@dataclasses.dataclass
class _Total:
    """What is in a shard so far."""

    videos: int = 0
    examples: int = 0
    frames: int = 0
    seconds: float = 0.0
    bytes: int = 0
    rejected: list[tuple[str, Kind, str]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(self, fields: Mapping[str, Any], size: int) -> None:
        self.examples += 1
        self.bytes += size
        self.frames += fields["num_frames"]
        self.seconds += fields["num_frames"] / fields["rate"]

    def reject(self, key: str, error: BadVideo, kept: int) -> None:
        """Note a video that cannot be read, of which so many parts were written."""
        note = f" (the {kept} parts before are kept)" if kept else ""
        self.rejected.append((key, error.kind, f"{error}{note}"))


def _write_video(
    job: ShardJob, index: int, crashed: Mapping[int, str], write: Callable[[bytes], Any], total: _Total
) -> None:
    if index in crashed:
        raise BadVideo(crashed[index])
    with alarm(job.timeout) as alive:
        encoded = job.part.fetch(index)
        key = _key(job, index, encoded)
        sides = {name: _side(encoded, name) for name, kind in job.kinds.items() if kind in ("side", "text")}
        kinds = {name: kind for name, kind in job.kinds.items() if name not in sides}
        labels = {name: stored_label(kind, encoded.labels.get(name)) for name, kind in kinds.items()}
        unused = () if "side" in job.kinds.values() else ("frame_numbers",)
        for fields in examples(encoded, job.options, key=key, note=total.notes.append, alive=alive):
            stored = {name: value for name, value in fields.items() if name not in unused}
            record = serialize(stored | labels | sides)
            total.add(fields, len(record))
            write(record)
    total.videos += 1


def _side(encoded: Encoded, name: str) -> bytes:
    """What is beside a video under a name, as it is stored: its bytes, none where there is nothing.

    Raises:
      BadVideo: if it cannot be read or is too large; it begins with the name.
    """
    try:
        side = side_of(encoded, name)
        return (side.read(SIDE_BYTES) or b"") if side is not None else b""
    except BadVideo as error:
        raise BadVideo(f"{name}: {error}", error.kind) from error


def _key(job: ShardJob, index: int, encoded: Encoded | None = None) -> str:
    if job.keys is not None:
        return job.keys[index]
    return encoded.key.partition("/")[2] if encoded is not None else f"record {index} of shard {job.number}"


@contextlib.contextmanager
def _writer(path: str, file_format: str) -> Iterator[Callable[[bytes], Any]]:
    if file_format == "tfrecord":
        from vmae_jax.data.tf import tensorflow

        failures: type[Exception] = tensorflow().errors.OpError
        writer: Any = tensorflow().io.TFRecordWriter(path)
    else:
        from array_record.python.array_record_module import ArrayRecordWriter

        failures, writer = RuntimeError, ArrayRecordWriter(path, _ARRAY_RECORD)

    def call(function: Callable[..., Any], *arguments: Any) -> None:
        try:
            function(*arguments)
        except failures as error:  # a full disk, a limit on the size of files
            raise MachineFault(f"{path} cannot be written: {' '.join(str(error).split())[:200]}") from error

    try:
        yield functools.partial(call, writer.write)
    finally:
        call(writer.close)


@contextlib.contextmanager
def _temporary(job: ShardJob) -> Iterator[str]:
    """A file beside the result (of a bucket: on this machine's disk), gone at the end."""
    work = job.layout.work
    work.mkdir(parents=True, exist_ok=True)
    folder = tempfile.gettempdir() if "://" in os.fspath(work) else os.fspath(work)
    path = os.path.join(folder, f"shard-{job.number:05d}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _publish(path: str, target: epath.Path) -> None:
    if "://" in os.fspath(target):
        epath.Path(path).copy(target, overwrite=True)
        return
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    shutil.move(path, os.fspath(target))  # a rename: it is the same disk


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
