"""A TPU that is made, lost, made again and given back: launch/tpu_pod.sh against a cloud that runs its commands here.

What `gcloud … ssh` is asked to run is run, in a home folder of each worker's own, by launch/tpu_worker.sh and the
supervisor; only gcloud and vmae are replaced.
"""

import os
import pathlib
import shutil
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ZONE = "--zone=us-east5-a"
MAKE = (ZONE, "--accelerator=v5p-16", "--every=0")
TRAIN = ("--", "train", "--config=c.py", "--workdir=gs://bucket/run 1")

# Two workers a node. state: nodes {name: state}, queue {name: state}, plan [what becomes of the next TPUs].
GCLOUD = """
assert argv[:2] == ["compute", "tpus"] and option("--zone") == "us-east5-a" and argv[-1] == "--quiet"
kind, verb, what = argv[2], argv[3], argv[4]
nodes, queue = state.setdefault("nodes", {}), state.setdefault("queue", {})
def home(node, worker):
    return folder / "hosts" / node / worker
def make(*names):
    for name in names:
        nodes[name] = "READY"
        for worker in "01":
            home(name, worker).mkdir(parents=True)
if state.get("down"):
    fail("the service does not answer")
if verb == "list":
    table = nodes if kind == "tpu-vm" else queue
    reply(chr(10).join(f"{name},{now}" for name, now in table.items()))
elif verb == "create" and kind == "tpu-vm":
    assert what not in nodes
    make(what)
elif verb == "create":
    assert what not in queue
    count = int(option("--node-count") or 1)
    made = [f"{option('--node-prefix')}-{i}" for i in range(count)] if count > 1 else [option("--node-id")]
    make(*made)
    queue[what] = "ACTIVE"
elif verb == "delete":
    table = nodes if kind == "tpu-vm" else queue
    del table[what]
    for name in [name for name in nodes if name == what or name.startswith(what + "-")] if kind != "tpu-vm" else []:
        del nodes[name]
    for path in (folder / "hosts").glob(what + "*"):
        path.rename(folder / ("gone-" + path.name + str(len(list(folder.glob("gone-*"))))))
elif verb == "scp":
    node, _, name = argv[5].partition(":")
    for worker in "01":
        (home(node, worker) / name).write_bytes(pathlib.Path(what).read_bytes())
elif verb == "ssh":
    assert nodes[what] == "READY"
    keep()
    fcntl.flock(lock, fcntl.LOCK_UN)
    workers = "01" if option("--worker") == "all" else option("--worker")
    ends = [
        subprocess.run(
            ["bash", "-c", option("--command")], cwd=home(what, w), env=os.environ | {"HOME": str(home(what, w))}
        ).returncode
        for w in workers
    ]
    sys.exit(max(ends))
else:
    fail("unexpected: " + " ".join(argv))
"""

# Each worker's environment is a folder with a vmae that ends as the test requests: one line of `ends` per turn.
VMAE = """#!/usr/bin/env bash
echo "$VMAE_DISTRIBUTED|${COLOUR:-}|$*" >>"$HOME/turns"
turn=$(wc -l <"$HOME/turns")
end=$(sed -n "${turn}p" "$ENDS")
case $end in
  wait) trap 'exit 75' TERM; touch "$HOME/waits"; while :; do sleep 0.05; done ;;
  *) exit "${end:-0}" ;;
esac
"""


@pytest.fixture
def tpu(cloud):
    """gcloud on PATH, and an environment that is there already."""
    cloud.program("gcloud", GCLOUD)
    cloud.environment(VMAE, "tpu")
    (cloud.folder / "ends").write_text("")
    return cloud


def pod(tpu, action, *arguments, **environment):
    own = {"VMAE_VENV": str(tpu.folder / "venv"), "ENDS": str(tpu.folder / "ends"), "TMPDIR": str(tpu.folder)}
    return tpu.run("tpu_pod.sh", action, "big", *arguments, **own, **environment)


def verbs(tpu):
    return [f"{call[3]} {call[4]}" for call in tpu.calls if call[4] != "list"]


