"""A training whose method reads streams: they reach the loss on a mesh, in micro-batches, and after a restart."""

import every_stream
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax import registry
from vmae_jax.commands import train
from vmae_jax.configs import common, quickstart
from vmae_jax.data.opened import open_loader
from vmae_jax.io.paths import Workdir
from vmae_jax.io.writers import read_rows
from vmae_jax.registry import register
from vmae_jax.spec import build, call
from vmae_jax.types import Mean


@register("method", method="method")
def listening(method):
    """The method, with the loudness of the sound and the mean of the readings as metrics."""

    def loss(params, batch, context):
        found = method.loss(params, batch, context)
        heard = batch["audio_valid"].astype(jnp.float32)
        loudness = jnp.abs(batch["audio"].astype(jnp.float32)).mean(1) * heard
        there = batch["imu_mask"].astype(jnp.float32)
        metrics = {
            "loudness": Mean(loudness.sum(), heard.sum()),
            "readings": Mean((batch["imu"][..., 0] * there).sum(), there.sum()),
        }
        return found.replace(metrics=found.metrics | metrics)

    return method._replace(loss=loss)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("every")
    every_stream.write_every(root)
    return root


def config(folder, steps):
    small = quickstart.get_config("smoke")
    registry.admit(__name__)
    streams = every_stream.streams()
    del streams["motion"]
    data = every_stream.config(
        folder,
        streams=streams,
        sampler=call("data.clips.dense", frames=small.data.sampler.frames, stride=2),
        transforms=[call("data.transforms.multi_scale_crop", size=small.data.transforms[0].size)],
        global_batch=8,
    )
    return common.sections(
        method=call(f"{__name__}.listening", method=small.method),
        data=data,
        optimizer=call("train.optim.adamw", schedule=call("train.schedule.constant", value=1e-3)),
        train={"length": {"steps": steps}, "log_every": {"steps": 1}, "accumulate": 2},
        checkpoint={"every": {"steps": 2}},
    )


@pytest.mark.slow
def test_streams_reach_the_loss_and_go_on_after_a_restart(folder, tmp_path):
    written = config(folder, 4)
    first = config(folder, 2)
    workdir = Workdir(tmp_path / "run")
    train.run(first, workdir, progress=False)
    train.run(written, workdir, progress=False)
    rows = {row["step"]: row for row in read_rows(workdir.metrics) if row["kind"] == "train"}
    assert sorted(rows) == [1, 2, 3, 4]
    opened = open_loader(build(written.data, "loader"))
    with opened.batches(rows=range(16), seed=written.seed) as batches:
        for step in range(1, 5):
            batch = next(batches)
            loudness = np.abs(batch["audio"].astype(float)).mean(1)[batch["audio_valid"]].mean()
            assert rows[step]["loudness"] == pytest.approx(loudness, rel=1e-5)
            assert rows[step]["readings"] == pytest.approx(batch["imu"][batch["imu_mask"]].mean(), rel=1e-5)
