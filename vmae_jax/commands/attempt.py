"""One start of a run: its parts, the hooks between its steps, and its end."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from vmae_jax.commands import environment, sanity
from vmae_jax.commands.collapse import Watch
from vmae_jax.commands.course import Course, began_at, devices
from vmae_jax.commands.experiment import Experiment
from vmae_jax.commands.measure import Measurement
from vmae_jax.commands.named_videos import name_of
from vmae_jax.commands.overview import introduce
from vmae_jax.commands.skipped import Skipped, listing_the_last, skipped_of
from vmae_jax.commands.streams import rows_of_views
from vmae_jax.eval import reconstruction
from vmae_jax.io import replicas
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.io.paths import Workdir
from vmae_jax.io.saving import Tolerant
from vmae_jax.io.writers import Writers, read_rows
from vmae_jax.plan import flops
from vmae_jax.runtime import goodput, watchdog
from vmae_jax.train import loop, sharding, step
from vmae_jax.train.on_mesh import on_mesh
from vmae_jax.train.rows import Work
from vmae_jax.train.schedule import Clock, Rate
from vmae_jax.train.state import TrainState, carried, eval_params
from vmae_jax.types import Carried

__all__ = ["Attempt", "Closing", "drawing"]

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One start of a run, with everything that was opened for it."""

    made: Experiment
    workdir: Workdir
    data: Any
    measured: Measurement | None
    clock: Clock
    tx: Any
    rate: Rate
    saver: Checkpoints
    writers: Writers
    account: goodput.Account
    dog: watchdog.Watchdog

    @functools.cached_property
    def course(self) -> Course:
        return Course(
            self.made, self.tx, self.data, steps=self.clock.steps, workdir=self.workdir, saver=self.saver,
            writers=self.writers, account=self.account, dog=self.dog,
        )  # fmt: skip

    def already_done(self, state: TrainState, start: int) -> dict[str, Any]:
        """Return the result of a complete run; a run of no steps saves its initial state first."""
        if self.saver.latest() is None:
            with self.dog.phase("save", "saving the initial state"):
                self.saver.save(start, state, self.meta(start))
                for step_ in self.saver.wait():
                    self.writers.event(step_, "saved")
        log.info("already done: %s is at step %d of %d", self.workdir.path, start, self.clock.steps)
        return {"step": start, "status": "done", "metrics": {}, "workdir": str(self.workdir.path)}

    def introduce(self, state: TrainState, start: int, command: Sequence[str]) -> None:
        """Record and log what is about to be trained, with warnings about likely mistakes."""
        made, clock, measured = self.made, self.clock, self.measured
        environment.record(self.workdir, start, command)
        if start:
            log.info("resumed at step %d", start)
            self.writers.event(start, "resumed", devices=devices(), steps=clock.steps, **began_at())
            changed = sanity.changed_length(made, clock, self.rate, start, self.course.planned)
            sanity.warn([changed] if changed else [], self.writers, start, always=True)
        else:
            introduce(
                made, self.workdir, state, clock=clock, rate=self.rate, placement=self._placement(), data=self.data,
                measured=measured,
            )  # fmt: skip
        videos = measured.videos() if measured else {}
        sanity.warn(sanity.doubts(made, clock, self.rate, len(self.data), videos), self.writers, start)

    def train(
        self, state: TrainState, start: int, *, preempted: Callable[[int], bool], show: bool
    ) -> tuple[loop.Outcome, dict[str, int]]:
        """Train to the end; return how it ended, and how many videos were skipped, by kind."""
        made, clock, course = self.made, self.clock, self.course
        compiled = step.compile_step(
            made.make_step(self.tx, steps=clock.steps), self._placement(), made.mesh, made.batch_spec
        )
        skipped = skipped_of(made, self.workdir, self.data, self.writers)
        earlier = read_rows(self.workdir.metrics) if start and jax.process_index() == 0 else []
        with (
            self.dog.phase("compile", f"compiling and step {start + 1}"),
            Closing(course),
            listing_the_last(skipped, course.faults, self.workdir),
        ):
            run_ = loop.Run(
                step=compiled,
                batches=course.batches(start),
                saver=self.saver if made.checkpoint.on_error == "stop" else Tolerant(self.saver, self.writers),
                journal=_Journal(self.writers, skipped, self.account),
                work=_work(made),
                log_every=max(1, clock.length(made.train.log_every)),
                save_every=max(1, clock.length(made.checkpoint.every)),
                hooks=[*self.hooks(skipped)],
                preempted=preempted,
                meta=self.meta,
                faults=skipped,
                on_nonfinite=made.train.on_nonfinite,
                collapsed=Watch(made.eval.ready, earlier),
                on_collapse=made.train.on_collapse,
                go_back=course.go_back,
                show=show,
            )
            _, outcome = loop.train(state, start=start, stop=clock.steps, run=watchdog.watched(run_, self.dog))
            return outcome, skipped.summary()

    def hooks(self, skipped: Skipped) -> Iterator[loop.Hook]:
        """Yield what runs between steps, in this order; `skipped` lists videos that an evaluation cannot read."""
        made = self.made

        def steps(length: Any) -> int | None:
            return None if length is None else max(1, self.clock.length(length))

        if made.train.pictures_every is not None and made.method.reconstruct is not None:
            draw = drawing(made, self.workdir, self.data, self.writers)
            yield loop.Hook("pictures", steps(made.train.pictures_every), draw)
        if self.measured is not None:
            evaluate = _evaluation(made, self.measured, skipped)
            yield loop.Hook("evaluation", steps(made.eval.every), evaluate, made.eval.at_start)
        yield loop.Hook("the comparison of replicas", steps(made.train.replicas_every), replicas.compare)

    def meta(self, at: int) -> dict[str, Any]:
        """Return the metadata of a checkpoint, and mark its step as one to go back to."""
        self.account.mark(at)
        position = self.course.batch_of(at) * self.made.loader.global_batch
        return {"data_position": position, "seed": self.made.seed, "steps": self.clock.steps}

    def _placement(self) -> sharding.Placement:
        assert self.course.placement is not None  # `begin` was called
        return self.course.placement


