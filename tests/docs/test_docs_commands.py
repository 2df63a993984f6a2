"""Every page's commands run as they are written, in order, unless a page marks them with what they need.

Each page has a folder with what readers have: videos in one subfolder per class, lists of them, and a pre-trained run.
The pages' files (`python` blocks with a name) are written there first. `vmae` is the real command, as a fork; the
configs of the project are shrunk by their own argument `smoke`, or, where they read lists, by a short length and small
batches. At the end, some runs lose their last checkpoint and resume.
"""

import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.commands.small_runs import same_run, write_video
from tests.docs.pages import PAGES, ROOT, blocks, name
from tests.forks import program as write_program

CLASSES = ("jump", "run", "walk")
SMALLER = f"""
folder = pathlib.Path({str(ROOT / "vmae_jax" / "configs")!r})

def small(word):
    option, _, value = word.partition("=")
    file, _, arguments = value.partition(":")
    source = folder / pathlib.PurePath(file).name
    if option != "--config" or not file.startswith("configs/") or "smoke=False" not in source.read_text():
        return word
    words = [one for one in arguments.split(",") if one]
    return f"{{option}}={{file}}:" + ",".join(words if "smoke" in words else [*words, "smoke"])

if any(word.startswith("--config.data.source.path=") and word.endswith(".csv") for word in words):
    words += ["--config.train.length.steps=24", "--config.data.global_batch=4"]  # smoke would draw clips
else:
    words = [small(word) for word in words]
"""

# Runs of pages that resume to the bit, of methods that draw more than masks or carry more than parameters.
RESUMED = {
    "docs/cdfslv.md": ["adapted"],
    "docs/contrast.md": ["byol"],
    "docs/diffmae.md": ["diffmae_video"],
    "docs/hiera.md": ["hiera"],
    "docs/levjepa.md": ["levjepa"],
    "docs/rvm.md": ["rvm"],
    "docs/siammcvae.md": ["siammcvae"],
    "docs/sigma.md": ["sigma_taught"],
    "docs/teachers.md": ["mvd", "umt"],
    "docs/ttt.md": ["ttt"],
}
RUN = [path for path in PAGES if any(one.language == "bash" and not one.marked for one in blocks(path))]


def environment(folder: pathlib.Path) -> dict[str, str]:
    """The environment of a shell that finds `vmae` in `folder`, with one device."""
    path = os.pathsep.join([str(folder / "bin"), str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    flags = " ".join(
        flag for flag in os.environ.get("XLA_FLAGS", "").split() if "force_host_platform_device_count" not in flag
    )
    python = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PATH": path, "XLA_FLAGS": flags, "PYTHONPATH": python}


def shell(text: str, folder: pathlib.Path, env: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{text}\nended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    losses = re.findall(r'^\{"status": .*"learning_rate": .*"loss": ([^,}]+)', done.stdout, re.MULTILINE)
    assert len(losses) == len(re.findall("vmae train --config", text)), done.stdout
    assert all(math.isfinite(float(loss)) for loss in losses), losses


@pytest.fixture(scope="session")
def base(tmp_path_factory, forks) -> pathlib.Path:
    """What a reader has: FOLDER, HELD_OUT, IMAGES, lists, and the pre-trained runs/v2_base, which is also runs/mine."""
    folder = tmp_path_factory.mktemp("reader")
    rows = []
    for number in range(24):
        label = CLASSES[number % len(CLASSES)]
        path = folder / "FOLDER" / label / f"{number}.mp4"
        write_video(path, number)
        rows.append(f"{path.relative_to(folder)} {number % len(CLASSES)}")
        picture = folder / "IMAGES" / label / f"{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(picture)
    shutil.copytree(folder / "FOLDER", folder / "HELD_OUT")
    (folder / "train.csv").write_text("\n".join(rows[:18]) + "\n")
    (folder / "test.csv").write_text("\n".join(rows[18:]) + "\n")
    (folder / "bin").mkdir()
    write_program(folder / "bin" / "vmae", forks, SMALLER)
    train = "vmae train --config=configs/videomae_v2.py:B --config.data.source.path=FOLDER --workdir=runs/v2_base"
    shell(train, folder, environment(folder))
    shutil.copytree(folder / "runs" / "v2_base", folder / "runs" / "mine")
    return folder


def test_pages_that_are_run_are_many():
    assert len(RUN) >= 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", RUN, ids=name)
def test_the_commands_of_a_page_run(path, base, tmp_path):
    folder = tmp_path / "here"
    shutil.copytree(base, folder)
    for block in blocks(path):
        if block.language == "python" and block.title:
            (folder / block.title).write_text(block.text)
    if name(path) in ("README.md", "docs/train.md"):  # their own runs/mine is trained there
        shutil.rmtree(folder / "runs" / "mine")
    env = environment(base)
    texts = [block.text for block in blocks(path) if block.language == "bash" and not block.marked]
    for text in texts:
        shell(text, folder, env)
    lines = [line for text in texts for line in text.splitlines()]
    for run in RESUMED.get(name(path), ()):
        [command] = [line for line in lines if line.startswith("vmae train") and line.endswith(f"=runs/{run}")]
        again, whole = (folder / "runs" / one for one in (run, f"{run}_whole"))
        shutil.copytree(again, whole)
        shutil.rmtree(again / "checkpoints" / "4")
        shell(f"{command} --config.train.pictures_every=none", folder, env)  # drawn before
        same_run(whole, again)
