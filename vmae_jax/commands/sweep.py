"""`vmae plan --sweep`: comparison of meshes, remat policies and micro-batches of a step."""

import logging
import sys
from typing import Any

from ml_collections import ConfigDict

from vmae_jax.commands.plan import adapt, describe
from vmae_jax.models.stack import REMAT
from vmae_jax.plan import report as reports
from vmae_jax.plan import sweep as plans
from vmae_jax.plan.topology import Topology, topology
from vmae_jax.spec import ConfigError, calls

__all__ = ["run"]

log = logging.getLogger(__name__)
TRIES = 12  # compilations, minutes each; cached ones are free


def run(config: ConfigDict, *, topology_name: str, tries: int = TRIES) -> dict[str, Any]:
    """Vary mesh, remat policy and micro-batches of `config`, one after the other, around the best so far.

    The global batch stays that of the config, so all candidates train alike; they differ in speed and memory.

    Args:
      config: any.
      topology_name: of chips, such as "v5p:4x4x4"; CPUs have no roofline to rank by.
      tries: maximum number of compilations.

    Raises:
      ConfigError: if `vmae plan` refuses the config or the topology, or it has no chips.
    """
    target = topology(topology_name)
    if target.chip is None:
        raise ConfigError("--sweep needs chips whose speed is known, not CPUs")
    if tries < 1:
        raise ConfigError(f"--tries={tries}: expected at least 1")
    planned, notes = adapt(config, target)
    start = plans.Candidate(
        tuple((axis, planned.mesh.shape[axis]) for axis in planned.mesh.axis_names),
        _policy(config),
        planned.made.train.accumulate,
    )
    rows = plans.sweep(
        start,
        lambda candidate: attempt(config, candidate, target),
        meshes=plans.meshes(len(target.devices)),
        policies=list(REMAT),
        accumulates=_accumulates(start.accumulate),
        tries=tries,
    )
    chosen = plans.recommend(rows)
    print(reports.comparison(rows, chosen), file=sys.stderr)
    report = {
        "topology": target.name,
        "sold_as": target.sold_as,
        "chips": len(target.devices),
        "clips_per_step": planned.made.loader.clips_per_step,
        "sweep": [_plain(row) for row in rows],
        "recommended": None if chosen is None else {**_plain(chosen), "overrides": _overrides(chosen.candidate)},
        "compiles": sum(not row.facts.get("cached", True) for row in rows),
        "notes": [
            *notes,
            "ranked by an uncalibrated estimate (parts one after another, then links); not a prediction of the speed",
        ],
    }
    what = "none of the candidates fits" if chosen is None else " ".join(_overrides(chosen.candidate))
    print(f"recommended: {what}", file=sys.stderr)
    return report


def attempt(config: ConfigDict, candidate: plans.Candidate, target: Topology) -> plans.Row:
    """Compile the config with a candidate's mesh, remat policy and micro-batches."""
    tried: Any = config.copy_and_resolve_references()
    tried.mesh.ici = ConfigDict(dict(candidate.ici))
    tried.train.accumulate = candidate.accumulate
    for node in calls(tried):
        if "remat" in node and candidate.remat is not None:
            node.remat = candidate.remat
    try:
        planned, _ = adapt(tried, target)
        compiled = planned.at()
    except ConfigError as error:  # the batch does not divide this way
        return plans.Row(candidate, False, None, None, {"refused": str(error)})
    report = describe(planned, compiled)
    keys = ("bound_by", "bound_terms", "padded_over_model", "seconds_in_sequence", "mfu_at_bound", "cached")
    facts = {key: report.get(key) for key in keys} | {"compile_seconds": report["compile_seconds"]}
    if not compiled.fits:
        return plans.Row(candidate, False, compiled.peak, None, facts)
    seconds = report["seconds_in_sequence"] + report["bound_terms"]["interconnect"]
    return plans.Row(candidate, True, compiled.peak, seconds, facts)


def _policy(config: ConfigDict) -> str | None:
    """Return the model's remat policy, or None."""
    nodes: list[Any] = calls(config)
    return next((str(node.remat) for node in nodes if "remat" in node), None)


def _accumulates(now: int) -> list[int]:
    """Return numbers of micro-batches to try: fewer first, which are faster, then more."""
    fewer = [n for n in (now // 2, now // 4) if n >= 1]
    return [n for n in dict.fromkeys([*fewer, now * 2, now * 4, now * 8]) if n != now]


def _overrides(candidate: plans.Candidate) -> list[str]:
    """Return the options that select a candidate."""
    options = [f"--config.mesh.ici.{axis}={size}" for axis, size in candidate.ici]
    options.append(f"--config.train.accumulate={candidate.accumulate}")
    return options if candidate.remat is None else [*options, f"--config.method.model.remat={candidate.remat}"]


def _plain(row: plans.Row) -> dict[str, Any]:
    ici, remat, accumulate = row.candidate
    known = {"fits": row.fits, "peak": row.peak, "seconds": row.seconds, **row.facts}
    return {"mesh": dict(ici), "remat": remat, "accumulate": accumulate, **known}
