"""Several runs on one page: common charts, a table of last figures, and the differences of their configs."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vmae_jax.eval import origin, page
from vmae_jax.eval.charts import Series, chart, colour, compact
from vmae_jax.eval.curves import CURVES, UNSEEN, varies
from vmae_jax.eval.markup import escape, section, short, table
from vmae_jax.eval.records import Run

__all__ = ["render"]

_ROWS = 500  # of a table
_ABSENT = "–"


def render(runs: Sequence[Run], footer: str) -> str:
    """Return the page as text; everything that comes from the runs is escaped.

    Args:
      runs: at least two.
      footer: HTML at the end.
    """
    names = labels(runs)
    named = dict(zip(names, runs, strict=True))
    sections = [
        _header(named),
        section("Last figures", _figures(named), name="figures"),
        section("Training", _charts(named, "train"), name="training"),
        section("Evaluation", _charts(named, "eval"), name="evaluation"),
        section("Differences of the configs", _differences(named), name="config"),
        section("How they were started", _origins(named), name="start"),
        footer,
    ]
    return page.document(f"{' · '.join(names)} · vmae report", "\n".join(filter(None, sections)))


def labels(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run: the shortest distinct ends of their paths."""
    parts = [run.path.parts or (run.name,) for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{run.name} ({number})" for number, run in enumerate(runs, 1)]


def _header(named: Mapping[str, Run]) -> str:
    items = ""
    for number, (name, run) in enumerate(named.items()):
        kind, status, _ = run.status()
        length = f" of {run.length:,}" if run.length else ""
        items += (
            f'<li><b class="key {colour(number)}"></b><strong>{escape(name)}</strong> '
            f'<span class="pill {kind}">{escape(status)}</span> '
            f'<span class="sub">step {run.step:,}{length} · {escape(run.path)}</span></li>'
        )
    notes: dict[str, list[str]] = {}
    for name, run in named.items():
        for text in (*run.problems, *run.warnings()):
            notes.setdefault(text, []).append(name)
    who = lambda names: "All runs" if len(names) == len(named) else ", ".join(names)  # noqa: E731
    shown = "".join(f'<p class="note">{escape(who(names))}: {escape(text)}</p>' for text, names in notes.items())
    return f'<header><h1>{len(named)} runs compared</h1><ul class="runs">{items}</ul>{shown}</header>'


def _metrics(named: Mapping[str, Run], kind: str) -> list[str]:
    return list(dict.fromkeys(name for run in named.values() for name in run.names(kind=kind)))


def _figures(named: Mapping[str, Run]) -> str:
    """Return the newest value of every metric, one row each, with its step unless it is the last of the run."""
    rows = [("Last step", *(f"{run.step:,}" for run in named.values()))]
    for kind in ("eval", "train"):
        for metric in _metrics(named, kind):
            title, unit = _title(metric, kind)
            rows.append((title, *(_figure(run, metric, kind, unit) for run in named.values())))
    return table(("Metric", *named), rows[:_ROWS], numbers=range(1, len(named) + 1), kind="figures")


def _figure(run: Run, metric: str, kind: str, unit: str) -> str:
    points = run.series(metric, kind=kind)
    if not points:
        return _ABSENT
    step, value = points[-1]
    text = "not finite" if not math.isfinite(value) else f"{value * 100:.3g}%" if unit == "%" else compact(value)
    text = f"{text} {unit}" if unit and unit != "%" else text
    return text if step == run.step else f"{text} (step {step:,})"


def _title(metric: str, kind: str) -> tuple[str, str]:
    """Return the title of a metric, and its unit."""
    return {"loss": ("Loss", ""), **CURVES}.get(metric, (metric, "")) if kind == "train" else (metric, "")


def _charts(named: Mapping[str, Run], kind: str) -> str:
    figures = []
    for metric in _metrics(named, kind):
        if kind == "train" and metric in UNSEEN:
            continue
        series = [Series(name, run.series(metric, kind=kind)) for name, run in named.items()]
        if not any(varies(one.points) for one in series):
            continue  # its values are in the table of the last figures
        title, unit = _title(metric, kind)
        percent = unit == "%"
        figures.append(
            chart(
                title,
                series,
                unit="" if percent else unit,
                percent=percent,
                smooth=metric != "learning_rate",
                several=True,
            )
        )
    return f'<div class="charts">{"".join(figures)}</div>' if any(figures) else ""


def _differences(named: Mapping[str, Run]) -> str:
    """Return the settings that differ between runs, one row each."""
    missing = [name for name, run in named.items() if run.config is None]
    note = f'<p class="sub">No readable config: {escape(", ".join(missing))}.</p>' if missing else ""
    known = {name: dict(leaves(run.config)) for name, run in named.items() if run.config is not None}
    if len(known) < 2:
        return note
    paths = dict.fromkeys(path for settings in known.values() for path in settings)
    rows = []
    for path in paths:
        values = [short(settings[path], 300) if path in settings else _ABSENT for settings in known.values()]
        if len(set(values)) > 1:
            rows.append((path, *values))
    more = f'<p class="sub">and {len(rows) - _ROWS:,} more</p>' if len(rows) > _ROWS else ""
    shown = table(("Setting", *known), rows[:_ROWS], kind="figures")
    return note + (shown or '<p class="sub">The configs are the same.</p>') + more


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the plain values of a config by their paths, such as `data.transforms[0].size`, as JSON."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list) and node:
        for number, value in enumerate(node):
            yield from leaves(value, f"{path}[{number}]")
    else:
        yield path, json.dumps(node, ensure_ascii=False)


def _origins(named: Mapping[str, Run]) -> str:
    found = [origin.facts(run.environment[-1]) if run.environment else {} for run in named.values()]
    rows = [
        (name, *(facts.get(name, _ABSENT) for facts in found)) for name in dict.fromkeys(n for f in found for n in f)
    ]
    return table(("", *named), rows, kind="figures starts")
