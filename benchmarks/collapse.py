"""Is collapse found where it happens, and nowhere else? Five seeds of each arm, each an ordinary training.

    python -m benchmarks.collapse --out=runs/collapse              # all arms, five seeds; a stopped one continues
    python -m benchmarks.collapse --out=runs/collapse --arms=own,fixed --seeds=1
    python -m benchmarks.collapse --out=runs/collapse --report     # the table of what is there

Registered before these runs, after one exploratory run each of `own` and `average` (seed 0, 800 clips, 400 steps):

1. `own` (a latent predictor whose target is the encoder itself, gradients included): every seed is found to have
   collapsed by step 600, and at every evaluation after that.
2. `fixed` (the target is an untrained encoder), `average` (V-JEPA's moving average) and `masked` (VideoMAE V2): no seed
   is found to have collapsed at any of its evaluations.

The data are drawn clips of one shape (`data.synthetic.world`), 8 frames of 32 pixels. Every 50 steps, and before the
first, `eval.spectrum` measures 256 held-out clips, and a linear probe and nearest neighbours measure motion (the pace)
and appearance (the form). Each run's workdir is OUT/ARM-SEED, and `vmae report` shows it.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from vmae_jax.commands import train
from vmae_jax.configs import common
from vmae_jax.io.paths import Workdir
from vmae_jax.io.writers import read_rows
from vmae_jax.plugins import allow_plugins
from vmae_jax.runtime.cache import enable_cache
from vmae_jax.spec import call

__all__ = ["ARMS", "config", "main", "table", "verdicts"]

ARMS = ("own", "fixed", "average", "masked")
COLLAPSING = ("own",)
SEEDS, STEPS, EVERY, FOUND = 5, 1000, 50, 600
SIZE, FRAMES, BATCH = 32, 8, 16
LABELS = {"motion": "label", "appearance": "form"}  # kind -> the label of the drawn clips


def config(arm: str, seed: int, *, steps: int = STEPS, every: int = EVERY, clips: int = 2000) -> ConfigDict:
    """Return the config of a run.

    Args:
      arm: one of ARMS.
      seed: of everything random, the drawn clips excepted.
      steps: of the run.
      every: steps between two evaluations.
      clips: for training; an eighth of them for probes, and for evaluation.
    """
    held = max(clips // 8, 2)
    counts = {"train": clips, "validation": held, "test": held}

    def loader(split: str, *transforms: ConfigDict, **more: Any) -> ConfigDict:
        return call(
            "data.pipeline.loader",
            source=call(
                "data.synthetic.world",
                settings=call("data.synthetic.world.settings", **counts, size=SIZE, frames=FRAMES, rate=8.0, shapes=1),
                split=split,
            ),
            sampler=call("data.clips.dense", frames=FRAMES, stride=1),
            transforms=[*transforms, call("data.transforms.center_crop", size=SIZE)],
            **more,
        )

    known = {label: call("data.labels.one") for label in LABELS.values()}
    evaluators = common.diagnostics(loader("test", global_batch=BATCH, labels=known), LABELS)
    average = arm == "average"
    return common.sections(
        method=_method(arm),
        data=loader("train", global_batch=BATCH),
        optimizer=call(
            "train.optim.adamw",
            schedule=call("train.schedule.warmup_cosine", peak=1e-3, warmup={"steps": 40}, batch_unit=None),
        ),
        train={
            "length": {"steps": steps}, "pictures_every": None, **({"ema_decay": 0.996} if average else {}),
        },
        checkpoint={"every": {"steps": steps}},
        eval={
            "data": loader("validation", global_batch=BATCH, labels=known), "every": {"steps": every},
            "at_start": True, "evaluators": evaluators, "ema": average,
        },
        seed=seed,
    )  # fmt: skip


def _method(arm: str) -> ConfigDict:
    model = call(
        "models.variants.vit", size="tiny", width=64, depth=3, heads=4, frames=FRAMES, resolution=SIZE, patch=8,
        decoder_width=48, decoder_heads=4, decoder_depth=1, dtype="float32",
    )  # fmt: skip
    if arm == "masked":
        pixels = call("targets.core.objective", target=call("targets.pixels", normalize=True))
        mask = call("masking.tube", ratio=0.75)
        return call("methods.masked.build", model=model, encoder_mask=mask, objectives={"pixels": pixels})
    masks = {"blocks": call("masking.multiblock", count=4, scale=0.25, context=0.3, targets=0.4)}
    if arm == "average":
        return call("methods.latent.build", model=model, masks=masks)
    return call("benchmarks.collapse_methods.build", model=model, masks=masks, source=arm)


def verdicts(workdir: pathlib.Path) -> tuple[list[int], list[int]]:
    """Return the steps at which a run was evaluated, and those at which its features counted as collapsed."""
    rows = read_rows(Workdir(workdir).metrics)
    evaluated = [row["step"] for row in rows if row["kind"] == "eval"]
    return evaluated, [row["step"] for row in rows if row.get("event") == "collapse"]


def table(out: pathlib.Path) -> str:
    """Return the result of every run that is there, and whether it is the registered one."""
    lines = ["| run | step | collapsed from | as registered |", "|---|---|---|---|"]
    for folder in sorted(path for path in out.iterdir() if (path / "metrics.jsonl").exists()):
        evaluated, collapsed = verdicts(folder)
        if folder.name.rpartition("-")[0] in COLLAPSING:
            later = [step for step in evaluated if collapsed and step >= collapsed[0]]
            good = bool(collapsed) and collapsed[0] <= FOUND and collapsed == later
        else:
            good = not collapsed
        first = collapsed[0] if collapsed else "–"
        lines.append(f"| {folder.name} | {max(evaluated, default=0)} | {first} | {'yes' if good else 'no'} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not complete, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--every", type=int, default=EVERY)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args(arguments)
    chosen = args.arms.split(",")
    unknown = [arm for arm in chosen if arm not in ARMS]
    if unknown:
        parser.error(f"--arms: there is no {', '.join(unknown)}; the arms are {', '.join(ARMS)}")
    if not args.report:
        allow_plugins(["benchmarks"])
        enable_cache()
        args.out.mkdir(parents=True, exist_ok=True)
        for seed in range(args.seeds):
            for arm in chosen:
                given = config(arm, seed, steps=args.steps, every=args.every, clips=args.clips)
                result = train.run(given, Workdir(args.out / f"{arm}-{seed}"), progress=False)
                print(json.dumps(result), file=sys.stderr, flush=True)
    print(table(args.out))


if __name__ == "__main__":
    main()
