"""The summary of a new run: a dozen lines in the log, and every detail in `overview.txt`."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from vmae_jax.commands.course import devices
from vmae_jax.commands.experiment import Experiment
from vmae_jax.commands.measure import Measurement
from vmae_jax.io.paths import Workdir, write_text
from vmae_jax.spec import to_json
from vmae_jax.train import sharding
from vmae_jax.train.device import host_rows
from vmae_jax.train.state import TrainState

__all__ = ["introduce"]

log = logging.getLogger(__name__)

_SHOWN = ("size", "frames", "resolution", "patch", "classes")  # of a model's arguments


def introduce(
    made: Experiment,
    workdir: Workdir,
    state: TrainState,
    *,
    clock: Any,
    rate: Any,
    placement: sharding.Placement,
    data: Any,
    measured: Measurement | None,
) -> None:
    """Log a summary of the run, and write the configuration and the table of parameters to `overview.txt`.

    The details are logged at the level of debug messages (`--verbose`).

    Args:
      made: the experiment.
      workdir: of the run.
      state: with the parameters.
      clock: the lengths of the run.
      rate: its learning rates.
      placement: of the state on the mesh.
      data: the opened training data.
      measured: its evaluators, if any.
    """
    if jax.process_index() != 0:
        return
    table = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    details = [f"config:\n{to_json(made.config).rstrip()}", f"parameters:\n{table}"]
    details += [f"not split over the mesh: {note}" for note in placement.replicated]
    for text in details:
        log.debug("%s", text)
    write_text(workdir.overview, "\n\n".join(details) + "\n")
    lines = {
        "method": _method(made.config.method),
        "parameters": _parameters(state.params),
        "data": _data(made, data, clock),
        "evaluation": _evaluation(made, measured, clock),
        "length": f"{clock.steps:,} steps, {clock.steps / clock.steps_per_epoch:.3g} epochs",
        "schedule": rate.describe(),
        "checkpoints": f"every {max(1, clock.length(made.checkpoint.every)):,} steps and at the end",
        "devices": _devices(made, placement),
        "host memory": _memory(made, data),
        "workdir": f"{workdir.path} (whole config and all parameters: {workdir.overview.name})",
    }
    for name, text in lines.items():
        if text:
            log.info("%-12s %s", name, text)


def _method(section: Any) -> str:
    """Return the method and, if it has one model, the main arguments of that."""
    model: Any = section.get("model")
    if not isinstance(model, ConfigDict):
        return str(section.call)
    shown = [f"{name} {model[name]}" for name in _SHOWN if name in model and model[name] is not None]
    return ", ".join([f"{section.call} with {model.call}", *shown])


def _parameters(params: Any) -> str:
    """Return the number of parameters, of the whole and of its parts."""
    count = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))  # noqa: E731
    parts = [f"{name} {_short(count(part))}" for name, part in params.items()] if isinstance(params, Mapping) else []
    return f"{count(params):,}" + (f": {', '.join(parts)}" if 1 < len(parts) <= 8 else "")


def _data(made: Experiment, data: Any, clock: Any) -> str:
    repeat = f", {made.loader.repeat} clips of each" if made.loader.repeat > 1 else ""
    steps = f"{clock.steps_per_epoch:.1f} steps per epoch"
    return f"{len(data):,} videos, {made.loader.global_batch} per step{repeat}; {steps}"


def _evaluation(made: Experiment, measured: Measurement | None, clock: Any) -> str:
    if measured is None:
        return "none"
    every = "" if made.eval.every is None else f"every {max(1, clock.length(made.eval.every)):,} steps and "
    before = "before the first step, " if made.eval.at_start else ""
    names = ", ".join(made.eval.ready)
    held_out = "" if measured.data is None else f" on {len(measured.data):,} videos"
    return f"{names}{held_out}; {before}{every}at the end"


def _devices(made: Experiment, placement: sharding.Placement) -> str:
    axes = ", ".join(f"{name} {size}" for name, size in made.mesh.shape.items())
    whole = f"; {len(placement.replicated)} arrays not split" if placement.replicated else ""
    return f"{devices()}, mesh {axes}{whole}"


def _memory(made: Experiment, data: Any) -> str:
    if made.loader.service is not None:
        return ""
    rows = host_rows(sharding.batch_sharding(made.mesh), made.loader.clips_per_step)
    return f"{data.memory(rows).describe()}, for reading ahead"


def _short(count: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
