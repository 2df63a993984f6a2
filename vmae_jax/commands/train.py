"""`vmae train`: runs any stage of any method; on a workdir that exists, it resumes."""

import dataclasses
import functools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from vmae_jax.commands import environment, sanity
from vmae_jax.commands.course import Course, began_at, devices, read_skips
from vmae_jax.commands.experiment import Experiment, experiment, open_workdir
from vmae_jax.commands.logs import check_trackers, open_writers
from vmae_jax.commands.measure import Measurement, check_classes
from vmae_jax.commands.named_videos import name_of
from vmae_jax.commands.overview import introduce
from vmae_jax.commands.skipped import Skipped, listing_the_last, skipped_of
from vmae_jax.data.agreement import facts_of
from vmae_jax.data.opened import open_loader
from vmae_jax.eval import reconstruction
from vmae_jax.io import replicas
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.io.lock import Lock
from vmae_jax.io.paths import Workdir
from vmae_jax.io.saving import Tolerant
from vmae_jax.io.writers import Writers, read_rows
from vmae_jax.plan import flops
from vmae_jax.runtime import distributed, goodput, watchdog
from vmae_jax.runtime.cache import enable_cache
from vmae_jax.runtime.preemption import Preemption
from vmae_jax.spec import to_json
from vmae_jax.train import loop, step
from vmae_jax.train.on_mesh import on_mesh
from vmae_jax.train.rows import Work
from vmae_jax.train.state import TrainState, eval_params
from vmae_jax.types import Context

__all__ = ["run"]

log = logging.getLogger(__name__)

STARVED = 0.1  # share of the time without data above which that is said at the end