def turns(tpu):
    return {str(file.parent.relative_to(tpu.folder / "hosts")): file.read_text().splitlines()
            for file in sorted((tpu.folder / "hosts").glob("*/*/turns"))}  # fmt: skip


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_creating_and_deleting_twice_changes_nothing(tpu):
    for _ in range(2):
        done = pod(tpu, "create", *MAKE, "--spot")
        assert done.returncode == 0, done.stderr
    assert verbs(tpu) == ["tpu-vm create"]
    [create] = [call for call in tpu.calls if call[4] == "create"]
    assert {"--accelerator-type=v5p-16", "--version=v2-alpha-tpuv5", "--spot"} <= set(create)
    tpu.forget()
    assert pod(tpu, "delete", ZONE).returncode == 0
    gone = pod(tpu, "delete", ZONE)
    assert gone.returncode == 0
    assert "big does not exist" in gone.stderr
    assert verbs(tpu) == ["tpu-vm delete"]


@pytest.mark.parametrize("now", ["PREEMPTED", "TERMINATED"])
def test_what_was_preempted_is_made_again(tpu, now):
    pod(tpu, "create", *MAKE)
    tpu.state = {"nodes": {"big": now, "other": "READY"}}
    tpu.forget()
    assert pod(tpu, "create", *MAKE).returncode == 0
    assert verbs(tpu) == ["tpu-vm delete", "tpu-vm create"]
    assert tpu.state["nodes"] == {"big": "READY", "other": "READY"}


def test_a_queued_resource_that_failed_is_reported_and_one_that_was_suspended_is_made_again(tpu):
    assert pod(tpu, "create", *MAKE, "--queued", "--slices=2").returncode == 0
    assert set(tpu.state["nodes"]) == {"big-0", "big-1"}
    tpu.state = tpu.state | {"queue": {"big": "FAILED"}}
    tpu.forget()
    failed = pod(tpu, "create", *MAKE, "--queued", "--slices=2")
    assert failed.returncode == 1
    assert "queued resource failed" in failed.stderr
    assert verbs(tpu) == []
    tpu.state = tpu.state | {"queue": {"big": "SUSPENDED"}}
    assert pod(tpu, "create", *MAKE, "--queued", "--slices=2").returncode == 0
    assert verbs(tpu) == ["queued-resources delete", "queued-resources create"]


def test_a_cloud_that_does_not_answer_is_not_an_empty_one(tpu):
    pod(tpu, "create", *MAKE)
    tpu.state = tpu.state | {"down": True}
    for action in ("create", "delete"):
        tpu.forget()
        assert pod(tpu, action, *MAKE).returncode != 0
        assert verbs(tpu) == []


