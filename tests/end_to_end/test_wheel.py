"""The wheel, in an environment that has nothing of the clone: a config of the user's own trains in any folder."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = '''
"""A config of the user's own, which builds on one of the package and on a module beside it."""

from my_masks import RATIO

from vmae_jax.configs import common, videomae_v2


def get_config(arguments=None):
    args = common.parse(arguments, steps=2)
    config = common.smoke(videomae_v2.get_config("S"), steps=args.steps)
    config.method.encoder_mask.ratio = RATIO
    return config
'''

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The bin folder of a new environment with the wheel; the other packages are those of this environment.

    pip's own index provides the tools that build the wheel; nothing else is downloaded.
    """
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = folder / "source"  # a copy: setuptools leaves build/ and egg-info beside what it builds
    shutil.copytree(ROOT / "vmae_jax", source / "vmae_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={folder}", str(source)], check=True)
    [wheel] = folder.glob("vmae_jax-*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    [packages] = (folder / "env" / "lib").glob("python3*/site-packages")
    # A line of a .pth file adds a folder, and not what .pth files in it add, such as an editable install of the clone.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [*pip, "--python", str(python), "install", "--no-deps", "--ignore-installed", str(wheel)], check=True
    )
    return folder / "env" / "bin"


@pytest.fixture
def vmae(installed, tmp_path, tmp_path_factory):
    """Runs `vmae` of the wheel in an empty folder."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS", "VMAE_CACHE")}
    environment |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("home"))}

    def run(*arguments):
        done = subprocess.run(
            [str(installed / "vmae"), *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_a_config_of_the_user_s_own_trains_where_there_is_no_clone(vmae, installed, tmp_path):
    place = subprocess.run(
        [str(installed / "python"), "-c", "import vmae_jax; print(vmae_jax.__file__)"], cwd=tmp_path, text=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert pathlib.Path(place.strip()).is_relative_to(installed.parent), "the wheel's, not the clone's"
    assert (pathlib.Path(place.strip()).parent / "configs" / "recipes.csv").exists()
    (tmp_path / "mine.py").write_text(CONFIG)
    (tmp_path / "my_masks.py").write_text("RATIO = 0.5\n")
    done = vmae("train", "--config=mine.py:steps=2", "--workdir=run", "--quiet")
    assert done["step"] == 2
    assert json.loads((tmp_path / "run" / "config.json").read_text())["method"]["encoder_mask"]["ratio"] == 0.5
    planned = vmae(
        "plan", "--config=configs/quickstart.py", "--topology=cpu:1", "--config.method.model.size=micro",
        "--config.data.global_batch=2",
    )  # fmt: skip
    assert planned["status"] == "ok"
    assert vmae("doctor")["status"] == "ok"
    assert not (tmp_path / "configs").exists()
