"""`vmae plan`: memory and operations of a config's step on hardware that is not present."""

import dataclasses
import functools
import logging
import math
import pathlib
import sys
from typing import Any

import jax
from ml_collections import ConfigDict

from vmae_jax.commands.experiment import Experiment, check_clips, experiment
from vmae_jax.plan import report as reports
from vmae_jax.plan import roofline, search
from vmae_jax.plan.compile import Compiled, compile_training, executed_flops, state_bytes
from vmae_jax.plan.topology import GIB, Topology, topology
from vmae_jax.runtime.cache import cache_folder
from vmae_jax.spec import ConfigError, calls
from vmae_jax.train import sharding

__all__ = ["Planned", "adapt", "plans_folder", "run"]

log = logging.getLogger(__name__)

COMPILES = 6  # of a search, including the first
_MANY = 1000  # units: more clips than any method mixes in a group


@dataclasses.dataclass(frozen=True)
class Planned:
    """An experiment on a mesh of devices that need not be present."""

    made: Experiment
    mesh: jax.sharding.Mesh
    target: Topology

    def at(self, global_batch: int | None = None, accumulate: int | None = None) -> Compiled:
        """Compile the step, optionally with another batch or number of micro-batches."""
        videos = global_batch or self.made.loader.global_batch
        micro = accumulate or self.made.train.accumulate
        log.info("compiling for %s: %d videos, %d micro-batches", self.target.name, videos, micro)
        compiled = compile_training(
            self.init,
            self.step(micro),
            target=self.target,
            mesh=self.mesh,
            batch_spec=dataclasses.replace(self.made.loader, global_batch=videos).spec(),
            executed=self.executed * videos / self.made.loader.global_batch,
            folder=plans_folder(),
        )
        how = "found in the cache" if compiled.cached else "compiled"
        log.info("%s in %.1f s: %s", how, compiled.seconds, reports.memory(compiled.peak, self.limit))
        return self.judged(compiled)

    @property
    def limit(self) -> int | None:
        return self.target.chip.hbm_limit if self.target.chip else None

    def judged(self, compiled: Compiled) -> Compiled:
        """Return `compiled` with `fits` checked against its own peak as well; the compiler may accept more."""
        limit = compiled.limit or self.limit
        return compiled._replace(limit=limit, fits=compiled.fits and (limit is None or compiled.peak <= limit))

    def step(self, accumulate: int) -> Any:
        """The step that `vmae train` runs."""
        return self.made.make_step(self.optimizer, accumulate=accumulate)

    @functools.cached_property
    def init(self) -> Any:
        return self.made.make_init(self.optimizer)

    @functools.cached_property
    def optimizer(self) -> Any:
        return self.made.optimizer_without_data()

    @functools.cached_property
    def state_bytes(self) -> int:
        """Bytes of parameters, optimizer and the rest of the state on one device."""
        return state_bytes(self.init, mesh=self.mesh, batch_spec=self.made.batch_spec)

    @functools.cached_property
    def executed(self) -> float:
        """Operations of the traced step, over all devices."""
        return executed_flops(self.init, self.step(1), batch_spec=self.made.batch_spec)

    def unit(self) -> int:
        """Return the least number of videos by which the batch can grow."""
        rows = sharding.batch_shards(self.mesh) * self.made.train.accumulate
        least, parts = rows // math.gcd(rows, self.made.loader.clips_per_video), self.made.train.accumulate
        # A method that mixes clips in groups accepts any small batch; two large consecutive multiples show its unit.
        suits = lambda step: all(self.suits(many * step, parts) for many in (_MANY, _MANY + 1))  # noqa: E731
        return next((step for step in range(least, least * _MANY, least) if suits(step)), least)

    def suits(self, videos: int, accumulate: int) -> bool:
        """Whether the method can train on a batch of this size."""
        try:
            check_clips(self.made, videos, accumulate)
        except ConfigError:
            return False
        return True


def run(config: ConfigDict, *, topology_name: str, largest: bool = False) -> dict[str, Any]:
    """Compile the step of `config` for a topology.

    No data is read, so the config needs no source. If the step does not fit, more micro-batches are tried.

    Args:
      config: any.
      topology_name: such as "v5p:4x4x4" or "cpu:8".
      largest: also find the largest batch of videos that fits, with at most six compilations.

    Raises:
      ConfigError: if `experiment`, `topology` or the mesh refuses the config.
    """
    target = topology(topology_name)
    if largest and target.chip is None:
        raise ConfigError("--largest needs chips whose memory is known, not CPUs")
    planned, notes = adapt(config, target)
    compiled = planned.at()
    report = describe(planned, compiled)
    if not compiled.fits:
        report["would_fit"] = _remedy(planned, compiled)
    if largest:
        report |= _largest(planned, compiled)
    report["notes"] = notes + reports.caveats(compiled)
    print(reports.table(report), file=sys.stderr)
    return report


def plans_folder() -> pathlib.Path | None:
    """Return the folder of cached plans, or None if the cache is off."""
    folder = cache_folder()
    return None if folder is None else folder / "plans"