@pytest.mark.skipif(not shutil.which("flock"), reason="flock, as every Linux has it")
def test_run_makes_installs_starts_and_ends_with_the_job(tpu):
    (tpu.folder / "ends").write_text("75\n0\n")  # preempted once: the supervisor on the worker starts it again
    done = pod(tpu, "run", *MAKE, "--every=1", "--env=COLOUR=light blue", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert "big is done" in done.stderr
    assert verbs(tpu)[:4] == ["tpu-vm create", "tpu-vm ssh", "tpu-vm scp", "tpu-vm ssh"]
    turn = "auto|light blue|train --config=c.py --workdir=gs://bucket/run 1"
    assert turns(tpu) == {"big/0": [turn] * 2, "big/1": [turn] * 2}
    tpu.forget()
    again = pod(tpu, "run", *MAKE, *TRAIN)  # nothing is started a second time
    assert again.returncode == 0
    assert verbs(tpu) == ["tpu-vm ssh"]
    assert turns(tpu) == {"big/0": [turn] * 2, "big/1": [turn] * 2}


@pytest.mark.skipif(not shutil.which("flock"), reason="flock, as every Linux has it")
def test_a_fault_ends_the_watching_with_its_status(tpu):
    (tpu.folder / "ends").write_text("2\n")
    done = pod(tpu, "run", *MAKE, "--every=1", *TRAIN)
    assert done.returncode == 2
    assert "status 2, which a restart does not fix" in done.stderr
    assert all(len(lines) == 1 for lines in turns(tpu).values())


@pytest.mark.skipif(not shutil.which("flock"), reason="flock, as every Linux has it")
def test_a_preempted_tpu_is_made_again_and_the_same_command_resumes(tpu):
    (tpu.folder / "ends").write_text("wait\n")
    environment = os.environ | {
        "PATH": f"{tpu.folder / 'bin'}:{os.environ['PATH']}", "VMAE_VENV": str(tpu.folder / "venv"),
        "ENDS": str(tpu.folder / "ends"), "TMPDIR": str(tpu.folder),
    }  # fmt: skip
    command = ["bash", str(ROOT / "launch" / "tpu_pod.sh"), "run", "big", *MAKE, "--every=1", *TRAIN]
    watch = subprocess.Popen(command, cwd=tpu.folder, env=environment, stderr=subprocess.PIPE, text=True)
    hosts = [tpu.folder / "hosts" / "big" / worker for worker in "01"]
    try:
        until(lambda: all((host / "waits").exists() for host in hosts))
        lines = pod(tpu, "status", ZONE).stdout.splitlines()
        assert lines[0] == "ready"
        assert [line.split()[2] for line in lines[1:]] == ["running", "running"]
        # the machines go, with all that ran on them
        pids = [int((host / ".vmae" / "big" / "pid").read_text()) for host in hosts]
        (tpu.folder / "ends").write_text("0\n")
        tpu.state = tpu.state | {"nodes": {"big": "PREEMPTED"}}
        for pid in pids:
            os.killpg(pid, 9)
        _, result = watch.communicate(timeout=90)
    finally:
        watch.kill()
    assert watch.returncode == 0, result
    assert "big is lost" in result
    assert [verb for verb in verbs(tpu) if not verb.endswith("ssh")] == [
        "tpu-vm create", "tpu-vm scp", "tpu-vm delete", "tpu-vm create", "tpu-vm scp",
    ]  # fmt: skip
    assert {len(lines) for lines in turns(tpu).values()} == {1}


@pytest.mark.skipif(not shutil.which("flock"), reason="flock, as every Linux has it")
def test_stopping_saves_and_starting_twice_starts_once(tpu):
    (tpu.folder / "ends").write_text("wait\nwait\n")
    pod(tpu, "create", *MAKE)
    assert pod(tpu, "install", ZONE).stdout.count(" installed") == 2
    hosts = [tpu.folder / "hosts" / "big" / worker for worker in "01"]
    assert pod(tpu, "start", ZONE, *TRAIN).stdout.count(" started") == 2
    until(lambda: all((host / "waits").exists() for host in hosts))
    assert pod(tpu, "start", ZONE, *TRAIN).stdout.count(" is already running") == 2
    stopped = pod(tpu, "stop", ZONE)
    assert stopped.stdout.count(" stopped") == 2, stopped
    assert [(host / ".vmae" / "big" / "status").read_text() for host in hosts] == ["75\n", "75\n"]
    assert {len(lines) for lines in turns(tpu).values()} == {1}
    # who watches meanwhile leaves it so
    assert pod(tpu, "run", *MAKE, *TRAIN).returncode == 75


def test_a_dry_run_shows_every_command_and_calls_none(tpu, shown):
    done = pod(tpu, "--dry-run")
    assert done.returncode == 2
    done = tpu.run("tpu_pod.sh", "--dry-run", "run", "big", *MAKE, "--queued", "--slices=2", "--spot", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert not tpu.calls
    assert not (tpu.folder / "hosts").exists()
    commands = shown(done.stdout)
    assert [command[4] for command in commands if command[0] == "gcloud"] == (
        ["list", "create", "scp", "scp"] + ["ssh"] * 6
    )
    start = next(word for command in commands for word in command if "tpu_worker.sh start" in word)
    assert start.endswith("vmae train --config=c.py '--workdir=gs://bucket/run 1'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage:"),
        (("make", "big"), "usage:"),
        (("create", "Big"), "name 'Big'"),
        (("create", "big", "--accelerator=v5p-8"), "--zone="),
        (("create", "big", ZONE), "v5p-128"),
        (("create", "big", ZONE, "--accelerator=v5e-16"), "v5litepod-N"),
        (("create", "big", *MAKE, "--slices=2"), "needs --queued"),
        (("create", "big", *MAKE, "--spott"), "--spott"),
        (("run", "big", *MAKE), "after --"),
        (("run", "big", *MAKE, "--", "train", "--workdir=run"), "gs://BUCKET/FOLDER"),
        (("logs", "big", ZONE, "--worker=x"), "--worker=x"),
        (("logs", "big", ZONE, "--slice=1"), "from 0 to 0"),
    ],
)
def test_mistakes_are_reported_in_one_line_before_anything_is_done(tpu, arguments, message):
    done = tpu.run("tpu_pod.sh", *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not tpu.calls
