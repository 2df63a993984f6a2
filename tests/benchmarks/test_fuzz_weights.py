"""`benchmarks/fuzz_weights.py`: 300 of its files are read without a crash, and it would notice one."""

import json
import os
import pathlib

import numpy as np
import pytest

from benchmarks import fuzz_weights
from benchmarks.fuzz_weights_files import FAMILIES, originals

ROOT = str(pathlib.Path(__file__).parents[2])


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH", "")])))


@pytest.fixture(scope="module")
def watch():
    return fuzz_weights.Watch()


def test_300_files(tmp_path):
    results = list(fuzz_weights.tried(7, 300, tmp_path / "out.jsonl"))
    assert [one["case"] for one in results] == list(range(300))
    assert [one for one in results if one["result"] == "crash"] == []
    counts = {family: {one["result"] for one in results if one["family"] == family} for family in FAMILIES}
    assert all("refused" in found for found in counts.values())
    assert {"equal", "changed"} <= set.union(*counts.values())
    # Stopped in the middle of a line, it goes on with the case of that line.
    lines = (tmp_path / "out.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_text("".join(lines[:298]) + lines[298][:10])
    assert list(fuzz_weights.tried(7, 300, tmp_path / "out.jsonl")) == results
    assert (tmp_path / "out.jsonl").read_text() == "".join(lines)
    total = json.dumps(fuzz_weights.table(results).splitlines()[-1])
    assert total.startswith('"| all |  | 300 |')
    assert total.endswith('| 0 |"')


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda path: 1 / 0, "ZeroDivisionError"),
        (lambda path: {"a": np.array([1e-30, 3.25e17], np.float32)}, "not in the file"),
        (lambda path: (path.parent / "made").write_text("x") and {}, "reading did open"),
        (lambda path: os.system("true") or {}, "reading did os.system"),
        (lambda path: (_ for _ in ()).throw(fuzz_weights.ConfigError("two\nlines")), "two\nlines"),
    ],
)
def test_a_crash_is_noticed(tmp_path, monkeypatch, watch, read, message):
    monkeypatch.setattr(fuzz_weights, "_convert", read)
    found = fuzz_weights._outcome(tmp_path / "case", originals()["pth"], {}, watch)
    assert found[0] == "crash"
    assert message in found[1]
