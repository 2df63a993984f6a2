"""Decoding in child processes, so that a decoder may crash, hang or be killed at no cost but time.

FFmpeg is large C code that reads strangers' files. It runs in small processes (NumPy, PyAV and
Pillow; no JAX, no TensorFlow). A video is broken only if its decoder crashes or exceeds `timeout`
twice, each time in a process of its own. The limit counts processor time: a worker that is stopped, or
that waits for a slow disk or a busy machine, is no evidence against the video. A worker killed from
outside, at any moment, is replaced.
"""

import atexit
import logging
import os
import queue
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from vmae_jax.data.decode import Sampler, Wanted
from vmae_jax.data.process import Decoded, Died, NoWorkerError, Process, TimedOut, settings
from vmae_jax.data.streams.core import NONE, ArraySpec, Streams
from vmae_jax.data.video import BadVideo, Encoded

__all__ = ["Closed", "Decoded", "NoWorkerError", "Workers", "available_cores"]

STARTS = 5  # failed starts in a row after which workers cannot start at all
PAUSE_SECONDS = 0.25  # before the second start; doubles
KILLS = 5  # times that a worker may be killed from outside while it has a video
CRASHES = 2  # crashes or time-outs after which the video is broken
MEMORY = 8 << 30  # bytes of address space for a worker
LIFETIME = 20_000  # videos after which a worker is replaced, should a decoder lose memory
_open: "weakref.WeakSet[Workers]" = weakref.WeakSet()
log = logging.getLogger(__name__)


class Closed(RuntimeError):  # noqa: N818 - no error: somebody stopped
    """The workers were closed while a video was waited for."""


def available_cores() -> int:
    """The processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """A fixed number of decoding processes behind one thread-safe call, `decode`.

    Args:
      count: processes; each is started when first needed and replaced when it dies.
      sampler: chooses the frames; pickled to the workers, so it must be importable there.
      crop: what of the frames is shown (`crops.leading`); by default whole frames.
      channels: 3 (RGB) or 1 (grey).
      streams: what is read beside the pictures.
      timeout: seconds of processor time that a video may take.
      memory: bytes of address space a worker may use.
    """

    def __init__(
        self,
        count: int,
        *,
        sampler: Sampler,
        crop: Any = None,
        channels: int = 3,
        streams: Streams = NONE,
        timeout: float = 30.0,
        memory: int = MEMORY,
    ) -> None:
        job = {"sampler": sampler, "crop": crop, "channels": channels, "streams": streams}
        self._specs = {"video": ArraySpec((None, None, None, channels), np.uint8), **streams.specs()}
        self._settings = settings(job, timeout=timeout, memory=memory)
        self._timeout = timeout
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._running: set[Process] = set()
        self._idle: queue.SimpleQueue[Process | None] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(None)  # a place for a process that is not started yet
        _open.add(self)

    def decode(self, encoded: Encoded, seed: np.ndarray, wanted: Sequence[Wanted] | None = None) -> Decoded:
        """Clips of one video, as `decode.read_clips`; blocks while all workers are busy.

        Raises:
          BadVideo: if it cannot be read, or crashes the decoder or takes longer than `timeout` twice.
          Closed: if `close` was called.
          NoWorkerError: if workers cannot start.
          RuntimeError: if the sampler itself fails.
        """
        crashes = kills = 0
        while True:
            try:
                return self._attempt((encoded, seed, wanted))
            except Died as error:
                crashes, kills = crashes + (not error.outside), kills + error.outside
                if crashes == CRASHES or kills == KILLS:
                    if isinstance(error, TimedOut):
                        raise BadVideo(str(error)) from error
                    raise BadVideo(f"crashes the decoder ({error})") from error
                if error.outside:  # when memory is short the next one would be killed as well
                    self._closed.wait(PAUSE_SECONDS * 2 ** (kills - 1))

    def close(self) -> None:
        """Ends every worker and waits until they are gone; calls in progress raise `Closed`."""
        self._closed.set()
        with self._lock:
            for process in self._running:
                process.kill()
        while True:
            try:
                process = self._idle.get_nowait()
            except queue.Empty:
                break
            if process is not None:
                self._drop(process)
        self._idle.put(None)  # wakes a waiting call, which wakes the next

    def _attempt(self, job: tuple[Any, ...]) -> Decoded:
        process = self._idle.get()
        try:
            if self._closed.is_set():
                raise Closed("the decoding workers are closed")
            if process is not None and not process.running():  # killed while it had nothing to do
                self._drop(process)
                process = None
            process = process or self._start()
            return process.run(job, self._timeout)
        except (Died, BadVideo) as error:
            if self._closed.is_set():
                raise Closed("the decoding workers are closed") from error
            raise
        finally:
            if process is not None and (self._closed.is_set() or not process.alive or process.jobs >= LIFETIME):
                self._drop(process)
                process = None
            self._idle.put(process)

    def _start(self) -> "Process":
        """Start a process; one that is killed or stands still while it starts is replaced.

        Raises:
          Closed: if `close` was called.
          NoWorkerError: if it fails `STARTS` times in a row.
        """
        reason = ""
        for failed in range(STARTS):
            if failed:
                self._closed.wait(PAUSE_SECONDS * 2 ** (failed - 1))
            if self._closed.is_set():
                raise Closed("the decoding workers are closed")
            try:
                return self._started()
            except (NoWorkerError, OSError) as error:  # OSError: no process, file or memory for it
                reason = str(error)
                log.debug("a decoding worker did not start: %s", reason)
        if self._closed.is_set():
            raise Closed("the decoding workers are closed")
        raise NoWorkerError(f"decoding workers cannot start, {STARTS} attempts failed; the last one: {reason}")

    def _started(self) -> "Process":
        process = Process(self._settings, self._specs)
        with self._lock:
            self._running.add(process)
        if self._closed.is_set():
            process.kill()
        try:
            process.wait_ready()
        except NoWorkerError:
            self._drop(process)
            raise
        return process

    def _drop(self, process: "Process") -> None:
        with self._lock:
            self._running.discard(process)
        process.release()


@atexit.register
def _close_all() -> None:
    for workers in list(_open):
        workers.close()
