"""The plans of docs/plan.md: `vmae plan` of every size on three pods, one after the other.

    python -m benchmarks.plans                        # compiles what has no JSON yet in docs/plans (hours on two cores)
    python -m benchmarks.plans --only=g@v5p:4x4x4     # one of them
    python -m benchmarks.plans --table                # prints the table of those that are there

Needs libtpu (`pip install 'vmae-jax[plan]'`) and no TPU. A plan that was made with other code is made
again with `--again`; what was compiled before is taken from the cache.
"""

import argparse
import json
import pathlib
import platform
import subprocess
import sys
from typing import Any, NamedTuple

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "docs" / "plans"
GIB = 2**30


class Cell(NamedTuple):
    """A size on a pod; the batch is that of the official script, of which each video gives four clips."""

    size: str
    topology: str
    fsdp: int
    accumulate: int
    remat: str

    @property
    def name(self) -> str:
        return f"{self.size}@{self.topology}"

    @property
    def file(self) -> pathlib.Path:
        return FOLDER / f"{self.size}_{self.topology.replace(':', '_')}.json"

    @property
    def command(self) -> list[str]:
        return [
            "plan", f"--config=configs/videomae_v2.py:{self.size}", f"--topology={self.topology}",
            f"--config.mesh.ici.fsdp={self.fsdp}", f"--config.train.accumulate={self.accumulate}",
            f"--config.method.model.remat={self.remat}",
        ]  # fmt: skip


CELLS = (
    Cell("g", "v5p:4x4x4", 8, 4, "none"),
    Cell("B", "v5e:4x4", 1, 16, "none"),
    Cell("B", "v5p:4x4x4", 1, 2, "none"),
    Cell("L", "v5p:4x4x4", 1, 4, "none"),
    Cell("H", "v5p:4x4x4", 8, 4, "none"),
    Cell("g", "v5e:4x4", 8, 32, "none"),
    Cell("L", "v5e:4x4", 1, 24, "none"),
    Cell("H", "v5e:4x4", 8, 32, "none"),
    Cell("g", "v5p:8x8x8", 8, 1, "none"),
    Cell("B", "v5p:8x8x8", 1, 1, "none"),
    Cell("L", "v5p:8x8x8", 1, 1, "none"),
    Cell("H", "v5p:8x8x8", 8, 1, "none"),
)


def main(argv: list[str] | None = None) -> int:
    """Makes the missing plans, and prints the table of all that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="SIZE@TOPOLOGY, may be repeated")
    parser.add_argument("--table", action="store_true", help="compile nothing")
    parser.add_argument("--again", action="store_true", help="also those that are there")
    parser.add_argument("--timeout", type=float, default=7200.0, help="seconds for one (default 7200)")
    args = parser.parse_args(argv)
    if unknown := set(args.only) - {cell.name for cell in CELLS}:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(cell.name for cell in CELLS)}")
    for cell in () if args.table else CELLS:
        if (not args.only or cell.name in args.only) and (args.again or not cell.file.exists()):
            make(cell, args.timeout)
    print(table())
    return 0


def make(cell: Cell, timeout: float) -> None:
    """Runs the plan of a cell and keeps its report with the command and the machine."""
    done = subprocess.run(
        [sys.executable, "-m", "vmae_jax", *cell.command],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=timeout,
    )
    report = json.loads(done.stdout.splitlines()[-1])
    report["command"] = f"vmae {' '.join(cell.command)}"
    report["machine"] = f"{platform.machine()}, Python {platform.python_version()}, {versions()}; no TPU"
    FOLDER.mkdir(parents=True, exist_ok=True)
    cell.file.write_text(json.dumps(report, indent=1) + "\n")


def versions() -> str:
    """Of the compilers."""
    import importlib.metadata

    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "libtpu"))


def table() -> str:
    """Markdown of all plans that are there."""
    lines = [
        "| model | hardware, sold as | mesh | clips a step, micro-batches, remat | GiB a chip: peak of limit "
        "| model TFLOPs a clip | padded / model | collectives, GiB a chip | bound, s | share of the peak at the bound "
        "| as scheduled, s | compiled in |",
        "|" + "---|" * 12,
    ]
    return "\n".join([*lines, *(row(cell, report) for cell, report in made())])


def made() -> list[tuple[Cell, dict[str, Any]]]:
    """The plans that are there, smaller models and pods first."""
    order = sorted(CELLS, key=lambda cell: ("BLHg".index(cell.size), cell.topology))
    return [(cell, json.loads(cell.file.read_text())) for cell in order if cell.file.exists()]


def peak(report: dict[str, Any]) -> str:
    """What the step needs of a chip's memory, and what of it a program may use."""
    text = f"{report['hbm_bytes_per_device']['peak'] / GIB:.2f} of {report['hbm_bytes_limit'] / GIB:.2f}"
    return text if report["fits"] else f"does not fit: {text}"


def row(cell: Cell, report: dict[str, Any]) -> str:
    """One line of the table."""
    mesh = " × ".join(f"{axis} {size}" for axis, size in report["mesh"].items() if size > 1)
    sent = ", ".join(f"{kind} {traffic['bytes'] / GIB:.2f}" for kind, traffic in (report["collectives"] or {}).items())
    fits = report["fits"] and "seconds_as_scheduled" in report
    cells = [
        cell.size,
        f"`{report['topology']}`, {report['sold_as']}",
        mesh,
        f"{report['clips_per_step']}, {report['accumulate']}, {cell.remat}",
        peak(report),
        f"{report['model_flops_per_clip'] / 1e12:.3f}",
        f"{report['padded_over_model']:.3f}" if fits else "",
        sent,
        f"{report['seconds_at_bound']:.3f}, {report['bound_by']}" if fits else "",
        f"{100 * report['mfu_at_bound']:.0f}%" if fits else "",
        f"{report['seconds_as_scheduled']:.3f}" if fits else "",
        f"{report['compile_seconds']:.0f} s",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
