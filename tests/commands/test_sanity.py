"""A run that is valid and cannot mean anything is warned of, before its first step and in its report."""

import dataclasses
import functools
import logging
import types

import pytest

from vmae_jax.commands import sanity
from vmae_jax.commands.config import load_config
from vmae_jax.commands.experiment import experiment
from vmae_jax.data import sources
from vmae_jax.io.writers import JsonlWriter, Writers, read_rows

CONFIG = "configs/quickstart.py:smoke"
QUIET = {"checkpoint.every.steps": "2", "eval.every.steps": "2"}


def run_of(videos=100, **overrides):
    """An experiment, its clock and its learning rates."""
    overrides = QUIET | {key.replace("__", "."): str(value) for key, value in overrides.items()}
    made = experiment(load_config(CONFIG, list(overrides.items())))
    clock = made.clock(videos / made.loader.global_batch)
    _, rate = made.optimizer.build(made.abstract_params(), clock)
    return made, clock, rate


def doubts(videos=100, measured=None, **overrides):
    made, clock, rate = run_of(videos, **overrides)
    return sanity.doubts(made, clock, rate, videos, {"": 100} if measured is None else measured)


def test_a_sound_run_is_not_warned_of():
    assert doubts() == []
    assert doubts(train__length__steps=0, videos=2, measured={"": 1}) == [], "a run of no steps trains nothing"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer__schedule__warmup__steps": 4}, "the warm-up of 4 steps is as long as the training of 4"),
        ({"optimizer__schedule__peak": 0.0, "optimizer__schedule__final": 0.0}, "learning rate is 0 at every step"),
        ({"measured": {"": 2}}, "config.eval.data has 2 videos: too few for its figures to mean much (each is 50"),
        ({"measured": {"": 100, "probe": 1}}, "config.eval.evaluators.probe.train has 1 video: too few"),
        ({"videos": 7}, "a batch of 8 is larger than the training set of 7 videos"),
        ({"train__log_every__steps": 5}, "train.log_every is 5 steps and the training 4: metrics are logged only once"),
        ({"checkpoint__every__steps": 5}, "checkpoint.every is 5 steps and the training 4: a checkpoint is saved only"),
        ({"eval__every__steps": 5}, "eval.every is 5 steps and the training 4: the model is evaluated only once"),
    ],
)  # fmt: skip
def test_each_doubt_is_one_line(changes, message):
    [found] = doubts(**changes)
    assert message in found
    assert "\n" not in found


def test_an_evaluation_on_its_own_training_videos_is_one_line():
    made, *_ = run_of()
    known = dataclasses.replace(made.eval.data, source=sources.folder("videos"))
    made = dataclasses.replace(made, eval=dataclasses.replace(made.eval, data=known))
    assert [*sanity.same_videos(made)] == []
    probe = types.SimpleNamespace(train=known)
    made = dataclasses.replace(made, eval=dataclasses.replace(made.eval, evaluators={"linear": probe}))
    [found] = sanity.same_videos(made)
    assert found.startswith("config.eval.evaluators.linear.train and config.eval.data read the same videos")
    made = dataclasses.replace(made, loader=known)
    assert len([*sanity.same_videos(made)]) == 2
    assert len([*sanity.same_videos(made, trained=False)]) == 1
    probe.train = dataclasses.replace(known, source="another")
    assert len([*sanity.same_videos(made, trained=False)]) == 0


def test_another_length_of_a_resumed_run_is_one_line():
    made, clock, rate = run_of(train__length__steps=8)
    changed = functools.partial(sanity.changed_length, made, clock, rate)
    message = changed(3, 16)
    assert message.startswith("this run had 16 steps and resumes at step 3 with 8: its schedule is now that of 8 steps")
    assert message.endswith("to keep the old one, set --config.train.length.steps=16")
    assert "\n" not in message
    assert changed(3, 4)
    assert "resumes at step 4 with 8" in changed(4, 4), "a complete run that is extended"
    assert (changed(3, 8), changed(3, None)) == ("", "")
    rates = {"peak": 1e-3, "final": 1e-3, "start": 1e-3}
    constant = {f"optimizer__schedule__{name}": value for name, value in rates.items()}
    assert sanity.changed_length(*run_of(train__length__steps=8, **constant), 3, 16) == "", "the rate is the same"


def test_warnings_are_logged_at_every_start_and_events_of_the_first(tmp_path, caplog):
    writers = Writers([JsonlWriter(tmp_path / "metrics.jsonl")])
    with caplog.at_level(logging.WARNING):
        sanity.warn(["too few"], writers, 0)
        sanity.warn(["too few"], writers, 10)
    assert [record.getMessage() for record in caplog.records] == ["warning: too few"] * 2
    [row] = read_rows(tmp_path / "metrics.jsonl")
    assert (row["step"], row["event"], row["message"]) == (0, "warning", "too few")
