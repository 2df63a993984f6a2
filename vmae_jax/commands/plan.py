"""`vmae plan`: compiles the step of a config for hardware that is not here, and says what it takes."""

import dataclasses
import functools
import logging
import math
import sys
from typing import Any

import jax
from ml_collections import ConfigDict

from vmae_jax.commands.experiment import Experiment, experiment
from vmae_jax.plan import roofline, search
from vmae_jax.plan.compile import Compiled, compile_training, executed_flops, state_bytes
from vmae_jax.plan.topology import GIB, Topology, topology
from vmae_jax.spec import ConfigError, calls
from vmae_jax.train import sharding

__all__ = ["run"]

log = logging.getLogger(__name__)

COMPILES = 6  # of a search, the first included
STEPS_PER_EPOCH = 1000.0  # the schedule's length is a constant of the program, whatever it is


@dataclasses.dataclass(frozen=True)
class Planned:
    """An experiment on a mesh of devices that may not be here."""

    made: Experiment
    mesh: jax.sharding.Mesh
    target: Topology

    def at(self, global_batch: int | None = None, accumulate: int | None = None) -> Compiled:
        """Compiles the step, with another batch of videos or number of micro-batches."""
        made = self.made
        videos, micro = global_batch or made.loader.global_batch, accumulate or made.train.accumulate
        log.info("compiling for %s: %d videos, %d micro-batches", self.target.name, videos, micro)
        compiled = compile_training(
            made.method,
            self.optimizer,
            mesh=self.mesh,
            batch_spec=dataclasses.replace(made.loader, global_batch=videos).spec(),
            accumulate=micro,
            ema_decay=made.train.ema_decay,
        )
        log.info("compiled in %.1f s: %s", compiled.seconds, _memory(compiled, self.limit))
        return self.judged(compiled)

    @property
    def limit(self) -> int | None:
        return self.target.chip.hbm_limit if self.target.chip else None

    def judged(self, compiled: Compiled) -> Compiled:
        """`compiled` with `fits` also by the sum of what it names, which the compiler may pass."""
        limit = compiled.limit or self.limit
        return compiled._replace(limit=limit, fits=compiled.fits and (limit is None or compiled.peak <= limit))

    @functools.cached_property
    def optimizer(self) -> Any:
        return self.made.optimizer.build(self.made.abstract_params(), self.made.clock(STEPS_PER_EPOCH))[0]

    @functools.cached_property
    def state_bytes(self) -> int:
        """Of parameters, optimizer and the rest of the state, on one device."""
        made = self.made
        return state_bytes(
            made.method, self.optimizer, mesh=self.mesh, batch_spec=made.batch_spec, ema_decay=made.train.ema_decay
        )

    def unit(self) -> int:
        """Videos by which the batch may grow."""
        rows = math.prod(self.mesh.shape[axis] for axis in sharding.BATCH) * self.made.train.accumulate
        return rows // math.gcd(rows, self.made.loader.clips_per_video)


def run(config: ConfigDict, *, topology_name: str, largest: bool = False) -> dict[str, Any]:
    """Compiles the step of `config` for a topology.

    No data is touched: a config needs no source of it. Where the step does not fit, numbers of
    micro-batches that might are tried.

    Args:
      topology_name: such as "v5p:4x4x4" or "cpu:8".
      largest: also find the largest batch of videos that fits, by at most six compilations.

    Raises:
      ConfigError: what `experiment`, `topology` and the mesh refuse.
    """
    target = topology(topology_name)
    if largest and target.chip is None:
        raise ConfigError("--largest: only for a chip whose memory is known, not for CPUs")
    notes = _adapt(config, target)
    made = experiment(config)
    mesh = sharding.make_mesh(made.mesh_settings.ici, made.mesh_settings.dcn, devices=target.devices)
    planned = Planned(made, mesh, target)
    compiled = planned.at()
    report = _report(planned, compiled)
    if not compiled.fits:
        report["would_fit"] = _remedy(planned, compiled)
    if largest:
        report |= _largest(planned, compiled)
    report["notes"] = notes + _caveats(compiled)
    print(_table(report), file=sys.stderr)
    return report


def _adapt(config: ConfigDict, target: Topology) -> list[str]:
    """Makes the config one for that hardware: what "auto" resolves by this machine, and data."""
    notes = []
    for node in calls(config):
        if str(node.call).startswith("data.sources.") and "path" in node:
            node.path = "unread"
        if target.platform == "tpu" and "dtype" in node and node.dtype == "auto":
            node.dtype = "bfloat16"
            notes = ['dtype "auto" compiled as bfloat16, as it is on a TPU']
    return notes


