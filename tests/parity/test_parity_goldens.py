"""Parity cannot vanish: the goldens of the project are there, each set whole, and a folder without any is an error."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
OWN = ROOT / "tests" / "goldens"


SECTIONS = {
    "mask_counts": 12, "lr_schedules": 2, "layer_decay": 2,
    "pretrain_clip_sampling": 21, "classification_clip_sampling": 16,
}  # fmt: skip


def test_the_projects_own_sets():
    """What the official code gave, at least: more may come, none may go."""
    sets = [f"{kind}_{name}" for kind in ("pretrain", "finetune") for name in ("cos", "layerscale", "plain")]
    files = {f"{name}{suffix}" for name in sets for suffix in (".npz", ".pth")}
    files |= {f"{name}.json" for name in sets if name.startswith("pretrain")}
    assert files <= {path.name for path in OWN.iterdir()}
    recipes = json.loads((OWN / "recipes.json").read_text())
    assert {section: len(recipes[section]) >= count for section, count in SECTIONS.items()} == dict.fromkeys(
        SECTIONS, True
    )
    phases = np.load(OWN / "running_cell_phases_packbits.npz")
    assert {key: phases[key].shape[0] for key in phases.files} == {"8x14x14@0.5": 4, "8x16x16@0.5": 4, "4x4x4@0.5": 4}
    for name in ("cos", "layerscale", "plain"):
        assert len(np.load(OWN / f"pretrain_{name}.npz")["train_losses"]) == 6, name


@pytest.mark.parametrize("file", ["masks", "model", "sampling", "training"])
def test_an_empty_folder_of_goldens_is_an_error(tmp_path, file):
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--collect-only", f"tests/parity/test_parity_{file}.py"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"VMAE_GOLDENS": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stdout
    assert "Empty parameter set" in done.stdout
