"""Files that are whole or as before, on a disk and in a bucket without append and rename."""

import os
import resource

import fsspec
import pytest
from etils import epath
from etils.epath import backend as backend_lib
from etils.epath import gpath
from fsspec.implementations.memory import MemoryFileSystem

from vmae_jax.io import paths
from vmae_jax.io.paths import Log, Workdir, absolute, move, read_lines, write_text


class Bucket(MemoryFileSystem):
    """An object store in memory: whole objects only, no append, no rename."""

    protocol = ("gs", "memorybucket")
    store: dict = {}  # noqa: RUF012 — fsspec's way to share one store
    pseudo_dirs = [""]  # noqa: RUF012
    broken = False

    def _open(self, path, mode="rb", **kwargs):
        if "a" in mode or "+" in mode:
            raise OSError("a bucket has no append")
        if "w" in mode and Bucket.broken:
            raise OSError("the bucket is not reachable")
        return super()._open(path, mode, **kwargs)

    def mv(self, *args, **kwargs):
        raise OSError("a bucket has no rename")

    rename = move = mv


@pytest.fixture
def bucket(monkeypatch):
    """The root of an empty bucket behind gs://."""
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    Bucket.broken = False
    Bucket.clear_instance_cache()
    fs = Bucket()
    monkeypatch.setattr(backend_lib.fsspec_backend, "_get_filesystem", lambda name: fs)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    assert isinstance(fs, fsspec.AbstractFileSystem)
    return epath.Path("gs://bucket/run")


@pytest.fixture(params=["disk", "bucket"])
def place(request, tmp_path):
    return epath.Path(tmp_path) if request.param == "disk" else request.getfixturevalue("bucket")


def test_workdir(tmp_path):
    workdir = Workdir(tmp_path / "run")
    assert workdir.name == "run"
    assert os.fspath(workdir.metrics) == str(tmp_path / "run" / "metrics.jsonl")
    assert os.fspath(Workdir("gs://bucket/a/run").checkpoints) == "gs://bucket/a/run/checkpoints"


def test_text_is_written_whole(place):
    path = place / "deep" / "config.json"
    write_text(path, "first")
    write_text(path, "second ü")
    assert path.read_bytes().decode() == "second ü"
    assert [entry.name for entry in path.parent.iterdir()] == ["config.json"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "report.html"
    write_text(path, "old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_text(path, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_log_grows_and_shrinks(place, monkeypatch):
    monkeypatch.setattr(paths, "PART_BYTES", 60)
    path = place / "run" / "metrics.jsonl"
    assert read_lines(path) == []
    wrote, log = [], Log(path)
    for start in range(0, 40, 4):
        log = Log(path) if start % 12 == 0 else log  # a restart now and then
        log.append(f"line {number}" for number in range(start, start + 4))
        log.flush()
        log.flush()
        wrote += [f"line {number}" for number in range(start, start + 4)]
        assert read_lines(path) == wrote
    if paths.in_bucket(path):
        assert len(list(path.iterdir())) > 3
    log.append(["line 99"])
    log.keep(lambda line: int(line.split()[1]) <= 17)
    assert log.lines() == wrote[:18]
    log.append(["again"])
    log.flush()
    assert read_lines(path) == [*wrote[:18], "again"]
    log.keep(lambda line: False)
    assert read_lines(path) == []
    Log(path).keep(lambda line: True)


def test_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": "\xc3')
    assert read_lines(path) == ['{"a": 1}']
    log = Log(path)
    log.append(["next"])
    log.flush()
    assert path.read_text() == '{"a": 1}\nnext\n'
    path.write_bytes(b"torn from the start")
    log.append(["again"])
    log.flush()
    assert path.read_text() == "again\n"


def test_lines_that_could_not_be_written_come_later(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = Log(path)
    log.append(["a" * 500])
    log.flush()
    log.append(["b" * 900])
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            log.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert read_lines(path) == ["a" * 500]
    log.append(["c"])
    log.flush()
    assert read_lines(path) == ["a" * 500, "b" * 900, "c"]


def test_an_unreachable_bucket_gets_the_lines_later(bucket):
    log = Log(bucket / "metrics.jsonl")
    log.append(["one"])
    log.flush()
    log.append(["two"])
    Bucket.broken = True
    with pytest.raises(OSError, match="not reachable"):
        log.flush()
    Bucket.broken = False
    log.append(["three"])
    log.flush()
    assert read_lines(bucket / "metrics.jsonl") == ["one", "two", "three"]


def test_a_relative_path_is_taken_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(Workdir("runs/mine").checkpoints) == f"{tmp_path}/runs/mine/checkpoints"
    assert str(absolute("gs://bucket/run")) == "gs://bucket/run"


def test_a_folder_moves_whole(place):
    write_text(place / "checkpoints" / "7" / "meta" / "metadata", "m")
    write_text(place / "checkpoints" / "7" / "state" / "d" / "x", "array")
    move(place / "checkpoints" / "7", place / "checkpoints" / "aside" / "7-0", first=["meta/metadata"])
    assert (place / "checkpoints" / "aside" / "7-0" / "state" / "d" / "x").read_text() == "array"
    assert (place / "checkpoints" / "aside" / "7-0" / "meta" / "metadata").read_text() == "m"
    assert not (place / "checkpoints" / "7" / "meta" / "metadata").exists()
    assert not (place / "checkpoints" / "7" / "state" / "d" / "x").exists()


def test_a_move_in_a_bucket_that_is_killed_loses_nothing_and_leaves_nothing_that_looks_whole(bucket, monkeypatch):
    """Copies come first; the first thing that goes is what a whole checkpoint must have."""
    folder, target = bucket / "7", bucket / "aside" / "7-0"
    for name in ("a", "meta/metadata", "z"):
        write_text(folder / name, name)
    removed = []

    def kill(self, path, *args, **kwargs):
        removed.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(Bucket, "rm_file", kill)
    monkeypatch.setattr(Bucket, "rm", kill)
    monkeypatch.setattr(Bucket, "_rm", kill)
    with pytest.raises(KeyboardInterrupt):
        move(folder, target, first=["meta/metadata"])
    assert [(target / name).read_text() for name in ("a", "meta/metadata", "z")] == ["a", "meta/metadata", "z"]
    assert "meta/metadata" in str(removed[0])


def test_a_whole_step_in_a_bucket_is_listed_and_a_half_deleted_one_is_not(bucket):
    from vmae_jax.io.steps import WHOLE, whole_steps

    folder = bucket / "checkpoints"
    for step in (3, 6):
        for name in (*WHOLE, "commit_success.txt", "_CHECKPOINT_METADATA"):
            write_text(folder / str(step) / name, "{}")
    assert whole_steps(folder) == [3, 6]
    (folder / "6" / WHOLE[0]).unlink()
    assert whole_steps(folder) == [3]
