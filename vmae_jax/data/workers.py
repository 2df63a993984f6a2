"""Decoding in child processes, so that a decoder may crash, hang or be killed at no cost but time.

FFmpeg is large C code that reads strangers' files. It runs in small processes (NumPy, PyAV and
Pillow; no JAX, no TensorFlow). A crash costs a retry and then one example; a decoder that hangs
is killed after `timeout` seconds and costs one example.
"""

import atexit
import json
import math
import os
import pickle
import queue
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vmae_jax.data.decode import Sampler, Wanted
from vmae_jax.data.slabs import Slabs
from vmae_jax.data.video import BadVideo, Encoded, MachineFault
from vmae_jax.data.worker import SLAB, receive, send

__all__ = ["Closed", "Decoded", "Workers", "available_cores"]

START_SECONDS = 60.0
GRACE_SECONDS = 5.0  # the worker's own alarm rings this much later than the trainer's
MEMORY = 8 << 30  # bytes of address space for a worker
SLICE_SECONDS = 1.0  # of waiting for an answer; a longer one counts double at most: we were suspended ourselves
LIFETIME = 20_000  # videos after which a worker is replaced, should a decoder lose memory
_open: "weakref.WeakSet[Workers]" = weakref.WeakSet()


class Closed(RuntimeError):  # noqa: N818 - no error: somebody stopped
    """The workers were closed while a video was waited for."""


class Decoded(NamedTuple):
    """What a worker made of a video.

    Attributes:
      clips: uint8 [clips t h w c], in memory that is used again once nothing refers to it.
      decoding: seconds of processor time for opening and decoding.
      cropping: seconds of processor time for cropping and scaling.
    """

    clips: np.ndarray
    decoding: float
    cropping: float


class _Died(Exception):  # noqa: N818 - turned into BadVideo
    """The worker ended in the middle of a job; the message says how."""


