"""A lock that allows one run per workdir, and that a crash releases.

On a disk the kernel holds the lock (`flock`) and releases it when the process ends in any way. The file also names
the holder, for the message to another run, and has a lease for storage where the lock of the kernel does not reach
other machines: the running job renews it every `RENEW` seconds, and it expires after `LEASE` seconds without renewal.
A bucket has no locks, so there the lease decides: of several runs that claim it at once, the last one gets it.
Clocks of machines are not compared: a run that finds a lease watches whether it is renewed.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from typing import Any, NamedTuple

from etils import epath

from vmae_jax.io import clock
from vmae_jax.io.paths import in_bucket, write_bytes
from vmae_jax.spec import ConfigError

__all__ = ["FILE", "LEASE", "RENEW", "Holder", "Lock"]

log = logging.getLogger(__name__)
FILE = "run.lock"
RENEW = 10.0
LEASE = 60.0
SETTLE = 3.0  # seconds after which a claim in a bucket is checked again: all simultaneous claims are visible by then
DYING = 10.0  # seconds that the kernel may take to close the files of a dead process
STATUS = 75  # of a run that lost its lock: the same command resumes, or is refused
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class Holder(NamedTuple):
    """The holder of a lock; `since` is text, and `ticks` the start of the process in ticks of the kernel.

    `boot` and `space` name the running kernel and the numbering of processes in which `pid` means something.
    """

    token: str
    host: str
    pid: int
    ticks: str
    boot: str
    space: str
    since: str
    renewed: float
    count: int

    def here(self) -> bool:
        """Whether the holder runs, or ran, on this machine, so that the lock of the kernel decides."""
        return self.boot == clock.boot() and (bool(self.boot) or self.host == socket.gethostname())

    def alive(self) -> bool | None:
        """Return whether the process exists, or None if that cannot be determined here."""
        if not self.here() or self.space != _space() or not self.ticks:
            return None
        return _ticks(self.pid) == self.ticks


_KINDS = tuple(type(value) for value in Holder("", "", 0, "", "", "", "", 0.0, 0))


class Lock:
    """The lock of a workdir; use as a context, which releases it, and call `acquire` inside.

    Args:
      folder: the workdir; created by `acquire`.
    """

    def __init__(self, folder: epath.PathLike):
        self._folder = epath.Path(folder)
        self._path = self._folder / FILE
        self._file: int | None = None  # whose lock the kernel holds
        self._kernel = not in_bucket(self._folder)
        self._mine: Holder | None = None
        self._left = ""  # the token of a dead holder, if a full disk kept this run from writing its own
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock, and renew it until `release`.

        Raises:
          ConfigError: if another run has it, or this user may not write there.
          OSError: if the storage cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._kernel:
                self._lock_file()
            self._take()
        except PermissionError as error:
            self._close()
            raise ConfigError(f"--workdir={self._folder} cannot be written: {error}. Use another --workdir") from error
        except BaseException:
            self._close()
            raise
        self._thread = threading.Thread(target=self._renew, name="workdir lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Release the lock, if it was taken."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(RENEW)  # it may wait for storage that hangs
            self._thread = None
        if self._mine is not None:
            try:
                found = self._read()
                if found is not None and found.token == self._mine.token:
                    self._path.unlink()
            except Exception as error:  # the kernel's lock ends with the process, and the lease expires
                log.warning("%s was not removed: %s", self._path, error)
            self._mine = None
        self._close()

    def _lock_file(self) -> None:
        """Open the file with the kernel's lock on it."""
        end = time.monotonic() + DYING
        while True:
            file = os.open(os.fspath(self._path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                holder = self._read()
                if holder is None and time.monotonic() < end - DYING + 1.0:  # it is being written
                    time.sleep(0.02)
                    continue
                if holder is None or holder.alive() is not False or time.monotonic() > end:
                    raise self._taken(holder) from None
                time.sleep(0.1)
                continue
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    os.close(file)
                    raise
                log.info("%s: this storage has no locks (%s); a lease is used instead", self._path, error.strerror)
                os.close(file)
                self._kernel = False
                return
            if self._same(file):
                self._file = file
                return
            os.close(file)  # its holder removed the file at this moment

    def _same(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(os.fspath(self._path)))
        except FileNotFoundError:
            return False

    def _take(self) -> None:
        found = self._read()
        if found is not None and not self._stale(found):
            self._await_expiry(found)
        self._left = found.token if found is not None else ""
        self._mine = _myself()
        self._write(self._mine)
        if not self._kernel:
            time.sleep(SETTLE)
            found = self._read()
            if found is None or found.token != self._mine.token:
                self._mine = None
                raise self._taken(found)

    def _stale(self, found: Holder) -> bool:
        """Whether the holder is certainly dead."""
        if found.here():
            alive = found.alive()
            if alive and not self._kernel:
                time.sleep(SETTLE)  # of several that start at once another may get it
                raise self._taken(self._read() or found)
            return self._kernel or alive is False
        # The same machine after it was started again has the same clock.
        return found.host == socket.gethostname() and time.time() - found.renewed > LEASE

    def _await_expiry(self, found: Holder) -> None:
        log.warning(
            "%s: process %d on %s had this workdir (since %s); continuing in %g s unless it gives a sign of life",
            self._folder, found.pid, found.host, found.since, LEASE,
        )  # fmt: skip
        end = time.monotonic() + LEASE
        while time.monotonic() < end:
            time.sleep(min(1.0, LEASE / 10))
            now = self._read()
            if now is None:
                return
            if (now.token, now.count) != (found.token, found.count):
                raise self._taken(now)

    def _taken(self, holder: Holder | None) -> ConfigError:
        who = f"process {holder.pid} on {holder.host}, since {holder.since}" if holder is not None else "a process"
        return ConfigError(
            f"--workdir={self._folder}: another run is training there ({who}). "
            f"Wait until it ends, stop it, or use another --workdir"
        )

    def _renew(self) -> None:
        while not self._stop.wait(RENEW):
            assert self._mine is not None
            try:
                found = self._read()
                if found is not None and found.token not in (self._mine.token, self._left):
                    self._lost(found)
                self._mine = self._mine._replace(renewed=time.time(), count=self._mine.count + 1)
                self._write(self._mine)
            except Exception as error:  # a bucket has errors of its own; the next attempt may be better
                log.debug("%s was not renewed: %s", self._path, error)

    def _lost(self, found: Holder) -> None:
        """End this process at once: another run continues in its workdir."""
        with contextlib.suppress(OSError):  # a closed terminal must not keep this process
            print(
                f"vmae: --workdir={self._folder} was taken over by process {found.pid} on {found.host}, because this "
                f"one gave no sign of life for {LEASE:g} s",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        os._exit(STATUS)

    def _read(self) -> Holder | None:
        try:
            if not self._path.exists():  # a bucket's client has errors of its own for what is not there
                return None
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        with contextlib.suppress(ValueError, TypeError):  # empty, half written, or not a lock
            found = Holder(**json.loads(content))
            if all(isinstance(value, kind) for value, kind in zip(found, _KINDS, strict=True)):
                return found
        return None

    def _write(self, holder: Holder) -> None:
        content = json.dumps(holder._asdict()).encode()
        if self._file is None:
            write_bytes(self._path, content)
            return
        try:
            os.pwrite(self._file, content, 0)
            os.ftruncate(self._file, len(content))
        except OSError as error:  # the kernel's lock needs no room on the disk
            log.debug("%s: %s", self._path, error)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _myself() -> Holder:
    return Holder(
        token=uuid.uuid4().hex,
        host=socket.gethostname(),
        pid=os.getpid(),
        ticks=_ticks(os.getpid()),
        boot=clock.boot(),
        space=_space(),
        since=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        renewed=time.time(),
        count=0,
    )


def _space() -> str:
    """Return an id of the namespace of process numbers; each container has its own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _ticks(pid: int) -> str:
    """Return the start of a process in ticks of the kernel, or "" if it does not exist or is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields: list[Any] = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
