"""What each method costs beside VideoMAE of the same encoder, as compiled for a TPU: FLOPs, memory, time of a step.

    python -m benchmarks.methods                   # compiles what docs/plans/methods.json lacks (a minute or two each)
    python -m benchmarks.methods --only=adamae     # configs whose name begins so; may be repeated
    python -m benchmarks.methods --table           # prints the table of those that are there

Needs libtpu (`pip install 'vmae-jax[plan]'`) and no TPU.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from benchmarks.scale import planned
from vmae_jax.commands.config import load_config
from vmae_jax.spec import build, calls

FILE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "plans" / "methods.json"
TOPOLOGY, CHIPS = "v5p:2x2x1", 4
CLIPS = 32  # of a chip
BASE = "videomae:B,k400"
# ViT-B where the method has it, and what of the published sizes is next to it.
CONFIGS = (
    BASE, "videomae_v2:B", "motionmae:B,k400", "adamae:B,k400", "mgm:B,k400", "mgmae:B,k400", "mae_st:B", "hiera:B",
    "fourds:B", "mae:B", "siammae:B16", "cropmae:B16", "rvm:B", "siammcvae:B16", "diffmae:B", "diffmae:B,video",
    "marlin:B", "cdfslv", "cdfslv:adapt", "mme:B,k400", "tgm:B,k400", "mvd:B", "umt:B", "internvideo_next:B",
    "vjepa2_1:B", "levjepa:B", "sigma:B,k400", "ttt:B", "masdt:temporal", "masdt:finetune", "mavil:B,audioset",
    "mavil:B,audioset,student", "mbt:audioset_mini", "vic_mae:B", "crossvideomae", "contrast:simclr,B",
    "contrast:byol,B", "contrast:teg,B", "contrast:ascnet,B", "contrast:const_cl,B", "contrast:controlled,B",
)  # fmt: skip
READ = ("data.sources.folder", "data.sources.images", "data.sources.csv", "data.streams.tokenizers.clip")
KEPT = ("model_flops_per_clip", "seconds_as_scheduled", "mfu_at_bound", "fits", "compile_seconds")


def main(argv: list[str] | None = None) -> int:
    """Makes the missing plans, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="a config, or how its name begins; may be repeated")
    parser.add_argument("--table", action="store_true", help="compile nothing")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for one (default 1800)")
    args = parser.parse_args(argv)
    for config in () if args.table else CONFIGS:
        if config not in made() and (not args.only or config.startswith(tuple(args.only))):
            make(config, args.timeout)
    print(table(made()))
    return 0


def command(config: str) -> list[str]:
    """Return the arguments of `vmae` for one config, at `CLIPS` clips a chip and without rematerialisation."""
    stem, _, arguments = config.partition(":")
    path = f"configs/{stem}.py" + f":{arguments}" * bool(arguments)
    loaded: Any = load_config(path)
    for call in calls(loaded.data):
        if call.call in READ:
            call.path = "videos"
    videos = CLIPS // build(loaded.data).clips_per_video * CHIPS
    weights = [f"--config.init_from.{place}.path=weights" for place in loaded.get("init_from", {})]  # not read
    weights += [f"--config.data.{option}.path=vocabulary" for option in _options(loaded.data, "tokenizer")]
    keep = [f"--config.method.{option}=none" for option in _options(loaded.method, "remat")]
    return ["plan", f"--config={path}", f"--topology={TOPOLOGY}", f"--config.data.global_batch={videos}",
            "--config.train.accumulate=1", *keep, *weights]  # fmt: skip


def _options(config: Any, name: str, prefix: str = "") -> Iterator[str]:
    """Yield where a section of a config, and the sections inside it, have an option of that name."""
    for key, value in config.items():
        if key == name:
            yield prefix + key
        elif isinstance(value, ConfigDict):
            yield from _options(value, name, f"{prefix}{key}.")


def make(config: str, timeout: float) -> None:
    """Runs the plan of a config and adds its figures to the file."""
    words = command(config)
    report = planned(config, words, timeout)
    row = {"command": f"vmae {' '.join(words)}", "clips": report["clips_per_step"] // CHIPS}
    row |= {name: report[name] for name in KEPT} | {"peak": report["hbm_bytes_per_device"]["peak"]}
    FILE.write_text(json.dumps(made() | {config: row}, indent=1) + "\n")


def made() -> dict[str, Any]:
    """Return the figures that are there, by config."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown; every ratio is to `BASE`."""
    lines = [
        "| config | GFLOP a clip | of VideoMAE's | GiB a chip | of VideoMAE's | time a step of VideoMAE's |",
        "|" + "---|" * 6,
    ]
    for config in (name for name in CONFIGS if name in rows):
        row, base = rows[config], rows[BASE]
        clips = base["clips"] / row["clips"]
        values = [
            f"`{config}`",
            f"{row['model_flops_per_clip'] / 1e9:,.1f}",
            f"{row['model_flops_per_clip'] / base['model_flops_per_clip']:.2f}",
            f"{row['peak'] / 2**30:.1f}",
            f"{row['peak'] / base['peak']:.2f}",
            f"{clips * row['seconds_as_scheduled'] / base['seconds_as_scheduled']:.2f}",
        ]
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
