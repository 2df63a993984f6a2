"""One decoding process: what it does, and how the trainer holds it, with its shared memory and its time limit.

`python -m vmae_jax.data.process FD PARENT` is started by `Process`. It reads jobs from a socket and answers with the
arrays of clips: pictures, and the streams beside them, in memory that the trainer made (`slabs`).
"""

import json
import os
import pickle
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vmae_jax.data.sandbox import Child, begin, opening, receive, send
from vmae_jax.data.slabs import SLAB, Given, Slabs, size_of
from vmae_jax.data.streams.core import ArraySpec
from vmae_jax.data.video import BadVideo, MachineFault

__all__ = ["Decoded", "Died", "NoWorkerError", "Process", "TimedOut", "main", "processor_seconds", "settings"]

START_SECONDS = 120.0
STILL = 10.0  # times `timeout`: how long a worker may stand still, for what waits does not use the processor
OUTSIDE = (signal.SIGKILL, signal.SIGTERM)  # no decoder ends itself by these: the system or a person did
GRACE_SECONDS = 5.0  # the worker's own alarm rings this much later than the trainer's
SLICE_SECONDS = 0.5  # of waiting for an answer; a longer one counts double at most: we were suspended ourselves


class Decoded(NamedTuple):
    """What a worker made of a video.

    Attributes:
      arrays: "video", uint8 [clips t h w c], and those of the streams, in memory that is used again once nothing
        refers to it.
      decoding: seconds of processor time for opening and decoding.
      cropping: seconds of processor time for cropping and scaling.
    """

    arrays: dict[str, np.ndarray]
    decoding: float
    cropping: float


class NoWorkerError(RuntimeError):
    """Decoding workers cannot run on this machine; no video is at fault."""


class Died(Exception):  # noqa: N818 - turned into BadVideo
    """The worker ended in the middle of a job; the message is how.

    Attributes:
      outside: whether it was killed from outside.
    """

    def __init__(self, message: str, *, outside: bool = False):
        super().__init__(message)
        self.outside = outside


class TimedOut(Died):
    """The worker had to be ended, because the job took too long."""


def settings(job: dict[str, Any], *, timeout: float, memory: int) -> dict[str, Any]:
    """Return what a process is started with.

    Args:
      job: the sampler, the crop, the channels and the streams; they must be importable in the process.
      timeout: seconds of processor time that a video may take.
      memory: bytes of address space.
    """
    limits = {"timeout": timeout + GRACE_SECONDS, "still": STILL * timeout + GRACE_SECONDS}
    return opening(job, memory=memory) | limits


class Process(Child):
    """A process that decodes."""

    def __init__(self, settings: dict[str, Any], specs: Mapping[str, ArraySpec]) -> None:
        super().__init__("vmae_jax.data.process", settings)
        self._specs = specs  # of the arrays that it gives for a clip
        self.jobs = 0
        self._slabs = Slabs()
        self._given: set[int] = set()  # numbers of the slabs that the worker has

    def wait_ready(self) -> None:
        """Wait until the process takes jobs.

        Raises:
          NoWorkerError: if it ends before, or is not ready in time; that is no video's fault.
        """
        try:
            self._socket.settimeout(START_SECONDS)
            self.begin()
            receive(self._socket)
        except TimeoutError as error:
            self.kill()
            raise NoWorkerError(f"not ready after {START_SECONDS:g} s") from error
        except (OSError, EOFError) as error:
            self.kill()
            raise NoWorkerError(self.last_words()) from error

    def run(self, job: tuple[Any, ...], timeout: float) -> Decoded:
        """Run one job.

        Raises:
          BadVideo: if the video cannot be read.
          MachineFault: if this machine cannot read it, whatever is in it.
          Died: if the process ended, or was ended because the job took too long.
        """
        self.jobs += 1
        arrays = None
        try:
            self._socket.settimeout(STILL * timeout)
            clock = _Patience(self._process.pid, timeout)
            send(self._socket, pickle.dumps(job))
            answer = self._answer(clock)
            if "shapes" in answer:
                arrays = self._give(self._declared(answer["shapes"]))
                answer = self._answer(clock)
            if "decoding" in answer and arrays is not None:
                return Decoded(_whole(arrays), answer["decoding"], answer["cropping"])
        except TimedOut:
            self.kill()
            raise
        except TimeoutError as error:
            self.kill()
            raise TimedOut(f"its decoder stood still for {STILL * timeout:g} s") from error
        except (OSError, EOFError) as error:
            self.kill()
            raise self._death() from error
        if "bad" in answer:
            raise BadVideo(answer["bad"], answer["kind"])
        if "machine" in answer:
            raise MachineFault(answer["machine"])
        raise RuntimeError(f"sampling frames failed in the worker: {answer.get('fault')}")

    def _answer(self, clock: "_Patience") -> dict[str, Any]:
        """Return the worker's next message; `clock` raises TimedOut when it is over."""
        ready = select.poll()
        ready.register(self._socket, select.POLLIN)
        while True:
            began, slice_ = time.monotonic(), clock.slice()
            if ready.poll(1000 * slice_):
                return json.loads(receive(self._socket))
            clock.waited(min(time.monotonic() - began, 2 * slice_))

    def _declared(self, shapes: Any) -> dict[str, ArraySpec]:
        """Return what a worker asks memory for, after checking that it is what the streams declare."""
        found = {}
        for name, spec in self._specs.items():
            shape = shapes.get(name) if isinstance(shapes, dict) and len(shapes) == len(self._specs) else None
            sides = shape if isinstance(shape, list) and len(shape) == 1 + len(spec.shape) else [-1]
            known = zip(sides[1:], spec.shape, strict=True) if shape is sides else ()
            if any(type(side) is not int or side < 0 for side in sides) or any(k not in (s, None) for s, k in known):
                self.kill()  # it waits for an answer
                raise BadVideo(f"makes its decoder ask for memory of another shape than {name!r} has")
            found[name] = ArraySpec(tuple(sides), spec.dtype)
        return found

    def _give(self, specs: Mapping[str, ArraySpec]) -> dict[str, np.ndarray]:
        """Hands the worker memory for these arrays."""
        size = size_of(specs)
        if size > self._settings["memory"]:
            self.kill()  # it waits for an answer
            raise BadVideo("needs more memory than a decoder may use")
        try:
            slab, gone = self._slabs.take(size)
        except OSError as error:
            self.kill()
            raise MachineFault(
                f"no shared memory of {size >> 20} MiB for decoded frames ({error.strerror or error}); raise the "
                f"limits on memory, open files (ulimit -n) and file size (ulimit -f)"
            ) from error
        new = slab.number not in self._given
        message = SLAB.pack(slab.number, slab.size, gone, new)
        if new:
            socket.send_fds(self._socket, [message], [slab.handle])
            self._given = {number for number in self._given if number != gone} | {slab.number}
        else:
            self._socket.sendall(message)
        return self._slabs.arrays(slab, specs)

    def release(self) -> None:
        """End the process and close what was held for it; only by the thread that uses it."""
        super().release()
        self._slabs.close()

    def _death(self) -> Died:
        ended = self.last_words()
        if -(self._process.returncode or 0) in (signal.SIGPROF, signal.SIGALRM):  # its own alarms
            return TimedOut(f"takes longer than {self._settings['timeout'] - GRACE_SECONDS:g} s to decode")
        return Died(ended, outside=-(self._process.returncode or 0) in OUTSIDE)


