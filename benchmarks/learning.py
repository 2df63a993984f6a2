"""Does it learn, and not only run? Pre-training against none, on clips whose classes are motions.

    python -m benchmarks.learning --out=runs/learning                 # part A: labels and probes
    python -m benchmarks.learning --out=runs/learning --part=B        # masks and distillation
    python -m benchmarks.learning --out=runs/fifth --registration=5 --part=C     # other methods
    python -m benchmarks.learning --out=runs/learning --report        # tables and pictures again

What is compared and why: docs/learning.md and docs/learning_registrations.md. The same command goes on where it was
stopped: every result is a line of OUT/results.jsonl, and an interrupted pre-training resumes from its checkpoint.
"""

import argparse
import dataclasses
import datetime
import functools
import json
import os
import pathlib
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from benchmarks.learning_arms import LONG, PRETRAINING, SCRATCH, Setting
from benchmarks.learning_methods import METHODS
from benchmarks.learning_report import pictures, tables
from benchmarks.learning_runs import RANDOM, STUDENTS, Interrupted, Job, execute, jobs
from vmae_jax.plugins import allow_plugins
from vmae_jax.runtime.cache import enable_cache
from vmae_jax.spec import ConfigError, did_you_mean

__all__ = [
    "REGISTRATIONS",
    "SETTING",
    "SMOKE",
    "append",
    "check_options",
    "check_setting",
    "main",
    "parser_of",
    "read",
    "run",
    "with_status",
]

# As docs/learning_registrations.md wrote it down first; its pre-training and probes were run, three seeds.
FIRST = Setting(
    scene={"size": 24, "frames": 8, "patch": 4, "speed": 0.25, "contrast": 0.05, "shapes": 3, "clutter": 0, "drift": 2,
           "seed": 1},
    model={"size": "tiny", "frames": 8, "resolution": 24, "tubelet": 4, "patch": 4, "width": 36, "depth": 3, "heads": 3,
           "decoder_width": 24, "decoder_depth": 2, "decoder_heads": 2,
           "positions": {"call": "models.positions.sincos_3d"}},
)  # fmt: skip

# The second, and what was changed for it: smaller pictures, a wider network, and waves in the positions that
# distinguish the few places of such a grid.
SECOND = dataclasses.replace(
    FIRST,
    scene={**FIRST.scene, "size": 16, "seed": 2},
    model={**FIRST.model, "resolution": 16, "width": 48, "heads": 4, "decoder_width": 36, "decoder_heads": 3,
           "positions": {"call": "models.positions.sincos_3d", "base": 10.0}},
)  # fmt: skip

# The third: the second with a longer pre-training, on other clips.
SETTING = dataclasses.replace(SECOND, scene={**SECOND.scene, "seed": 3}, steps=5000)

# The fourth: the third with students that have a pre-training of their own, on other clips again.
FOURTH = dataclasses.replace(
    SETTING, scene={**SETTING.scene, "seed": 4}, counts=(100, 2000), middle=100, student_pretrained=True
)

# The fifth: the third's setting for other methods (part C), on other clips again.
FIFTH = dataclasses.replace(SETTING, scene={**SETTING.scene, "seed": 5}, counts=(100, 2000), middle=100)

REGISTRATIONS = {"1": FIRST, "2": SECOND, "3": SETTING, "4": FOURTH, "5": FIFTH}

# The whole of it in a minute, to see that it runs; its numbers mean nothing.
SMOKE = dataclasses.replace(
    SETTING,
    model={**SETTING.model, "width": 12, "depth": 2, "heads": 2, "decoder_width": 12, "decoder_depth": 1},
    unlabelled=40, counts=(10, 20), middle=10, validation=20, test=20,
    batch=8, steps=4, tuning_batch=8, tuning_steps=3, rates=(1e-3, 3e-3), save_every=2,
)  # fmt: skip

ARMS = (*PRETRAINING, *METHODS, SCRATCH, LONG, RANDOM, *STUDENTS)


def run(
    setting: Setting,
    out: pathlib.Path,
    *,
    part: str = "A",
    seeds: int = 3,
    arms: Sequence[str] = (),
    hours: float = 1e9,
) -> dict[Job, dict[str, Any]]:
    """Runs what is not in OUT/results.jsonl yet, and gives all that is in it then.

    Args:
      arms: only jobs of these; empty for all.
      hours: no new job begins after so long.

    Raises:
      ConfigError: OUT holds results of another setting.
      Interrupted: the process was asked to stop.
    """
    allow_plugins(["benchmarks"])
    enable_cache()
    out.mkdir(parents=True, exist_ok=True)
    check_setting(setting, out)
    rows, until = read(out), time.monotonic() + 3600 * hours
    while time.monotonic() < until:
        job = next((job for job in jobs(setting, part, seeds, arms, rows) if job not in rows), None)
        if job is None:
            break
        rows[job] = execute(job, setting, out, rows)
        append(out, job, rows[job])
        numbers = {name: value for name, value in rows[job].items() if isinstance(value, float)}
        print(f"{job.name}: " + ", ".join(f"{k} {v:.4g}" for k, v in numbers.items()), file=sys.stderr, flush=True)
    return rows


