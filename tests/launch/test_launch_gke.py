"""Manifests are what Kubernetes takes, and starting, deleting and starting again do what is needed and no more."""

import json
import pathlib

import jsonschema
import pytest
import yaml

SCHEMA = json.loads((pathlib.Path(__file__).parent / "jobset.schema.json").read_text())
TRAIN = ("--", "train", "--config=configs/videomae_v2.py:g", "--workdir=gs://bucket/runs/g")
TPU = ("start", "g", "--image=registry/vmae:tpu", "--topology=v5p:4x4x4")
GPU = ("start", "g", "--image=registry/vmae:gpu", "--gpus=8", "--nodes=4")

# JobSets as the API server keeps them: name -> terminal state, "" while they run.
KUBECTL = """
verb, what = argv[0], argv[1:]
if verb == "get" and what[0] == "jobset":
    assert "--ignore-not-found" in argv and option("--output") == "jsonpath=here:{.status.terminalState}"
    reply("here:" + state[what[1]] if what[1] in state else "")
elif verb == "apply":
    import yaml
    manifest = yaml.safe_load(sys.stdin)
    state[manifest["metadata"]["name"]] = ""
    (folder / "applied.json").write_text(json.dumps(manifest))
elif verb == "delete":
    del state[what[1]]
else:
    fail("unexpected: " + " ".join(argv))
"""


def manifest(cloud, *arguments):
    done = cloud.run("gke.sh", "--dry-run", *arguments)
    assert done.returncode == 0, done.stderr
    command, _, text = done.stdout.partition("<<'END'\n")
    assert command.splitlines()[-1].strip() == "kubectl apply --filename=-"
    assert text.endswith("\nEND\n")
    made = yaml.safe_load(text.removesuffix("END\n"))
    jsonschema.validate(made, SCHEMA)
    return made


def pod(made):
    [job] = made["spec"]["replicatedJobs"]
    return job, job["template"]["spec"], job["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("topology", "more", "hosts", "kind"),
    [
        ("v5p:4x4x4", (), 16, "tpu-v5p-slice"),
        ("v5e:4x4", (), 4, "tpu-v5-lite-podslice"),
        ("v5e:2x4", ("--chips-per-host=8",), 1, "tpu-v5-lite-podslice"),
        ("v6e:16x16", (), 64, "tpu-v6e-slice"),
        ("v4:2x2x4", (), 4, "tpu-v4-podslice"),
        ("v6e:1x1", (), 1, "tpu-v6e-slice"),
    ],
)
def test_tpu_slices(cloud, topology, more, hosts, kind):
    job, work, spec = pod(manifest(cloud, *TPU[:3], f"--topology={topology}", "--slices=2", "--spot", *more, *TRAIN))
    assert job["replicas"] == 2
    assert work["parallelism"] == work["completions"] == hosts
    assert spec["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": kind,
        "cloud.google.com/gke-tpu-topology": topology.split(":")[1],
        "cloud.google.com/gke-spot": "true",
    }
    [container] = spec["containers"]
    chips = eval(topology.split(":")[1].replace("x", "*"))
    assert int(container["resources"]["limits"]["google.com/tpu"]) * hosts == chips
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert container["args"] == list(TRAIN[1:])


