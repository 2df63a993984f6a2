"""The writers of metrics: `metrics.jsonl`, TensorBoard, or several at once.

A row of `metrics.jsonl` is a JSON object with "kind" ("train", "eval" or "event"), "step" and
"time" (seconds since 1970), then the metrics, floats in full precision. JSON has no NaN and no
infinity: they are written as the strings "NaN", "Infinity" and "-Infinity", which `float` reads.
"""

import io
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath

from vmae_jax.io import clock
from vmae_jax.io.paths import Log, read_lines
from vmae_jax.names import json_text

__all__ = ["JsonlWriter", "TensorBoardWriter", "Writer", "Writers", "number", "read_rows"]

log = logging.getLogger(__name__)
_FLUSH_SECONDS = 2.0
_RETRY_SECONDS = 60.0
_IDENTITY = ("kind", "step", "time")


class Writer(Protocol):
    """Records the metrics, pictures and events of a run."""

    def scalars(self, step: int, values: Mapping[str, Any], *, kind: str = "train") -> None:
        """Record metrics of a step; `kind` is "train" or "eval"."""
        ...

    def images(self, step: int, images: Mapping[str, Any]) -> None:
        """Record pictures of a step by name: uint8 [h w c] arrays or PIL images."""
        ...

    def event(self, step: int, name: str, **details: Any) -> None:
        """Record an event, such as a save, a resume or a fault; details are JSON-able."""
        ...

    def truncate_after(self, step: int) -> None:
        """Drop everything after `step`, to which the run has returned."""
        ...

    def flush(self) -> None:
        """Write pending rows."""
        ...

    def close(self) -> None:
        """Write pending rows, and close."""
        ...


class JsonlWriter:
    """Appends rows to a file, or to its parts in a bucket.

    Rows are written and synced every two seconds, and immediately for events and evaluations, so a kill costs at
    most two seconds of rows, of steps that are repeated anyway.

    Args:
      path: `metrics.jsonl`.
      flush_seconds: maximum time until a row is written.
    """

    def __init__(self, path: epath.PathLike, *, flush_seconds: float = _FLUSH_SECONDS):
        self._log = Log(path)
        self._rows: list[tuple[int, str]] = []  # (step, line), not written yet
        self._cut: int | None = None  # written rows after this step are still to be dropped
        self._flush_seconds = flush_seconds
        self._flushed = time.monotonic()
        self._epoch = time.time() - clock.steady()  # so that setting the clock does not move the rows of a run

    def scalars(self, step: int, values: Mapping[str, Any], *, kind: str = "train") -> None:
        taken = [name for name in values if name in _IDENTITY]
        if taken:
            raise ValueError(f"a metric cannot be named {taken[0]!r}")
        self._add({"kind": kind, "step": int(step), "time": self._now()} | {k: number(v) for k, v in values.items()})
        if kind != "train":
            self.flush()

    def images(self, step: int, images: Mapping[str, Any]) -> None:
        """Do nothing: pictures are files in `media/`."""

    def event(self, step: int, name: str, **details: Any) -> None:
        row = {"kind": "event", "step": int(step), "time": self._now(), "event": name}
        self._add(row | {key: _plain(value) for key, value in details.items() if key not in row})
        self.flush()

    def truncate_after(self, step: int) -> None:
        """Drop rows and events after `step`, so that no step is recorded twice.

        If the storage refuses, nothing else is written until it is done.
        """
        self._rows = [(at, line) for at, line in self._rows if at <= step]
        self._cut = step if self._cut is None else min(step, self._cut)
        self.flush()

    def flush(self) -> None:
        self._flushed = time.monotonic()
        cut = self._cut
        if cut is not None:
            self._log.keep(lambda line: (row := _parsed(line)) is not None and row.get("step", 0) <= cut)
            self._cut = None
        self._log.append(line for _, line in self._rows)
        self._rows.clear()
        self._log.flush()

    def close(self) -> None:
        self.flush()

    def _now(self) -> float:
        return self._epoch + clock.steady()

    def _add(self, row: dict[str, Any]) -> None:
        self._rows.append((row["step"], json_text(row, allow_nan=False)))
        if time.monotonic() - self._flushed >= self._flush_seconds:
            self.flush()


