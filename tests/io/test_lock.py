"""One run a workdir: exactly one of several gets in, and nobody waits for the dead."""

import errno
import fcntl
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from test_paths import bucket  # noqa: F401 - a fixture

from vmae_jax.io import lock as locks
from vmae_jax.io.lock import FILE, Holder, Lock
from vmae_jax.spec import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROCESS = """
    import errno, fcntl, sys, time
    from vmae_jax.io import lock as locks
    from vmae_jax.spec import ConfigError
    if sys.argv[2] == "lease":  # storage without the kernel's locks
        def flock(file, how):
            raise OSError(errno.ENOLCK, "no locks")
        fcntl.flock, locks.SETTLE = flock, 1.0
    print("ready", flush=True)
    sys.stdin.readline()
    with locks.Lock(sys.argv[1]) as lock:
        try:
            lock.acquire()
            print("mine", flush=True)
            sys.stdin.readline()
        except ConfigError as error:
            print(error, flush=True)
"""


def start(folder, how="kernel"):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROCESS), str(folder), how],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def ended(process):
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.fixture
def quick(monkeypatch):
    for name, value in {"RENEW": 0.05, "LEASE": 0.6, "SETTLE": 0.1, "DYING": 2.0}.items():
        monkeypatch.setattr(locks, name, value)


def elsewhere(**changed):
    """A lock that a process of another machine left."""
    return locks._myself()._replace(token="theirs", host="other", boot="another", space="pid:[1]", **changed)


@pytest.mark.parametrize("how", ["kernel", "lease"])
def test_of_several_that_start_at_once_one_gets_in(tmp_path, how):
    processes = [start(tmp_path / "run", how) for _ in range(4)]
    try:
        for process in processes:
            go(process)
        message = [process.stdout.readline().strip() for process in processes]
    finally:
        for process in processes:
            ended(process)
    assert message.count("mine") == 1
    winner = processes[message.index("mine")].pid
    refused = [text for text in message if text != "mine"]
    assert all("another run is training there" in text and "use another --workdir" in text for text in refused)
    assert all(f"process {winner} on {os.uname().nodename}, since 20" in text for text in refused)


@pytest.mark.parametrize("how", ["kernel", "lease"])
def test_a_run_that_was_killed_is_not_waited_for(tmp_path, how, monkeypatch):
    monkeypatch.setattr(locks, "SETTLE", 0.1)
    if how == "lease":
        monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    process = start(tmp_path / "run", how)
    go(process)
    assert process.stdout.readline() == "mine\n"
    with pytest.raises(ConfigError, match=f"process {process.pid} on "), Lock(tmp_path / "run") as lock:
        lock.acquire()
    process.send_signal(signal.SIGSTOP)  # a run that stands still keeps its workdir
    with pytest.raises(ConfigError, match=f"process {process.pid} on "), Lock(tmp_path / "run") as lock:
        lock.acquire()
    ended(process)
    monkeypatch.setattr(locks, "LEASE", 3600.0)
    with Lock(tmp_path / "run") as lock:
        lock.acquire()
        assert json.loads((tmp_path / "run" / FILE).read_text())["pid"] == os.getpid()
    assert list((tmp_path / "run").iterdir()) == []


def no_locks(*_):
    raise OSError(errno.ENOLCK, "no locks")


def test_of_several_claims_the_last_is_named(tmp_path, monkeypatch, quick):
    """Of runs that start at once where the kernel has no locks, each claims the folder; the last claim counts."""
    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    monkeypatch.setattr(locks, "SETTLE", 1.0)
    first, last = (locks._myself()._replace(token=name, since=name) for name in ("first", "last"))
    (tmp_path / FILE).write_text(json.dumps(first._asdict()))
    claim = threading.Timer(0.2, (tmp_path / FILE).write_text, [json.dumps(last._asdict())])
    claim.start()
    with pytest.raises(ConfigError, match=r"another run is training there .*, since last\)"), Lock(tmp_path) as lock:
        lock.acquire()
    claim.join()


@pytest.mark.parametrize("content", ["", json.dumps(elsewhere(since="1 May")._asdict())])
def test_a_lock_that_another_has_is_refused_soon_whatever_is_written_in_it(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    began = time.monotonic()
    with (tmp_path / FILE).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        who = "process .* on other, since 1 May" if content else "a process"
        with pytest.raises(ConfigError, match=rf"another run is training there \({who}\)"), Lock(tmp_path) as lock:
            lock.acquire()
    assert time.monotonic() - began < (0.9 if content else 5.0)


def test_a_number_that_another_process_has_now_is_not_taken_for_the_run(tmp_path, monkeypatch, quick):
    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    monkeypatch.setattr(locks, "LEASE", 3600.0)
    gone = locks._myself()._replace(token="gone", pid=os.getppid(), ticks="1")
    (tmp_path / FILE).write_text(json.dumps(gone._asdict()))
    with Lock(tmp_path) as lock:
        lock.acquire()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"token": 5}', json.dumps(elsewhere()._asdict() | {"pid": "x"})])
