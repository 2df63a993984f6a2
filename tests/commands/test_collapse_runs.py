"""Runs whose features collapse: they report it, stop, or roll back, and a resumed run reaches the same verdict."""

import shutil

import flax.linen as nn
import jax.numpy as jnp
import pytest
from small_runs import loader, write_videos

from vmae_jax import registry
from vmae_jax.commands import train
from vmae_jax.commands.errors import exit_status, expected
from vmae_jax.commands.rollback import read_skips
from vmae_jax.configs import common
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.io.paths import Workdir
from vmae_jax.io.writers import read_rows
from vmae_jax.models.parameters import declare
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError, call
from vmae_jax.train.refused import CollapseError
from vmae_jax.types import Loss, Method, Term

pytestmark = pytest.mark.slow

VIDEOS = 9


class Fading(nn.Module):
    """Features 1 + exp(-faded) x, of which a loss makes `faded` grow."""

    @nn.compact
    def __call__(self, video):
        b, _, h, w, c = video.shape
        x = video[:, 0].reshape(b, 4, h // 4, 4, w // 4, c).astype(jnp.float32).mean((2, 4)).reshape(b, -1) / 255
        faded = self.param("faded", declare(nn.initializers.zeros, "embed", decay=False), (1,))
        return 1 + jnp.exp(-faded) * x, faded


@register("method")
def fading() -> Method:
    """Make features constant, by a constant factor in every step."""
    network = Fading()

    def loss(params, batch, context):
        faded = network.apply({"params": params["encoder"]}, batch["video"])[1]
        return Loss({"left": Term(batch["valid"].sum() * (10.0 - faded[0]), batch["valid"].sum())})

    return Method(
        init=lambda key, batch: ({"encoder": network.init(key, batch["video"])["params"]}, None),
        loss=loss,
        features=lambda params, batch, *, layer=None, pool=True: network.apply(
            {"params": params["encoder"]}, batch["video"]
        )[0],
    )


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder, VIDEOS)
    return folder


def config(videos, action, *, steps=10, every=2, save=2, evaluators=True, **settings):
    registry.admit(__name__)
    return common.sections(
        method=call(f"{__name__}.fading"),
        data=loader(videos, batch=8, views=1, labels=False),
        optimizer=call("train.optim.adamw", schedule=call("train.schedule.constant", value=0.6)),
        train={"length": {"steps": steps}, "on_collapse": action, "replicas_every": None, **settings},
        checkpoint={"every": {"steps": save}, "keep_last": 9},
        eval={
            "data": loader(videos, batch=8, views=1, labels=False),
            "every": every and {"steps": every},
            "at_start": True,
            "evaluators": {"spectrum": call("eval.spectrum")} if evaluators else {},
        },
    )


def events(workdir, name):
    return [row for row in read_rows(workdir.metrics) if row.get("event") == name]


def test_stop_ends_the_run_before_the_save_and_report_continues_it(videos, tmp_path):
    """The spread is .30 of the first after 2 steps, .09 after 4, .03 after 6, and .01 after 8."""
    workdir = Workdir(tmp_path / "run")
    with pytest.raises(
        CollapseError, match=r"after step 4 the features collapsed .*of spectrum: .*the mean spread is .*of its maximum"
    ) as stop:
        train.run(config(videos, "stop"), workdir, progress=False)
    assert (exit_status(stop.value), expected(stop.value)) == (1, True)
    assert Checkpoints(workdir.checkpoints).steps() == [2, 4, 6]
    [event] = events(workdir, "collapse")
    assert (event["step"], event["action"], event["evaluator"]) == (8, "stop", "spectrum")
    measured = {row["step"]: row for row in read_rows(workdir.metrics) if row["kind"] == "eval"}
    assert list(measured) == [0, 2, 4, 6, 8]
    assert measured[8]["spectrum/clips"] == VIDEOS
    assert measured[8]["spectrum/std"] < 0.05 * measured[0]["spectrum/std"]

    # Resumed at step 6: the alarm there and the spread before it are known, though the run began after them.
    shutil.copytree(workdir.path, tmp_path / "other")
    with pytest.raises(CollapseError, match="after step 4"):
        train.run(config(videos, "stop"), Workdir(tmp_path / "other"), progress=False)
    result = train.run(config(videos, "report"), workdir, progress=False)
    assert (result["status"], result["step"]) == ("done", 10)
    assert [(event["step"], event["action"]) for event in events(workdir, "collapse")] == [
        (8, "report"),
        (10, "report"),
    ]


def test_rollback_returns_to_before_the_features_began_to_collapse(videos, tmp_path):
    workdir = Workdir(tmp_path / "run")
    with pytest.raises(CollapseError, match=r"step 5: collapse .*rolling back to step 4 1 times in a row"):
        train.run(config(videos, "rollback", rollbacks=1), workdir, progress=False)
    assert read_skips(workdir) == [(4, 8, 4, "step 5: collapse")], "the batches of the steps 5 to 8"
    assert Checkpoints(workdir.checkpoints).steps() == [2, 4]
    assert sorted(entry.name for entry in (workdir.checkpoints / "aside").iterdir()) == ["6-0", "6-1"]
    [event] = events(workdir, "rolled back")
    assert (event["step"], event["batches"], event["evaluator"]) == (4, [4, 7], "spectrum")
    assert event["reason"] == "step 5: collapse"


def test_without_a_checkpoint_from_before_there_is_nothing_to_roll_back_to(videos, tmp_path):
    workdir = Workdir(tmp_path / "run")
    with pytest.raises(CollapseError, match="no checkpoint from before to roll back to"):
        train.run(config(videos, "rollback", save=6), workdir, progress=False)
    assert Checkpoints(workdir.checkpoints).steps() == [6], "which stays where it is"


@pytest.mark.parametrize("action", ["stop", "rollback"])
def test_an_action_that_nothing_can_cause_is_refused(videos, tmp_path, action):
    for more in ({"evaluators": False}, {"every": None}):
        with pytest.raises(ConfigError, match=f"config.train.on_collapse={action} needs an evaluator"):
            train.run(config(videos, action, **more), Workdir(tmp_path / "run"), progress=False)
    with pytest.raises(ConfigError, match=r"train\.on_collapse must be one of report, stop, rollback, got 'ignore'"):
        train.run(config(videos, "ignore"), Workdir(tmp_path / "run"), progress=False)
    assert not (tmp_path / "run").exists()
