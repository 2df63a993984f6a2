"""A training goes on as long as the folder as a whole is good, and leaves a record of what it skipped."""

import errno
import json
import os
import re
import socket
import subprocess
import sys

import pytest

from vmae_jax.commands import train
from vmae_jax.commands.skipped import Skipped, refuse_too_many
from vmae_jax.configs import common
from vmae_jax.data.faults import Fault, TooManyBadVideos
from vmae_jax.data.opened import open_loader
from vmae_jax.io import paths
from vmae_jax.io.paths import Workdir
from vmae_jax.io.quarantine import Quarantine
from vmae_jax.io.writers import JsonlWriter, Writers, read_rows
from vmae_jax.names import as_text
from vmae_jax.spec import ConfigError, call


def config(source, steps, **data):
    model = call("models.variants.vit", size="micro", frames=4, resolution=16, patch=8, depth=1, dtype="float32")
    return common.sections(
        method=call("methods.classify.build", model=model, classes=3, init_scale=1.0),
        data=call(
            "data.pipeline.loader",
            source=source,
            sampler=call("data.clips.multiview", frames=4, stride=1, views=1),
            transforms=[call("data.transforms.center_crop", size=16)],
            global_batch=8,
            labels=True,
            workers=1,
            **data,
        ),
        optimizer=call("train.optim.adamw", schedule=call("train.schedule.constant", value=1e-3)),
        train={"length": {"steps": steps}, "log_every": {"steps": 1}},
    )


def folder_of(coloured, path, good, bad):
    """So many videos of three classes, good and broken, under names that are not UTF-8."""
    videos = sorted((coloured / "all").rglob("*.mp4"))
    for number in range(good + bad):
        name = path / ("red", "green", "blue")[number % 3] / os.fsdecode(b"vid\xe9o %02d,\n.mp4" % number)
        name.parent.mkdir(parents=True, exist_ok=True)
        content = videos[number % len(videos)].read_bytes()
        name.write_bytes(content if number % (good + bad) >= bad else content[:300])
    (path / "red" / "sound.mp3").write_bytes(b"sound")
    return call("data.sources.folder", path=str(path), labels="folders")


def events(workdir, name):
    return [row for row in read_rows(workdir.metrics) if row.get("event") == name]


def test_two_bad_files_among_31_are_skipped_and_listed(coloured, tmp_path, caplog):
    source = folder_of(coloured, tmp_path / os.fsdecode(b"f\xfclder"), 29, 2)
    workdir = Workdir(tmp_path / "run")
    result = train.run(config(source, 9), workdir, progress=False)
    assert (result["step"], result["status"]) == (9, "done")
    assert result["skipped"] == {"broken": 2, "unsupported": 1}
    rows = [json.loads(line) for line in workdir.quarantine.read_text().splitlines()]
    bad = {as_text(b"red/vid\xe9o 00,\n.mp4"), as_text(b"green/vid\xe9o 01,\n.mp4")}
    assert {row["path"] for row in rows if row["kind"] == "broken"} == bad
    assert [row["path"] for row in rows if row["kind"] == "unsupported"] == ["red/sound.mp3"]
    assert sum(row["count"] for row in events(workdir, "videos skipped")) == 2
    assert events(workdir, "skipped in all")[0]["broken"] == 2
    for path in bad:
        assert sum(path in message for message in caplog.messages) == 1  # once, not at every read


def with_held_out(coloured, tmp_path, good, bad):
    """A config whose held-out folder has broken videos, evaluated after every step."""
    held_out = folder_of(coloured, tmp_path / "held_out", good, bad)
    made = config(folder_of(coloured, tmp_path / "videos", 12, 0), 2)
    data = config(held_out, 2).data
    (tmp_path / "names.txt").write_text("blue\ngreen\nred\n")
    data.source.names = str(tmp_path / "names.txt")
    evaluation = call("train.settings.Evaluation", data=data, evaluators={"test": call("eval.multiview")})
    made.eval = evaluation
    made.eval.every = {"steps": 1}
    return made


