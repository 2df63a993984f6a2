"""Storage that takes nothing: every place that writes is listed here with what becomes of the run, and is tried."""

import ast
import builtins
import errno
import io
import json
import os
import pathlib
import types

import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from vmae_jax.commands import begin_from, evaluate
from vmae_jax.commands.course import Course
from vmae_jax.commands.errors import describe, exit_status, expected
from vmae_jax.commands.rollback import Skip
from vmae_jax.eval import report
from vmae_jax.eval.reconstruction import write_whole
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.io.lock import Lock
from vmae_jax.io.paths import Workdir
from vmae_jax.io.quarantine import Quarantine
from vmae_jax.io.run_config import write_config
from vmae_jax.io.writers import JsonlWriter, TensorBoardWriter, Writers, read_rows

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "vmae_jax"
PARTS = ("io", "commands", "runtime", "train", "eval", "cli.py")
CALLS = {
    *("write_text", "write_bytes", "write_whole", "mkdir", "makedirs", "rename", "replace", "move", "touch", "pwrite"),
    *("Log", "EventFileWriter", "CheckpointManager", "StandardCheckpointer", "savez", "TemporaryFile", "tofile"),
}


def writes(call: ast.Call) -> bool:
    """Whether a call writes to storage, as far as its name shows it."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name == "open":
        owner = (
            function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ""
        )
        given = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        modes = [mode.value for mode in given if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
        return owner == "os" or (owner in ("", "io") and any(set(mode) & set("wax+") for mode in modes))
    if name in ("replace", "rename", "move"):  # of the system or a path, not of a string or a dataclass
        owner = function.value if isinstance(function, ast.Attribute) else None
        if isinstance(owner, ast.Name) and owner.id == "dataclasses":
            return False
        return name == "move" or len(call.args) == (2 if isinstance(owner, ast.Name) and owner.id == "os" else 1)
    return name in CALLS


def found() -> set[str]:
    places = set()
    for part in PARTS:
        top = PACKAGE / part
        for file in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            module = file.relative_to(PACKAGE).with_suffix("").as_posix()

            def visit(node: ast.AST, inside: str, module: str = module) -> None:
                if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                    inside = f"{inside}.{node.name}" if inside else node.name
                if isinstance(node, ast.Call) and writes(node):
                    places.add(f"{module}:{inside}")
                for child in ast.iter_child_nodes(node):
                    visit(child, inside)

            visit(ast.parse(file.read_text()), "")
    return places


# What becomes of a run where the storage takes nothing. A place that is not listed fails the test below: decide, list
# it here, and try it.
RAISES = "raises OSError to its caller, which is listed as well"
GOES_ON = "the run goes on, after one warning; what can be written later is"
STOPS = "the command ends with 75, and resumes when started again"
NOTHING = "writes nothing to storage that may be full"
PLACES = {
    "commands/begin_from:keep": STOPS,
    "commands/bench_step:_write_reference": STOPS,
    "commands/rollback:record": STOPS,  # data must not be skipped without a note of it
    "commands/rollback:read_skips": NOTHING,
    "commands/data:_validate": STOPS,
    "commands/evaluate:_write": STOPS,
    "commands/environment:identity": NOTHING,
    "commands/environment:record": STOPS,
    "commands/features:_compute": STOPS,
    "commands/features:_state": STOPS,
    "commands/features:_write": STOPS,
    "commands/overview:introduce": STOPS,
    "commands/reconstruct:run": STOPS,
    "commands/ttt:_compare": STOPS,
    "commands/ttt:_follow": STOPS,
    "commands/ttt:run": STOPS,
    "eval/reconstruction:animate": RAISES,
    "eval/reconstruction:save": RAISES,  # while training: Writers.attempt, GOES_ON
    "eval/reconstruction:write_whole": RAISES,
    "eval/report:write": STOPS,
    "io/aside:_made": RAISES,  # as move_aside
    "io/aside:_move": RAISES,
    "io/aside:move_aside": RAISES,  # Checkpoints.save: SaveError
    "io/lock:Lock._lock_file": STOPS,
    "io/lock:Lock._write": GOES_ON,
    "io/lock:Lock.acquire": STOPS,
    "io/paths:Log._upload": RAISES,
    "io/paths:Log.flush": RAISES,
    "io/paths:Log.keep": RAISES,
    "io/paths:_append": RAISES,
    "io/paths:_end_torn_line": RAISES,
    "io/paths:move": RAISES,
    "io/paths:write_bytes": RAISES,
    "io/paths:write_text": RAISES,
    "io/quarantine:Quarantine.__init__": GOES_ON,
    "io/run_config:write_config": STOPS,
    "io/shared:write": RAISES,  # Checkpoints.save: SaveError
    "io/store:manager": STOPS,  # or goes on, by checkpoint.on_error
    "io/store:probe": RAISES,  # Checkpoints.save: SaveError
    "io/stored:_read_onto": NOTHING,
    "io/writers:JsonlWriter.__init__": GOES_ON,
    "io/writers:TensorBoardWriter._open": GOES_ON,
    "runtime/cache:secure": GOES_ON,
    "runtime/doctor:_disk": NOTHING,
    "runtime/streams:_drain": NOTHING,
}
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)


def test_every_place_that_writes_is_known():
    assert found() == set(PLACES)


class Storage:
    """Storage below a folder that takes nothing while it is `full`."""

    def __init__(self, folder, number, patch):
        self.folder, self.number, self.full, self.refused = os.fspath(folder), number, True, 0
        for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "mkdir"), (os, "replace")):
            patch.setattr(module, name, self._refusing(getattr(module, name), name))

    def _refusing(self, function, name):
        def call(path, *args, **kwargs):
            mode = args[0] if args else kwargs.get("mode", "r")
            if name == "open" and isinstance(mode, int):
                changes = bool(mode & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            else:
                changes = name != "open" or bool(set(mode) & set("wax+"))
            below = not isinstance(path, int) and os.fspath(path).startswith(self.folder)
            if self.full and below and changes:
                self.refused += 1
                raise OSError(self.number, os.strerror(self.number), os.fspath(path))
            return function(path, *args, **kwargs)

        return call


@pytest.fixture(params=ERRORS, ids=errno.errorcode.get)
def storage(request, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    return Storage(tmp_path / "run", request.param, monkeypatch)


def test_the_quarantine_goes_on_and_is_written_later(storage, caplog):
    path = pathlib.Path(storage.folder, "quarantine.jsonl")
    listed = Quarantine(path)
    for index in range(3):
        listed.add([("broken.mp4", "is empty", index, "broken"), ("broken.mp4", "is empty", 0, "broken")])
    listed.flush()
    assert storage.refused >= 3
    why = OSError(storage.number, os.strerror(storage.number), str(path))
    warnings = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert warnings == [f"{path} cannot be written, its rows are kept in memory: {why}"]
    storage.full = False
    listed.add([("broken.mp4", "is empty", 1, "broken")])
    assert [json.loads(line)["index"] for line in path.read_text().splitlines()] == [0, 1, 2]


def test_metrics_pictures_and_tensorboard_go_on(storage, caplog):
    folder = pathlib.Path(storage.folder)
    writers = Writers([JsonlWriter(folder / "metrics.jsonl"), TensorBoardWriter(folder / "tensorboard")])
    for step in range(3):
        writers.event(step, "saved")
        writers.scalars(step, {"loss": 1.0})
        writers.attempt("pictures", lambda: write_whole(folder / "media" / "sheet.png", b"png"))
        writers.flush()
    assert set(writers.errors) >= {"JsonlWriter", "pictures"}
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == len(set(warnings)) == len(writers.errors)
    storage.full = False
    writers.flush()
    assert len(read_rows(folder / "metrics.jsonl")) == 6
    writers.close()


STOPPING = {
    "begin_from.keep": lambda folder: begin_from.keep(folder / "init_from.json", []),
    "course.record": lambda folder: Course._record(
        types.SimpleNamespace(_skips=[], _workdir=Workdir(folder)),  # pyright: ignore[reportArgumentType]
        Skip(0, 1, 0, "why"),
    ),
    "run_config.write_config": lambda folder: write_config(Workdir(folder), ConfigDict()),
    "evaluate.write": lambda folder: evaluate._write(
        epath.Path(folder) / "eval", types.SimpleNamespace(tables={}, files={"a.csv": b"1"})
    ),
    "report.write": lambda folder: report.write(folder),
    "lock": lambda folder: Lock(folder).acquire(),
    "checkpoints": lambda folder: Checkpoints(folder / "checkpoints", asynchronous=False).save(
        1, {"a": np.ones(3, np.float32)}, {}
    ),
}


@pytest.mark.parametrize("name", STOPPING)
def test_what_must_be_written_ends_with_75_and_one_line(name, storage):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - OSError, or SaveError of checkpoints
        STOPPING[name](pathlib.Path(storage.folder))
    assert storage.refused
    assert exit_status(caught.value) == 75
    assert expected(caught.value)
    assert "\n" not in describe(caught.value)


def test_other_errors_of_the_system_are_faults():
    error = OSError(errno.EINVAL, "Invalid argument")
    assert exit_status(error) == 1
    assert not expected(error)
