"""The report of a plan: tables of plain values."""

from collections.abc import Sequence
from typing import Any

from vmae_jax.plan.compile import Compiled
from vmae_jax.plan.sweep import Row
from vmae_jax.plan.topology import GIB, Chip
from vmae_jax.plan.work import Work

__all__ = ["caveats", "comparison", "memory", "movers", "parts", "table"]

SHOWN = 8  # parts of the network in the table; the JSON has all


def parts(work: Work, chip: Chip) -> dict[str, dict[str, float]]:
    """Return for each part of the network its operations, their increase by padding, bytes, and least seconds."""
    return {
        name: {
            "flops": part.flops,
            "padded_over_flops": part.padded / part.flops if part.flops else 1.0,
            "bytes": part.bytes,
            "seconds": max(part.padded / chip.flops, part.bytes / chip.hbm_bandwidth),
            "compiler_seconds": part.cycles / chip.clock,
        }
        for name, part in work.parts.items()
    }


def movers(work: Work) -> list[dict[str, Any]]:
    """Return what moves most bytes, in descending order."""
    return [mover._asdict() for mover in work.movers]


def caveats(compiled: Compiled) -> list[str]:
    """Return the caveats of the figures."""
    notes = ["seconds_at_bound is an uncalibrated lower bound, not a prediction"]
    if compiled.collectives is not None and compiled.collectives.unknown_loops:
        notes.append(f"{compiled.collectives.unknown_loops} loops of unknown length were counted once")
    return notes


def memory(peak: int, limit: int | None) -> str:
    """Return a peak of memory, with its limit."""
    text = f"{peak / GIB:.2f} GiB per device"
    return text if limit is None else f"{text} of {limit / GIB:.2f}"


def table(report: dict[str, Any]) -> str:
    """Return the report of a plan for a terminal."""
    rows = [*_size(report), *_arithmetic(report), *_traffic(report)]
    rows += [("not split", note) for note in report["replicated"]]
    rows.append(("compiled in", f"{report['compile_seconds']} s{', earlier (cached)' if report['cached'] else ''}"))
    rows += [("note", note) for note in report["notes"]]
    wide = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{wide}}  {value}" for name, value in rows)


def comparison(rows: Sequence[Row], chosen: Row | None) -> str:
    """Return the candidates of a sweep for a terminal, with a mark at the recommended one."""
    lines = ["   mesh                        remat          micro-batches  GiB / chip  estimate, s  bound by"]
    for row in rows:
        ici, remat, micro = row.candidate
        mesh = " ".join(f"{axis} {size}" for axis, size in ici)
        seconds = "-" if row.seconds is None else f"{row.seconds:.4f}"
        peak = "-" if row.peak is None else f"{row.peak / GIB:.2f}"
        why = row.facts.get("bound_by") or row.facts.get("refused") or "does not fit"
        mark = "=>" if row is chosen else "  "
        lines.append(f"{mark} {mesh:<26}  {remat or '-':<13}  {micro:>13}  {peak:>10}  {seconds:>11}  {why}")
    return "\n".join(lines)


def _size(report: dict[str, Any]) -> list[tuple[str, str]]:
    held = report["hbm_bytes_per_device"]
    rows = [
        ("hardware", f"{report['topology']}, {report['devices']} devices, sold as {report['sold_as']}"),
        ("mesh", ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items())),
        ("batch", f"{report['global_batch']} videos, {report['clips_per_step']} clips, "
                  f"{report['accumulate']} micro-batches"),
    ]  # fmt: skip
    rows += [(f"memory: {name}", f"{size / GIB:.2f} GiB") for name, size in held.items() if size is not None]
    if (limit := report["hbm_bytes_limit"]) is not None:
        left = (limit - held["peak"]) / GIB
        fits = f"fits, {left:.2f} GiB to spare" if report["fits"] else f"does NOT fit, by {-left:.2f} GiB"
        rows.append(("memory: limit", f"{limit / GIB:.2f} GiB: {fits}"))
    if "would_fit" in report:
        rows.append(("would fit", report["would_fit"]["advice"]))
    if "largest_global_batch" in report:
        rows.append(("largest batch", f"{report['largest_global_batch']} videos"))
    return rows


def _arithmetic(report: dict[str, Any]) -> list[tuple[str, str]]:
    model = report["model_flops_per_step"]
    rows = [
        ("model FLOPs", f"{report['model_flops_per_clip'] / 1e9:.1f} G per clip, {model / 1e12:.1f} T per step"),
        ("executed FLOPs", f"{report['executed_flops_per_step'] / model:.2f} times those: with recomputation, "
                           "without gradients of pixels"),
    ]  # fmt: skip
    if "padded_over_model" in report:
        rows.append(("padded FLOPs", f"{report['padded_over_model']:.2f} times the model's, "
                                     f"{report['padded_over_executed']:.2f} times the executed"))  # fmt: skip
    return rows


def _traffic(report: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for kind, traffic in (report["collectives"] or {}).items():
        rows.append((kind, f"{traffic['count']} times, {traffic['bytes'] / GIB:.2f} GiB per device"))
    if report["seconds_at_bound"] is None:
        return rows
    terms = ", ".join(f"{term} {seconds:.4f}" for term, seconds in report["bound_terms"].items())
    rows += [
        ("memory traffic", f"{report['hbm_bytes_moved_per_device'] / GIB:.1f} GiB per device"),
        ("uncalibrated bound", f"{report['seconds_at_bound']:.4f} s by {report['bound_by']} ({terms})"),
        ("part after part", f"{report['seconds_in_sequence']:.4f} s, each by arithmetic or memory"),
        ("as scheduled", f"{report['seconds_as_scheduled']:.4f} s, operations in the compiler's order"),
    ]
    if (links := report["links"])["seconds"]:
        rows.append(
            (
                "links",
                f"{links['seconds']:.4f} s, of which {links['exposed_seconds']:.4f} s nothing else runs; "
                f"{links['beside_seconds'] / links['seconds']:.0%} may run beside other operations",
            )
        )
    if report["compiler_seconds"]:
        rows.append(("compiler's estimate", f"{report['compiler_seconds']:.4f} s without links"))
    longest = sorted(report["parts"].items(), key=lambda item: -item[1]["seconds"])[:SHOWN]
    for name, part in longest:
        share = part["seconds"] / report["seconds_in_sequence"]
        rows.append((f"  {name}", f"{share:.0%}; padded {part['padded_over_flops']:.2f}, "
                                  f"{part['bytes'] / GIB:.2f} GiB"))  # fmt: skip
    rows.append(("largest movers", "bytes a step, operation, array, part of the network"))
    for mover in report["movers"][:SHOWN]:
        what = f"{mover['operation']} {mover['array']}, {mover['part']}"
        rows.append((f"  {mover['bytes'] / GIB:.2f} GiB", f"{mover['times']} × {what}"))
    return rows
