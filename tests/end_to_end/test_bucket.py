"""`vmae` with data and a workdir behind gs://, through the very programs that talk to Google's storage."""

import json
import os
import re
import signal
import time

import pytest
from fake_bucket import Cloud

from tests import quick_xla
from tests.forks import Process
from vmae_jax.data.synthetic.moving_shapes import make_clip, settings

STEPS, EVERY, LIMIT = 30, 5, 900.0

pytestmark = pytest.mark.slow


@pytest.fixture
def cloud(tmp_path, forks):
    with Cloud(tmp_path) as cloud:
        drawn = settings(train=8, size=48, frames=16)
        (tmp_path / "videos").mkdir()
        for index in range(8):
            video = make_clip(drawn, "train", index)
            (tmp_path / "videos" / f"{index}.mp4").write_bytes(video)
            cloud.objects["bucket", f"videos/{index}.mp4"] = (index + 1, video)
        cloud.programs, cloud.forks = [], forks
        yield cloud
        for process in cloud.programs:
            process.kill()


def start(cloud, place, *more):
    """`vmae train` with data and workdir in `place`."""
    command = [
        "train", "--config=configs/quickstart.py:smoke",
        f"--workdir={place}/run", f"--config.data.source.path={place}/videos", f"--config.train.length.steps={STEPS}",
        f"--config.checkpoint.every.steps={EVERY}", "--config.train.pictures_every=none", "--config.eval.data=none",
        *more,
    ]  # fmt: skip
    process = Process(cloud.forks, command, quick_xla.on_devices(1) | cloud.environment)
    cloud.programs.append(process)
    return process


def ended(process):
    return process.wait(LIMIT), process.err


def checkpoints(cloud):
    """The steps that are committed."""
    found = (re.fullmatch(r"bucket/run/checkpoints/(\d+)/commit_success.txt", name) for name in cloud.names())
    return sorted(int(name[1]) for name in found if name)


def until_saved(cloud, step, process):
    end = time.monotonic() + LIMIT
    while max(checkpoints(cloud), default=0) < step:
        assert time.monotonic() < end
        assert process.poll() is None, process.err[-2000:]
        time.sleep(0.02)


def losses(lines):
    rows = (json.loads(line) for line in lines)
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows if row["kind"] == "train"]


def rows_in(cloud):
    parts = sorted((key[1], content) for key, (_, content) in cloud.objects.items() if "metrics.jsonl/part" in key[1])
    return [line for _, content in parts for line in content.decode().splitlines()]


def test_a_run_in_a_bucket_is_stopped_killed_and_damaged_and_ends_as_one_on_a_disk(cloud, tmp_path):
    status, result = ended(start(cloud, tmp_path))
    assert status == 0, result[-2000:]

    process = start(cloud, "gs://bucket")
    until_saved(cloud, EVERY, process)
    process.send_signal(signal.SIGTERM)
    status, result = ended(process)
    assert status == 75, result[-2000:]
    stopped = checkpoints(cloud)[-1]
    assert EVERY <= stopped < STEPS

    process = start(cloud, "gs://bucket")
    until_saved(cloud, stopped + 1, process)
    process.send_signal(signal.SIGKILL)
    assert ended(process)[0] == -signal.SIGKILL

    newest = checkpoints(cloud)[-1]
    content = f"run/checkpoints/{newest}/state/ocdbt.process_0/d/"
    for key in [key for key in cloud.objects if key[1].startswith(content)]:
        del cloud.objects[key]
    status, result = ended(start(cloud, "gs://bucket"))
    assert status == 0, result[-2000:]
    assert f"checkpoint {newest} of gs://bucket/run/checkpoints is damaged" in result
    assert losses(rows_in(cloud)) == losses((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [row[0] for row in losses(rows_in(cloud))] == list(range(1, STEPS + 1))
    assert len(checkpoints(cloud)) == 3  # older ones were deleted, whole

    report = Process(cloud.forks, ["report", "--workdir=gs://bucket/run"], os.environ | cloud.environment)
    assert report.wait(LIMIT) == 0, report.err[-2000:]
    assert b"</html>" in cloud.objects["bucket", "run/report.html"][1]


def test_a_bucket_that_takes_nothing_more_is_reported_and_the_same_command_resumes(cloud):
    process = start(cloud, "gs://bucket")
    until_saved(cloud, EVERY, process)
    cloud.refused = True
    status, result = ended(process)
    assert status == 75, result[-2000:]
    assert "was not saved in gs://bucket/run/checkpoints" in result
    kept = checkpoints(cloud)
    cloud.refused = False
    status, result = ended(start(cloud, "gs://bucket"))
    assert status == 0, result[-2000:]
    assert f"resumed at step {kept[-1]}" in result