def adapt(config: ConfigDict, target: Topology) -> tuple[Planned, list[str]]:
    """Prepare a config for other hardware: without data, and with "auto" set as that hardware would resolve it."""
    notes = []
    for node in calls(config):
        if str(node.call).startswith("data.sources.") and "path" in node:
            node.path = "unread"
        if target.platform == "tpu" and "dtype" in node and node.dtype == "auto":
            node.dtype = "bfloat16"
            notes = ['dtype "auto" compiled as bfloat16, as it is on a TPU']
    made = experiment(config, trains=True)
    mesh = sharding.make_mesh(made.mesh_settings.ici, made.mesh_settings.dcn, devices=target.devices)
    return Planned(made, mesh, target), notes


def describe(planned: Planned, compiled: Compiled) -> dict[str, Any]:
    """Return the figures of a compiled step as plain values."""
    made, target = planned.made, planned.target
    clips, devices, model = made.loader.clips_per_step, len(target.devices), made.model_flops()
    report: dict[str, Any] = {
        "topology": target.name,
        "sold_as": target.sold_as,
        "devices": devices,
        "chips": devices if target.chip else None,
        "mesh": compiled.mesh,
        "fits": compiled.fits,
        "global_batch": made.loader.global_batch,
        "clips_per_step": clips,
        "accumulate": made.train.accumulate,
        "hbm_bytes_per_device": {
            "arguments": compiled.arguments,
            "temporaries": compiled.temporaries,
            "peak": compiled.peak,
            "state": planned.state_bytes,
        },
        "hbm_bytes_limit": compiled.limit,
        "model_flops_per_clip": model / clips,
        "model_flops_per_step": model,
        "executed_flops_per_step": planned.executed,
        "collectives": None if compiled.collectives is None
        else {kind: traffic.__dict__ for kind, traffic in compiled.collectives.kinds.items()},
        "bound_by": None,
        "seconds_at_bound": None,
        "compile_seconds": round(compiled.seconds, 1),
        "cached": compiled.cached,
        "replicated": list(compiled.replicated),
    }  # fmt: skip
    if compiled.limit is not None and not compiled.fits:
        report["over_bytes"] = compiled.peak - compiled.limit
    if compiled.work is not None and target.chip is not None:
        report |= _bound(planned, compiled, clips=clips, model=model)
    return report


def _bound(planned: Planned, compiled: Compiled, *, clips: int, model: float) -> dict[str, Any]:
    """Return the work of the program on one chip, and a lower bound of its time."""
    chip, devices, work = planned.target.chip, len(planned.target.devices), compiled.work
    assert chip is not None
    assert work is not None
    assert compiled.schedule is not None
    found, order = roofline.bound(compiled, chip=chip), compiled.schedule
    padded = (work.padded + compiled.kernels) * devices
    return {
        "padded_flops_per_step": padded,
        "padded_over_executed": padded / ((work.flops + compiled.kernels) * devices),
        "padded_over_model": padded / model,
        "hbm_bytes_moved_per_device": work.bytes,
        "kernel_flops_per_device": compiled.kernels,
        "bound_by": found.by,
        "seconds_at_bound": found.seconds,
        "bound_terms": found.terms,
        "seconds_in_sequence": found.in_sequence,
        "seconds_as_scheduled": order.seconds,
        "links": {"seconds": order.links, "exposed_seconds": order.exposed, "beside_seconds": order.beside},
        "clips_per_second_at_bound": clips / found.seconds,
        "mfu_at_bound": model / found.seconds / devices / chip.flops,
        "compiler_seconds": work.cycles / chip.clock if work.cycles else None,
        "parts": reports.parts(work, chip),
        "movers": reports.movers(work),
    }


def _remedy(planned: Planned, compiled: Compiled) -> dict[str, Any]:
    """Find a number of micro-batches that fits, or report that the state itself is too large."""
    state, limit, accumulate = planned.state_bytes, compiled.limit, planned.made.train.accumulate
    assert limit is not None
    if state >= limit:
        shards = 2 ** math.ceil(math.log2(state / limit) + 1)
        return {
            "advice": f"the state alone takes {state / GIB:.1f} GiB of {limit / GIB:.2f}: split it over {shards} times "
            f"as many devices, with mesh.ici.fsdp (now {compiled.mesh['fsdp']})"
        }
    rows = planned.made.loader.clips_per_step // sharding.batch_shards(planned.mesh)
    share = (compiled.peak - state) / (limit - state)
    options = [n for n in range(accumulate + 1, rows + 1) if rows % n == 0 and n >= accumulate * share]
    options = [n for n in options if planned.suits(planned.made.loader.global_batch, n)]
    for micro in options[: COMPILES // 2]:
        again = planned.at(accumulate=micro)
        if again.fits:
            return {
                "advice": f"--config.train.accumulate={micro}",
                "accumulate": micro,
                "peak": again.peak,
                "temporaries": again.temporaries,
            }
    return {"advice": "none of the numbers of micro-batches fits: use a smaller --config.data.global_batch, "
                      "--config.method.model.remat=full, or a larger mesh.ici.fsdp"}  # fmt: skip


def _largest(planned: Planned, compiled: Compiled) -> dict[str, Any]:
    assert compiled.limit is not None

    def attempt(videos: int) -> search.Trial:
        found = planned.at(global_batch=videos)
        return search.Trial(videos, found.fits, found.peak)

    videos, trials = search.largest(
        search.Trial(planned.made.loader.global_batch, compiled.fits, compiled.peak),
        attempt,
        unit=planned.unit(),
        fixed=planned.state_bytes,
        limit=compiled.limit,
        tries=COMPILES - 1,
    )
    return {"largest_global_batch": videos, "trials": [trial._asdict() for trial in trials]}