def run(
    config: ConfigDict,
    workdir: Workdir,
    *,
    progress: bool = True,
    limits: Mapping[str, float] = watchdog.LIMITS,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains to the end of `config.train.length`; a length of 0 steps saves what `init_from` and the seed give.

    Args:
      config: of any stage.
      workdir: where the run lives; resumed where it has a checkpoint.
      progress: show a bar.
      limits: seconds that compiling, a step, … may take before the watchdog ends the process.
      command: the command line, recorded in the workdir without its secrets.

    Returns:
      {"step", "status": "done" | "preempted", "metrics", "workdir"}, and "skipped": the videos that could not
      be read, by kind, where there are any.

    Raises:
      ConfigError: the user's mistake, or another run in this workdir.
      loop.NotFiniteError, loop.SpikeError, io.replicas.ReplicaError, io.checkpoint.SaveError,
        data.faults.TooManyBadVideos: as they say.
      runtime.distributed.PeerError: another host did not come.
    """
    dog = watchdog.Watchdog(limits)  # it also keeps the time, from here on
    with Lock(workdir.path) as lock:
        return _run(config, workdir, progress=progress, dog=dog, lock=lock, command=command)


def _run(
    config: ConfigDict, workdir: Workdir, *, progress: bool, dog: watchdog.Watchdog, lock: Lock, command: Sequence[str]
) -> dict[str, Any]:
    distributed.start()
    enable_cache()
    made, data, measured = distributed.together(
        "start", lambda: _open(config, workdir, lock), facts=lambda all_: _facts(config, workdir, all_)
    )
    mesh = made.mesh
    clock = made.clock(data.steps_per_epoch)
    tx, rate = made.optimizer.build(made.abstract_params(), clock)
    saver = Checkpoints(
        workdir.checkpoints,
        keep_last=made.checkpoint.keep_last,
        keep_every=made.checkpoint.keep_every,
        asynchronous=made.checkpoint.asynchronous,
    )
    account = goodput.Account(dog.spent)
    with (
        dog,
        _Closing(saver),
        _Closing(open_writers(made, workdir)) as writers,
        Preemption() as preemption,
        distributed.naming_lost_peers(),
    ):
        course = Course(made, tx, data, workdir=workdir, saver=saver, writers=writers, account=account)
        with dog.phase("restore", "the start or restore"):
            state, start = course.begin()
        assert course.placement is not None
        if start >= clock.steps:
            if saver.latest() is None:  # a run of no steps is the state it begins with
                with dog.phase("save", "saving what the run begins with"):
                    saver.save(start, state, _meta(made, course, account, start))
                    for step_ in saver.wait():
                        writers.event(step_, "saved")
            log.info("already done: %s is at step %d of %d", workdir.path, start, clock.steps)
            return {"step": start, "status": "done", "metrics": {}, "workdir": str(workdir.path)}
        environment.record(workdir, start, command)
        if start:
            log.info("resumed at step %d", start)
            writers.event(start, "resumed", devices=devices(), steps=clock.steps, **began_at())
        else:
            introduce(
                made, workdir, state, clock=clock, rate=rate, placement=course.placement, data=data, measured=measured
            )
        videos = measured.videos() if measured else {}
        sanity.warn(sanity.doubts(made, clock, rate, len(data), videos), writers, start)
        compiled = step.compile_step(
            made.make_step(tx, steps=clock.steps),
            course.placement,
            mesh,
            made.batch_spec,
        )
        skipped = skipped_of(made, workdir, data, writers)
        with (
            dog.phase("compile", f"compiling and step {start + 1}"),
            _Closing(course),
            listing_the_last(skipped, course.faults, workdir),
        ):
            one = loop.Run(
                step=compiled,
                batches=course.batches(start),
                saver=saver if made.checkpoint.on_error == "stop" else Tolerant(saver, writers),
                journal=_Journal(writers, skipped, account),
                work=_work(made),
                log_every=max(1, clock.length(made.train.log_every)),
                save_every=max(1, clock.length(made.checkpoint.every)),
                hooks=[*_hooks(made, workdir, data, measured, writers, clock)],
                preempted=preemption.requested,
                meta=functools.partial(_meta, made, course, account),
                faults=skipped,
                on_nonfinite=made.train.on_nonfinite,
                go_back=course.go_back,
                show=progress and sys.stderr is not None and jax.process_index() == 0,
            )
            _, outcome = loop.train(state, start=start, stop=clock.steps, run=watchdog.watched(one, dog, start))
            left_out = skipped.summary()
    _tell_progress(workdir, outcome)
    waited = outcome.metrics.get("data_wait_fraction", 0.0)
    if waited > STARVED:
        log.info("the devices waited %.0f%% of the time for data; `vmae bench input` says what bounds it", 100 * waited)
    return {
        "step": outcome.step,
        "status": outcome.status,
        "metrics": dict(outcome.metrics),
        "workdir": str(workdir.path),
        **({"skipped": left_out} if left_out else {}),
    }


def _open(config: ConfigDict, workdir: Workdir, lock: Lock) -> tuple[Experiment, Any, Measurement | None]:
    """The experiment, its data open, what evaluates it (or None), and its workdir locked by host 0 and checked."""
    distributed.check_disk(str(workdir.path), resuming=workdir.config_json.exists())
    made = experiment(config, trains=True)
    check_trackers(made)
    data = open_loader(made.loader)
    measured = Measurement(made) if made.eval.data is not None and made.eval.evaluators else None
    check_classes(made, data, measured.data if measured and measured.heads else None)
    if jax.process_index() == 0:
        lock.acquire()
    open_workdir(workdir, config)
    return made, data, measured


def _tell_progress(workdir: Workdir, outcome: loop.Outcome) -> None:
    """Log what an evaluation before the first step found, beside the newest values of the same metrics."""
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


def _facts(config: ConfigDict, workdir: Workdir, opened: tuple[Experiment, Any, Measurement | None]) -> dict[str, Any]:
    """What all hosts must have in common before they train together."""
    return distributed.facts(
        to_json(config),
        **facts_of(opened[1].source),
        **(opened[2].facts() if opened[2] else {}),
        checkpoints=Checkpoints(workdir.checkpoints).steps()[-3:],
        skipped=read_skips(workdir),
    )


class _Closing:
    """`contextlib.closing` that lets the first error through when closing fails as well."""

    def __init__(self, thing: Any):
        self.thing = thing

    def __enter__(self) -> Any:
        return self.thing

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.thing.close()
        except Exception:
            if error is None:
                raise
            log.exception("while ending after the error below")


@dataclasses.dataclass(frozen=True)
class _Journal:
    """The writers of a run, the list of its unreadable videos and the account of its time."""

    writers: Writers
    skipped: Skipped
    account: goodput.Account

    def write(self, row: Mapping[str, Any]) -> None:
        self.writers.write(row)

    def flush(self) -> None:
        self.writers.flush()
        self.skipped.flush()

    def spent(self) -> Mapping[str, float]:
        return self.account.seconds()


def _hooks(
    made: Experiment, workdir: Workdir, data: Any, measured: Measurement | None, writers: Writers, clock: Any
) -> Iterator[loop.Hook]:
    """Yield what runs between steps, in this order."""

    def steps(length: Any) -> int | None:
        return None if length is None else max(1, clock.length(length))

    if made.train.pictures_every is not None and made.method.reconstruct is not None:
        yield loop.Hook("pictures", steps(made.train.pictures_every), drawing(made, workdir, data, writers))
    if measured is not None:
        yield loop.Hook("evaluation", steps(made.eval.every), _evaluation(made, measured), made.eval.at_start)
    yield loop.Hook("the comparison of replicas", steps(made.train.replicas_every), replicas.compare)


def _work(made: Experiment) -> Work:
    peak = flops.peak(jax.devices())
    return Work(
        made.loader.global_batch, made.loader.clips_per_step, flops=made.model_flops() if peak else None, peak=peak
    )


def _meta(made: Experiment, course: Course, account: goodput.Account, at: int) -> dict[str, Any]:
    """What a checkpoint says beside the state; it is a step that the run may go back to."""
    account.mark(at)
    return {"data_position": course.batch_of(at) * made.loader.global_batch, "seed": made.seed}


def drawing(made: Experiment, workdir: Workdir, data: Any, writers: Writers) -> Callable[[TrainState, int], None]:
    """Draws the same clips every time, as a sheet in `media/` and in TensorBoard."""
    reconstruct = made.method.reconstruct
    assert reconstruct is not None
    rows = [i * made.loader.clips_per_video for i in range(min(made.train.pictures, made.loader.global_batch))]
    stream = data.batches(rows=rows, seed=made.seed, start=0)
    try:
        batch = next(stream)
    finally:
        stream.close()
    videos = [name_of(data.source, int(index)) for index in batch["index"]]

    def rows_of(params: Any, step: Any, extra: Any, frozen: Any, clips: Any) -> Any:
        context = Context(key=jax.random.key(made.seed), step=step, extra=extra, frozen=frozen, train=False)
        return reconstruct(params, clips, context)

    # Every process has these clips, and gets all of the pictures.
    whole = jax.sharding.NamedSharding(made.mesh, jax.sharding.PartitionSpec())
    compiled = on_mesh(rows_of, made.mesh, out_shardings=whole)

    def draw(state: TrainState, at: int) -> None:
        params = eval_params(state, made.eval.ema)
        pictures = jax.device_get(compiled(params, state.step, state.extra["method"], state.frozen, batch))
        if jax.process_index() == 0:
            sheet = reconstruction.draw(pictures, videos=videos)
            file = workdir.media / f"reconstruction_{at:08d}.png"
            writers.attempt("pictures", lambda: reconstruction.save(pictures, file, videos=videos))
            writers.images(at, {"reconstruction": sheet})

    return draw


def _evaluation(made: Experiment, measured: Measurement) -> Callable[[TrainState, int], Mapping[str, float]]:
    def evaluate(state: TrainState, at: int) -> dict[str, float]:
        carried = lambda: (state.extra["method"], state.frozen)  # noqa: E731
        results = measured(eval_params(state, made.eval.ema), carried)
        told = ", ".join(f"{key} {value:.4f}" for key, value in results.items())
        log.info("step %d: %s", at, told)
        return dict(results)

    return evaluate
