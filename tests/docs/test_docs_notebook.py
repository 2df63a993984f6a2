"""The notebook runs from the first cell to the last, and is stored with the outputs of a full run."""

import json
import os
import pathlib
import re
import sys

import pytest

from tests.docs.pages import ROOT
from tests.docs.test_docs_commands import environment

PATH = ROOT / "docs" / "notebooks" / "first_steps.ipynb"
NUMBERS = re.compile(r"^(STEPS|VIDEOS) = \d+\b", re.MULTILINE)
FEW = {"STEPS": 60, "VIDEOS": 6}  # no fewer steps than the warm-up has


def outputs(cell) -> str:
    """The text of a cell's outputs, and the types of others."""
    parts = []
    for output in cell.get("outputs", []):
        parts += ["".join(output.get("text", "")), *("".join(value) for value in output.get("data", {}).values())]
        parts += list(output.get("data", {}))
    return "\n".join(parts)


def code(notebook) -> list:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_stored_notebook_shows_its_results():
    assert PATH.stat().st_size < 400_000
    cells = code(json.loads(PATH.read_text()))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    every = "\n".join(outputs(cell) for cell in cells)
    for shown in ("image/png", '"linear/top1"', "held-out loss", "(1, 128)"):
        assert shown in every
    assert "Traceback" not in every
    assert "/tmp/" not in every


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    """With few videos and steps: the results are not compared."""
    nbclient = pytest.importorskip("nbclient", reason="pip install -e '.[docs]'")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(PATH, as_version=4)
    changed = 0
    for cell in notebook.cells:
        cell.source, count = NUMBERS.subn(lambda found: f"{found[1]} = {FEW[found[1]]}", cell.source)
        changed += count
    assert changed == 2
    for key, value in environment(tmp_path).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PATH", os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]))
    client = nbclient.NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    for fresh, stored in zip(code(notebook), code(json.loads(PATH.read_text())), strict=True):
        assert bool(outputs(fresh)) == bool(outputs(stored)), fresh["source"]
    every = "\n".join(outputs(cell) for cell in code(notebook))
    for shown in ("image/png", '"linear/top1"', "step   60: held-out loss", "(1, 128)"):
        assert shown in every
