"""Tables and the picture of the Atari benchmark, from its lines of results: the published figures beside ours."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.atari_arms import ARMS, BASELINES, UNTRAINED, Setting
from benchmarks.atari_runs import Job, Rows, chosen_rate
from benchmarks.atari_variables import CATEGORIES, PUBLISHED, PUBLISHED_VARIABLES
from benchmarks.learning_report import Dots, draw_dots, estimate, table

__all__ = ["pictures", "tables"]

OTHERS = ("vae", "pixel-pred", "cpc", "st-dim")  # published alone


def tables(setting: Setting, rows: Rows) -> str:
    """Return everything that was run, as Markdown."""
    parts = [_yardstick(setting, rows), _variables(setting, rows), _methods(setting, rows), _categories(setting, rows)]
    return "\n\n".join(filter(None, [*parts, _search(setting, rows), _costs(setting, rows)])) + "\n"


def pictures(setting: Setting, rows: Rows, folder: pathlib.Path) -> list[pathlib.Path]:
    """Draw every arm's F1 in each game; what has no results is not drawn."""
    found = [
        Dots(arm, [list(_by_seed(setting, rows, game, arm, "f1").values()) for game in setting.games])
        for arm in (*BASELINES, UNTRAINED, *ARMS)
    ]
    found = [row for row in found if any(row.measures)]
    if not found:
        return []
    path = folder / "atari.png"
    draw_dots("F1 of linear probes, %: each seed, the mean and its 95%", setting.games, found).save(path)
    return [path]


def _by_seed(setting: Setting, rows: Rows, game: str, arm: str, name: str) -> dict[int, Any]:
    """A number of the probes of an arm in a game, at the rate that was chosen."""
    rate = chosen_rate(setting, arm, rows) if arm in ARMS else 0.0
    own = {job: row for job, row in rows.items() if job == Job("probe", game, arm, job.seed, rate or 0.0)}
    return {job.seed: row[name] for job, row in own.items()}


def _yardstick(setting: Setting, rows: Rows) -> str:
    """The published F1 of each game, and ours where there is one."""
    body: list[Sequence[object]] = []
    for arm in BASELINES:
        body.append((arm, "published", *(f"{100 * PUBLISHED[game][arm]:.0f}" for game in setting.games)))
        body.append(
            (arm, "here", *(estimate(_by_seed(setting, rows, game, arm, "f1").values()) for game in setting.games))
        )
    body += [(name, "published", *(f"{100 * PUBLISHED[game][name]:.0f}" for game in setting.games)) for name in OTHERS]
    return table(("F1, %", "whose", *setting.games), body)


def _variables(setting: Setting, rows: Rows) -> str:
    """F1 of each variable, published and of the mean of our seeds."""
    body = []
    for game in setting.games:
        ours: Mapping[str, Mapping[str, float]] = {arm: _means(setting, rows, game, arm) for arm in BASELINES}
        for name in sorted({*PUBLISHED_VARIABLES.get(game, {}), *(key for one in ours.values() for key in one)}):
            cells: list[str] = []
            for number, arm in enumerate(BASELINES):
                row = PUBLISHED_VARIABLES.get(game, {}).get(name)
                cells += ["-" if row is None else f"{100 * row[number]:.0f}"]
                cells += [f"{100 * ours[arm][name]:.0f}" if name in ours[arm] else "-"]
            body.append((game, name, *cells))
    head = [f"{arm}, {whose}" for arm in BASELINES for whose in ("published", "here")]
    return table(("game", "variable, F1 in %", *head), body)


def _means(setting: Setting, rows: Rows, game: str, arm: str) -> dict[str, float]:
    found = [rows[Job("probe", game, arm, seed)] for seed in range(100) if Job("probe", game, arm, seed) in rows]
    names = dict.fromkeys(name for row in found for name in row["f1_by_variable"])
    return {n: float(np.mean([row["f1_by_variable"][n] for row in found if n in row["f1_by_variable"]])) for n in names}


def _methods(setting: Setting, rows: Rows) -> str:
    arms = [arm for arm in (UNTRAINED, *ARMS) if any(_by_seed(setting, rows, g, arm, "f1") for g in setting.games)]
    body = [
        (arm, *(estimate(_by_seed(setting, rows, game, arm, "f1").values()) for game in setting.games)) for arm in arms
    ]
    return table(("F1, %", *setting.games), body)


def _categories(setting: Setting, rows: Rows) -> str:
    """F1 and accuracy by category, over games and seeds."""
    body = []
    for arm in (*BASELINES, UNTRAINED, *ARMS):
        for name in ("f1", "accuracy"):
            found = [
                row
                for game in setting.games
                for row in _by_seed(setting, rows, game, arm, f"{name}_by_category").values()
            ]
            means = [[row[category] for row in found if category in row] for category in CATEGORIES]
            if found:
                body.append((arm, name, *(f"{100 * np.mean(values):.1f}" if values else "-" for values in means)))
    return table(("arm", "mean over games and seeds, %", *CATEGORIES), body)


def _search(setting: Setting, rows: Rows) -> str:
    """The F1 of each rate on the search game."""
    body = []
    for arm in ARMS:
        found = [rows.get(Job("probe", setting.search, arm, 0, rate)) for rate in setting.rates]
        if any(found):
            body.append((arm, *(f"{100 * row['f1']:.1f}" if row else "not run" for row in found)))
    return table((f"F1 on {setting.search}, %, at rate", *(f"{rate:g}" for rate in setting.rates)), body)


def _costs(setting: Setting, rows: Rows) -> str:
    """The compute of each arm's pre-training, both ways."""
    body = []
    for arm in ARMS:
        own = [row for job, row in rows.items() if (job.stage, job.arm) == ("pretrain", arm)]
        if own:
            cpu = np.median([row["cpu_seconds"] for row in own])  # an interrupted one has its last part alone
            body.append((arm, own[0]["steps"], f"{own[0]['pretraining_flops'] / 1e12:.1f}", f"{cpu:.0f}", len(own)))
    return table(("arm", "steps", "TFLOP", "CPU seconds, median", "runs"), body)