def read(out: pathlib.Path, kind: Any = Job) -> dict[Any, dict[str, Any]]:
    """The results so far, by jobs of a kind; a last line that a kill cut short is dropped, and cut off the file."""
    path, names = out / "results.jsonl", [field.name for field in dataclasses.fields(kind)]
    rows: dict[Any, dict[str, Any]] = {}
    if not path.exists():
        return rows
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    for line in map(json.loads, whole.splitlines()):
        rows[kind(*(line.pop(name) for name in names))] = line
    return rows


def with_status(command: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Return a command whose mistakes in options and interruptions are one line and a status of its own."""

    @functools.wraps(command)
    def guarded(arguments: Sequence[str] | None = None) -> int:
        try:
            return command(arguments)
        except ConfigError as error:
            print(error, file=sys.stderr)
            return 2
        except Interrupted:
            print("stopped; the same command goes on", file=sys.stderr)
            return 75

    return guarded


@with_status
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the top of this file."""
    options = _parser().parse_args(arguments)
    setting = SMOKE if options.smoke else REGISTRATIONS[options.registration]
    out = pathlib.Path(options.out).absolute()
    arms = named("arms", options.arms, tuple(ARMS))
    check_options(options)
    started = time.monotonic()
    for part in options.part if not options.report else ():
        left = options.hours - (time.monotonic() - started) / 3600
        run(setting, out, part=part, seeds=options.seeds, arms=arms, hours=left)
    return report(setting, out, read(out), tables, pictures)


def named(option: str, text: str, known: Sequence[str]) -> list[str]:
    """Return the names of an option, separated by commas; a ConfigError for one that is not known."""
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            raise ConfigError(f"--{option}={name}: unknown{did_you_mean(name, known)}; there are {', '.join(known)}")
    return names


def report(setting: Any, out: pathlib.Path, rows: Mapping[Any, Any], tables: Any, pictures: Any) -> int:
    """Write the tables and pictures of the results, print where, and return the status of the command."""
    if not rows:
        print(f"{out} holds no results", file=sys.stderr)
        return 2
    (out / "tables.md").write_text(tables(setting, rows))
    drawn = pictures(setting, rows, out)
    print(json.dumps({"status": "ok", "results": len(rows), "files": [str(out / "tables.md"), *map(str, drawn)]}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("learning", __doc__)
    parser.add_argument("--part", choices=("A", "B", "AB", "C"), default="A",
                        help="A: labels and probes; B: the ladder of masks; C: other methods")  # fmt: skip
    parser.add_argument("--registration", choices=tuple(REGISTRATIONS), default="3", help="its number in the docs")
    parser.add_argument("--arms", default="", help=f"only these, separated by commas: {', '.join(ARMS)}")
    parser.add_argument("--smoke", action="store_true", help="tiny: to see that it runs")
    return parser


def parser_of(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark of jobs has, given its module's name and docstring."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=(doc or "").split("\n")[0])
    parser.add_argument("--out", required=True, help="folder of the results; the same one goes on")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--hours", type=float, default=1e9, help="no new job begins after so long")
    parser.add_argument("--report", action="store_true", help="tables and pictures of what there is; runs nothing")
    return parser


def check_options(options: argparse.Namespace) -> None:
    """Raise ConfigError if a number among the options of `parser_of` is out of range."""
    if options.seeds < 1 or options.hours <= 0:
        raise ConfigError(f"--seeds={options.seeds} --hours={options.hours}: at least 1, and above 0")


def append(out: pathlib.Path, job: Any, row: dict[str, Any]) -> None:
    """Write the line of a job, with the machine and the date."""
    machine = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} x {platform.machine()} {jax.default_backend()}, jax {jax.__version__}",
    }
    with (out / "results.jsonl").open("a") as file:
        file.write(json.dumps(dataclasses.asdict(job) | row | machine) + "\n")


def check_setting(setting: Any, out: pathlib.Path, kind: Any = Job) -> None:
    """Results of two settings are never mixed."""
    path, text = out / "setting.json", json.dumps(dataclasses.asdict(setting), indent=1) + "\n"
    if path.exists() and path.read_text() != text and read(out, kind):
        raise ConfigError(f"--out={out} holds results of another setting ({path}); give another folder")
    if path.exists() and path.read_text() != text:
        shutil.rmtree(out / "runs", ignore_errors=True)
    path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