def _report(planned: Planned, compiled: Compiled) -> dict[str, Any]:
    made, target = planned.made, planned.target
    model = made.model_flops()
    executed = executed_flops(
        made.method, planned.optimizer, batch_spec=made.batch_spec, ema_decay=made.train.ema_decay
    )
    clips = made.loader.clips_per_step
    report: dict[str, Any] = {
        "topology": target.name,
        "sold_as": target.sold_as,
        "devices": len(target.devices),
        "chips": len(target.devices) if target.chip else None,
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
        "executed_flops_per_step": executed,
        "collectives": None if compiled.collectives is None
        else {kind: traffic.__dict__ for kind, traffic in compiled.collectives.kinds.items()},
        "bound_by": None,
        "seconds_at_bound": None,
        "compile_seconds": round(compiled.seconds, 1),
        "replicated": list(compiled.replicated),
    }  # fmt: skip
    if compiled.limit is not None and not compiled.fits:
        report["over_bytes"] = compiled.peak - compiled.limit
    if compiled.arguments is not None and target.chip is not None:
        found = roofline.bound(compiled, flops=executed, chips=len(target.devices), chip=target.chip)
        report |= {"bound_by": found.by, "seconds_at_bound": found.seconds, "bound_terms": found.terms}
        report["clips_per_second_at_bound"] = clips / found.seconds
        report["mfu_at_bound"] = model / found.seconds / len(target.devices) / target.chip.flops
    return report


def _remedy(planned: Planned, compiled: Compiled) -> dict[str, Any]:
    """More micro-batches, compiled until they fit; or that the state itself is too large."""
    state, limit, accumulate = planned.state_bytes, compiled.limit, planned.made.train.accumulate
    assert limit is not None
    if state >= limit:
        shards = 2 ** math.ceil(math.log2(state / limit) + 1)
        return {
            "advice": f"the state alone takes {state / GIB:.1f} GiB of {limit / GIB:.2f}: split it over {shards} times "
            f"as many devices, with mesh.ici.fsdp (now {compiled.mesh['fsdp']})"
        }
    rows = planned.made.loader.clips_per_step // math.prod(planned.mesh.shape[axis] for axis in sharding.BATCH)
    share = (compiled.peak - state) / (limit - state)
    options = [n for n in range(accumulate + 1, rows + 1) if rows % n == 0 and n >= accumulate * share]
    for micro in options[: COMPILES // 2]:
        again = planned.at(accumulate=micro)
        if again.fits:
            return {
                "advice": f"--config.train.accumulate={micro}",
                "accumulate": micro,
                "peak": again.peak,
                "temporaries": again.temporaries,
            }
    return {"advice": "no number of micro-batches that was tried fits: a smaller --config.data.global_batch, "
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


def _caveats(compiled: Compiled) -> list[str]:
    notes = ["seconds_at_bound is an uncalibrated lower bound, not a prediction"]
    if compiled.collectives is not None and compiled.collectives.unknown_loops:
        notes.append(f"{compiled.collectives.unknown_loops} loops of unknown length were counted once")
    return notes


def _memory(compiled: Compiled, limit: int | None) -> str:
    told = f"{compiled.peak / GIB:.2f} GiB a device"
    return told if limit is None else f"{told} of {limit / GIB:.2f}"


def _table(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    memory = report["hbm_bytes_per_device"]
    rows: list[tuple[str, str]] = [
        ("hardware", f"{report['topology']}, {report['devices']} devices, sold as {report['sold_as']}"),
        ("mesh", ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items())),
        ("batch", f"{report['global_batch']} videos, {report['clips_per_step']} clips, "
                  f"{report['accumulate']} micro-batches"),
    ]  # fmt: skip
    rows += [(f"memory: {name}", f"{size / GIB:.2f} GiB") for name, size in memory.items() if size is not None]
    if report["hbm_bytes_limit"] is not None:
        fits = "fits" if report["fits"] else f"does NOT fit, by {report['over_bytes'] / GIB:.2f} GiB"
        rows.append(("memory: limit", f"{report['hbm_bytes_limit'] / GIB:.2f} GiB: {fits}"))
    if "would_fit" in report:
        rows.append(("would fit", report["would_fit"]["advice"]))
    if "largest_global_batch" in report:
        rows.append(("largest batch", f"{report['largest_global_batch']} videos"))
    rows.append(("model FLOPs", f"{report['model_flops_per_clip'] / 1e9:.1f} G a clip, "
                                f"{report['model_flops_per_step'] / 1e12:.1f} T a step"))  # fmt: skip
    ratio = report["executed_flops_per_step"] / report["model_flops_per_step"]
    rows.append(("executed FLOPs", f"{ratio:.2f} times those: remat computes twice, pixels get no gradient"))
    for kind, traffic in (report["collectives"] or {}).items():
        rows.append((kind, f"{traffic['count']} times, {traffic['bytes'] / GIB:.2f} GiB a device"))
    if report["seconds_at_bound"] is not None:
        terms = ", ".join(f"{term} {seconds:.4f}" for term, seconds in report["bound_terms"].items())
        rows.append(("uncalibrated bound", f"{report['seconds_at_bound']:.4f} s by {report['bound_by']} ({terms})"))
    rows += [("not split", note) for note in report["replicated"]]
    rows.append(("compiled in", f"{report['compile_seconds']} s"))
    rows += [("note", note) for note in report["notes"]]
    wide = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{wide}}  {value}" for name, value in rows)
