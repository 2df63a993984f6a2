"""`vmae train`: any stage of any method; in an existing workdir the run resumes."""

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from vmae_jax.commands.attempt import Attempt, Closing
from vmae_jax.commands.begin_from import check_places
from vmae_jax.commands.collapse import check_watched
from vmae_jax.commands.experiment import Experiment, check_workdir, experiment
from vmae_jax.commands.logs import check_trackers, open_writers
from vmae_jax.commands.measure import Measurement, check_classes
from vmae_jax.commands.rollback import read_skips
from vmae_jax.data.opened import open_loader
from vmae_jax.data.source import facts_of
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.io.lock import Lock
from vmae_jax.io.paths import Workdir
from vmae_jax.io.run_config import write_config
from vmae_jax.io.writers import read_rows
from vmae_jax.runtime import distributed, goodput, watchdog
from vmae_jax.runtime.cache import enable_cache
from vmae_jax.runtime.preemption import Preemption
from vmae_jax.spec import to_json
from vmae_jax.train import loop
from vmae_jax.train.schedule import Clock, Rate

__all__ = ["run"]

log = logging.getLogger(__name__)

STARVED = 0.1  # share of the time without data above which a hint is logged at the end

_Opened = tuple[Experiment, Any, Measurement | None, tuple[Clock, Any, Rate]]


def run(
    config: ConfigDict,
    workdir: Workdir,
    *,
    progress: bool = True,
    limits: Mapping[str, float] = watchdog.LIMITS,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Train to the end of `config.train.length`; with length 0, save the initial state (`init_from` and seed).

    Args:
      config: of any stage.
      workdir: of the run, which resumes if it has a checkpoint.
      progress: whether to show a progress bar.
      limits: seconds that compiling, a step, … may take before the watchdog ends the process.
      command: the command line, recorded in the workdir without its secrets.

    Returns:
      {"step", "status": "done" | "preempted", "metrics", "workdir"}, and "skipped": the videos that could not
      be read, by kind, where there are any.

    Raises:
      ConfigError: if the config cannot be carried out, or another run is in this workdir.
      refused.NotFiniteError, refused.SpikeError: if steps were refused, and `train.on_nonfinite` does not continue.
      refused.CollapseError: if features collapsed, and `train.on_collapse` does not continue.
      io.replicas.ReplicaError: if devices disagree on an array.
      io.checkpoint.SaveError: if a checkpoint cannot be saved.
      data.faults.TooManyBadVideos: if more videos are unreadable than the config allows.
      runtime.distributed.PeerError: if another host does not start or is lost.
    """
    dog = watchdog.Watchdog(limits)  # measures the run's time as well
    with Lock(workdir.path) as lock:
        return _run(config, workdir, progress=progress, dog=dog, lock=lock, command=command)


def _run(
    config: ConfigDict, workdir: Workdir, *, progress: bool, dog: watchdog.Watchdog, lock: Lock, command: Sequence[str]
) -> dict[str, Any]:
    distributed.start()
    enable_cache()
    made, data, measured, (clock, tx, rate) = distributed.together(
        "start", lambda: _open(config, workdir, lock), facts=lambda opened: _facts(config, workdir, opened)
    )
    saver = Checkpoints(
        workdir.checkpoints,
        keep_last=made.checkpoint.keep_last,
        keep_every=made.checkpoint.keep_every,
        asynchronous=made.checkpoint.asynchronous,
    )
    with (
        dog,
        Closing(saver),
        Closing(open_writers(made, workdir)) as writers,
        Preemption() as preemption,
        distributed.naming_lost_peers(),
    ):
        one = Attempt(made, workdir, data, measured, clock, tx, rate, saver, writers, goodput.Account(dog.spent), dog)
        with dog.phase("restore", "the start or restore"):
            state, start = one.course.begin()
            distributed.together("config", lambda: _keep(workdir, config), facts=lambda _: {})
        if start >= clock.steps:
            return one.already_done(state, start)
        one.introduce(state, start, command)
        show = progress and sys.stderr is not None and jax.process_index() == 0
        outcome, left_out = one.train(state, start, preempted=preemption.requested, show=show)
    _report_progress(workdir, outcome)
    result = {"step": outcome.step, "status": outcome.status, "metrics": dict(outcome.metrics)}
    return result | {"workdir": str(workdir.path)} | ({"skipped": left_out} if left_out else {})


def _open(config: ConfigDict, workdir: Workdir, lock: Lock) -> _Opened:
    """Open and check everything that can be checked before the first array; host 0 locks the workdir.

    Returns:
      the experiment, its opened data, what evaluates it (or None), and its clock, optimizer and learning rates.
    """
    distributed.check_disk(str(workdir.path), resuming=workdir.config_json.exists())
    made = experiment(config, trains=True)
    check_trackers(made)
    check_watched(made)
    if not Checkpoints(workdir.checkpoints).steps():
        check_places(made.init_from)
    data = open_loader(made.loader)
    measured = Measurement(made) if made.eval.ready else None
    check_classes(made, data, measured.data if measured and measured.heads else None)
    clock = made.clock(data.steps_per_epoch)
    tx, rate = made.optimizer.build(made.abstract_params(), clock)
    if jax.process_index() == 0:
        lock.acquire()
    check_workdir(workdir, config)
    return made, data, measured, (clock, tx, rate)


def _keep(workdir: Workdir, config: ConfigDict) -> None:
    """Write `config.json`: only now, so that a run that is refused leaves none behind."""
    if jax.process_index() == 0:
        write_config(workdir, config)


def _report_progress(workdir: Workdir, outcome: loop.Outcome) -> None:
    """Log the metrics of before the first step beside the newest ones, and whether devices waited for data."""
    waited = outcome.metrics.get("data_wait_fraction", 0.0)
    if waited > STARVED:
        log.info("the devices waited %.0f%% of the time for data; `vmae bench input` shows why", 100 * waited)
    if jax.process_index() != 0 or outcome.status != "done":
        return
    rows = (row for row in read_rows(workdir.metrics) if row.get("kind") == "eval" and row.get("step") == 0)
    before = next(rows, {})
    pairs = [
        f"{name} {float(before[name]):.4f} before training, {value:.4f} after"
        for name, value in outcome.metrics.items()
        if name in before and float(before[name]) != value
    ]
    if pairs:
        log.info("evaluation: %s", "; ".join(pairs))


def _facts(config: ConfigDict, workdir: Workdir, opened: _Opened) -> dict[str, Any]:
    """Return what all hosts must have in common before they train together."""
    return distributed.facts(
        to_json(config),
        **facts_of(opened[1].source),
        **(opened[2].facts() if opened[2] else {}),
        checkpoints=Checkpoints(workdir.checkpoints).steps()[-3:],
        skipped=read_skips(workdir),
    )