def _whole(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays, with truth values that are 0 or 1 whatever bytes the worker wrote."""
    return {name: array.view(np.uint8) != 0 if array.dtype == np.bool_ else array for name, array in arrays.items()}


class _Patience:
    """The time that a job may take: processor time of the worker, and a longer one in which it may stand still.

    Where a process's own time cannot be read (no /proc), the longer one alone counts.
    """

    def __init__(self, pid: int, timeout: float) -> None:
        self._pid, self._timeout = pid, timeout
        self._began = processor_seconds(pid)
        self._waited = 0.0

    def slice(self) -> float:
        """Return the seconds to wait before `waited` looks again."""
        return min(SLICE_SECONDS, self._timeout / 4)

    def waited(self, seconds: float) -> None:
        """Count `seconds` of waiting in which this process ran itself.

        Raises:
          TimedOut: if the job takes too long.
        """
        self._waited += seconds
        now = processor_seconds(self._pid)
        if now is not None and self._began is not None and now - self._began > self._timeout:
            raise TimedOut(f"takes longer than {self._timeout:g} s to decode")
        if self._waited > STILL * self._timeout:
            raise TimedOut(f"takes longer than {STILL * self._timeout:g} s to decode, most of it waiting")


def processor_seconds(pid: int) -> float | None:
    """Return the processor time of a process so far; None where the system does not show it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(arguments: list[str]) -> int:
    """Serves jobs until the trainer closes the socket."""
    try:
        connection, settings = begin(arguments)
        alarms = {signal.ITIMER_PROF: settings["timeout"], signal.ITIMER_REAL: settings["still"]}
        serve(connection, pickle.loads(settings["job"]), alarms)
    except (EOFError, ConnectionError):
        pass  # the trainer closed the socket or is gone: the end of the work
    return 0


def serve(connection: socket.socket, job: dict[str, Any], alarms: Mapping[Any, float]) -> None:
    """Answer each example with its clips or with the reason why there are none.

    Args:
      connection: to the trainer.
      job: the sampler, the crop, the channels and the streams.
      alarms: timer -> seconds that an example may take by it.
    """
    from vmae_jax.data import decode

    send(connection, b'{"ready": true}')
    given = Given(connection)
    while True:
        encoded, seed, wanted = pickle.loads(receive(connection))
        for timer, seconds in alarms.items():
            signal.setitimer(timer, seconds)
        began = time.process_time()
        try:
            read = decode.read_clips(encoded, seed=seed, wanted=wanted, allocate=given.allocate, **job)
            spent = time.process_time() - began
            answer = {"decoding": spent - read.cropping, "cropping": read.cropping}
        except BadVideo as error:
            answer = {"bad": str(error), "kind": error.kind}
        except MachineFault as error:
            answer = {"machine": str(error)}
        except MemoryError:
            answer = {"bad": "needs more memory than a decoder may use", "kind": "broken"}
        except (EOFError, ConnectionError):
            raise  # the trainer is gone
        except Exception as error:  # a sampler's own fault: reported, not hidden
            answer = {"fault": f"{type(error).__name__}: {error}"}
        finally:
            for timer in alarms:
                signal.setitimer(timer, 0)
        send(connection, json.dumps(answer).encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
