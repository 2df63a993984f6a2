"""A decoder that crashes, hangs or is killed costs at most its example; no worker is left behind."""

import ctypes
import os
import pathlib
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types

import numpy as np
import pytest
from numbered_videos import numbered_frames

from vmae_jax.data import process
from vmae_jax.data.clips import dense
from vmae_jax.data.decode import read_clips
from vmae_jax.data.encode import encode_h264
from vmae_jax.data.video import BadVideo, Encoded, MachineFault
from vmae_jax.data.workers import KILLS, Closed, NoWorkerError, Workers

SEED = np.array([1, 2], np.uint32)
FRAMES = numbered_frames(20)


class Hostile:
    """A sampler that does to its process what a broken decoder would."""

    frames, views = 4, 1

    def __init__(self, how, folder=""):
        self.how, self.folder = how, folder

    def __call__(self, info, seed):
        if seed[0] != 13:  # other videos are harmless
            return dense(4, 2)(info, seed)
        if self.how == "once":
            marker = pathlib.Path(self.folder, "met")
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        elif self.how in ("stop", "often"):
            times = len(list(pathlib.Path(self.folder).iterdir()))
            pathlib.Path(self.folder, str(times)).touch()
            if times < (1 if self.how == "stop" else KILLS - 1):
                os.kill(os.getpid(), signal.SIGSTOP if self.how == "stop" else signal.SIGKILL)
        elif self.how == "spin":
            pathlib.Path(self.folder, str(os.getpid())).touch()
            while True:
                pass
        elif self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "segfault":
            ctypes.string_at(0)
        elif self.how == "hang":
            ctypes.PyDLL(None).pause()  # holds the interpreter's lock, as the worst C code may
        elif self.how == "slow":
            time.sleep(1.5)
        elif self.how == "memory":
            bytearray(1 << 50)
        elif self.how == "bug":
            raise KeyError("a sampler's own fault")
        return dense(4, 2)(info, seed)


UNLUCKY = np.array([13, 0], np.uint32)


@pytest.fixture(scope="module")
def encoded():
    return Encoded(data=encode_h264(FRAMES, quality=4), key="one")


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def processes(workers):
    return [process._process.pid for process in workers._running]


@pytest.fixture
def make():
    made = []

    def start(*arguments, **options):
        made.append(Workers(*arguments, **options))
        return made[-1]

    yield start
    for workers in made:
        pids = processes(workers)
        workers.close()
        assert not any(alive(pid) for pid in pids)


def test_decodes_what_the_sampler_states(make, encoded):
    decoded = make(2, sampler=dense(4, 2)).decode(encoded, SEED)
    assert decoded.arrays["video"].shape == (1, 4, 32, 32, 3)
    assert decoded.decoding > 0
    assert decoded.cropping >= 0
    again = read_clips(encoded, dense(4, 2), SEED).arrays["video"]
    np.testing.assert_array_equal(decoded.arrays["video"], again)