def test_gpu_nodes_know_their_coordinator_and_number(cloud):
    made = manifest(cloud, *GPU, "--gpu=nvidia-h100-80gb", "--queue=team", *TRAIN)
    job, work, spec = pod(made)
    assert (job["name"], job["replicas"], work["completions"]) == ("node", 1, 4)
    variables = {one["name"]: one for one in spec["containers"][0]["env"]}
    # the stable name of pod 0 of job 0: NAME-JOB-0-0 in the subdomain NAME
    assert variables["VMAE_COORDINATOR"]["value"].startswith("g-node-0-0.g:")
    assert variables["VMAE_PROCESSES"]["value"] == "4"
    assert "job-completion-index" in variables["VMAE_PROCESS"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert spec["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"


@pytest.mark.parametrize("kind", [TPU, GPU], ids=["tpu", "gpu"])
def test_a_persons_matter_ends_the_job_and_everything_else_restarts_it(cloud, kind):
    made = manifest(cloud, *kind, "--restarts=7", *TRAIN)
    _, work, spec = pod(made)
    assert spec["restartPolicy"] == "Never"
    assert work["backoffLimit"] == 0
    [rule] = work["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [1, 2]
    assert made["spec"]["failurePolicy"]["maxRestarts"] == 7
    [rule] = made["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


def test_nothing_in_an_argument_becomes_yaml(cloud):
    nasty = r"""a: "b' \n ${NAME} & #c ] }, {x"""
    made = manifest(cloud, *TPU, f"--env=NASTY={nasty}", *TRAIN, f"--config.x={nasty}")
    [container] = pod(made)[2]["containers"]
    assert {"name": "NASTY", "value": nasty} in container["env"]
    assert container["args"][-1] == f"--config.x={nasty}"


def test_the_schema_refuses_what_is_no_jobset(cloud):
    made = manifest(cloud, *TPU, *TRAIN)
    for spoil in (
        lambda m: m["spec"].update(restarts=1),
        lambda m: pod(m)[1].update(paralelism=1),
        lambda m: pod(m)[2]["containers"][0].update(arguments=[]),
        lambda m: m["spec"]["failurePolicy"]["rules"][0].update(action="Fail"),
        lambda m: pod(m)[1]["podFailurePolicy"]["rules"][0]["onExitCodes"].update(values=["1"]),
    ):
        spoiled = json.loads(json.dumps(made))
        spoil(spoiled)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(spoiled, SCHEMA)


def test_started_again_it_does_only_what_is_missing(cloud):
    cloud.program("kubectl", KUBECTL)
    start = ("gke.sh", *TPU, *TRAIN)
    assert cloud.run(*start).returncode == 0
    assert [call[1] for call in cloud.calls] == ["get", "apply"]
    jsonschema.validate(json.loads((cloud.folder / "applied.json").read_text()), SCHEMA)

    for state, message, verbs in [
        ("", "g is already running", ["get"]),
        ("Completed", "g is done", ["get"]),
        ("Failed", "g failed; it is created again", ["get", "delete", "apply"]),
    ]:
        cloud.state = {"g": state}
        cloud.forget()
        again = cloud.run(*start)
        assert again.returncode == 0, again.stderr
        assert message in again.stderr
        assert [call[1] for call in cloud.calls] == verbs

    assert cloud.run("gke.sh", "delete", "g").returncode == 0
    assert cloud.state == {}
    cloud.forget()
    gone = cloud.run("gke.sh", "delete", "g")
    assert gone.returncode == 0
    assert "g does not exist" in gone.stderr
    assert [call[1] for call in cloud.calls] == ["get"]


def test_a_cluster_that_does_not_answer_is_not_an_empty_one(cloud):
    cloud.program("kubectl", "fail('Unable to connect to the server')")
    for command in (("gke.sh", *TPU, *TRAIN), ("gke.sh", "delete", "g")):
        cloud.forget()
        done = cloud.run(*command)
        assert done.returncode != 0
        assert len(cloud.calls) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage:"),
        (("begin", "g"), "usage:"),
        (("start", "Big_Run"), "name 'Big_Run'"),
        (("start", "g", *TRAIN), "--image"),
        (("start", "g", "--image=i", *TRAIN), "--topology=v5p:4x4x4"),
        (("start", "g", "--image=i", "--gpus=8", "--topology=v5e:4x4", *TRAIN), "or --gpus=N"),
        ((*TPU[:3], "--topology=v5p:4x4", *TRAIN), "3 dimensions"),
        ((*TPU[:3], "--topology=v9:4x4", *TRAIN), "v4:, v5p:"),
        ((*TPU, "--chips-per-host=3", *TRAIN), "does not divide the 64 chips"),
        ((*TPU, "--slices=0", *TRAIN), "--slices=0"),
        ((*GPU[:3], "--gpus=many", *TRAIN), "--gpus=many"),
        ((*TPU, "--sliced=2", *TRAIN), "--sliced=2"),
        ((*TPU, "--env=oops", *TRAIN), "--env=oops"),
        (TPU, "after --"),
        ((*TPU, "--", "train", "--config=c"), "needs --workdir="),
        ((*TPU, "--", "train", "--config=c", "--workdir=/tmp/run"), "gs://BUCKET/FOLDER"),
    ],
)
def test_mistakes_are_reported_in_one_line_before_anything_is_done(cloud, arguments, message):
    cloud.program("kubectl", KUBECTL)
    done = cloud.run("gke.sh", *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout
    assert not cloud.calls