def available_cores() -> int:
    """The processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """A fixed number of decoding processes behind one thread-safe call, `decode`.

    Args:
      count: processes; each is started when first needed and replaced when it dies.
      sampler: chooses the frames; pickled to the workers, so it must be importable there.
      crop: what of the frames is shown (`transforms.leading`); by default whole frames.
      channels: 3 (RGB) or 1 (grey).
      timeout: seconds a video may take.
      memory: bytes of address space a worker may use.
    """

    def __init__(
        self,
        count: int,
        *,
        sampler: Sampler,
        crop: Any = None,
        channels: int = 3,
        timeout: float = 30.0,
        memory: int = MEMORY,
    ) -> None:
        self._settings = {
            "path": [path or os.getcwd() for path in sys.path],
            "memory": memory,
            "timeout": timeout + GRACE_SECONDS,
            "job": pickle.dumps({"sampler": sampler, "crop": crop, "channels": channels}),
        }
        self._timeout = timeout
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._running: set[_Process] = set()
        self._idle: queue.SimpleQueue[_Process | None] = queue.SimpleQueue()
        for _ in range(count):
            self._idle.put(None)  # a place for a process that is not started yet
        _open.add(self)

    def decode(self, encoded: Encoded, seed: np.ndarray, wanted: Sequence[Wanted] | None = None) -> Decoded:
        """Clips of one video, as `decode.read_clips`; blocks while all workers are busy.

        Raises:
          BadVideo: it cannot be read, takes longer than `timeout`, or crashes the decoder twice.
          Closed: `close` was called.
          RuntimeError: a worker cannot start, or the sampler itself fails.
        """
        reason = ""
        for _ in range(2):  # a worker that died may have been killed from outside: try once more
            try:
                return self._attempt((encoded, seed, wanted))
            except _Died as error:
                reason = str(error)
        raise BadVideo(f"crashes the decoder ({reason})")

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
            process = process or self._start()
            return process.run(job, self._timeout)
        except (_Died, BadVideo) as error:
            if self._closed.is_set():
                raise Closed("the decoding workers are closed") from error
            raise
        finally:
            if process is not None and (self._closed.is_set() or not process.alive or process.jobs >= LIFETIME):
                self._drop(process)
                process = None
            self._idle.put(process)

    def _start(self) -> "_Process":
        process = _Process(self._settings)
        with self._lock:
            self._running.add(process)
        if self._closed.is_set():
            process.kill()
        try:
            process.wait_ready()
        except RuntimeError:
            self._drop(process)
            if self._closed.is_set():
                raise Closed("the decoding workers are closed") from None
            raise
        return process

    def _drop(self, process: "_Process") -> None:
        with self._lock:
            self._running.discard(process)
        process.release()


class _Process:
    """One worker process and our end of its socket."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._socket, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vmae_jax.data.worker", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(settings["path"])},
                start_new_session=True,  # an interrupt from the keyboard is the trainer's business
            )
        self.alive = True
        self.jobs = 0
        self._slabs = Slabs()
        self._given: set[int] = set()  # numbers of the slabs that the worker has

    def wait_ready(self) -> None:
        """Raises RuntimeError when the worker cannot start at all: that is no video's fault."""
        try:
            self._socket.settimeout(START_SECONDS)
            send(self._socket, pickle.dumps(self._settings))
            receive(self._socket)
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            self.kill()
            raise RuntimeError(f"a decoding worker did not start: {self._how_it_ended()}") from error

    def run(self, job: tuple[Any, ...], timeout: float) -> Decoded:
        """One job. Raises BadVideo, or _Died when the process ended."""
        self.jobs += 1
        clips = None
        try:
            self._socket.settimeout(timeout)
            send(self._socket, pickle.dumps(job))
            answer = self._answer(timeout)
            if "shape" in answer:
                clips = self._give(answer["shape"])
                answer = self._answer(timeout)
            if "decoding" in answer and clips is not None:
                return Decoded(clips, answer["decoding"], answer["cropping"])
        except TimeoutError as error:
            self.kill()
            raise BadVideo(f"takes longer than {timeout:g} s to decode") from error
        except (OSError, EOFError) as error:
            self.kill()
            raise _Died(self._how_it_ended()) from error
        if "bad" in answer:
            raise BadVideo(answer["bad"], answer["kind"])
        if "machine" in answer:
            raise MachineFault(answer["machine"])
        raise RuntimeError(f"sampling frames failed in the worker: {answer.get('fault')}")

    def _answer(self, timeout: float) -> dict[str, Any]:
        """What the worker says next. Raises TimeoutError: nothing, in so many seconds in which this process ran.

        A machine or a container that was suspended meanwhile says nothing against the video.
        """
        ready, waited = select.poll(), 0.0
        ready.register(self._socket, select.POLLIN)
        while waited < timeout:
            began, patience = time.monotonic(), min(SLICE_SECONDS, timeout - waited)
            if ready.poll(1000 * patience):
                return json.loads(receive(self._socket))
            waited += min(time.monotonic() - began, 2 * patience)
        raise TimeoutError

    def _give(self, shape: list[int]) -> np.ndarray:
        """Hands the worker memory for clips of this shape."""
        size = math.prod(shape)
        if size > self._settings["memory"]:
            self.kill()  # it waits for an answer
            raise BadVideo("needs more memory than a decoder may use")
        try:
            slab, gone = self._slabs.take(size)
        except OSError as error:
            self.kill()
            raise MachineFault(
                f"{size >> 20} MiB of shared memory for decoded frames: {error.strerror or error}; raise the limits on "
                "memory, open files (ulimit -n) and file size (ulimit -f)"
            ) from error
        new = slab.number not in self._given
        message = SLAB.pack(slab.number, slab.size, gone, new)
        if new:
            socket.send_fds(self._socket, [message], [slab.handle])
            self._given = {number for number in self._given if number != gone} | {slab.number}
        else:
            self._socket.sendall(message)
        return self._slabs.array(slab, tuple(shape))

    def kill(self) -> None:
        """Ends the process and waits until it is gone; a thread reading from it wakes."""
        self.alive = False
        self._process.kill()
        self._process.wait()

    def release(self) -> None:
        """Ends the process and closes what was held for it; only by the thread that uses it."""
        self.kill()
        self._socket.close()
        self._errors.close()
        self._slabs.close()

    def _how_it_ended(self) -> str:
        status = self._process.returncode
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        if words:
            return words[-1][:300]
        return signal.Signals(-status).name if status and status < 0 else f"exit status {status}"


@atexit.register
def _close_all() -> None:
    for workers in list(_open):
        workers.close()