def test_many_threads_share_few_workers(make, encoded):
    workers = make(2, sampler=dense(4, 2))
    results = []
    threads = [threading.Thread(target=lambda: results.append(workers.decode(encoded, SEED))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(np.array_equal(result.arrays["video"], results[0].arrays["video"]) for result in results)
    assert len(processes(workers)) <= 2


@pytest.mark.parametrize(
    ("how", "words"), [("kill", "SIGKILL"), ("segfault", "SIGSEGV"), ("hang", "longer than"), ("memory", "memory")]
)
def test_it_costs_one_example(make, encoded, how, words, monkeypatch):
    monkeypatch.setattr("vmae_jax.data.process.STILL", 2.0)  # "hang" does not use the processor
    monkeypatch.setattr("vmae_jax.data.workers.PAUSE_SECONDS", 0.01)
    workers = make(1, sampler=Hostile(how), timeout=1.0 if how == "hang" else 20.0)
    with pytest.raises(BadVideo, match=words):
        workers.decode(encoded, UNLUCKY)
    assert workers.decode(encoded, SEED).arrays["video"].shape == (1, 4, 32, 32, 3)


def test_a_worker_killed_from_outside_costs_nothing(make, encoded, tmp_path):
    workers = make(1, sampler=Hostile("once", str(tmp_path)))
    assert workers.decode(encoded, UNLUCKY).arrays["video"].shape == (1, 4, 32, 32, 3)
    os.kill(processes(workers)[0], signal.SIGKILL)  # idle
    assert workers.decode(encoded, SEED).arrays["video"].shape == (1, 4, 32, 32, 3)


def test_a_worker_killed_again_and_again_costs_nothing(make, encoded, tmp_path, monkeypatch):
    monkeypatch.setattr("vmae_jax.data.workers.PAUSE_SECONDS", 0.01)
    workers = make(1, sampler=Hostile("often", str(tmp_path)))
    assert workers.decode(encoded, UNLUCKY).arrays["video"].shape == (1, 4, 32, 32, 3)
    assert len(list(tmp_path.iterdir())) == KILLS


@pytest.mark.parametrize("seed", range(3))
def test_workers_killed_while_they_start_are_replaced(make, encoded, monkeypatch, seed):
    """Four kills at random moments of a start, of which several may strike at once."""
    monkeypatch.setattr("vmae_jax.data.workers.PAUSE_SECONDS", 0.01)
    random = np.random.default_rng(seed)
    workers, killed, over = make(2, sampler=dense(4, 2)), set(), threading.Event()

    def kill():
        while not over.is_set() and len(killed) < 4:
            for pid in processes(workers):
                if pid not in killed and len(killed) < 4:
                    time.sleep(random.uniform(0, 0.3))
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
            time.sleep(0.001)

    killer = threading.Thread(target=kill)
    killer.start()
    results, callers = [], []
    for _ in range(6):
        callers.append(threading.Thread(target=lambda: results.append(workers.decode(encoded, SEED))))
        callers[-1].start()
    for caller in callers:
        caller.join()
    over.set()
    killer.join()
    assert len(results) == 6
    assert all(np.array_equal(result.arrays["video"], results[0].arrays["video"]) for result in results)


@pytest.mark.parametrize("moment", ["before it imports", "before it is ready"])
def test_every_first_start_that_is_killed_is_tried_again(make, encoded, monkeypatch, moment):
    monkeypatch.setattr("vmae_jax.data.workers.PAUSE_SECONDS", 0.01)
    seen, wait_ready = [], process.Process.wait_ready

    def disturbed(self):
        seen.append(self._process.pid)
        if len(seen) <= 3:
            if moment == "before it is ready":
                process.send(self._socket, pickle.dumps(self._settings))
                time.sleep(0.05)
            os.kill(self._process.pid, signal.SIGKILL)
        wait_ready(self)

    monkeypatch.setattr(process.Process, "wait_ready", disturbed)
    assert make(1, sampler=dense(4, 2)).decode(encoded, SEED).arrays["video"].shape == (1, 4, 32, 32, 3)
    assert len(seen) == 4


class Absent:
    """A sampler of a module that the workers do not have."""

    frames, views = 4, 1


def test_workers_that_can_never_start_are_an_error_with_the_reason(make, encoded, monkeypatch):
    monkeypatch.setattr("vmae_jax.data.workers.PAUSE_SECONDS", 0.01)
    module = types.ModuleType("not_installed")
    module.Absent = Absent
    monkeypatch.setitem(sys.modules, "not_installed", module)
    monkeypatch.setattr(Absent, "__module__", "not_installed")
    with pytest.raises(NoWorkerError, match=r"5 attempts failed.*No module named 'not_installed'"):
        make(1, sampler=Absent()).decode(encoded, SEED)


def test_a_worker_that_is_stopped_is_replaced_and_the_video_is_good(make, encoded, tmp_path, monkeypatch):
    monkeypatch.setattr("vmae_jax.data.process.STILL", 2.0)
    workers = make(1, sampler=Hostile("stop", str(tmp_path)), timeout=1.0)
    quiet = make(1, sampler=Hostile("none"), timeout=60.0).decode(encoded, UNLUCKY)
    np.testing.assert_array_equal(workers.decode(encoded, UNLUCKY).arrays["video"], quiet.arrays["video"])
    assert len(list(tmp_path.iterdir())) == 2


def test_waiting_does_not_count(make, encoded):
    workers = make(1, sampler=Hostile("slow"), timeout=0.5)  # sleeps for three times as long
    assert workers.decode(encoded, UNLUCKY).arrays["video"].shape == (1, 4, 32, 32, 3)


def test_a_decoder_that_loops_is_tried_twice(make, encoded, tmp_path):
    workers = make(1, sampler=Hostile("spin", str(tmp_path)), timeout=0.5)
    with pytest.raises(BadVideo, match=r"longer than 0\.5 s to decode"):
        workers.decode(encoded, UNLUCKY)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_machine_that_was_suspended_does_not_count_against_the_video(make, encoded, monkeypatch):
    workers = make(1, sampler=Hostile("slow"), timeout=20.0)
    hours = iter(range(0, 1 << 30, 3600))
    monkeypatch.setattr("vmae_jax.data.process.time", types.SimpleNamespace(monotonic=lambda: next(hours)))
    assert workers.decode(encoded, UNLUCKY).arrays["video"].shape == (1, 4, 32, 32, 3)


class Signed:
    """A sampler that leaves the number of its process in a folder."""

    frames, views = 4, 1

    def __init__(self, folder):
        self.folder = str(folder)

    def __call__(self, info, seed):
        pathlib.Path(self.folder, str(os.getpid())).touch()
        return dense(4, 2)(info, seed)


@pytest.mark.parametrize(("lifetime", "processes"), [(2, 3), (4, 2), (5, 1)])
def test_workers_are_replaced_after_a_while(make, encoded, tmp_path, monkeypatch, lifetime, processes):
    monkeypatch.setattr("vmae_jax.data.workers.LIFETIME", lifetime)
    workers = make(1, sampler=Signed(tmp_path))
    for _ in range(5):
        assert workers.decode(encoded, SEED).arrays["video"].shape == (1, 4, 32, 32, 3)
    assert len(list(tmp_path.iterdir())) == processes


def test_a_samplers_own_fault_is_no_videos_fault(make, encoded):
    with pytest.raises(RuntimeError, match="KeyError"):
        make(1, sampler=Hostile("bug")).decode(encoded, UNLUCKY)


def test_broken_videos_have_their_reason(make):
    workers = make(1, sampler=dense(4, 2))
    with pytest.raises(BadVideo, match="does not exist"):
        workers.decode(Encoded(path="/nowhere.mp4"), SEED)
    with pytest.raises(BadVideo, match="no readable video"):
        workers.decode(Encoded(data=b"text"), SEED)


def test_a_limit_on_the_size_of_files_is_no_videos_fault(make, encoded):
    workers = make(1, sampler=dense(4, 2))
    workers.decode(encoded, SEED)  # the process is there, and has a slab that is too small for what comes
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    larger = Encoded(data=encode_h264(np.zeros((8, 640, 640, 3), np.uint8)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(MachineFault, match=r"shared memory .*raise the limits.*ulimit -f"):
            workers.decode(larger, SEED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert workers.decode(larger, SEED).arrays["video"].shape == (1, 4, 640, 640, 3)


def test_closing_ends_calls_that_wait(make, encoded):
    workers = make(1, sampler=Hostile("hang"), timeout=60.0)
    caught = []

    def call(seed):
        try:
            workers.decode(encoded, seed)
        except Closed as error:
            caught.append(error)

    threads = [threading.Thread(target=call, args=(UNLUCKY,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: processes(workers))
    time.sleep(0.3)
    workers.close()
    for thread in threads:
        thread.join(10)
    assert len(caught) == 3
    with pytest.raises(Closed):
        workers.decode(encoded, SEED)


def script(tmp_path, body, how):
    video = tmp_path / "video.mp4"
    video.write_bytes(encode_h264(FRAMES))
    text = f"""
        import os, signal, sys, threading, time
        sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
        import numpy as np
        from test_workers import Hostile
        from vmae_jax.data.video import Encoded
        from vmae_jax.data.workers import Workers
        workers = Workers(2, sampler=Hostile({how!r}), timeout=300.0)
        encoded = Encoded(path={str(video)!r})
        workers.decode(encoded, np.array([1, 2], np.uint32))
    """
    return textwrap.dedent(text) + textwrap.dedent(body)


@pytest.mark.parametrize("busy", [False, True])
def test_workers_do_not_survive_a_trainer_that_is_killed(tmp_path, busy):
    body = """
        if BUSY:
            call = lambda: workers.decode(encoded, np.array([13, 0], np.uint32))
            threading.Thread(target=call, daemon=True).start()
            time.sleep(0.5)
        print(*[process._process.pid for process in workers._running], flush=True)
        time.sleep(60)
    """.replace("BUSY", str(busy))
    text = script(tmp_path, body, "sleep" if busy else "none")
    text = text.replace("from test_workers import Hostile", "from test_workers import Hostile, Sleeper")
    text = text.replace("Hostile('sleep')", "Sleeper()")
    trainer = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    try:
        pids = [int(pid) for pid in trainer.stdout.readline().split()]
        assert pids
        assert all(alive(pid) for pid in pids)
    finally:
        trainer.kill()
        trainer.wait()
        trainer.stdout.close()
    until(lambda: not any(alive(pid) for pid in pids))


class Sleeper(Hostile):
    """Busy for long, in code that lets other threads run (as a decoder does)."""

    def __init__(self):
        super().__init__("sleep")

    def __call__(self, info, seed):
        if seed[0] == 13:
            time.sleep(120)
        return dense(4, 2)(info, seed)


def test_a_normal_exit_leaves_no_worker(tmp_path):
    body = "print(*[process._process.pid for process in workers._running], flush=True)"
    done = subprocess.run(
        [sys.executable, "-c", script(tmp_path, body, "none")], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    assert not any(alive(int(pid)) for pid in done.stdout.split())


def test_a_worker_imports_neither_jax_nor_tensorflow():
    code = "import sys, vmae_jax.data.process, vmae_jax.data.decode, vmae_jax.data.clips; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"jax", "jaxlib", "tensorflow", "flax", "ml_collections"}
