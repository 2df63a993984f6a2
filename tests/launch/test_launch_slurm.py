"""A job that is submitted once, ends its turn in time, and goes back into the queue when the same command resumes."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRAIN = ("--", "train", "--config=c.py", "--workdir=run 1")

SBATCH = """
state[option("--job-name")] = str(len(state) + 1)
(folder / "environment.json").write_text(json.dumps(dict(os.environ)))
reply("Submitted batch job 1")
"""
SQUEUE = """
if option("--format") == "%A":
    reply(state.get(option("--name"), ""))
reply(state.get("now", "RUNNING"))
"""


@pytest.fixture
def slurm(cloud):
    cloud.program("sbatch", SBATCH)
    cloud.program("squeue", SQUEUE)
    return cloud


def submitted(slurm):
    [call] = [call for call in slurm.calls if call[0] == "sbatch"]
    return call


def test_a_job_is_submitted_once(slurm):
    first = slurm.run("slurm.sh", "big", "--nodes=4", *TRAIN)
    assert first.returncode == 0, first.stderr
    again = slurm.run("slurm.sh", "big", "--nodes=4", *TRAIN)
    assert again.returncode == 0
    assert "already queued or running: job 1" in again.stderr
    call = submitted(slurm)
    script = call.index(str(ROOT / "launch" / "slurm_job.sh"))
    assert call[script + 1 :] == list(TRAIN[1:])
    assert {"--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8", "--requeue", "--open-mode=append",
            "--exclusive", "--signal=TERM@300"} <= set(call[1:script])  # fmt: skip


def test_one_process_a_gpu_and_what_is_passed_on(slurm):
    done = slurm.run("slurm.sh", "big", "--gpus=4", "--process=gpu", "--cpus=32", "--partition=fast", "--env=A=b c",
                     "--more=--mail-type=END", *TRAIN)  # fmt: skip
    assert done.returncode == 0, done.stderr
    call = submitted(slurm)
    assert {"--ntasks-per-node=4", "--gpus-per-node=4", "--cpus-per-task=8", "--partition=fast", "--mail-type=END"} <= (
        set(call)
    )
    assert "--exclusive" not in call
    result = (slurm.folder / "environment.json").read_text()
    assert '"A": "b c"' in result
    assert '"VMAE_PER": "gpu"' in result


def test_a_dry_run_asks_and_submits_nothing(slurm, shown):
    done = slurm.run("slurm.sh", "--dry-run", "big", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert not slurm.calls
    ask, submit = shown(done.stdout)
    assert ask[0] == "squeue"
    assert "sbatch" in submit
    assert submit[-1] == "--workdir=run 1"


def test_a_queue_that_does_not_answer_is_not_an_empty_one(slurm):
    slurm.program("squeue", "fail('Unable to contact slurm controller')")
    assert slurm.run("slurm.sh", "big", *TRAIN).returncode != 0
    assert [call[0] for call in slurm.calls] == ["squeue"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name ''"),
        (("Big",), "name 'Big'"),
        (("big", "train", "--config=c"), "comes after --"),
        (("big",), "after --"),
        (("big", "--", "train"), "needs --workdir="),
        (("big", "--nodes=0", *TRAIN), "--nodes=0"),
        (("big", "--process=core", *TRAIN), "node or gpu"),
        (("big", "--process=gpu", "--gpus=0", *TRAIN), "--gpus of 1 or more"),
        (("big", "--time=soon", *TRAIN), "--time=soon"),
        (("big", "--gpu=8", *TRAIN), "--gpu=8"),
    ],
)
def test_mistakes_are_reported_in_one_line_before_anything_is_done(slurm, arguments, message):
    done = slurm.run("slurm.sh", *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not slurm.calls


# The job script itself, with an srun that runs two processes here, each in a group of its own.
SRUN = """
keep()
fcntl.flock(lock, fcntl.LOCK_UN)
import signal
words = argv[next(i for i, word in enumerate(argv) if not word.startswith("--")) :]
tasks = []
for i in range(2):
    tasks.append(subprocess.Popen(words, env=os.environ | {"SLURM_PROCID": str(i)}, start_new_session=True))
    (folder / f"group-{i}").write_text(str(tasks[-1].pid))