class TensorBoardWriter:
    """Scalars and pictures for TensorBoard; if it is not installed, one warning is logged.

    Args:
      path: the log folder.
    """

    def __init__(self, path: epath.PathLike):
        self._path = str(epath.Path(path))
        self._writer: Any = None
        self._available = True
        self._again = 0.0  # when a writer that failed is replaced

    def scalars(self, step: int, values: Mapping[str, Any], *, kind: str = "train") -> None:
        self._add(
            step, lambda pb: [pb.Summary.Value(tag=f"{kind}/{k}", simple_value=float(v)) for k, v in values.items()]
        )

    def images(self, step: int, images: Mapping[str, Any]) -> None:
        self._add(
            step, lambda pb: [pb.Summary.Value(tag=name, image=_png(pb, image)) for name, image in images.items()]
        )

    def event(self, step: int, name: str, **details: Any) -> None:
        """Do nothing: events are in `metrics.jsonl`."""

    def truncate_after(self, step: int) -> None:
        """Make TensorBoard discard what it has read of later steps."""
        folder = epath.Path(self._path)
        if not folder.exists():
            return
        # TensorBoard reads files in the order of their names, which begin with the second in which they were opened.
        if any(path.name.startswith(f"events.out.tfevents.{int(time.time())}.") for path in folder.iterdir()):
            time.sleep(1.0 - time.time() % 1.0)
        modules = self._open()
        if modules is not None:
            event_pb2 = modules[1]
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            event = event_pb2.Event(wall_time=time.time(), step=int(step) + 1, session_log=start)
            self._try(lambda writer: writer.add_event(event))

    def flush(self) -> None:
        if self._writer is not None:
            self._try(lambda writer: writer.flush())

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, step: int, values: Callable[[Any], list]) -> None:
        modules = self._open()
        if modules is not None:
            summary_pb2, event_pb2 = modules
            summary = summary_pb2.Summary(value=values(summary_pb2))
            event = event_pb2.Event(wall_time=time.time(), step=int(step), summary=summary)
            self._try(lambda writer: writer.add_event(event))

    def _try(self, write: Callable[[Any], None]) -> None:
        """Call `write`; a writer whose thread failed accepts nothing more, and is replaced after a while."""
        try:
            write(self._writer)
        except OSError:
            self._writer, self._again = None, time.monotonic() + _RETRY_SECONDS
            raise

    def _open(self) -> tuple[Any, Any] | None:
        """Return the protocol modules; importing them imports TensorFlow, if it is installed."""
        if not self._available or (self._writer is None and time.monotonic() < self._again):
            return None
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            self._available = False
            log.warning("no TensorBoard logs: %s (pip install tensorboard)", error)
            return None
        if self._writer is None:
            self._writer = EventFileWriter(self._path)
        return summary_pb2, event_pb2


class Writers:
    """Several writers as one; failures are counted, and logged once per kind, and never stop a run.

    Attributes:
      errors: number of failures so far, by kind of writer.

    Args:
      writers: the writers.
    """

    def __init__(self, writers: Sequence[Writer]):
        self._writers = list(writers)
        self.errors: dict[str, int] = {}

    def write(self, row: Mapping[str, Any]) -> None:
        """Record a row of the loop: "kind" (train, eval, event), "step", and the values."""
        values = {key: value for key, value in row.items() if key not in ("kind", "step", "event")}
        if row["kind"] == "event":
            self.event(row["step"], row["event"], **values)
        else:
            self.scalars(row["step"], values, kind=row["kind"])

    def scalars(self, step: int, values: Mapping[str, Any], *, kind: str = "train") -> None:
        self._each(lambda writer: writer.scalars(step, values, kind=kind))

    def images(self, step: int, images: Mapping[str, Any]) -> None:
        self._each(lambda writer: writer.images(step, images))

    def event(self, step: int, name: str, **details: Any) -> None:
        self._each(lambda writer: writer.event(step, name, **details))

    def truncate_after(self, step: int) -> None:
        self._each(lambda writer: writer.truncate_after(step))

    def flush(self) -> None:
        self._each(lambda writer: writer.flush())

    def close(self) -> None:
        self._each(lambda writer: writer.close())

    def attempt(self, name: str, write: Callable[[], Any]) -> None:
        """Call `write`; a failure is counted under `name`, and logged once."""
        try:
            write()
        except Exception as error:
            self.errors[name] = self.errors.get(name, 0) + 1
            if self.errors[name] == 1:
                reason = " ".join(str(error).split()) or type(error).__name__
                log.warning("%s failed, training continues without its output: %s", name, reason)

    def _each(self, record: Callable[[Writer], None]) -> None:
        for writer in self._writers:
            self.attempt(type(writer).__name__, lambda writer=writer: record(writer))


def read_rows(path: epath.PathLike) -> list[dict[str, Any]]:
    """Return the rows of a `metrics.jsonl`, without lines that are not JSON objects."""
    return [row for line in read_lines(path) if (row := _parsed(line)) is not None]


def number(value: Any) -> int | float | str:
    """Return a metric as a JSON value: a number, or a string if it is not finite."""
    value = np.asarray(value)
    if value.size != 1:
        raise ValueError(f"a metric must be one number, got an array of shape {value.shape}")
    value = value.reshape(()).astype(np.float64) if value.dtype.kind not in "iub" else value.reshape(())
    plain = value.item()
    if isinstance(plain, bool | int) or math.isfinite(plain):
        return plain
    return "NaN" if math.isnan(plain) else "Infinity" if plain > 0 else "-Infinity"


def _plain(value: Any) -> Any:
    """Return details of an event as JSON values."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    try:
        return number(value)
    except (TypeError, ValueError):
        return str(value)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step", 0), int) else None


def _png(summary_pb2: Any, image: Any) -> Any:
    from PIL import Image

    picture = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image, np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    width, height = picture.size
    return summary_pb2.Summary.Image(
        height=height, width=width, colorspace=len(picture.getbands()), encoded_image_string=buffer.getvalue()
    )
