"""An experiment, built from a config, and the workdir that it belongs to."""

import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from vmae_jax.commands.streams import check_expected, check_streams, check_views
from vmae_jax.errors import MissingArgumentsError, short
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.io.folders import check_folder
from vmae_jax.io.paths import Workdir
from vmae_jax.io.run_config import read_config
from vmae_jax.plan import flops
from vmae_jax.spec import ConfigError, build, calls, from_json, to_json
from vmae_jax.train import schedule, sharding
from vmae_jax.train.gradients import check_groups
from vmae_jax.train.schedule import Clock, Schedule
from vmae_jax.train.settings import Checkpointing, Evaluation, Mesh, Training
from vmae_jax.train.state import TrainState, make_init
from vmae_jax.train.step import Step, make_step
from vmae_jax.types import Carried, Method

__all__ = ["Experiment", "check_clips", "check_workdir", "differences", "experiment"]

log = logging.getLogger(__name__)

# The sections of a config that are one call, and its kind.
KINDS = {
    "method": "method",
    "data": "loader",
    "optimizer": "optimizer",
    "train": "training",
    "checkpoint": "checkpointing",
    "eval": "evaluation",
    "mesh": "mesh",
}
SECTIONS = (*KINDS, "init_from", "seed")
# Arguments below `data` that may change when a run resumes: where the files are, and how fast they are read.
PLACES = ("path", "root", "directory", "data_dir", "service")
FREE_DATA = (*PLACES, "workers", "prefetch", "timeout", "max_bad_fraction", "memory")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a config, built and checked; no data has been read and nothing compiled."""

    config: ConfigDict
    method: Method
    loader: Any
    optimizer: Any
    train: Training
    checkpoint: Checkpointing
    eval: Evaluation
    mesh_settings: Mesh
    init_from: Mapping[str, Any]
    seed: int

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The mesh over this run's devices."""
        mesh = sharding.make_mesh(self.mesh_settings.ici, self.mesh_settings.dcn)
        sharding.check_batch(self.loader.clips_per_step, mesh, self.train.accumulate)
        return mesh

    @functools.cached_property
    def batch_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a global batch."""
        return self.loader.spec()

    def clock(self, steps_per_epoch: float) -> schedule.Clock:
        """Return the lengths of this run, given the steps of an epoch."""
        batch = self.loader.global_batch
        steps = schedule.length_in_steps(self.train.length, steps_per_epoch=steps_per_epoch, global_batch=batch)
        return schedule.Clock(steps, steps_per_epoch, batch)

    def abstract_params(self) -> Any:
        """Return the parameters' shapes, with their partitioning boxes."""
        return self._abstract_params

    @functools.cached_property
    def _abstract_params(self) -> Any:
        return sharding.abstract(lambda key, batch: self.method.init(key, batch)[0], self.batch_spec)

    def optimizer_without_data(self) -> Any:
        """Return the optimizer without opened data, for an arbitrary number of steps per epoch."""
        return self.optimizer.build(self.abstract_params(), self.clock(1000.0))[0]

    def abstract_state(self, init: Any) -> tuple[TrainState, sharding.Placement]:
        """Return shapes, dtypes and shardings of the state, for checkpoints."""
        boxed = sharding.abstract(init, self.batch_spec)
        placement = sharding.shardings(boxed, self.mesh)
        target = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            sharding.unbox(boxed),
            placement.shardings,
        )
        return target, placement

    def model_flops(self) -> float:
        """Return the model FLOPs of a training step over the global batch; of frozen networks, the forward pass only.

        They are counted with plain attention, because the count of a fused kernel includes its padding.
        """
        method = build(_with_plain_attention(self.config), "method")
        params, extra = sharding.unbox(sharding.abstract(self.method.init, self.batch_spec))
        frozen = self.method.frozen and sharding.unbox(sharding.abstract(self.method.frozen, self.batch_spec))
        carried = Carried(extra, frozen, params if method.averaged else None)

        def loss(params: Any, batch: Any, carried: Carried) -> Any:
            context = dataclasses.replace(carried.context(jax.random.key(0)), train=True)
            return method.total_loss(params, batch, context)

        return flops.of_training(loss, params, self.batch_spec, carried)

    def make_init(self, tx: Any) -> Any:
        """Return (key, batch) -> TrainState."""
        ema = self.train.ema_decay is not None
        return make_init(self.method, tx, ema=ema, frozen=self.method.frozen, spikes=self.train.spikes)

    def make_step(self, tx: Any, *, accumulate: int | None = None, steps: int | None = None) -> Step:
        """Return (state, batch) -> (state, metrics).

        Args:
          tx: the optimizer.
          accumulate: number of micro-batches (default: the config's).
          steps: length of the run (default: that of `optimizer_without_data`).
        """
        length = self.clock(1000.0).steps if steps is None else steps
        return make_step(
            self.method,
            tx,
            accumulate=accumulate or self.train.accumulate,
            ema_decay=self._ema_decay(length),
            seed=self.seed,
            spikes=self.train.spikes,
            steps=length,
        )

    def _ema_decay(self, steps: int) -> Any:
        """The decay of the average: a number, or a function of the step."""
        decay = self.train.ema_decay
        return decay.at(Clock(steps, 1.0, self.loader.global_batch)) if isinstance(decay, Schedule) else decay


