"""A host whose part of a save failed leaves no other waiting at the store's barriers."""

import errno
import itertools
import threading

import jax
import numpy as np
import pytest
from etils import epath

from vmae_jax.io import agreement, aside, checkpoint, store, stored
from vmae_jax.io.agreement import Agreement, PeerSaveError


class Service:
    """The coordination service of a job, for hosts that are threads."""

    def __init__(self, count):
        self.count, self.values, self.barriers, self.lock = count, {}, {}, threading.Lock()

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite
        self.values[key] = value

    def key_value_dir_get(self, folder):
        return [item for item in list(self.values.items()) if item[0].startswith(folder)]

    def wait_at_barrier(self, key, timeout_ms):
        with self.lock:
            barrier = self.barriers.setdefault(key, threading.Barrier(self.count))
        barrier.wait(timeout_ms / 1000)


@pytest.fixture
def hosts(monkeypatch):
    """Agreements of hosts that are threads, named by their number."""
    service = Service(3)
    monkeypatch.setattr(agreement, "_LOOK", 0.02)
    monkeypatch.setattr(jax, "process_count", lambda: service.count)
    monkeypatch.setattr(jax, "process_index", lambda: int(threading.current_thread().name))
    made = []
    for _ in range(service.count):
        monkeypatch.setattr(agreement, "_instances", itertools.count())
        made.append(Agreement())
        made[-1]._client, made[-1]._prefix = service, "vmae/saves/0"
    return made


def on_each(function, count=3):
    results = [None] * count

    def run(rank):
        try:
            results[rank] = function(rank)
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), name=str(rank), daemon=True) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a host waits for ever"
    return results


def save(host, *, fails=False):
    """What the store does in a save: it sets that it is busy, writes, meets the others twice, sets that it is done."""
    host.begin()
    error = None
    for key in ("p_set_value_start", "p_set_value_end"):
        host.barrier(key=key, timeout_ms=60_000)
    try:
        if fails:
            raise OSError("No space left on device")
        for key in ("async_write_complete.6", "async_commit_complete.6"):
            host.barrier(key=key, timeout_ms=60_000)
    except Exception as problem:
        error = problem
    for key in ("p_set_value_start", "p_set_value_end"):
        host.barrier(key=key, timeout_ms=60_000)
    if error is not None:
        if not isinstance(error, PeerSaveError):
            host.failed(str(error))
        raise error
    host.good()
    return host.settled(block=True)


def test_a_host_that_fails_is_named_to_the_others_who_do_not_wait(hosts):
    first = on_each(lambda rank: save(hosts[rank], fails=rank == 2))
    assert isinstance(first[2], OSError)
    for error in first[:2]:
        assert isinstance(error, PeerSaveError)
        assert "host 2 could not save its part" in str(error)
    assert on_each(lambda rank: save(hosts[rank])) == [True] * 3


def test_no_host_begins_to_write_before_all_can(hosts):
    def act(rank, fails):
        hosts[rank].begin()
        if rank == fails:
            hosts[rank].failed("No space left on device")
            return None
        return hosts[rank].ready()

    first = on_each(lambda rank: act(rank, fails=1))
    assert [type(first[rank]) for rank in (0, 2)] == [PeerSaveError] * 2
    assert on_each(lambda rank: act(rank, fails=None)) == [None] * 3


def test_a_save_counts_when_every_host_left_a_note(hosts):
    def act(rank):
        hosts[rank].begin()
        if rank:
            hosts[rank].good()
        return hosts[rank].settled(block=False)

    assert on_each(act) == [False] * 3

    def close(rank):
        hosts[rank].patience = 0.2
        return hosts[rank].settled(block=True)

    assert all(isinstance(error, TimeoutError) for error in on_each(close))


def test_one_process_agrees_with_itself():
    alone = Agreement()
    alone.begin()
    alone.barrier(key="async_write_complete", timeout_ms=1)
    alone.failed("never read")
    assert alone.settled(block=False)


def test_storage_that_refuses_writes_is_known_before_a_save(tmp_path, monkeypatch):
    """The error is the storage's own, and nothing is left where there is room."""
    store.probe(epath.Path(tmp_path) / "checkpoints")
    assert list(tmp_path.iterdir()) == []

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        store.probe(epath.Path(tmp_path))


@pytest.mark.parametrize("refused", [False, True])
def test_of_several_processes_the_first_tries_to_write_when_steps_are_moved_aside(tmp_path, monkeypatch, refused):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    sent = []
    monkeypatch.setattr(aside.multihost_utils, "broadcast_one_to_all", lambda value: sent.append(int(value)) or value)
    written = []

    def write(path, content):
        written.append(str(path))
        if refused:
            raise OSError(errno.EROFS, "Read-only file system")
        path.write_bytes(content)
        return path

    monkeypatch.setattr(aside, "write_bytes", write)
    if refused:
        with pytest.raises(OSError, match="Read-only"):
            aside.move_aside(epath.Path(tmp_path), 5, ())
    else:
        assert not aside.move_aside(epath.Path(tmp_path), 5, ())
    assert (sent, written) == ([-1 if refused else 0], [f"{tmp_path}/.room"])
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    assert not aside.move_aside(epath.Path(tmp_path), 5, ())
    assert len(written) == len(sent) == 1, "one process alone finds out when it saves"


@pytest.mark.parametrize(("others", "message"), [([1, 1], ""), ([1, 0], "process 1 could not read it")])
def test_a_step_that_another_process_cannot_read_is_damage_here_too(monkeypatch, others, message):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(stored.multihost_utils, "process_allgather", lambda value: others)
    if message:
        with pytest.raises(stored.DamagedCheckpointError, match=message):
            stored.together(lambda: "read")
    else:
        assert stored.together(lambda: "read") == "read"

    def damaged():
        raise stored.DamagedCheckpointError("here")

    with pytest.raises(stored.DamagedCheckpointError, match="here"):
        stored.together(damaged)


def test_what_was_deleted_is_removed_by_the_first_process_alone(tmp_path, monkeypatch, caplog):
    checkpoint._remove(epath.Path(tmp_path / "none"))
    assert not caplog.records
    (tmp_path / "trash").mkdir()
    for rank, left in ((1, True), (0, False)):
        monkeypatch.setattr(jax, "process_index", lambda rank=rank: rank)
        checkpoint._remove(epath.Path(tmp_path / "trash"))
        assert (tmp_path / "trash").exists() == left


def test_all_processes_try_the_steps_that_the_first_lists(monkeypatch):
    assert stored.common([*range(1000)]) == [*range(1000)]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    sent = []

    def first(newest):
        sent.extend(newest.tolist())
        return np.asarray([7, 9, -1, -1], np.int32)

    monkeypatch.setattr(stored.multihost_utils, "broadcast_one_to_all", first)
    assert stored.common([5, 9]) == [7, 9]
    assert sent == [5, 9] + [-1] * (stored._TRIED - 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("a file"),
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to((path.parent / "elsewhere").mkdir() or path.parent / "elsewhere"),
    ],
)
def test_what_has_the_name_of_the_folder_aside_is_in_no_steps_way(tmp_path, make):
    make(tmp_path / "aside")
    (tmp_path / "2").mkdir()
    assert aside.move_aside(epath.Path(tmp_path), 1, ())
    assert [entry.name for entry in (tmp_path / "aside-1").iterdir()] == ["2-0"]
    assert not (tmp_path / "2").exists()
    assert not list(tmp_path.glob("elsewhere/*"))