def test_what_is_not_a_lock_is_in_nobodys_way(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with Lock(tmp_path) as lock:
        lock.acquire()


def held(folder):
    """The lease in a folder. A bucket replaces a file at once; the memory file system here may show it empty."""
    end = time.monotonic() + 10
    while not (text := (folder / FILE).read_text()):
        assert time.monotonic() < end, "the lease stays empty"
    return Holder(**json.loads(text))


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_lease_of_another_machine_expires_unless_it_is_renewed(place, tmp_path, request, quick, caplog):
    folder = request.getfixturevalue("bucket") if place == "bucket" else locks.epath.Path(tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    left = elsewhere(renewed=time.time() + 1e7)  # their clock is months ahead
    (folder / FILE).write_text(json.dumps(left._asdict()))
    began = time.monotonic()
    with Lock(folder) as lock:
        lock.acquire()
        assert time.monotonic() - began >= 0.6
        assert "process" in caplog.text
        assert "on other" in caplog.text
        first = held(folder)
        end = time.monotonic() + 10
        while held(folder).count < first.count + 2:
            assert time.monotonic() < end, "it is not renewed"
            time.sleep(0.01)
    assert not (folder / FILE).exists()

    over = threading.Event()

    def renew():
        count = 0
        while not over.wait(0.05):
            count += 1
            locks.write_bytes(
                locks.epath.Path(folder / FILE), json.dumps(left._replace(count=count)._asdict()).encode()
            )

    (folder / FILE).write_text(json.dumps(left._asdict()))
    other = threading.Thread(target=renew)
    other.start()
    try:
        with pytest.raises(ConfigError, match="on other, since"), Lock(folder) as lock:
            lock.acquire()
    finally:
        over.set()
        other.join()


def test_no_file_of_storage_without_locks_stays_open(tmp_path, monkeypatch, quick):
    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    opened = lambda: [link for link in pathlib.Path("/proc/self/fd").iterdir() if str(tmp_path) in _target(link)]  # noqa: E731
    with Lock(tmp_path) as lock:
        lock.acquire()
        assert opened() == []
    monkeypatch.setattr(locks.fcntl, "flock", lambda *_: os.close(-1))
    with pytest.raises(OSError, match="Bad file descriptor"), Lock(tmp_path) as lock:
        lock.acquire()
    assert opened() == []


def _target(link):
    try:
        return os.readlink(link)
    except FileNotFoundError:  # of the listing itself
        return ""


def test_a_machine_that_was_started_again_goes_on_at_once(tmp_path, monkeypatch):
    left = elsewhere(renewed=time.time() - locks.LEASE - 1)._replace(host=os.uname().nodename)
    (tmp_path / FILE).write_text(json.dumps(left._asdict()))
    began = time.monotonic()
    with Lock(tmp_path) as lock:
        lock.acquire()
        assert time.monotonic() - began < locks.LEASE / 2


def _lose(folder):
    locks.RENEW, locks.SETTLE = 0.05, 0.01
    lock = Lock(folder)
    lock._kernel = False
    lock.acquire()
    (folder / FILE).write_text(json.dumps(elsewhere()._asdict()))
    time.sleep(60)


def test_a_run_whose_lock_was_taken_over_ends(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_lose, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == 75


def test_a_full_disk_does_not_keep_a_run_from_its_workdir(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(locks.os, "pwrite", full)
    monkeypatch.setattr(locks, "RENEW", 0.01)
    monkeypatch.setattr(Lock, "_lost", lambda *_: pytest.fail("it takes what a dead run left for another run"))
    gone = locks._myself()._replace(token="gone", pid=os.getppid(), ticks="1")
    (tmp_path / FILE).write_text(json.dumps(gone._asdict()))
    with Lock(tmp_path) as lock, Lock(tmp_path) as second:
        lock.acquire()
        time.sleep(0.2)
        assert lock._thread.is_alive()
        monkeypatch.setattr(locks, "DYING", 0.1)
        with pytest.raises(ConfigError, match="another run is training there"):
            second.acquire()