def _with_plain_attention(config: ConfigDict) -> ConfigDict:
    """Return the config's method with plain attention in every model."""
    section: Any = config.method
    method = section.copy_and_resolve_references()
    for node in calls(method):
        if "attention" in node:
            node.attention = "plain"
    return method


def experiment(config: ConfigDict, *, trains: bool = False) -> Experiment:
    """Build every part of a config.

    Args:
      config: the whole config.
      trains: whether the loss will be computed, which may need more of the data, such as labels.

    Raises:
      ConfigError: if a section is missing or unknown, a call is refused, or parts do not fit each other, such as a
        stream that the method reads and the loader does not give.
    """
    missing = [name for name in SECTIONS if name not in config]
    unknown = [name for name in config if name not in SECTIONS]
    if missing or unknown:
        raise ConfigError(f"a config has the sections {', '.join(SECTIONS)}; this one has {', '.join(config)}")
    built = {name: _section(name, config[name]) for name in KINDS}
    section: Any = config["data"]
    if getattr(built["data"], "service", None):  # its workers build the loader themselves
        built["data"] = dataclasses.replace(built["data"], recipe=to_json(section))
    if not isinstance(built["method"], Method):
        raise ConfigError("config.method is not a method: use call('methods.masked.build', …)")
    method = built["method"]
    made = Experiment(
        config=config,
        method=method._replace(init=jax.jit(method.init)),  # is traced once, for its shapes and for the state
        loader=built["data"],
        optimizer=built["optimizer"],
        train=built["train"],
        checkpoint=built["checkpoint"],
        eval=built["eval"],
        mesh_settings=built["mesh"],
        init_from=_places(config["init_from"]),
        seed=_seed(config["seed"]),
    )
    if made.method.averaged and made.train.ema_decay is None:
        raise ConfigError("the method predicts what an average of its parameters computes: set train.ema_decay")
    check_streams(made.method, made.loader.spec(), "config.data", trains=trains)
    check_expected(made.method, made.loader, "config.data")
    if trains:
        check_views(made.method, made.loader.views, "config.data")
    _check_fit(made)
    return made


def _section(name: str, value: Any) -> Any:
    """Build a section that is one call."""
    if not isinstance(value, ConfigDict) or "call" not in value:
        raise ConfigError(f"config.{name} must be a call of kind {KINDS[name]}, got {short(value)}")
    try:
        return build(value, KINDS[name])
    except MissingArgumentsError as error:
        source = value.get("source")
        if isinstance(source, ConfigDict) and (error.call, error.arguments) == (source.get("call"), ("path",)):
            option = f"config.{name}.source"
            raise ConfigError(f"{option}: {error} (--{option}.path=…)") from error
        raise


