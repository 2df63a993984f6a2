"""A public yardstick that runs without a download: which method learns what of Atari's screens, at equal compute.

    python -m benchmarks.atari --out=runs/atari                       # the yardstick: the published networks, checked
    python -m benchmarks.atari --out=runs/atari --part=search         # a learning rate for every method
    python -m benchmarks.atari --out=runs/atari --part=methods        # every method on every game
    python -m benchmarks.atari --out=runs/atari --report              # tables and the picture again

What is compared and why: docs/atari.md. The same command goes on where it was stopped: every result is a line of
OUT/results.jsonl, and an interrupted pre-training resumes from its checkpoint. Needs ale-py, the extra [atari].
"""

import argparse
import dataclasses
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.atari_arms import ARMS, BASELINES, UNTRAINED, Setting
from benchmarks.atari_play import Play
from benchmarks.atari_probe import Probing
from benchmarks.atari_report import pictures, tables
from benchmarks.atari_runs import PARTS, Job, execute, jobs
from benchmarks.learning import append, check_options, check_setting, named, parser_of, read, report, with_status
from vmae_jax.runtime.cache import enable_cache

__all__ = ["SETTINGS", "main", "run"]

# The published protocol; what fits a day of two cores; and the whole of it in minutes, whose numbers mean nothing.
SETTINGS = {
    "published": Setting(),
    "reduced": Setting(supervised_frames=6400, supervised_epochs=40),
    "smoke": Setting(
        games=("pong",),
        play=Play(frames=1200, players=12, shortest=33),
        probing=Probing(epochs=2, threshold=0.3),
        supervised_frames=128,
        supervised_epochs=1,
        model={**Setting().model, "width": 24, "depth": 1, "heads": 2, "decoder_width": 24, "decoder_depth": 1},
        batch=8,
        flops=2e9,
        rates=(1e-3,),
    ),
}
_ALL = (*BASELINES, UNTRAINED, *ARMS)


def run(
    setting: Setting,
    out: pathlib.Path,
    *,
    part: str,
    seeds: int = 3,
    games: Sequence[str] = (),
    arms: Sequence[str] = (),
    hours: float = 1e9,
) -> dict[Job, dict[str, Any]]:
    """Run what is not in OUT/results.jsonl yet, and return all that is in it then.

    Args:
      games, arms: only these; empty for all.
      hours: no new job begins after so long, and no new epoch of a supervised network.

    Raises:
      ConfigError: if OUT holds results of another setting, or ale-py is missing.
      Interrupted: if the process was asked to stop, or the time ended within a job.
    """
    enable_cache()
    out.mkdir(parents=True, exist_ok=True)
    check_setting(setting, out, kind=Job)
    rows, until = read(out, kind=Job), time.monotonic() + 3600 * hours
    while time.monotonic() < until:
        wanted = jobs(setting, part, seeds, rows, games=games, arms=arms)
        job = next((job for job in wanted if job not in rows), None)
        if job is None:
            break
        rows[job] = execute(job, setting, out, rows, until=until)
        append(out, job, rows[job])
        numbers = {name: value for name, value in rows[job].items() if isinstance(value, float)}
        print(f"{job.name}: " + ", ".join(f"{k} {v:.4g}" for k, v in numbers.items()), file=sys.stderr, flush=True)
    return rows


@with_status
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the top of this file."""
    options = _parser().parse_args(arguments)
    setting, out = SETTINGS[options.setting], pathlib.Path(options.out).absolute()
    games = named("games", options.games, setting.games)
    arms = named("arms", options.arms, _ALL)
    check_options(options)
    if options.flops is not None:
        setting = dataclasses.replace(setting, flops=options.flops)
    if not options.report:
        run(setting, out, part=options.part, seeds=options.seeds, games=games, arms=arms, hours=options.hours)
    return report(setting, out, read(out, kind=Job), tables, pictures)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("atari", __doc__)
    parser.add_argument("--part", choices=PARTS, default=PARTS[0], help="what is run; the parts follow each other")
    parser.add_argument("--setting", choices=tuple(SETTINGS), default="published", help="see docs/atari.md")
    parser.add_argument("--games", default="", help="only these, separated by commas")
    parser.add_argument("--arms", default="", help=f"only these, separated by commas: {', '.join(_ALL)}")
    parser.add_argument("--flops", type=float, help="model FLOPs of each pre-training, in place of the setting's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
