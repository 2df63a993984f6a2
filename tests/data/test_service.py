"""Decoding on other machines: two workers in processes of their own, over the loopback."""

import dataclasses
import itertools
import json
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
from vmae_jax.data.opened import open_loader
from vmae_jax.data.order import apart, past
from vmae_jax.data.served import windows
from vmae_jax.data.service import (
    PROTOCOL,
    SECRET_FILE,
    _Answers,
    _compiled,
    _Serving,
    function_name,
    read_secret,
    signature,
)
from vmae_jax.data.service import SECRET as VARIABLE
from vmae_jax.data.tf import tensorflow
from vmae_jax.spec import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECRET = "a secret of these tests, 32 characters"


@pytest.fixture(autouse=True, scope="module")
def shared_secret():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, SECRET)
        yield SECRET.encode()


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


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), max_size=4), st.integers(1, 50), st.integers(1, 5))
def test_windows_end_with_the_epochs_also_where_batches_are_left_out(pairs, epoch, batch):
    skips = apart([(first * batch, (first + length) * batch) for first, length in pairs])
    at = 0
    for first, steps in itertools.islice(windows(0, epoch=epoch, batch=batch, skips=skips), 8):
        assert first == at
        at = first + steps * batch
        end = (past(first, skips) // epoch + 1) * epoch
        assert past(at - batch, skips) < end <= past(at, skips)  # of the last step, and of the one after it


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
    return open_loader(dataclasses.replace(spec.build(written), recipe=spec.to_json(written)))


def start(*arguments):
    """`vmae data serve --open …`, and its first line."""
    command = [sys.executable, "-m", "vmae_jax", "data", "serve", "--open", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return process


def first_line(process):
    assert process.stderr is not None
    return process.stderr.readline()


@pytest.fixture(scope="module")
def service(shared_secret):
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
    augment = spec.call("data.rand_augment", layers=1)
    exact = opened(folder, augment)
    with exact.batches(rows=range(8), seed=3) as batches:
        expected = [next(batches) for _ in range(5)]
    served = opened(folder, augment, service=address)
    with served.batches(rows=[0, 1, 4], seed=3) as one, served.batches(rows=[2, 3, 5, 6, 7], seed=3) as two:
        steps = [(next(one), next(two)) for _ in range(5)]
        assert (one.position, two.position) == (20, 20)
        result = {fault.key for fault in (*one.faults(), *two.faults())}
    for first, last in ((0, 3), (3, 5)):
        wanted = by_seed(expected[first:last])
        found = by_seed(batch for pair in steps[first:last] for batch in pair)
        assert found.keys() == wanted.keys()
        for seed, clip in wanted.items():
            for name, value in clip.items():
                np.testing.assert_array_equal(found[seed][name], value)
    assert result == {"even/video_4.mp4"}
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
    result = pytest.raises(ConfigError, match=r"worker.*there is no folder")
    with gone.batches(rows=range(8), seed=0) as batches, result:
        next(batches)


def attack(tmp_path):
    """The config of a stranger, which runs a command if it is built, and the file that shows it."""
    marker = tmp_path / "marker"
    command = ["sh", "-c", f"id > {marker}"]
    call = {"call": "runtime.supervisor.supervise", "command": command, "processes": 1, "restarts": 0, "grace": 1.0}
    return json.dumps(call | {"wait": 1.0}), marker


def ask(address, token, *inputs):
    """Have a worker of the service call the Python function of this name."""
    tf = tensorflow()
    service = tf.data.experimental.service
    dataset = tf.data.Dataset.range(1).map(lambda _: tf.raw_ops.PyFunc(input=inputs, token=token, Tout=[tf.uint8]))
    distributed = service.distribute(service.ShardingPolicy.OFF, f"{PROTOCOL}://{address}", compression=None)
    return list(dataset.apply(distributed).as_numpy_iterator())


def test_a_worker_carries_out_what_is_left_to_the_graph(video_folder):
    made = spec.build(config(video_folder))
    made = dataclasses.replace(made, transforms=(*made.transforms, lambda one, seed: {"video": one["video"] // 2}))
    clip = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    done = _compiled(made)(clip, np.array([1, 2], np.uint32), np.int64(0))
    np.testing.assert_array_equal(done, clip // 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pyfunc_0", "the right one"])
def test_a_worker_runs_nothing_without_the_secret(service, shared_secret, tmp_path, name):
    """TensorFlow's own numbering finds no function, and one whose name was read at the dispatcher refuses."""
    tf, (config, marker) = tensorflow(), attack(tmp_path)
    numbers = [tf.constant(number, tf.int64) for number in (0, 1, 0, 0)]
    inputs = [tf.constant(config), *numbers, tf.constant([0], tf.int64)]
    if name == "the right one":
        inputs = [tf.constant("0" * 64), *inputs]
        name = function_name(shared_secret)
    with pytest.raises(tf.errors.OpError, match=r"Could not find callback|not signed with this worker's secret"):
        ask(service[0], name, *inputs)
    assert not marker.exists()


def test_what_is_signed_is_the_config_the_seed_and_the_number_of_videos(shared_secret, tmp_path):
    config, marker = attack(tmp_path)
    answers = _Answers(1, shared_secret)
    own = np.zeros(1, np.int64)
    signed = signature(shared_secret, config, 3, 5)
    others = [(config + " ", 3, 5), (config, 4, 5), (config, 3, 6)]
    for recipe, seed, videos in others:
        with pytest.raises(ConfigError, match="not signed with this worker's secret"):
            answers(signed.encode(), recipe.encode(), seed, videos, 0, 0, own)
    # Even what is signed is built as a loader or not at all.
    with pytest.raises(ConfigError, match="names no component"):
        answers(signed.encode(), config.encode(), 3, 5, 0, 0, own)
    assert not marker.exists()


def test_a_worker_builds_loaders_alone():
    with pytest.raises(ConfigError, match="of kind mask, where a loader was expected"):
        _Serving('{"call": "masking.tube"}', 0, 1, 1)


def test_the_secret_is_written_once_for_this_user_alone(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    path = tmp_path / "config" / "secret"
    monkeypatch.setenv(SECRET_FILE, str(path))
    with pytest.raises(ConfigError, match=r"no secret in .*vmae data serve writes one"):
        read_secret()
    made = read_secret(make=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_secret(make=True) == read_secret() == made
    assert len(made) == 64
    assert [file.name for file in path.parent.iterdir()] == ["secret"]
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by other users: chmod 600"):
        read_secret()
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(ConfigError, match="has 5 characters; at least 32"):
        read_secret()


@pytest.mark.slow
def test_a_trainer_with_another_secret_is_refused_in_one_line(video_folder, service, monkeypatch):
    served = opened(video_folder, service=service[0])
    monkeypatch.setenv(VARIABLE, "another secret than the one the workers have")
    refused = pytest.raises(ConfigError, match="has another secret than this training")
    with served.batches(rows=range(8), seed=0) as batches, refused:
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
def test_the_command_ends_when_it_is_asked_to_and_asks_for_open(service):
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
    assert "pass --open behind a firewall or on a private network" in done.stderr