sys.exit(max(128 - code if code < 0 else code for code in [task.wait() for task in tasks]))
"""
# Ends as the test requests: a word for each process.
VMAE = f"""#!{sys.executable}
import os, pathlib, signal, sys, time
rank = os.environ["SLURM_PROCID"]
given = [os.environ.get(name, "") for name in ("JAX_LOCAL_DEVICE_IDS", "XLA_FLAGS")]
pathlib.Path("task-" + rank).write_text("|".join(given))
end = os.environ["ENDS"].split()[int(rank)]
if end == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    pathlib.Path("waits-" + rank).touch()
    time.sleep(60)
os.kill(os.getpid(), int(end[1:])) if end[0] == "s" else sys.exit(int(end))
"""


def turn(slurm, ends, *, gpus=0, now="RUNNING", **more):
    """Starts the job script as SLURM would."""
    slurm.state = {"now": now}
    slurm.program("srun", SRUN)
    slurm.program("scontrol", "pass")
    home = slurm.folder / "home"
    (home / "launch").mkdir(parents=True, exist_ok=True)
    (home / "launch" / "slurm_job.sh").write_text((ROOT / "launch" / "slurm_job.sh").read_text())
    (home / "launch" / "environment.sh").write_text(":\n")  # everything is on PATH here
    (slurm.folder / "bin" / "vmae").write_text(VMAE)
    (slurm.folder / "bin" / "vmae").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{slurm.folder / 'bin'}:{os.environ['PATH']}", "VMAE_HOME": str(home), "VMAE_GPUS": str(gpus),
        "VMAE_PER": "node", "VMAE_RESTARTS": "3", "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(slurm.folder),
        "ENDS": ends, "XLA_FLAGS": "--mine",
    } | more  # fmt: skip
    return subprocess.Popen(
        ["bash", str(home / "launch" / "slurm_job.sh"), "train"],
        env=environment, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ends", "status", "again"),
    [
        ("0 0", 0, False),
        ("75 75", 75, True),
        ("s6 s9", 137, True),
        ("2 s9", 2, False),  # a mistake, and a process that was killed because of it
        ("75 1", 1, False),
    ],
)
def test_what_ends_resumably_goes_back_into_the_queue(slurm, ends, status, again):
    job = turn(slurm, ends)
    _, result = job.communicate(timeout=60)
    assert job.returncode == status, result
    assert (["scontrol", "requeue", "7"] in slurm.calls) == again
    assert not list(slurm.folder.glob(".vmae-*"))  # nothing is left behind


@pytest.mark.parametrize(("now", "turns"), [("COMPLETING", "0"), ("", "0"), ("RUNNING", "3")])
def test_a_cancelled_job_stays_cancelled_and_turns_are_counted(slurm, now, turns):
    job = turn(slurm, "75 75", now=now, SLURM_RESTART_COUNT=turns)
    _, result = job.communicate(timeout=60)
    assert job.returncode == 75
    assert ["scontrol", "requeue", "7"] not in slurm.calls
    assert "ended with status 75" in result


def test_after_the_notice_the_processes_save_and_the_job_is_queued_again(slurm):
    job = turn(slurm, "wait wait")
    end = time.monotonic() + 60
    while len(list((slurm.folder / "home").glob("waits-*"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    for i in range(2):  # --signal=TERM@… reaches every process of the step: vmae, and the shell around it
        os.killpg(int((slurm.folder / f"group-{i}").read_text()), signal.SIGTERM)
    _, result = job.communicate(timeout=60)
    assert job.returncode == 75, result
    assert ["scontrol", "requeue", "7"] in slurm.calls


def test_all_gpus_of_a_node_belong_to_its_process_and_the_users_flags_come_last(slurm):
    turn(slurm, "0 0", gpus=4).communicate(timeout=60)
    devices, _, flags = (slurm.folder / "home" / "task-0").read_text().partition("|")
    assert devices == "0,1,2,3"
    assert flags.split()[-1] == "--mine"
    assert all(flag.startswith("--xla_gpu_") for flag in flags.split()[:-1])


@pytest.mark.slow
def test_xla_knows_the_flags(slurm):
    """A flag that this version of XLA does not know ends the process: the CPU's build knows the GPU's flags too."""
    turn(slurm, "0 0", gpus=4).communicate(timeout=60)
    flags = (slurm.folder / "home" / "task-0").read_text().partition("|")[2].removesuffix("--mine")
    code = "import jax; print(jax.numpy.ones(2).sum())"
    for given, known in ((flags, True), (flags + " --xla_gpu_no_such_flag=1", False)):
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"XLA_FLAGS": given, "JAX_PLATFORMS": "cpu"},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == known, done.stderr[-500:]