class Closing:
    """As `contextlib.closing`, but an error inside the block wins over one while closing."""

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
            log.exception("a further error while closing, after the one below")


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


def _work(made: Experiment) -> Work:
    peak = flops.peak(jax.devices())
    return Work(
        made.loader.global_batch, made.loader.clips_per_step, flops=made.model_flops() if peak else None, peak=peak
    )


def drawing(made: Experiment, workdir: Workdir, data: Any, writers: Writers) -> Callable[[TrainState, int], None]:
    """Return a function that draws the same clips at every call, as a sheet in `media/` and in TensorBoard."""
    reconstruct = made.method.reconstruct
    assert reconstruct is not None
    count = min(made.train.pictures, made.loader.global_batch)
    rows = rows_of_views(made.loader.clips_per_video, count, made.method.views)
    stream = data.batches(rows=rows, seed=made.seed, start=0)
    try:
        batch = next(stream)
    finally:
        stream.close()
    videos = [name_of(data.source, int(index)) for index in batch["index"][:: made.method.views]]

    def rows_of(params: Any, step: Any, carried: Carried, clips: Any) -> Any:
        return reconstruct(params, clips, carried.context(jax.random.key(made.seed), step))

    # Every process has the same clips and receives all pictures.
    whole = jax.sharding.NamedSharding(made.mesh, jax.sharding.PartitionSpec())
    compiled = on_mesh(rows_of, made.mesh, out_shardings=whole)

    def draw(state: TrainState, at: int) -> None:
        params = eval_params(state, made.eval.ema)
        pictures = jax.device_get(compiled(params, state.step, carried(made.method, state), batch))
        if jax.process_index() == 0:
            sheet = reconstruction.draw(pictures, videos=videos)
            file = workdir.media / f"reconstruction_{at:08d}.png"
            writers.attempt("pictures", lambda: reconstruction.save(pictures, file, videos=videos))
            writers.images(at, {"reconstruction": sheet})

    return draw


def _evaluation(
    made: Experiment, measured: Measurement, skipped: Skipped
) -> Callable[[TrainState, int], Mapping[str, float]]:
    def evaluate(state: TrainState, at: int) -> dict[str, float]:
        left_out = functools.partial(skipped.left_out, at)
        beside = functools.partial(carried, made.method, state)
        results = measured(eval_params(state, made.eval.ema), beside, left_out=left_out)
        log.info("step %d: %s", at, ", ".join(f"{key} {value:.4f}" for key, value in results.items()))
        return dict(results)

    return evaluate
