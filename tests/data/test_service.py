"""Decoding on other machines: two workers in processes of their own, over the loopback."""

import dataclasses
import itertools
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmae_jax import spec
from vmae_jax.commands import serve
from vmae_jax.data.served import windows
from vmae_jax.spec import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[2]


@given(st.integers(0, 1000), st.integers(1, 50), st.integers(1, 20))
def test_windows_follow_one_another_and_end_with_the_epochs(start, epoch, batch):
    found = list(itertools.islice(windows(start, epoch=epoch, batch=batch), 5))
    at = start
    for first, steps in found:
        assert first == at
        assert steps >= 1
        at = first + steps * batch
        # the last step is the one that reaches the end of the epoch that the first position is in
        assert at - batch < (first // epoch + 1) * epoch <= at


def config(folder, *more, **options):
    return spec.call(
        "data.pipeline.loader",
        source=spec.call("data.sources.folder", path=str(folder), labels="folders"),
        sampler=spec.call("data.clips.dense", frames=4, stride=2),
        transforms=[spec.call("data.transforms.multi_scale_crop", size=16), *more],
        **{"global_batch": 4, "repeat": 2, "labels": True, "workers": 1, "max_bad_fraction": 0.5, **options},
    )


def opened(folder, *more, **options):
    written = config(folder, *more, **options)
    return dataclasses.replace(spec.build(written), recipe=spec.to_json(written)).open()


def start(*arguments):
    """`vmae data serve --open …`, and its first line."""
    command = [sys.executable, "-m", "vmae_jax", "data", "serve", "--open", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return process


def first_line(process):
    assert process.stderr is not None
    return process.stderr.readline()


@pytest.fixture(scope="module")
def service():
    """A dispatcher and two workers; gives (address, workers)."""
    dispatcher = start()
    processes = [dispatcher]
    try:
        line = first_line(dispatcher)
        address = f"localhost:{line.split('port ')[1].split(';')[0]}"
        processes += [start(f"--dispatcher={address}", "--workers=1") for _ in range(2)]
        assert all("decoding for" in first_line(worker) for worker in processes[1:])
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=30)


def by_seed(batches):
    """Every clip by its own seed, which no other has."""
    found = {}
    for batch in batches:
        for row, seed in enumerate(batch["seed"]):
            found[tuple(seed.tolist())] = {name: values[row] for name, values in batch.items()}
    return found


@pytest.mark.slow
def test_each_epoch_has_the_clips_of_the_exact_mode(video_folder, service, tmp_path):
    """Ten videos, four a step: the windows are 3, 2, 3, … steps long; two hosts read them."""
    address, _ = service
    folder = shutil.copytree(video_folder, tmp_path / "videos")
    (folder / "even" / "video_4.mp4").write_bytes(b"no video")
    augment = spec.call("data.rand_augment", layers=1)  # a transform that is left to the graph
    exact = opened(folder, augment)
    with exact.batches(rows=range(8), seed=3) as batches:
        expected = [next(batches) for _ in range(5)]
    served = opened(folder, augment, service=address)
    with served.batches(rows=[0, 1, 4], seed=3) as one, served.batches(rows=[2, 3, 5, 6, 7], seed=3) as two:
        steps = [(next(one), next(two)) for _ in range(5)]
        assert (one.position, two.position) == (20, 20)
        told = {fault.key for fault in (*one.faults(), *two.faults())}
    for first, last in ((0, 3), (3, 5)):
        wanted = by_seed(expected[first:last])
        found = by_seed(batch for pair in steps[first:last] for batch in pair)
        assert found.keys() == wanted.keys()
        for seed, clip in wanted.items():
            for name, value in clip.items():
                np.testing.assert_array_equal(found[seed][name], value)
    assert told == {"even/video_4.mp4"}
    assert {batch["video"].shape[0] for batch, _ in steps} == {3}


@pytest.mark.slow
def test_what_a_worker_loses_when_it_dies_is_asked_for_again(video_folder, service, monkeypatch):
    address, workers = service
    monkeypatch.setattr("vmae_jax.data.served.STALL_SECONDS", 10.0)
    served = opened(video_folder, service=address, global_batch=2, prefetch=1, timeout=10.0)
    with served.batches(rows=range(4), seed=5) as batches:
        taken = [next(batches)]
        workers[0].send_signal(signal.SIGKILL)
        taken += [next(batches) for _ in range(4)]
    with opened(video_folder, global_batch=2).batches(rows=range(4), seed=5) as batches:
        assert by_seed(next(batches) for _ in range(5)).keys() == by_seed(taken).keys()


@pytest.mark.slow
def test_mistakes_at_a_workers_end_reach_the_trainer(video_folder, service, tmp_path):
    address, _ = service
    gone = opened(video_folder, service=address)
    other = config(tmp_path / "nowhere", service=address)
    gone = type(gone)(dataclasses.replace(gone.loader, recipe=spec.to_json(other)), gone.source)
    told = pytest.raises(ConfigError, match=r"worker.*there is no folder")
    with gone.batches(rows=range(8), seed=0) as batches, told:
        next(batches)


def test_mistakes_before_anything_is_served(video_folder):
    with socket.socket() as held:
        held.bind(("localhost", 0))
        port = held.getsockname()[1]
        with pytest.raises(ConfigError, match=f"nothing listens at localhost:{port}.*vmae data serve starts it"):
            opened(video_folder, service=f"localhost:{port}").batches(rows=range(8), seed=0)
    with pytest.raises(ConfigError, match="'somewhere' is not HOST:PORT"):
        opened(video_folder, service="somewhere").batches(rows=range(8), seed=0)


def test_a_signal_that_comes_before_the_wait_ends_it_and_none_finds_a_lock_held():
    before = signal.getsignal(signal.SIGTERM)
    with serve.until_stopped() as wait:
        for _ in range(3):  # nor does a second one hurt
            os.kill(os.getpid(), signal.SIGTERM)
        wait()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_the_command_ends_when_it_is_told_to_and_asks_for_open(service):
    address, _ = service
    worker = start(f"--dispatcher={address}", "--workers=1")
    first_line(worker)
    worker.send_signal(signal.SIGTERM)
    out, _ = worker.communicate(timeout=180)
    assert worker.returncode == 0
    assert '"role": "worker"' in out
    command = [sys.executable, "-m", "vmae_jax", "data", "serve"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "say --open where a firewall keeps strangers away" in done.stderr
