"""The jobs of the learning experiment: what there is to run, in which order, and running one of them.

A job is small (one training, or one evaluation) and its result is one line of `results.jsonl`; a
pre-training that was interrupted goes on from its checkpoint, since it is run by `vmae train`'s
own function in an ordinary workdir.
"""

import dataclasses
import functools
import json
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import learning_arms as arms
from benchmarks import learning_methods as methods
from benchmarks.learning_arms import LADDER, LONG, MAIN, SCRATCH, SMALL, Setting
from vmae_jax.commands import train
from vmae_jax.commands.experiment import Experiment, experiment
from vmae_jax.commands.measure import Measurement
from vmae_jax.commands.restore import restore
from vmae_jax.eval.charts import reduce_points
from vmae_jax.io.paths import Workdir
from vmae_jax.runtime import watchdog
from vmae_jax.spec import build, call
from vmae_jax.train import sharding
from vmae_jax.train.settings import Evaluation
from vmae_jax.types import Carried

__all__ = ["Interrupted", "Job", "Rows", "chosen_rate", "execute", "jobs"]

Rows = Mapping["Job", Mapping[str, Any]]
RANDOM = "random"  # features of an encoder that nothing has trained
STUDENTS = ("student", "distilled")


class Interrupted(Exception):  # noqa: N818 - not an error
    """The process was asked to stop; the same command goes on."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One line of the results.

    Attributes:
      stage: "pretrain", "probe", "finetune" or "student".
      arm: of the pre-training, "scratch", "scratch-long", "random", "student" or "distilled".
      labels, rate: of what is trained with labels; 0 elsewhere.
    """

    stage: str
    arm: str
    seed: int
    labels: int = 0
    rate: float = 0.0

    @property
    def name(self) -> str:
        """Of its folder."""
        return "-".join(map(str, (self.stage, self.arm, f"seed{self.seed}", self.labels, f"{self.rate:g}")))


def jobs(setting: Setting, part: str, seeds: int, only: Sequence[str], rows: Rows) -> Iterator[Job]:
    """Every job of part "A", "B" or "C", in order; those whose rate is still to be chosen come once it is.

    The learning rate of an arm at a number of labels is chosen by seed 0, on the validation clips.

    Args:
      only: arms; empty for all.
    """
    wanted = lambda *names: not only or bool(set(names) & set(only))  # noqa: E731
    numbers = range(seeds)
    if part == "A":
        if wanted(MAIN):
            yield from (Job("pretrain", MAIN, seed) for seed in numbers)
        yield from (Job("probe", arm, seed) for arm in (MAIN, RANDOM) if wanted(arm) for seed in numbers)
        for labels in setting.counts:
            for arm in filter(wanted, (MAIN, SCRATCH)):
                yield from _tuned(setting, "finetune", arm, labels, seeds, rows)
        if wanted(LONG):
            yield from _tuned(setting, "finetune", LONG, setting.middle, seeds, rows)
        return
    if part == "C" and wanted(methods.SALT):
        yield from (Job("pretrain", MAIN, seed) for seed in numbers)
    for arm in filter(wanted, LADDER if part == "B" else (MAIN, "random-50", *methods.METHODS)):
        for seed in numbers:
            yield Job("pretrain", arm, seed)
            yield Job("probe", arm, seed)
        yield from _tuned(setting, "finetune", arm, setting.middle, seeds, rows)
    if part == "B" and wanted(*STUDENTS):
        for arm in (MAIN, SMALL) if setting.student_pretrained else (MAIN,):
            yield from (Job("pretrain", arm, seed) for seed in numbers)
        yield from _tuned(setting, "finetune", MAIN, setting.teacher, seeds, rows)
        for arm in filter(wanted, STUDENTS):
            yield from _tuned(setting, "student", arm, setting.teacher, seeds, rows)


def _tuned(setting: Setting, stage: str, arm: str, labels: int, seeds: int, rows: Rows) -> Iterator[Job]:
    """Seed 0 at every rate, then the other seeds at the rate that did best there."""
    yield from (Job(stage, arm, 0, labels, rate) for rate in setting.rates)
    rate = chosen_rate(setting, stage, arm, labels, rows)
    if rate is not None:
        yield from (Job(stage, arm, seed, labels, rate) for seed in range(1, seeds))


def chosen_rate(setting: Setting, stage: str, arm: str, labels: int, rows: Rows) -> float | None:
    """The rate of the best validation accuracy of seed 0 (the smallest of equals); None before all have run."""
    found = {rate: rows.get(Job(stage, arm, 0, labels, rate)) for rate in setting.rates}
    if not all(found.values()):
        return None
    return max(sorted(found), key=lambda rate: found[rate]["validation"])  # type: ignore[index]


def execute(job: Job, setting: Setting, out: pathlib.Path, rows: Rows) -> dict[str, Any]:
    """Runs a job.

    Returns:
      What its line has beside the job.

    Raises:
      Interrupted: the process was asked to stop.
    """
    run = {"pretrain": _pretrain, "probe": _probe, "finetune": _finetune, "student": _student}[job.stage]
    began, cpu = time.perf_counter(), time.process_time()
    found = run(job, setting, out, rows)
    spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in (found | spent).items()}


