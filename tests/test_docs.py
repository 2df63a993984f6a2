"""The documents: their Python runs, their links lead somewhere, their commands exist."""

import pathlib
import re
import shlex

import jax
import numpy as np
import pytest

from vmae_jax.masking.core import plan
from vmae_jax.types import Grid

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: pathlib.Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_mask_of_the_playbook_works():
    [code] = [block for block in blocks(ROOT / "docs" / "playbooks.md", "python") if "checkerboard" in block]
    names: dict = {"__name__": "playbook"}
    exec(code, names)
    grid = Grid(4, 4, 4)
    for ratio in (0.25, 0.75, 0.9):  # as STRATEGIES of tests/masking calls it
        made = plan(jax.random.split(jax.random.key(0), 2), {}, grid, names["checkerboard"](ratio))
        assert made.decode.shape == (2, int(ratio * grid.size))
    made = plan(jax.random.split(jax.random.key(0), 6), {}, grid, names["checkerboard"]())
    assert made.visible.shape == (6, 32)
    assert len({np.asarray(row).tobytes() for row in made.visible}) == 2


def test_the_config_of_the_readme_builds():
    [code] = [block for block in blocks(ROOT / "README.md", "python") if "config.method = call" in block]
    from ml_collections import ConfigDict

    from vmae_jax.spec import build, call

    config = ConfigDict()
    exec(code, {"call": call, "config": config})
    assert build(config.method).reconstruct is not None


def test_a_config_of_the_user_s_own_in_the_readme_builds_on_ours():
    [code] = [block for block in blocks(ROOT / "README.md", "python") if "def get_config" in block]
    names: dict = {}
    exec(code, names)
    assert names["get_config"]("S").method.encoder_mask.ratio == 0.75


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_exist_and_name_configs_that_exist(path):
    """Every `vmae …` line parses as the command does, and its config and overrides are accepted."""
    from vmae_jax import cli
    from vmae_jax.commands.config import load_config, overrides

    parser = cli.command_line()
    lines = [line.split("  #")[0].strip() for block in blocks(path, "bash") for line in block.splitlines()]
    for line in lines:
        if line.startswith("vmae "):
            args, rest = parser.parse_known_args(shlex.split(line.replace("=…", "=x"))[1:])
            assert not rest or hasattr(args, "config"), line
            changes = overrides(rest)
            if getattr(args, "config", None):
                load_config(args.config, changes)
        elif line.startswith("bash "):
            assert (ROOT / line.split()[1]).exists(), line


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/weights.md"])
def test_a_video_s_features_are_the_same_three_times(page, tmp_path, monkeypatch):
    """The example of a page, as it stands, on exports of the quick start's model."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from vmae_jax import weights
    from vmae_jax.commands.config import load_config
    from vmae_jax.io.checkpoint import Checkpoints
    from vmae_jax.spec import to_json
    from vmae_jax.weights.subject import fresh_params, subject

    config = load_config("configs/quickstart.py")
    one = subject(config)
    assert one.facts.heads == 4
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(to_json(config))
    saver = Checkpoints(tmp_path / "run" / "checkpoints", asynchronous=False)
    saver.save(0, {"params": fresh_params(one)}, {})
    saver.close()
    for form, out in (("hf", "mine-hf"), ("videomae", "mine.pth")):
        weights.export_checkpoint(str(tmp_path / "run"), format=form, out=str(tmp_path / out))
    np.save(tmp_path / "clip.npy", np.random.default_rng(0).integers(0, 256, one.model.video_shape, np.uint8))
    monkeypatch.chdir(tmp_path)
    [code] = [block for block in blocks(ROOT / page, "python") if "in_pytorch" in block]
    names: dict = {}
    exec(code, names)
    wanted = np.asarray(names["in_jax"])
    for other in ("in_transformers", "in_pytorch"):
        np.testing.assert_allclose(np.asarray(names[other]), wanted, atol=1e-5, err_msg=other)