def _seed(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(1 << 63) <= value < 1 << 63:
        raise ConfigError(f"config.seed must be a whole number of at most 64 bits, got {short(value)}")
    return value


def _places(section: Any) -> dict[str, Any]:
    """Build the places of `init_from`; the error for one without a path names the option to set."""
    if not isinstance(section, ConfigDict) or "call" in section:
        raise ConfigError(
            f"config.init_from must be a mapping of places to calls of kind weights, got {short(section)}"
        )
    built = {}
    for at, record in section.items():
        try:
            built[at] = build(record, "weights")
        except ConfigError as error:
            no_path = isinstance(error, MissingArgumentsError) and error.arguments[-1] == "path"
            hint = f" (--config.init_from.{at}.path=WORKDIR)" if no_path else ""
            raise ConfigError(f"init_from.{at}: {error}{hint}") from error
    return built


def _check_fit(made: Experiment) -> None:
    """Trace the parameters' shapes, so that clips of a wrong size are an error now."""
    if made.method.frozen is not None and not any(at.split("/")[0] == "frozen" for at in made.init_from):
        raise ConfigError(
            "the method has frozen networks and no weights for them: set config.init_from, such as "
            "{'frozen/teacher': call('train.init_from.weights', path=WORKDIR)}"
        )
    check_clips(made, made.loader.global_batch, made.train.accumulate)
    try:
        made.abstract_params()
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"method and data do not fit each other: {error}") from error


def check_clips(made: Experiment, videos: int, accumulate: int) -> None:
    """Raise ConfigError if the method cannot train on a batch of this many videos, whole or in micro-batches."""
    clips = videos * made.loader.clips_per_video
    if clips % accumulate:
        return  # `sharding.check_batch` reports the remainder
    check_groups(made.method, clips, accumulate)
    if made.method.suits is not None:
        made.method.suits(clips // accumulate)
        made.method.suits(clips)


def check_workdir(workdir: Workdir, config: ConfigDict) -> None:
    """Check that a resumed run is still the same experiment.

    Raises:
      ConfigError: if method, optimizer, data order or seed differ from those that the workdir was made with.
    """
    check_folder(workdir.checkpoints, "--workdir: its checkpoints", exists=False, run=workdir.path)
    # A run that never saved a checkpoint has nothing to protect: its config may be corrected.
    if workdir.config_json.exists() and Checkpoints(workdir.checkpoints).steps():
        changed = differences(read_config(workdir), config)
        if changed:
            raise ConfigError(
                f"--workdir={workdir.path} was made with another experiment: {'; '.join(changed[:3])}"
                f"{' …' if len(changed) > 3 else ''}. Use another --workdir, or the old values"
            )


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Return the differences of two experiments, such as "method.encoder_mask.ratio was 0.9, is 0.75"."""
    before, after = dict(_identity(old)), dict(_identity(new))
    return [
        f"{path} was {before.get(path, 'absent')}, is {after.get(path, 'absent')}"
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    ]


def _identity(config: ConfigDict) -> Iterator[tuple[str, Any]]:
    for section in ("method", "data", "optimizer", "seed"):
        for path, value in _leaves(section, config.get(section)):
            if section != "data" or path.rpartition(".")[2] not in FREE_DATA:
                yield path, value
    train: Any = config.train
    yield from _leaves("train.ema_decay", train.get("ema_decay"))
    yield from _leaves("train.spikes", train.get("spikes"))


def _leaves(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, ConfigDict):
        for key, value in from_json(to_json(node)).items():
            yield from _leaves(f"{path}.{key}", value)
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from _leaves(f"{path}[{i}]", value)
    else:
        yield path, node
