"""Coordination of hosts: they start together or name those that did not, and report where each of them is.

The notes of the hosts are in the key-value store of JAX's coordination service,
which runs beside the training and needs no accelerator.
"""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax

from vmae_jax.spec import ConfigError

__all__ = [
    "PeerError",
    "check_disk",
    "coordinator",
    "facts",
    "leave_note",
    "lost_peer",
    "naming_lost_peers",
    "notes",
    "patience",
    "publish",
    "rank",
    "start",
    "together",
    "whereabouts",
]

log = logging.getLogger(__name__)
T = TypeVar("T")

EXPLICIT = ("VMAE_COORDINATOR", "VMAE_PROCESSES", "VMAE_PROCESS")
PERIOD = 1.0  # seconds between two signs of life
_LEAST_DISK = 2**30
_HEARTBEAT = 100


class PeerError(RuntimeError):
    """Another host did not come, or went; the same command resumes."""


def start(environment: Mapping[str, str] = os.environ) -> None:
    """Connects this process with the others of its job, before JAX is used for anything else.

    The environment determines the job: `VMAE_COORDINATOR` (host:port), `VMAE_PROCESSES` and
    `VMAE_PROCESS` (this one's number) together, or `VMAE_DISTRIBUTED=auto` for what JAX finds by
    itself (TPU VMs, SLURM, Open MPI, Kubernetes). Without either this process is alone.
    `VMAE_HEARTBEAT` is after how many seconds a dead process is noticed (100), `VMAE_START_TIMEOUT`
    how long to wait for the others (300).

    Raises:
      ConfigError: variables missing or malformed.
      PeerError: the others did not come in time.
    """
    if jax.distributed.is_initialized():
        return
    seconds: dict[str, Any] = {
        "initialization_timeout": _number(environment, "VMAE_START_TIMEOUT", 300),
        "heartbeat_timeout_seconds": _number(environment, "VMAE_HEARTBEAT", _HEARTBEAT),
        "shutdown_timeout_seconds": 60,
    }
    given = [name for name in EXPLICIT if environment.get(name)]
    how = environment.get("VMAE_DISTRIBUTED", "")
    if how not in ("", "auto"):
        raise ConfigError(f"VMAE_DISTRIBUTED={how}: it is auto, or not set")
    if given and len(given) < len(EXPLICIT):
        missing = [name for name in EXPLICIT if name not in given]
        raise ConfigError(f"{', '.join(given)} without {', '.join(missing)}: the three go together")
    job: dict[str, Any] = {}
    if given:
        count, rank = (_number(environment, name, 0) for name in EXPLICIT[1:])
        if not 0 <= rank < count:
            raise ConfigError(f"VMAE_PROCESS={rank}: numbers go from 0 to {count - 1} (VMAE_PROCESSES={count})")
        job = {"coordinator_address": environment[EXPLICIT[0]], "num_processes": count, "process_id": rank}
    elif not how:
        return
    try:
        jax.distributed.initialize(**job, **seconds)
    except (RuntimeError, ValueError) as error:
        raise PeerError(f"the processes of the job did not find each other: {_line(error)}") from error


def together(
    what: str, action: Callable[[], T], *, facts: Callable[[T], Mapping[str, Any]], timeout: float = 300.0
) -> T:
    """Does `action` on every host, and goes on only when all have done it with the same facts.

    Args:
      what: a name for it, used once in a run.
      facts: of the result: JSON-able, and the same on every host.
      timeout: seconds to wait for the others.

    Raises:
      ConfigError: a host differs from host 0, or failed by the user's mistake; it is named.
      PeerError: hosts that did not come, or failed; they are named.
      Exception: what `action` raised here.
    """
    client = _client()
    if client is None:
        return action()
    failure: Exception | None = None
    result: Any = None
    note: dict[str, Any] = {"host": socket.gethostname()}
    try:
        result = action()
        note["facts"] = dict(facts(result))
    except Exception as error:
        failure = error
        note |= {"error": _line(error), "mistake": isinstance(error, ConfigError)}
    client.key_value_set(f"vmae/{what}/{jax.process_index()}", json.dumps(note))
    if failure is not None:
        time.sleep(2 * PERIOD)  # the others read it before this process takes the service with it
        raise failure
    _compare(what, _gather(client, what, timeout), timeout)
    return result


def facts(config_text: str, **more: Any) -> dict[str, Any]:
    """What must be the same on all hosts: versions, config, devices, and `more`."""
    versions = {
        name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    }
    kinds = sorted({device.device_kind for device in jax.local_devices()})
    return {
        "python": platform.python_version(),
        **versions,
        "config": hashlib.sha256(config_text.encode()).hexdigest()[:12],
        "devices": f"{jax.local_device_count()} x {', '.join(kinds)}",
        **more,
    }


