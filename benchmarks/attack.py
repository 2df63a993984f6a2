"""Attacks the program as a stranger, a broken disk and an ordinary folder would, and counts what it survives.

    python -m benchmarks.attack --minutes=12 --seed=0 --out=attack.jsonl

Case n of a category is a function of the seed and n, and runs in a process and a folder of its own
(`attacks/room.py`). It is survived if the exit status is an expected one, an error is one line without a
traceback, nothing was written outside, executed or connected to, no process is left over and no value is wrong.
With --out a case that is finished is not run again. Ends with 1 if a case was not survived.
"""

import argparse
import collections
import itertools
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.attacks import around, beside, configs, files, names, own_params, room, runs, stored, tables  # noqa: E402

__all__ = ["CATEGORIES", "Category", "attacked", "main", "table"]


class Category(NamedTuple):
    """One kind of attack: what a case does, and how many there are unless --count is given."""

    attempt: room.Attempt
    cases: int


CATEGORIES = {
    "configs": Category(configs.config, 80),
    "components": Category(configs.components, 1),
    "plugins": Category(configs.plugin, 24),
    "data service": Category(configs.service, 1),
    "weights": Category(stored.weights, 10),
    "checkpoints": Category(stored.damaged, 100),
    "killed saves": Category(stored.killed, 12),
    "strays among steps": Category(stored.strays, 24),
    "forged tables": Category(stored.forged, 60),
    "prepared folders": Category(stored.prepared, 40),
    "videos": Category(files.fuzzed, 30),
    "videos, decoded": Category(files.decoded, 12),
    "odd files": Category(files.odd_file, 2 * len(files.ODD_FILES)),
    "sides": Category(beside.sides, 6 * len(beside.SUFFIX)),
    "sides, odd files": Category(beside.special, len(beside.SUFFIX)),
    "sides, loaded": Category(beside.goes_on, len(beside.SUFFIX)),
    "tables and lists": Category(tables.tables, 42),
    "annotations": Category(tables.annotations, 4 * 13),
    "own params": Category(own_params.own_params, 10),
    "odd names": Category(names.odd_names, 2 * len(names.NAME_COMMANDS)),
    "archives": Category(names.archive, len(names.ARCHIVES)),
    "pages": Category(runs.page, 40),
    "full disks": Category(runs.full_disk, 24),
    "limits on files": Category(around.limits, 24),
    "clocks": Category(around.clocks, 10),
    "signals": Category(around.signals, 12),
    "hosts that differ": Category(around.hosts, 2),
    "workers": Category(runs.workers, 10),
    "two runs": Category(runs.two_runs, 4),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, help="cases of each category (default: see the source)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30.0, help="after which no case begins (default 30)")
    parser.add_argument("--only", action="append", choices=CATEGORIES, help="category, may be repeated")
    parser.add_argument("--out", type=pathlib.Path, help="JSON lines, one a case; those in it are not run again")
    args = parser.parse_args(arguments)
    chosen = {name: CATEGORIES[name] for name in args.only or CATEGORIES}
    if args.count is not None:
        chosen = {name: one._replace(cases=args.count) for name, one in chosen.items()}
    results = list(attacked(chosen, seed=args.seed, minutes=args.minutes, out=args.out))
    print(table(results))
    lost = [one for one in results if one["survived"] < one["tried"]]
    for one in lost:
        print(f"{one['category']} {one['case']} ({one['name']}): {one['problem']}", file=sys.stderr)
    return 1 if lost else 0


def attacked(
    categories: dict[str, Category], *, seed: int, minutes: float = 30.0, out: pathlib.Path | None = None
) -> Iterator[dict[str, Any]]:
    """Run the cases, the first of every category, then the second; yield what became of each."""
    done = {(one["category"], one["case"], one["seed"]): one for one in _finished(out)}
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        building = room.Building(pathlib.Path(folder))
        end = time.monotonic() + 60 * minutes  # after the imports, which take a busy machine minutes
        for number, (name, category) in itertools.product(
            range(max((one.cases for one in categories.values()), default=0)), categories.items()
        ):
            if number >= category.cases:
                continue
            known = done.get((name, number, seed))
            if known is not None:
                yield known
            elif time.monotonic() < end:
                found = building.run(category.attempt, name, number, seed)
                if out is not None:
                    with out.open("a") as file:
                        file.write(json.dumps(found) + "\n")
                yield found


def _finished(out: pathlib.Path | None) -> list[dict[str, Any]]:
    """The results of an earlier run; a line that was cut off is removed."""
    if out is None or not out.exists():
        return []
    whole = out.read_text().rpartition("\n")[0]
    out.write_text(whole + "\n" if whole else "")
    return [json.loads(line) for line in whole.splitlines()]


def table(results: list[dict[str, Any]]) -> str:
    """The results by category, as Markdown."""
    cases: collections.Counter[str] = collections.Counter()
    tried: collections.Counter[str] = collections.Counter()
    survived: collections.Counter[str] = collections.Counter()
    for one in results:
        for name in (one["category"], "all"):
            cases[name] += 1
            tried[name] += one["tried"]
            survived[name] += one["survived"]
    rows = ["| category | cases | tried | survived |", "|---|---|---|---|"]
    for name in [*(name for name in CATEGORIES if name in cases), "all"]:
        rows.append(f"| {name} | {cases[name]} | {tried[name]} | {survived[name]} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
