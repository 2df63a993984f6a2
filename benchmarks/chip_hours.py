"""What the recipes cost: model FLOPs of each row of configs/recipes.csv, times its steps, as hours of a chip.

    python -m benchmarks.chip_hours [--utilisation=0.4] [--peak=459e12] [ROW …] [--videos=N] [--config.KEY=VALUE …]

Nothing is compiled or trained: FLOPs are counted from the traced loss, three times the forward pass
(a multiply and an add as two; a teacher's forward pass once), as `vmae plan` counts them. It writes a row
a config: its videos, steps, PFLOPs a step, and hours at the share of the peak that is assumed.
"""

import argparse
import csv
import pathlib
import sys
from typing import Any

from vmae_jax.commands.config import load_config, overrides
from vmae_jax.commands.experiment import experiment
from vmae_jax.configs import recipes
from vmae_jax.spec import ConfigError, calls, from_json, to_json

ROOT = pathlib.Path(__file__).resolve().parents[1]
V5P = 459e12  # FLOPs a second of a TPU v5p, bfloat16

# Videos of a pass over the data, as the papers used them; UCF101 and HMDB51: the first split.
# K700 and AVA are estimates: our sources do not state them.
VIDEOS = {
    "videomae_v2": 1_350_000, "tiktok": 283_582, "post_pretrain": 658_340, "distill": 658_340, "k400": 240_436,
    "k600": 366_006, "k700": 536_000, "ssv2": 168_913, "ucf101": 9_537, "hmdb51": 3_570, "ava": 184_000,
}  # fmt: skip
NOT_PUBLISHED = ("hvm1", "custom", "quickstart")  # how long to train, or on how many videos


def main() -> None:
    parser = argparse.ArgumentParser(description="What the recipes cost.")
    parser.add_argument("rows", nargs="*", help="rows of the table by their first column (default: all)")
    parser.add_argument("--utilisation", type=float, default=0.4, help="share of the peak (default 0.4)")
    parser.add_argument("--peak", type=float, default=V5P, help="FLOPs a second of a chip (default: a TPU v5p)")
    parser.add_argument("--videos", type=int, help="of a pass, in place of the paper's data")
    args, others = parser.parse_known_args()
    try:
        changes = overrides(others)
    except ConfigError as error:
        raise SystemExit(str(error)) from None
    out = csv.writer(sys.stdout)
    out.writerow(["config", "videos", "steps", "PFLOPs_a_step", "chip_hours"])
    for name in recipes.table():
        if args.rows and name not in args.rows:
            continue
        out.writerow(cost(name, args.utilisation * args.peak, args.videos, changes))
        sys.stdout.flush()


def cost(name: str, speed: float, videos: int | None, changes: list[tuple[str, str]]) -> list[object]:
    """Videos, steps, PFLOPs of a step and chip-hours of a config; "" where its length is not published."""
    config = filled(name, changes)
    made = experiment(config)
    flops = made.model_flops()
    videos = videos or videos_of(name)
    if videos is None:
        return [name, "", "", f"{flops / 1e15:.4g}", ""]
    steps = int(config.train.length.epochs * (videos // made.loader.global_batch))
    return [name, videos, steps, f"{flops / 1e15:.4g}", f"{flops * steps / speed / 3600:.3g}"]


def videos_of(config: str) -> int | None:
    """Videos of a pass over a row's data."""
    stem, _, arguments = config.partition(":")
    if stem in NOT_PUBLISHED:
        return None
    if stem in VIDEOS:
        return VIDEOS[stem]
    return VIDEOS[next(word for word in arguments.split(",") if word in VIDEOS)]


def filled(name: str, changes: list[tuple[str, str]]) -> Any:
    """A row's config, with names in place of what a user must give."""
    config = load_config(f"configs/{name.partition(':')[0]}.py:{name.partition(':')[2]}", changes)
    for one in calls(config):
        named = one.call in ("data.sources.folder", "data.sources.csv", "train.init_from.weights")
        if named and "path" not in from_json(to_json(one)):
            one.path = "nothing"
    return config


if __name__ == "__main__":
    main()