def check_disk(path: str, *, resuming: bool = False) -> None:
    """Refuse a local folder with next to no room.

    Args:
      path: the folder, which need not exist.
      resuming: whether a run is there already, which a full disk interrupted and room on it lets go on.

    Raises:
      ConfigError: if there is less than 1 GiB for a new run.
      OSError: ENOSPC, if there is less for a run that goes on.
    """
    if "://" in path:
        return
    folder = os.path.abspath(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    if free < _LEAST_DISK:
        message = f"only {free / 2**30:.2f} GiB free at {folder}, at least {_LEAST_DISK / 2**30:g} are needed"
        if resuming:
            raise OSError(errno.ENOSPC, message)
        raise ConfigError(f"{message}: make room, or use another --workdir")


def rank() -> int:
    """This process's number; does not start JAX's backend."""
    from jax._src import distributed

    return distributed.global_state.process_id or 0


def publish(text: str, count: int) -> None:
    """Leaves a sign of life; blocks where the coordinator is stopped."""
    leave_note("alive", {"host": socket.gethostname(), "at": text, "count": count})


def leave_note(what: str, note: Mapping[str, Any]) -> None:
    """Leaves a JSON-able note of this process for the others of its job; nothing where it is alone."""
    client = _client()
    if client is not None:
        client.key_value_set(f"vmae/{what}/{rank()}", json.dumps(note), allow_overwrite=True)


def notes(what: str) -> dict[int, Any]:
    """The notes that processes of the job have left, by process."""
    client = _client()
    if client is None:
        return {}
    found = client.key_value_dir_get(f"vmae/{what}/")
    return {int(key.rpartition("/")[2]): json.loads(value) for key, value in found}


def patience(environment: Mapping[str, str] = os.environ) -> float:
    """Return the seconds that the coordinator may take to answer: less than JAX's own limit, past which it aborts."""
    return 0.6 * _number(environment, "VMAE_HEARTBEAT", _HEARTBEAT)


def coordinator() -> str:
    """Return host 0, in words."""
    from jax._src import distributed

    address = distributed.global_state.coordinator_address
    return f"host 0 ({address})" if address else "host 0"


def whereabouts(patience: float = 4 * PERIOD) -> str:
    """Where each host is, those that give no sign of life first; takes a little over `patience` seconds."""
    if _client() is None:
        return ""
    seen: list[dict[int, Any]] = []

    def look() -> None:
        for pause in (patience, 0.0):
            seen.append(notes("alive"))
            time.sleep(pause)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(patience + 5.0)
    if len(seen) < 2:
        return "host 0, the coordinator, does not answer"
    before, after = seen
    silent, alive = list[str](), list[str]()
    for rank in range(jax.process_count()):
        note = after.get(rank)
        if note is None:
            silent.append(f"host {rank} never gave a sign of life")
        elif note["count"] == before.get(rank, {}).get("count"):
            silent.append(f"host {rank} ({note['host']}) is silent, last seen in {note['at']}")
        else:
            alive.append(f"host {rank} ({note['host']}) is alive, in {note['at']}")
    return "; ".join(silent + alive)


def lost_peer(error: BaseException) -> bool:
    """Whether an error of JAX means that another process is gone."""
    if isinstance(error, PeerError):
        return True
    text = str(error)
    signs = (
        "Gloo",
        "NCCL",
        "Connection closed by peer",
        "Connection reset by peer",
        "coordination service",
        "UNAVAILABLE",
    )
    return (
        isinstance(error, jax.errors.JaxRuntimeError)
        and jax.process_count() > 1
        and any(sign in text for sign in signs)
    )


@contextlib.contextmanager
def naming_lost_peers() -> Iterator[None]:
    """Errors of JAX that come of a lost process leave as a PeerError that names the silent hosts."""
    try:
        yield
    except Exception as error:
        if isinstance(error, PeerError) or not lost_peer(error):
            raise
        raise PeerError(f"a process of the job was lost: {whereabouts()} ({_line(error)})") from error


def _client() -> Any:
    """The client of the coordination service; None where this process is alone."""
    from jax._src import distributed  # JAX has no public way to its own store

    return distributed.global_state.client


def _gather(client: Any, what: str, timeout: float) -> dict[int, Any]:
    deadline = time.monotonic() + timeout
    while True:
        found = notes(what)
        if len(found) == jax.process_count() or any("error" in note for note in found.values()):
            return found
        if time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _compare(what: str, notes: Mapping[int, Any], timeout: float) -> None:
    for rank, note in notes.items():
        if "error" in note:
            kind = ConfigError if note["mistake"] else PeerError
            raise kind(f"{what}: host {rank} ({note['host']}): {note['error']}")
    missing = [str(rank) for rank in range(jax.process_count()) if rank not in notes]
    if missing:
        here = ", ".join(f"{rank} ({note['host']})" for rank, note in sorted(notes.items()))
        raise PeerError(f"{what}: host {', '.join(missing)} did not come within {timeout:g} s; here are {here}")
    first = notes[0]["facts"]
    for rank, note in sorted(notes.items()):
        apart = [
            f"{k} {note['facts'].get(k)!r} instead of {v!r}" for k, v in first.items() if note["facts"].get(k) != v
        ]
        if apart:
            raise ConfigError(
                f"{what}: host {rank} ({note['host']}) differs from host 0 ({notes[0]['host']}): {'; '.join(apart)}"
            )


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdigit():
        raise ConfigError(f"{name}={text}: a whole number")
    return int(text)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:600] or type(error).__name__