@pytest.mark.slow
def test_broken_held_out_videos_are_listed_as_those_of_the_training_are(coloured, tmp_path, caplog):
    workdir = Workdir(tmp_path / "run")
    result = train.run(with_held_out(coloured, tmp_path, 10, 1), workdir, progress=False)
    assert result["metrics"]["test/broken"] == 1
    assert result["skipped"] == {"broken": 1, "unsupported": 1}
    rows = [json.loads(line) for line in workdir.quarantine.read_text().splitlines()]
    [row] = [row for row in rows if row["kind"] == "broken"]
    assert (row["path"], row["data"]) == (as_text(b"red/vid\xe9o 00,\n.mp4"), "config.eval.data")
    [event] = events(workdir, "videos skipped")
    assert (event["count"], event["data"], event["step"]) == (1, "config.eval.data", 1)
    assert sum("left out of the evaluation (config.eval.data)" in message for message in caplog.messages) == 1


@pytest.mark.parametrize(("good", "bad"), [(10, 15), (0, 1)])
def test_broken_held_out_data_end_the_run_with_a_record(coloured, tmp_path, good, bad):
    """Also where an evaluator fails because no video is left."""
    workdir = Workdir(tmp_path / "run")
    words = rf"{bad} of {good + bad} videos could not be read .*see quarantine.jsonl. Raise --config.eval.data.max_bad"
    with pytest.raises(TooManyBadVideos, match=words) as error:
        train.run(with_held_out(coloured, tmp_path, good, bad), workdir, progress=False)
    rows = [json.loads(line) for line in workdir.quarantine.read_text().splitlines()]
    assert sum(row.get("data") == "config.eval.data" for row in rows) == bad
    [event] = events(workdir, "too many videos cannot be read")
    assert event["message"] == str(error.value)
    assert "could not be read" in workdir.report.read_text()


def test_a_folder_that_is_bad_as_a_whole_ends_the_run_with_a_record(coloured, tmp_path):
    source = folder_of(coloured, tmp_path / "videos", 20, 11)
    workdir = Workdir(tmp_path / "run")
    words = (
        r"of (31|the first \d+ of 31) videos could not be read \(\d+%, limit 5%: \d+ broken\); see quarantine\.jsonl\. "
        r"Raise --config\.data\.max_bad_fraction to continue\."
    )
    with pytest.raises(TooManyBadVideos, match=words) as error:
        train.run(config(source, 40), workdir, progress=False)
    assert len(workdir.quarantine.read_text().splitlines()) >= 6
    [event] = events(workdir, "too many videos cannot be read")
    assert event["message"] == str(error.value)
    page = workdir.report.read_text()
    assert "could not be read" in page
    assert r"vid\xe9o 00,\n.mp4" in page
    with pytest.raises(TooManyBadVideos) as again:  # the same decision at the same step
        train.run(config(source, 40), Workdir(tmp_path / "again"), progress=False)
    assert str(again.value) == str(error.value)
    assert events(Workdir(tmp_path / "again"), "too many videos cannot be read")[0]["step"] == event["step"]
    result = train.run(config(source, 6, max_bad_fraction=0.5), workdir, progress=False)  # the option that it names
    assert result["status"] == "done"


def test_nothing_readable_ends_at_once_with_a_record(coloured, tmp_path):
    source = folder_of(coloured, tmp_path / "videos", 0, 30)
    workdir = Workdir(tmp_path / "run")
    with pytest.raises(TooManyBadVideos, match="none of the first 20 of 30 videos can be read: "):
        train.run(config(source, 40), workdir, progress=False)
    assert len(workdir.quarantine.read_text().splitlines()) >= 20
    assert events(workdir, "too many videos cannot be read")
    assert "can be read" in workdir.report.read_text()


def listed(coloured, path, there, gone):
    videos = sorted((coloured / "all").rglob("*.mp4"))
    lines = [f"{videos[i % len(videos)]} {i % 3}" for i in range(there)] + [f"/gone/{i}.mp4 0" for i in range(gone)]
    path.write_text("\n".join(lines) + "\n")
    return call("data.sources.csv", path=str(path))


def test_missing_files_of_a_list_are_counted_before_the_first_step(coloured, tmp_path, caplog):
    source = listed(coloured, tmp_path / "list.csv", 29, 2)
    loader = lambda source: train.experiment(config(source, 4)).loader  # noqa: E731
    opened = open_loader(loader(source))
    assert len(opened) == 31
    line = "2 of the 31 videos of .* are not there .6%., such as /gone/0.mp4, /gone/1.mp4; they are skipped"
    assert [bool(re.search(line, message)) for message in caplog.messages] == [True]
    source = listed(coloured, tmp_path / "list.csv", 20, 11)
    with pytest.raises(ConfigError, match=r"11 of the 31 .*the limit is 5%.*--config\.data\.max_bad_fraction=0\.40"):
        open_loader(loader(source))
    source = listed(coloured, tmp_path / "list.csv", 0, 11)
    with pytest.raises(ConfigError, match=r"11 of the 11 videos of .* are not there .*relative to"):
        open_loader(loader(source))


