"""Whose features follow objects? SiamMAE, its relatives and VideoMAE on the same clips, for the same model FLOPs.

    python -m benchmarks.learning_propagation --out=runs/following             # what is left to run
    python -m benchmarks.learning_propagation --out=runs/following --report    # the table and the picture again

What is compared and why: docs/learning_registrations.md, the eighth registration and the tenth. The same command goes
on where it was stopped: every result is a line of OUT/results.jsonl, and an interrupted pre-training resumes from its
checkpoint.
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax

from benchmarks import atari_arms
from benchmarks.learning import append, check_options, check_setting, parser_of, read, report, with_status
from benchmarks.learning_report import Dots, difference, draw_dots, estimate, table
from benchmarks.learning_runs import Interrupted
from vmae_jax.commands import train
from vmae_jax.commands.experiment import experiment
from vmae_jax.commands.measure import Measurement
from vmae_jax.commands.restore import restore
from vmae_jax.io.paths import Workdir
from vmae_jax.runtime import watchdog
from vmae_jax.runtime.cache import enable_cache
from vmae_jax.spec import build, call
from vmae_jax.train import sharding
from vmae_jax.train.settings import Evaluation
from vmae_jax.types import Carried

__all__ = ["ARMS", "BASES", "SETTING", "SMOKE", "Job", "Setting", "main", "run"]

# The arms, and what each is compared with; `None` is its own encoder without training.
BASES: Mapping[str, str | None] = MappingProxyType(
    {"siammae": "videomae", "videomae": None, "cropmae": "siammae", "siammcvae": "siammae"}
)
ARMS = tuple(BASES)
ENCODERS = ("siammae", "videomae")  # the arms whose untrained encoders are measured; those of the others are SiamMAE's
MEASURES = ("jf_mean", "j_mean", "f_mean")
_UNTRAINED = "-untrained"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the arms share.

    Attributes:
      scene: of `data.synthetic.world.settings`; labels are propagated through the clips of its test split.
      arms: the networks, the batch and the model FLOPs of a pre-training.
      rate: of every pre-training.
      before: blocks before the last one whose features are measured as well.
      enlarged: times by which frames are enlarged for the features, as those of DAVIS are for networks of 224 pixels.
    """

    scene: Mapping[str, Any]
    arms: atari_arms.Setting
    rate: float = 3e-3
    before: int = 1
    enlarged: int = 2


SETTING = Setting(
    scene={"train": 1000, "validation": 0, "test": 20, "size": 64, "frames": 32, "shapes": 3, "seed": 8},
    arms=atari_arms.Setting(
        model={
            "size": "tiny", "frames": 8, "resolution": 64, "tubelet": 2, "patch": 8, "width": 48, "depth": 4,
            "heads": 4, "decoder_width": 36, "decoder_depth": 2, "decoder_heads": 3,
        },
        flops=2e12,
    ),
)  # fmt: skip

