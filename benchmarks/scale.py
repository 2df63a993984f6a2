"""The plans of docs/scale.md: one global batch on 64 to 4,096 chips, collectives beside the arithmetic or not.

    python -m benchmarks.scale                          # compiles what docs/plans/scale.json lacks (half an hour)
    python -m benchmarks.scale --only=v5p:8x8x8         # on one topology
    python -m benchmarks.scale --table --plot=docs/images/scale.png

Needs libtpu (`pip install 'vmae-jax[plan]'`) and no TPU.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from benchmarks.learning_report import Line, draw_lines
from vmae_jax.plan.topology import CHIPS

FILE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "plans" / "scale.json"
# On chips with SparseCores (v5p, v6e), these carry out collectives while the core computes.
BESIDE = " ".join(
    f"--xla_tpu_enable_sparse_core_collective_offload_{kind}=true"
    for kind in ("all_gather", "reduce_scatter", "all_reduce")
)
CLIPS = 8192  # a step, as the official recipes of H and g have it
KEPT = (
    "topology", "chips", "mesh", "clips_per_step", "accumulate", "fits", "hbm_bytes_limit", "model_flops_per_step",
    "bound_terms", "seconds_as_scheduled", "links", "compile_seconds",
)  # fmt: skip


class Cell(NamedTuple):
    """A size on a topology.

    Attributes:
      fsdp: chips over which the state is split.
      accumulate: micro-batches; more than one where a whole batch takes too much memory.
      beside: whether collectives run beside the arithmetic.
    """

    size: str
    topology: str
    fsdp: int
    accumulate: int
    beside: bool

    @property
    def flags(self) -> str:
        return BESIDE if self.beside else ""

    @property
    def command(self) -> list[str]:
        return [
            "plan", f"--config=configs/videomae_v2.py:{self.size}", f"--topology={self.topology}",
            f"--config.data.global_batch={CLIPS // 4}", f"--config.mesh.ici.fsdp={self.fsdp}",
            f"--config.train.accumulate={self.accumulate}", "--config.method.model.remat=none",
        ]  # fmt: skip


def cells() -> list[Cell]:
    """All of them, those of few chips first; without the flags on the middle topology alone."""
    found = []
    for topology in ("v5p:4x4x4", "v5p:8x8x8", "v6e:8x8", "v6e:16x16", "v5p:16x16x16"):
        for size, fsdp in (("B", 1), ("L", 1), ("H", 8), ("g", 8)):
            chips = math.prod(map(int, topology.split(":")[1].split("x")))
            micro = 4 if topology.startswith("v6e") and CLIPS // chips > 32 else 1
            ways = (True, False) if topology == "v5p:8x8x8" else (True,)
            found += [Cell(size, topology, fsdp, micro, beside) for beside in ways]
    return found


def main(argv: list[str] | None = None) -> int:
    """Makes the missing plans, prints the table, draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="a topology, may be repeated")
    parser.add_argument("--table", action="store_true", help="compile nothing")
    parser.add_argument("--plot", type=pathlib.Path, help="a PNG of what is there")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for one (default 3600)")
    args = parser.parse_args(argv)
    for cell in () if args.table else cells():
        if (not args.only or cell.topology in args.only) and cell not in [one for one, _ in made()]:
            make(cell, args.timeout)
    print(table(made()))
    if args.plot:
        plot(made()).save(args.plot)
    return 0


def planned(name: str, words: Sequence[str], timeout: float, **variables: str) -> dict[str, Any]:
    """Run a `vmae plan`, with further environment variables, and return its report; an error of it ends the program."""
    done = subprocess.run(
        [sys.executable, "-m", "vmae_jax", *words], stdout=subprocess.PIPE, text=True, timeout=timeout,
        env={**os.environ, **variables},
    )  # fmt: skip
    report = json.loads(done.stdout.splitlines()[-1])
    if done.returncode:
        raise SystemExit(f"{name}: {report['error']}")
    return report


def make(cell: Cell, timeout: float) -> None:
    """Runs the plan of a cell and adds its figures to the file."""
    report = planned(str(cell), cell.command, timeout, LIBTPU_INIT_ARGS=cell.flags)
    row = {"cell": cell._asdict(), "command": f"vmae {' '.join(cell.command)}", "LIBTPU_INIT_ARGS": cell.flags}
    row |= {name: report.get(name) for name in KEPT}
    row["peak"] = report["hbm_bytes_per_device"]["peak"]
    rows = json.loads(FILE.read_text()) if FILE.exists() else []
    FILE.write_text(json.dumps([*rows, row], indent=1) + "\n")


def made() -> list[tuple[Cell, dict[str, Any]]]:
    """The plans that are there, in the order of `cells`."""
    rows = {Cell(**row["cell"]): row for row in (json.loads(FILE.read_text()) if FILE.exists() else [])}
    return [(cell, rows[cell]) for cell in cells() if cell in rows]


def share(row: dict[str, Any]) -> float:
    """Model FLOPs as a share of the chips' peak, in the compiler's order."""
    peak = row["chips"] * CHIPS[row["topology"].split(":")[0]].flops
    return row["model_flops_per_step"] / peak / row["seconds_as_scheduled"]


def binding(row: dict[str, Any]) -> float:
    """Clips a chip at which sending takes as long as arithmetic: what is sent does not depend on the clips."""
    clips = row["clips_per_step"] / row["chips"] / row["accumulate"]
    return row["links"]["seconds"] / row["bound_terms"]["compute"] * clips


def table(rows: Iterable[tuple[Cell, dict[str, Any]]]) -> str:
    """Markdown."""
    lines = [
        "| model | chips | clips a chip | GiB a chip | links alone, ms | waited for links, ms | step, ms "
        "| share of the peak | links bind below, clips a chip |",
        "|" + "---|" * 9,
    ]
    for cell, row in rows:
        flags = "" if cell.beside else ", without the flags"
        links = row["links"]
        values = [
            f"{cell.size}{flags}",
            f"`{cell.topology}`, {row['chips']}",
            f"{row['clips_per_step'] // row['chips']}" + (f" in {row['accumulate']}" if row["accumulate"] > 1 else ""),
            f"{row['peak'] / 2**30:.1f}",
            f"{1000 * links['seconds']:.1f}",
            f"{1000 * links['exposed_seconds']:.1f}",
            f"{1000 * row['seconds_as_scheduled']:.1f}",
            f"{100 * share(row):.0f}%",
            f"{binding(row):.1f}",
        ]
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines)


def plot(rows: Sequence[tuple[Cell, dict[str, Any]]]) -> Any:
    """The share of the peak by the number of chips, a line a size and generation."""
    lines = []
    for kind in ("v5p", "v6e"):
        for size in "BLHg":
            mine = [(row["chips"], row) for cell, row in rows if cell[:2] == (size, row["topology"]) and cell.beside
                    and cell.topology.startswith(kind)]  # fmt: skip
            if mine:
                points = [(math.log2(chips), 100 * share(row), 0.0) for chips, row in sorted(mine, key=lambda x: x[0])]
                lines.append(Line(f"{size}, {kind}", points))
    marks = [(math.log2(chips), f"{chips:,}") for chips in (64, 256, 512, 4096)]
    return draw_lines("Share of the peak at the bound (%), 8,192 clips a step", "chips", lines, marks, low=0.0)


if __name__ == "__main__":
    sys.exit(main())