def skipped(tmp_path, **more):
    writers = Writers([JsonlWriter(tmp_path / "metrics.jsonl")])
    settings = {"videos": 100, "batch": 10, "limit": 0.05} | more
    return Skipped(Quarantine(tmp_path / "quarantine.jsonl"), writers, **settings)


def test_a_full_disk_does_not_end_a_run(tmp_path, monkeypatch, caplog):
    append, full = paths._append, [True]

    def failing(path, content):
        if full[0] and path.name == "quarantine.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device")
        append(path, content)

    monkeypatch.setattr(paths, "_append", failing)
    taking = skipped(tmp_path)
    taking(1, 1, [Fault("a.mp4", "is damaged", 3)])
    taking(2, 1, [Fault("b.mp4", "is not there", 4, "missing")])
    assert not (tmp_path / "quarantine.jsonl").exists()
    assert sum("No space left" in message for message in caplog.messages) == 1
    full[0] = False
    assert taking.summary() == {"broken": 1, "missing": 1}
    rows = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["path"], row["kind"]) for row in rows] == [("a.mp4", "broken"), ("b.mp4", "missing")]


def test_neighbours_that_are_broken_too_do_not_count_against_the_folder(tmp_path):
    """A class whose files are all broken: 2 of 60 videos fell on it, and the search for a good one met 40."""
    taking = skipped(tmp_path, videos=1000)
    taking(6, 6, [Fault(f"{i}.mp4", "is damaged", i, drawn=i < 2) for i in range(42)])
    taking(7, 1, [Fault("7.mp4", "is damaged", 7, drawn=True)])  # now it was due itself
    assert taking.summary() == {"broken": 42}
    with pytest.raises(TooManyBadVideos, match="of the first 80 of 1,000 videos"):
        taking(8, 1, [Fault(f"{i}.mp4", "is damaged", i) for i in range(8, 38)])


def test_only_the_first_videos_get_a_line_each(tmp_path, caplog):
    taking = skipped(tmp_path, limit=1.0, videos=10**6)
    for step in range(3):
        taking(step, 1, [Fault(f"{step}_{i}.mp4", "is damaged", 100 * step + i) for i in range(15)])
    assert sum("is damaged" in message for message in caplog.messages) == 20
    assert sum("only listed" in message for message in caplog.messages) == 1


def test_the_option_that_is_named_is_that_of_the_data(tmp_path):
    bad = [Fault(f"{i}.mp4", "is damaged", i) for i in range(8)]
    with pytest.raises(TooManyBadVideos, match=r"^8 of 10 videos .*such as 0\.mp4\. Raise --config\.eval\.data\.max"):
        refuse_too_many(bad, 10, 10, 0.05, "config.eval.data.max_bad_fraction")
    refuse_too_many(bad, 10, 10, 0.9, "config.eval.data.max_bad_fraction")


_HOST = """
import json, os, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_cpu_collectives_implementation", "gloo")
from vmae_jax.commands.skipped import Skipped
from vmae_jax.data.faults import Fault
from vmae_jax.io.quarantine import Quarantine
from vmae_jax.io.writers import Writers
from vmae_jax.runtime import distributed
distributed.start()
rank = jax.process_index()
taking = Skipped(Quarantine(sys.argv[1]) if rank == 0 else None, Writers([]), videos=1000, batch=10, limit=0.05)
decision = []
for step in range(1, 60):
    here = [Fault(f"{step}.mp4", "is damaged", step)] if step % 2 == rank else []
    try:
        taking(step, 1, here)
    except Exception as error:
        decision = [step, str(error)]
        break
print(json.dumps(decision), flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_all_hosts_come_to_the_same_decision_at_the_same_step(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"VMAE_COORDINATOR": f"127.0.0.1:{port}", "VMAE_PROCESSES": "2"}
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", _HOST, str(tmp_path / "quarantine.jsonl")],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment | {"VMAE_PROCESS": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        one, two = (json.loads(host.communicate(timeout=120)[0].splitlines()[-1]) for host in hosts)
    finally:
        for host in hosts:
            host.kill()
            host.wait()
    assert one == two
    assert "could not be read" in one[1]
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == one[0]  # of both hosts, by process 0