def _pretrain(job: Job, setting: Setting, out: pathlib.Path, rows: Rows) -> dict[str, Any]:
    del rows
    if job.arm in methods.METHODS:
        teacher = str(out / "runs" / Job("pretrain", MAIN, job.seed).name)
        config = methods.pretraining(setting, job.arm, job.seed, cache=_cache(out), teacher=teacher)
    else:
        config = arms.masked(setting, job.arm, job.seed, cache=_cache(out))
    workdir = _train(config, out, job)
    curve = [(row["step"], row["loss"]) for row in _metrics(workdir) if row["kind"] == "train"]
    speed = [row["step_seconds"] for row in _metrics(workdir) if "step_seconds" in row]
    return {
        "loss": float(np.mean([loss for _, loss in curve[-6:]])),
        "step_seconds": float(np.median(speed)),
        "step_gflops": experiment(config).model_flops() / 1e9,
        "curve": [[step, round(loss, 4)] for step, loss in reduce_points(curve, 60)],
    }


def _probe(job: Job, setting: Setting, out: pathlib.Path, rows: Rows) -> dict[str, Any]:
    """Linear probe and nearest neighbours on the frozen features of the last block and of the one before."""
    del rows
    if job.arm == RANDOM:
        made = experiment(arms.masked(setting, MAIN, job.seed, cache=_cache(out)))
        params, _ = sharding.create(_parameters(made), jax.random.key(job.seed), made.batch_spec, made.mesh)
    else:
        made, params = _trained(out / "runs" / Job("pretrain", job.arm, job.seed).name)
    most = max(setting.counts)
    known = arms.clips(setting, "train", most, first=arms.first_label(setting, most, job.seed), cache=_cache(out))
    evaluators = {
        f"{name}_{where}": call(f"eval.{name}", train=known, layer=layer)
        for name in ("probe", "knn")
        for where, layer in (("last", None), ("before", setting.model["depth"] - 1))
    }
    numbers = _measured(made, params, setting, out, "test", evaluators)
    return {name.removesuffix("/top1"): value for name, value in numbers.items() if name.endswith("/top1")}


def _parameters(made: Experiment) -> Any:
    return lambda key, batch: made.method.init(key, batch)[0]


def _finetune(job: Job, setting: Setting, out: pathlib.Path, rows: Rows) -> dict[str, Any]:
    del rows
    start = None if job.arm in (SCRATCH, LONG) else str(out / "runs" / Job("pretrain", job.arm, job.seed).name)
    config = arms.classifying(
        setting, job.labels, job.rate, job.seed, cache=_cache(out), start=start, long=job.arm == LONG
    )
    keep = job.arm == MAIN and job.labels == setting.teacher
    return _classified(config, job, setting, out, keep=keep)


def _student(job: Job, setting: Setting, out: pathlib.Path, rows: Rows) -> dict[str, Any]:
    teacher = start = None
    if setting.student_pretrained:
        start = str(out / "runs" / Job("pretrain", SMALL, job.seed).name)
    if job.arm == "distilled":
        rate = chosen_rate(setting, "finetune", MAIN, setting.teacher, rows)
        assert rate is not None  # its job comes before
        teacher = str(out / "runs" / Job("finetune", MAIN, job.seed, setting.teacher, rate).name)
    config = arms.distilling(setting, job.labels, job.rate, job.seed, cache=_cache(out), teacher=teacher, start=start)
    return _classified(config, job, setting, out)


def _classified(config: Any, job: Job, setting: Setting, out: pathlib.Path, *, keep: bool = False) -> dict[str, Any]:
    """Trains a classifier and measures it; its checkpoint is kept only where a later job needs it."""
    workdir = _train(config, out, job)
    made, params = _trained(pathlib.Path(workdir.path))
    evaluators = {"views": call("eval.multiview")}
    found = {split: _measured(made, params, setting, out, split, evaluators) for split in ("validation", "test")}
    loss = [row["loss"] for row in _metrics(workdir) if row["kind"] == "train"]
    if not keep:
        shutil.rmtree(str(workdir.checkpoints))
    return {"loss": loss[-1]} | {split: numbers["views/top1"] for split, numbers in found.items()}


def _train(config: Any, out: pathlib.Path, job: Job) -> Workdir:
    workdir = Workdir(out / "runs" / job.name)
    # No limits: on a machine that others use as well, a step may take long.
    outcome = train.run(config, workdir, progress=False, limits=dict.fromkeys(watchdog.LIMITS, 0.0))
    if outcome["status"] != "done":
        raise Interrupted
    return workdir


@functools.lru_cache(1)
def _trained(workdir: pathlib.Path) -> tuple[Experiment, Any]:
    """The experiment of a workdir, and its parameters on the device."""
    found = restore(str(workdir))
    return found.made, jax.device_put(found.params)


def _measured(
    made: Experiment, params: Any, setting: Setting, out: pathlib.Path, split: str, evaluators: Mapping[str, Any]
) -> dict[str, float]:
    """The results of evaluators on a held-out split."""
    data = build(arms.clips(setting, split, getattr(setting, split), cache=_cache(out)))
    built = Evaluation(data=data, evaluators={name: build(one) for name, one in evaluators.items()})
    return Measurement(dataclasses.replace(made, eval=built))(params, lambda: Carried(None, {}))


def _metrics(workdir: Workdir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in workdir.metrics.read_text().splitlines()]


def _cache(out: pathlib.Path) -> str:
    return str(out / "clips")
