"""Warnings about valid runs whose results would mean little: one line each, before the first step."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from vmae_jax.commands.experiment import Experiment
from vmae_jax.data.synthetic.moving_shapes import MovingShapes
from vmae_jax.io.writers import Writers
from vmae_jax.train.schedule import Clock, Rate

__all__ = ["EVENT", "changed_length", "doubts", "same_videos", "warn"]

log = logging.getLogger(__name__)

EVENT = "warning"  # of `metrics.jsonl`
FEW = 20  # videos of an evaluation below which its figures mean little


def warn(found: list[str], writers: Writers, start: int, *, always: bool = False) -> None:
    """Log each warning; those of a fresh run, or `always`, become events of its metrics, which a report shows."""
    if jax.process_index() != 0:
        return
    for message in found:
        log.warning("warning: %s", message)
        if always or not start:
            writers.event(start, EVENT, message=message)


def doubts(made: Experiment, clock: Clock, rate: Rate, videos: int, measured: Mapping[str, int]) -> list[str]:
    """Return why the results of a run would mean little, each reason with the option that changes it.

    Args:
      made: the experiment.
      clock: its lengths.
      rate: its learning rates.
      videos: of the training set.
      measured: videos of the evaluation: the held-out set (""), and what each evaluator compares with.
    """
    if not clock.steps:
        return []
    return [
        *_rates(clock, rate),
        *_sizes(made.loader.global_batch, videos, measured),
        *same_videos(made),
        *_intervals(made, clock),
    ]


def same_videos(made: Experiment, *, trained: bool = True) -> Iterator[str]:
    """Yield which evaluations read the videos that they are compared with.

    Args:
      made: the experiment.
      trained: whether to compare with the training data as well.
    """
    held_out = getattr(made.eval.data, "source", None)
    if held_out is None or isinstance(held_out, MovingShapes):  # drawn clips are for trials
        return
    pairs = {f"config.eval.evaluators.{name}.train": getattr(evaluator, "train", None)
             for name, evaluator in made.eval.evaluators.items()}  # fmt: skip
    for option, loader in (pairs | ({"config.data": made.loader} if trained else {})).items():
        if getattr(loader, "source", None) == held_out:
            yield (
                f"{option} and config.eval.data read the same videos: the figures show what was memorized; give "
                "them different videos"
            )


def changed_length(made: Experiment, clock: Clock, rate: Rate, start: int, planned: int | None) -> str:
    """Return a warning if the learning rate from here on is not the one that the run was begun with, or "".

    Args:
      made: the experiment.
      clock: its lengths now.
      rate: its learning rates now.
      start: the step that the run resumes at.
      planned: steps of the whole run when that step was saved, if they were recorded.
    """
    if planned is None or planned == clock.steps:
        return ""
    before = made.optimizer.build(made.abstract_params(), clock._replace(steps=planned))[1]
    last = clock.steps - 1
    if all(before.value(step) == rate.value(step) for step in (start, (start + last) // 2, last)):
        return ""
    return (
        f"this run had {planned:,} steps and resumes at step {start:,} with {clock.steps:,}: its schedule is now that "
        f"of {clock.steps:,} steps (the learning rate goes from {before.value(start):.3g} to {rate.value(start):.3g}); "
        f"to keep the old one, set --config.train.length.steps={planned}"
    )


def _rates(clock: Clock, rate: Rate) -> Iterator[str]:
    if max(rate.start, rate.peak, rate.final) == 0:
        yield "the learning rate is 0 at every step: nothing is learned; set --config.optimizer.schedule.peak"
    elif rate.warmup and rate.warmup >= clock.steps:
        yield (
            f"the warm-up of {rate.warmup:,} steps is as long as the training of {clock.steps:,}: the learning rate "
            f"never falls; set --config.optimizer.schedule.warmup or --config.train.length"
        )


def _sizes(batch: int, videos: int, measured: Mapping[str, int]) -> Iterator[str]:
    if batch > videos:
        yield (
            f"a batch of {batch:,} is larger than the training set of {videos:,} videos, so that a batch holds "
            f"a video more than once; set --config.data.global_batch"
        )
    for name, count in measured.items():
        of = "config.eval.data" if not name else f"config.eval.evaluators.{name}.train"
        if count < FEW:
            yield (
                f"{of} has {count:,} video{'' if count == 1 else 's'}: too few for its figures to mean much (each "
                f"is {100 / max(count, 1):.3g} points of an accuracy); use {FEW} or more"
            )


def _intervals(made: Experiment, clock: Clock) -> Iterator[str]:
    """Whatever is due at intervals and happens at the end alone, for the run is shorter."""
    lengths: dict[str, Any] = {"train.log_every": made.train.log_every, "checkpoint.every": made.checkpoint.every}
    if made.eval.ready:
        lengths["eval.every"] = made.eval.every
    late = {
        name: steps
        for name, length in lengths.items()
        if length is not None and (steps := max(1, clock.length(length))) > clock.steps
    }
    what = {
        "train.log_every": "metrics are logged",
        "checkpoint.every": "a checkpoint is saved",
        "eval.every": "the model is evaluated",
    }
    for name, steps in late.items():
        yield (
            f"{name} is {steps:,} steps and the training {clock.steps:,}: {what[name]} only once, at the end; "
            f"set --config.{name}"
        )