# The whole of it in a minute, to see that it runs; its numbers mean nothing.
SMOKE = Setting(
    scene={**SETTING.scene, "train": 8, "test": 1, "size": 32, "frames": 8},
    arms=dataclasses.replace(
        SETTING.arms,
        model={
            **SETTING.arms.model,
            "resolution": 32,
            "width": 12,
            "depth": 2,
            "decoder_width": 12,
            "decoder_depth": 1,
        },
        batch=4,
        flops=1e8,
    ),
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One line of the results: the training of an arm, or the measurement of its features.

    Attributes:
      stage: "pretrain" or "follow".
      arm: of ARMS, or one with "-untrained" added.
    """

    stage: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.stage}-{self.arm}-seed{self.seed}"


def jobs(seeds: int) -> list[Job]:
    """Every job, in order: an arm's training before its measurement, seed by seed."""
    found = []
    for seed in range(seeds):
        for arm in ARMS:
            found += [Job("pretrain", arm, seed), Job("follow", arm, seed)]
            found += [Job("follow", arm + _UNTRAINED, seed)] if arm in ENCODERS else []
    return found


def run(setting: Setting, out: pathlib.Path, *, seeds: int, hours: float = 1e9) -> dict[Job, dict[str, Any]]:
    """Run what is not in OUT/results.jsonl yet, and return all that is in it then.

    Args:
      hours: no new job begins after so long.

    Raises:
      ConfigError: if OUT holds results of another setting.
      Interrupted: if the process was asked to stop.
    """
    enable_cache()
    out.mkdir(parents=True, exist_ok=True)
    check_setting(setting, out, kind=Job)
    rows, until = read(out, kind=Job), time.monotonic() + 3600 * hours
    for job in jobs(seeds):
        if job in rows or time.monotonic() > until:
            continue
        began, cpu = time.perf_counter(), time.process_time()
        found = (_pretrain if job.stage == "pretrain" else _follow)(job, setting, out)
        found |= {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        rows[job] = {name: round(value, 6) for name, value in found.items()}
        append(out, job, rows[job])
        print(f"{job.name}: " + ", ".join(f"{k} {v:.4g}" for k, v in rows[job].items()), file=sys.stderr, flush=True)
    return rows


def config_of(setting: Setting, arm: str, seed: int, out: pathlib.Path) -> Any:
    """Return the config of an arm's pre-training."""
    known = arm if arm in atari_arms.ARMS else "siammae"
    config = atari_arms.pretraining(setting.arms, known, setting.rate, seed, records="")
    config.data.source = call("data.synthetic.world", settings=_drawing(setting), directory=str(out / "clips"))
    if arm != known:
        _change(config, arm)
        atari_arms.lengthen(setting.arms, config)
    return config


def _change(config: Any, arm: str) -> None:
    """Make SiamMAE's training that of a relative, on the same videos."""
    method, size = config.method, config.method.model.resolution
    if arm == "cropmae":  # two crops of one frame in place of two frames
        config.data.sampler = call("data.clips.pair", gap=[0, 0])
        config.data.transforms = [call("data.crops.nested", size=size, outer=[0.5, 1.0], inner=[0.3, 0.6])]
    else:
        raw = {"pixels": call("targets.core.objective", target=call("targets.pixels", normalize=False))}
        mask = call("masking.random", ratio=0.75)
        config.method = call("methods.siammcvae.build", model=method.model, encoder_mask=mask, objectives=raw)


def _drawing(setting: Setting) -> Any:
    return call("data.synthetic.world.settings", **setting.scene)


def _pretrain(job: Job, setting: Setting, out: pathlib.Path) -> dict[str, float]:
    config = config_of(setting, job.arm, job.seed, out)
    # No limits: on a machine that others use as well, a step may take long.
    outcome = train.run(
        config, Workdir(out / "runs" / job.name), progress=False, limits=dict.fromkeys(watchdog.LIMITS, 0.0)
    )
    if outcome["status"] != "done":
        raise Interrupted
    return {"steps": config.train.length.steps, "step_gflops": experiment(config).model_flops() / 1e9}


def _follow(job: Job, setting: Setting, out: pathlib.Path) -> dict[str, float]:
    """Label propagation with the features of the last block and of one before."""
    if job.arm.endswith(_UNTRAINED):
        made = experiment(config_of(setting, job.arm.removesuffix(_UNTRAINED), job.seed, out))
        init = lambda key, batch: made.method.init(key, batch)[0]  # noqa: E731
        params, _ = sharding.create(init, jax.random.key(job.seed), made.batch_spec, made.mesh)
    else:
        trained = restore(str(out / "runs" / Job("pretrain", job.arm, job.seed).name))
        made, params = trained.made, jax.device_put(trained.params)
    side, depth = setting.enlarged * setting.arms.model["resolution"], setting.arms.model["depth"]
    evaluators = {
        name: build(
            call(
                "eval.propagation",
                sequences=call("data.sequences.drawn", settings=_drawing(setting)),
                size=[side, side],
                layer=layer,
                pictures=0,
            )
        )
        for name, layer in (("last", None), ("before", depth - setting.before))
    }
    measured = Measurement(dataclasses.replace(made, eval=Evaluation(evaluators=evaluators)))
    numbers = measured(params, lambda: Carried(None, {}))
    return {f"{where}_{name}": numbers[f"{where}/{name}"] for where in evaluators for name in MEASURES}


def tables(setting: Setting, rows: Mapping[Job, Mapping[str, Any]]) -> str:
    """Return J and F of every arm, in percent, and how the trained ones differ, as Markdown."""
    del setting
    body = []
    for arm in (*ARMS, *(arm + _UNTRAINED for arm in ENCODERS)):
        found = [_column(rows, arm, f"{where}_{name}") for where in ("last", "before") for name in MEASURES]
        if found[0]:
            base = BASES.get(arm) or arm + _UNTRAINED
            gain = difference(found[0], _column(rows, base, "last_jf_mean")) if arm in ARMS else ""
            body.append((arm, *(estimate(values.values()) for values in found), gain, base if arm in ARMS else ""))
    head = [f"{name}, {where}" for where in ("last block", "the one before") for name in ("J&F", "J", "F")]
    return table(("features", *head, "difference of J&F, last block", "to"), body) + "\n"


def pictures(setting: Setting, rows: Mapping[Job, Mapping[str, Any]], folder: pathlib.Path) -> list[pathlib.Path]:
    """Draw J and F of each arm and seed; nothing where there are none."""
    del setting
    arms = [arm + end for end in ("", _UNTRAINED) for arm in ARMS if _column(rows, arm + end, "last_jf_mean")]
    lines = [
        Dots(arm, [list(_column(rows, arm, f"{where}_jf_mean").values()) for where in ("last", "before")])
        for arm in arms
    ]
    if not lines:
        return []
    path = folder / "learning_following.png"
    draw_dots(
        "J&F of propagated labels, %: each seed, the mean and its 95%", ("last block", "the one before"), lines
    ).save(path)
    return [path]


def _column(rows: Mapping[Job, Mapping[str, Any]], arm: str, name: str) -> dict[int, float]:
    return {job.seed: row[name] for job, row in rows.items() if (job.stage, job.arm) == ("follow", arm)}


@with_status
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the top of this file."""
    parser = parser_of("learning_propagation", __doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny: to see that it runs")
    options = parser.parse_args(arguments)
    setting, out = SMOKE if options.smoke else SETTING, pathlib.Path(options.out).absolute()
    check_options(options)
    if not options.report:
        run(setting, out, seeds=options.seeds, hours=options.hours)
    return report(setting, out, read(out, kind=Job), tables, pictures)


if __name__ == "__main__":
    sys.exit(main())
