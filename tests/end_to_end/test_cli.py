"""The command as a user types it: training, resuming, pictures, report, and every mistake."""

import json
import os
import pathlib
import signal
import subprocess
import time

import numpy as np
import pytest

from tests import quick_xla
from tests.forks import Process
from tests.forks import program as write_program
from vmae_jax.io.checkpoint import Checkpoints, read_tree
from vmae_jax.io.writers import read_rows

SMOKE = "--config=configs/quickstart.py:smoke"
SPEED = {"step_seconds", "examples_per_second", "clips_per_second", "data_wait_fraction", "mfu", "goodput", "time"}


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """One device, and caches that the tests of this session share."""
    home = tmp_path_factory.mktemp("home")
    keep = {key: value for key, value in os.environ.items() if key != "VMAE_CACHE"}
    return quick_xla.on_devices(1, keep) | {"XDG_CACHE_HOME": str(home)}


@pytest.fixture(scope="session")
def vmae(environment, forks, tmp_path_factory):
    program = write_program(tmp_path_factory.mktemp("bin") / "vmae", forks)

    def run(*arguments: str, status: int = 0, cwd: pathlib.Path | None = None, log: pathlib.Path | None = None) -> dict:
        done = subprocess.run(
            [program, *arguments],
            env=environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        if log is not None:
            log.write_text(done.stderr)
        answer = json.loads(done.stdout.splitlines()[-1])
        assert answer["status"] == ("ok" if status == 0 else "error")
        if status == 2:
            assert "Traceback" not in done.stderr
            assert len(answer["error"].splitlines()) == 1
        return answer

    return run


@pytest.fixture(scope="session")
def trained(vmae, tmp_path_factory):
    """A run of 20 steps, with what it answered."""
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    command = ["train", SMOKE, f"--workdir={workdir}", "--quiet", "--config.train.length.steps=20"]
    return workdir, vmae(*command, log=workdir.parent / "errors.txt")


def rows(workdir) -> dict[int, dict]:
    found = [row for row in read_rows(workdir / "metrics.jsonl") if row["kind"] == "train"]
    assert len({row["step"] for row in found}) == len(found), "a step is there twice"
    return {row["step"]: {k: v for k, v in row.items() if k not in SPEED} for row in found}


def assert_same_run(one, other):
    assert rows(one) == rows(other)
    a, b = (read_tree(run, select="") for run in (one, other))
    flat = lambda tree: dict(leaf for leaf in _leaves("", tree))  # noqa: E731
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


def _leaves(path, tree):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(f"{path}/{key}", value)
    else:
        yield path, np.asarray(tree)


def test_a_run_leaves_what_the_design_promises(trained):
    workdir, answer = trained
    assert answer["step"] == 20
    assert sorted(rows(workdir)) == list(range(1, 21))
    wanted = {"loss", "loss/pixels", "learning_rate", "grad_norm", "examples_seen"}
    assert wanted <= rows(workdir)[20].keys()
    assert {"examples_per_second", "clips_per_second", "data_wait_fraction"} <= answer["metrics"].keys()
    assert rows(workdir)[20]["examples_seen"] == 20 * 8
    assert json.loads((workdir / "config.json").read_text())["train"]["length"] == {"steps": 20}
    assert Checkpoints(workdir / "checkpoints").latest() == 20
    assert list((workdir / "media").glob("*.png"))
    assert list((workdir / "tensorboard").iterdir())
    kinds = {row["kind"] for row in read_rows(workdir / "metrics.jsonl")}
    assert kinds == {"train", "eval", "event"}


def test_quiet_is_quiet_but_for_warnings(trained):
    workdir, _ = trained
    lines = (workdir.parent / "errors.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("warning: ")] == []
    assert len(lines) == 3, "few test videos; checkpoints and evaluations further apart than the run is long"
    events = [row for row in read_rows(workdir / "metrics.jsonl") if row.get("event") == "warning"]
    assert [f"warning: {row['message']}" for row in events] == lines


@pytest.mark.slow
def test_a_start_is_summed_up_in_a_dozen_lines_and_recorded(trained, vmae, tmp_path):
    command = ["train", SMOKE, "--config.train.length.steps=2", f"--workdir={tmp_path}/run"]
    vmae(*command, log=tmp_path / "errors.txt")
    lines = (tmp_path / "errors.txt").read_text().splitlines()
    summary = lines[: next(i for i, line in enumerate(lines) if line.startswith("warning: "))]
    assert len(summary) <= 12
    for name in ("method", "parameters", "data", "evaluation", "length", "schedule", "devices", "workdir"):
        assert [line for line in summary if line.startswith(f"{name} ")], name
    assert [line for line in lines if line.startswith("evaluation: held_out/loss") and "before training" in line]
    overview = (tmp_path / "run" / "overview.txt").read_text()
    assert '"call": "methods.masked.build"' in overview
    assert "decoder/head" in overview
    [row] = [json.loads(line) for line in (tmp_path / "run" / "environment.jsonl").read_text().splitlines()]
    assert row["command"] == f"vmae {' '.join(command)}"
    steps = [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "eval"]
    assert steps == [0, 2]
    answer = vmae("report", f"--workdir={trained[0]}", f"--workdir={tmp_path}/run", f"--out={tmp_path}/compare.html")
    assert "2 runs compared" in pathlib.Path(answer["report"]).read_text()


def test_a_finished_run_reports_it_and_changes_nothing(trained, vmae):
    workdir, _ = trained
    before = (workdir / "metrics.jsonl").read_bytes()
    assert vmae("train", f"--workdir={workdir}", "--quiet")["step"] == 20
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_killed_and_resumed_is_the_same_run_to_the_bit(trained, environment, tmp_path, vmae, forks):
    """20 steps in one go, against kill -9 once a checkpoint is there, then the same command."""
    command = ["train", SMOKE, f"--workdir={tmp_path}/run", "--quiet", "--config.train.length.steps=20"]
    command.append("--config.checkpoint.every.steps=5")
    process = Process(forks, command, environment)
    saver = Checkpoints(tmp_path / "run" / "checkpoints")
    limit = time.monotonic() + 240
    while not saver.steps() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    process.kill()
    process.wait()
    vmae(*command)
    assert_same_run(trained[0], tmp_path / "run")


@pytest.mark.slow
def test_a_second_run_in_a_workdir_is_refused_and_changes_nothing(trained, environment, tmp_path, vmae, forks):
    """While the first one stands still, which keeps its lock; killed, it is taken up at once."""
    command = ["train", SMOKE, f"--workdir={tmp_path}/run", "--quiet", "--config.train.length.steps=20"]
    command.append("--config.checkpoint.every.steps=5")
    process = Process(forks, command, environment)
    try:
        saver = Checkpoints(tmp_path / "run" / "checkpoints")
        limit = time.monotonic() + 240
        while not saver.steps() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        answer = vmae(*command, status=2)
        assert f"another run is training there (process {process.pid} on " in answer["error"]
        assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    finally:
        process.kill()
        process.wait()
    vmae(*command)
    assert not (tmp_path / "run" / "checkpoints" / "aside").exists()
    assert_same_run(trained[0], tmp_path / "run")


@pytest.mark.slow
def test_sigterm_saves_and_exits_75_and_the_same_command_ends_the_same(trained, environment, tmp_path, vmae, forks):
    command = ["train", SMOKE, f"--workdir={tmp_path}/run", "--quiet", "--config.train.length.steps=20"]
    process = Process(forks, command, environment)
    metrics = tmp_path / "run" / "metrics.jsonl"
    limit = time.monotonic() + 240
    while time.monotonic() < limit and not (metrics.exists() and '"started"' in metrics.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    answer = json.loads(process.out.splitlines()[-1])
    assert "resumes" in answer["error"]
    assert Checkpoints(tmp_path / "run" / "checkpoints").latest() == answer["step"]
    vmae(*command)
    assert_same_run(trained[0], tmp_path / "run")


@pytest.mark.slow
def test_reconstruct_eval_and_report(trained, vmae, tmp_path):
    workdir, _ = trained
    answer = vmae("reconstruct", f"--workdir={workdir}", f"--out={tmp_path}", "--clips=2")
    assert all(pathlib.Path(path).stat().st_size > 1000 for path in answer["pictures"])
    assert answer["borrowed"]
    answer = vmae("eval", f"--checkpoint={workdir}/checkpoints/20")
    assert 0.5 < answer["held_out/loss"] < 1.5
    page = pathlib.Path(vmae("report", f"--workdir={workdir}")["report"]).read_text()
    assert "data:image/png" in page


@pytest.mark.slow
def test_real_clips(vmae, clips, tmp_path):
    config = "--config=configs/quickstart.py:smoke"
    answer = vmae("train", config, f"--workdir={tmp_path}/run", "--quiet", f"--config.data.source.path={clips}")
    assert answer["metrics"]["held_out/clips"] == 1, "a tenth of a few clips, one at least, is held out"
    vmae("reconstruct", f"--workdir={tmp_path}/run", f"--videos={clips}", f"--out={tmp_path}/out")


@pytest.mark.slow
def test_relative_paths_and_weights_there_and_back(trained, vmae, tmp_path):
    """As a user types it: everything below the folder they are in."""
    vmae("train", SMOKE, "--workdir=run", "--quiet", cwd=tmp_path)
    vmae("export", "--workdir=run", "--format=videomae", "--out=mine.pth", cwd=tmp_path)
    answer = vmae("import", "--weights=mine.pth", "--out=back", cwd=tmp_path)
    assert not answer["dropped"]
    before, after = read_tree(tmp_path / "run"), read_tree(tmp_path / "back")
    for (name, one), (other, two) in zip(_leaves("", before), _leaves("", after), strict=True):
        assert name == other
        np.testing.assert_array_equal(one, two)
    vmae("import", "--weights=mine.pth", SMOKE, "--out=more", "--config.train.length.steps=6", cwd=tmp_path)
    answer = vmae("train", "--workdir=more", "--quiet", cwd=tmp_path)
    assert answer["step"] == 6, "an import with a config is a run that training goes on from"
    first = rows(tmp_path / "more")[1]["loss"]
    assert first < rows(tmp_path / "run")[1]["loss"], "it began from the trained weights"
    vmae("report", "--workdir=run", cwd=tmp_path)
    vmae("reconstruct", "--workdir=run", "--out=pictures", cwd=tmp_path)


def test_another_experiment_does_not_resume(trained, vmae):
    workdir, _ = trained
    reply = vmae("train", SMOKE, f"--workdir={workdir}", "--config.method.encoder_mask.ratio=0.5", status=2)
    assert "method.encoder_mask.ratio was 0.75, is 0.5" in reply["error"]


MISTAKES = {
    "unknown command": (["trian"], "unknown command 'trian' (did you mean 'train'?)"),
    "unknown subcommand": (["data", "prepar", "x"], "vmae data: unknown command 'prepar' (did you mean 'prepare'?)"),
    "mistyped option": (["train", SMOKE, "--wrkdir=x"], "unknown option '--wrkdir=x' (did you mean '--workdir'?)"),
    "option of another command": (["report", "--checkpoint", "x"], "unknown option '--checkpoint'"),
    "mistyped override": (["train", "--confg.train.length.steps=3", "--workdir=x"], "values of a config are --config."),
    "no value of a config here": (["report", "--config.seed=3", "--workdir=x"], "unknown option '--config.seed=3'"),
    "no command": ([], "COMMAND"),
    "unknown argument": (["train", SMOKE, "--workdir=x", "--workdirs=y"], "unknown option '--workdirs=y'"),
    "unexpected argument": (["train", SMOKE, "--workdir=x", "more"], "unexpected argument 'more'"),
    "unknown config key": (["train", SMOKE, "--workdir=x", "--config.train.lenght.steps=3"], "did you mean 'length'?"),
    "mask ratio": (["train", SMOKE, "--workdir=x", "--config.method.encoder_mask.ratio=1.2"], "[0, 1), got 1.2"),
    "odd grid": (["train", SMOKE, "--workdir=x", "--config.method.model.resolution=24"], "even number of tokens"),
    "sizes that differ": (["train", SMOKE, "--workdir=x", "--config.method.model.resolution=48"], "do not fit"),
    "batch": (["train", SMOKE, "--workdir=x", "--config.train.accumulate=3"], "does not divide"),
    "no config": (["train", "--workdir=/nowhere/at/all"], "--config is needed"),
    "no such config": (["train", "--config=nothing.py", "--workdir=x"], "there is no such file"),
    "no workdir": (["report", "--workdir=/nowhere/at/all"], "/nowhere/at/all"),
    "no checkpoint": (["reconstruct", "--workdir=/nowhere", "--out=x"], "/nowhere"),
    "quiet and verbose": (["train", SMOKE, "--workdir=x", "--quiet", "--verbose"], "exclude each other"),
    "several reports": (["report", "--workdir=/", "--workdir=/tmp"], "needs --out=FILE.html"),
    "no such shell": (["completion", "fish"], "use bash or zsh"),
    "outside": (["train", SMOKE, "--workdir=x", "--config.method.encoder_mask.call=os.system"], "os.system"),
}


@pytest.fixture
def here(monkeypatch, tmp_path, capsys):
    """Runs a command in this process, in a folder of its own."""
    from vmae_jax import cli

    monkeypatch.chdir(tmp_path)

    def run(arguments: list[str]) -> tuple[int, dict, str]:
        status = cli.main(arguments)
        out, err = capsys.readouterr()
        return status, json.loads(out.splitlines()[-1]), err

    return run


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_clear_line_and_status_2(here, name):
    arguments, message = MISTAKES[name]
    status, answer, err = here(arguments)
    assert status == 2, err
    assert message in answer["error"]
    assert "\n" not in answer["error"]
    assert "Traceback" not in err


WORKDIRS = {
    "train": [SMOKE],
    "train, resumed": [],
    "eval": [],
    "reconstruct": ["--out=x"],
    "features": ["--videos=.", "--out=x"],
    "export": ["--format=hf", "--out=x"],
    "report": [],
    "doctor": [],
}


@pytest.mark.parametrize("command", WORKDIRS)
@pytest.mark.parametrize("below", ["", "/below"])
def test_a_file_for_a_workdir_is_a_mistake(here, tmp_path, command, below):
    (tmp_path / "file").write_text("")
    given = f"--workdir={tmp_path}/file{below}"
    status, answer, err = here([command.split(",")[0], *WORKDIRS[command], given])
    assert status == 2, err
    assert "file" in answer["error"]
    assert "is a file" in answer["error"]
    assert "Traceback" not in err


def test_a_folder_that_is_not_there_is_not_one_without_a_checkpoint(here, tmp_path):
    status, answer, _ = here(["eval", f"--workdir={tmp_path}/absent"])
    assert (status, "there is no such folder" in answer["error"]) == (2, True)
    status, answer, _ = here(["eval", f"--workdir={tmp_path}"])
    assert (status, "has no checkpoint" in answer["error"]) == (2, True)


@pytest.mark.parametrize("make", [False, True])
def test_a_missing_or_empty_folder_is_reported(here, tmp_path, make):
    folder = tmp_path / "videos"
    if make:
        folder.mkdir()
        (folder / "notes.txt").write_text("no video")
    status, answer, _ = here(["train", SMOKE, "--workdir=x", f"--config.data.source.path={folder}"])
    assert status == 2
    assert "videos" in answer["error"]
    assert not pathlib.Path("x").exists(), "a run that never began leaves no workdir"


def test_doctor(here):
    status, answer, err = here(["doctor"])
    assert status == 0
    assert answer["status"] == "ok"
    assert "jax" in err
