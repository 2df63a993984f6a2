"""The mutants of a file: which there are, what they change, in which order, and whose tests judge them."""

import ast
import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import mutants

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = '''"""About nothing."""

import os

__all__ = ["f"]


def f(a: int = 3, b: float | None = None) -> int:
    """Add."""
    if a < b and not b:
        log.info("%d", a - 1)
        raise ValueError(f"{a + b} is é")
    a += 1
    g(a, b)
    return a * b
'''

FUNCTIONS = """X = 1

@cached
def f(a):
    def inner():
        return a
    return inner

def g():
    return 2
"""
CALLED = """def f():
    return 1


def g():
    return 2


def h():
    return 3
"""
CALLING = """
import threading
import pytest
from vmae_jax import m

@pytest.fixture(scope="module")
def made():
    return m.f()

def test_one(made):
    thread = threading.Thread(target=m.g)
    thread.start()
    thread.join()

def test_two():
    assert m.h() == 3
"""
RUNS = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
import benchmarks.mutants_run as run
folder = pathlib.Path(sys.argv[2])
run.ROOT, run.COPIED = folder / "project", ("vmae_jax", "tests")
tree, tests = run.Tree(folder), ["tests/test_m.py"]
ended, calls = tree.noted(tests, 60)
assert ended.how == "passed", ended.output
print(json.dumps({name: found for name, found in calls["functions"].items() if found}))
print(json.dumps(tree.run(tests, 60, "vmae_jax/m.py", run.ROOT.joinpath("vmae_jax/m.py").read_bytes() + b"h = g").how))
print(json.dumps(tree.run(tests, 60).how))
print(json.dumps(tree.run(tests, 0.0).how))
"""


def test_every_kind_of_change_and_none_of_what_people_read():
    found = mutants.mutants("f.py", SOURCE.encode())
    assert [(one.line, one.kind, one.before, one.text) for one in found] == [
        (8, "constant", "3", "(4)"),
        (10, "negated condition", "a < b and not b", "(not (a < b and (not b)))"),
        (10, "and/or", "a < b and not b", "(a < b or not b)"),
        (10, "comparison", "a < b", "(a <= b)"),
        (10, "dropped operator", "not b", "(b)"),
        (12, "removed statement", 'raise ValueError(f"{a + b} is é")', "pass"),
        (13, "removed statement", "a += 1", "pass"),
        (13, "constant", "1", "(2)"),
        (14, "removed statement", "g(a, b)", "pass"),
        (14, "swapped arguments", "g(a, b)", "(g(b, a))"),
        (15, "returned None", "return a * b", "return None"),
        (15, "arithmetic", "a * b", "(a / b)"),
    ]
    assert len({one.key for one in found}) == len(found)


def test_a_mutant_differs_in_its_place_alone():
    for one in mutants.mutants("f.py", SOURCE.encode()):
        changed = one.applied(SOURCE.encode())
        assert changed.decode().replace(one.text, one.before, 1).count("\n") == SOURCE.count("\n")
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(SOURCE))


def test_the_seed_fixes_the_order_and_files_take_turns():
    found = {name: mutants.mutants(name, SOURCE.encode()) for name in ("a.py", "b.py")}
    order = [one.key for one in mutants.drawn(found, seed=1)]
    assert [key[0] for key in order] == ["a", "b"] * 12
    assert order == [one.key for one in mutants.drawn(found, seed=1)]
    assert order != [one.key for one in mutants.drawn(found, seed=2)]
    assert sorted(order) == sorted(one.key for some in found.values() for one in some)


def test_a_file_is_judged_by_the_tests_that_mirror_it(tmp_path, monkeypatch):
    tests = {
        "io/test_paths.py": "",
        "io/test_disks.py": "about layouts and paths",
        "io/test_checkpoint.py": "from vmae_jax.io import layout",
        "train/test_train_step.py": "",
        "train/test_train_loop.py": "step by step",
        "targets/test_targets.py": "",
        "targets/test_other.py": "",
        "weights/test_weights_fit.py": "",
        "weights/test_weights_names.py": "",
    }
    for name, text in tests.items():
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / name).write_text(text)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "ALSO", {"vmae_jax/io/layout": "tests/end_to_end/test_saved.py"})
    for path, expected in {
        "io/paths.py": ["io/test_paths.py"],  # of its name, and no other that names it
        "train/step.py": ["train/test_train_step.py"],  # with the name of its folder
        "io/layout.py": ["io/test_checkpoint.py", "end_to_end/test_saved.py"],  # that names it, not part of a word
        "targets/pixels.py": ["targets/test_other.py", "targets/test_targets.py"],  # where none does, the folder
        "weights/layouts/fit.py": ["weights/test_weights_fit.py"],  # of a package within another
    }.items():
        assert mutants.tests_of(f"vmae_jax/{path}") == [f"tests/{name}" for name in expected]


def test_the_tests_of_every_file_are_there():
    for path in sorted((ROOT / "vmae_jax").rglob("*.py")):
        found = mutants.tests_of(str(path.relative_to(ROOT)))
        assert all((ROOT / name).is_file() for name in found), path
        assert found or path.parent == ROOT / "vmae_jax" or path.name == "__init__.py", path


def test_a_mutant_is_judged_by_the_tests_that_call_its_function():
    tests = ["tests/test_a.py", "tests/test_b.py"]
    calls = {
        "seconds": {"tests/test_a.py::slow": 2.0, "tests/test_a.py::quick": 0.1, "tests/test_b.py::one": 1.0},
        "functions": {
            "tests/test_a.py::slow": [["f.py", 3], ["f.py", 5]],
            "tests/test_a.py::quick": [["f.py", 3]],
            "tests/test_b.py": [["f.py", 5]],  # a fixture, so every test of the file
        },
    }

    def chosen(line):
        return mutants.chosen(mutants.Mutant("f.py", line, "constant", 0, 0, "", ""), tests, FUNCTIONS.encode(), calls)

    assert chosen(4) == chosen(7) == ["tests/test_a.py::quick", "tests/test_a.py::slow"]
    assert chosen(6) == ["tests/test_b.py::one", "tests/test_a.py::slow"]
    assert chosen(1) == tests  # of no function
    assert chosen(10) == tests  # that no test is known to call: another process may


@pytest.mark.slow
def test_what_tests_call_is_noted_and_a_file_is_changed_for_one_run_alone(tmp_path):
    (tmp_path / "project/vmae_jax").mkdir(parents=True)
    (tmp_path / "project/tests").mkdir()
    (tmp_path / "project/vmae_jax/__init__.py").touch()
    (tmp_path / "project/vmae_jax/m.py").write_text(CALLED)
    (tmp_path / "project/tests/test_m.py").write_text(CALLING)
    done = subprocess.run(
        [sys.executable, "-c", RUNS, str(ROOT), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    functions, *ends = map(json.loads, done.stdout.splitlines())
    assert functions == {
        "tests/test_m.py": [["vmae_jax/m.py", 1]],
        "tests/test_m.py::test_one": [["vmae_jax/m.py", 5]],
        "tests/test_m.py::test_two": [["vmae_jax/m.py", 9]],
    }
    assert ends == ["failed", "passed", "timeout"]


@pytest.mark.slow
def test_mutants_are_judged_and_the_same_command_goes_on(tmp_path):
    """One after the other: what was judged is kept, and the project's own files are as they were."""
    command = [sys.executable, "benchmarks/mutants.py", f"--out={tmp_path}/out.jsonl", "vmae_jax/io/quarantine.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    before = (ROOT / "vmae_jax/io/quarantine.py").read_bytes()
    tried = []
    for seconds in (1, 600, 600):
        done = subprocess.run(
            [*command, f"--seconds={seconds}"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        report = json.loads(done.stdout.splitlines()[-1])
        assert report["tried"] == len((tmp_path / "out.jsonl").read_text().splitlines())
        tried.append(report["tried"])
    assert 1 <= tried[0] < tried[1] == tried[2] == report["mutants"]
    assert report["noticed"] > report["mutants"] / 2
    assert (ROOT / "vmae_jax/io/quarantine.py").read_bytes() == before
