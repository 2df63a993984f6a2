"""`vmae report`: a run as one HTML page that needs nothing else, and asks nothing of a network."""

import datetime
import html
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from etils import epath

from vmae_jax import __version__
from vmae_jax.eval import gallery, page, wall_time
from vmae_jax.eval.charts import Series, chart, compact
from vmae_jax.eval.reconstruction import write_whole
from vmae_jax.eval.records import Run, read

__all__ = ["render", "write"]

_ROWS = 200  # of a table
# metric -> what a reader calls it, its unit ("%" for shares)
_CURVES = {
    "grad_norm": ("Gradient norm", ""),
    "learning_rate": ("Learning rate", ""),
    "clips_per_second": ("Speed", "clips/s"),
    "data_wait_fraction": ("Share of time waiting for data", "%"),
    "mfu": ("Model FLOPs utilisation", "%"),
    "goodput": ("Goodput: share of wall time in steps that were kept", "%"),
}
_NOT_DRAWN = ("loss", "examples_seen", "examples_per_second", "step_seconds", *_CURVES)
_NOT_SHOWN = ("kind", "step", "time", "event", "boot", "uptime")


def write(workdir: epath.PathLike) -> epath.Path:
    """Writes `report.html` of a run, from its config, metrics, pictures and quarantine.

    Returns:
      the path written.

    Raises:
      ConfigError: there is no such folder.
    """
    run = read(workdir)
    return write_whole(run.path / "report.html", render(run).encode("utf-8", "backslashreplace"))


def render(run: Run) -> str:
    """The page as text; everything that comes from the run is escaped."""
    sections = [
        _header(run),
        _summary(run),
        _curves(run),
        _evaluation(run),
        gallery.judgement(run),
        gallery.reconstructions(run),
        wall_time.section(run.events),
        _events(run),
    ]
    sections += [_quarantine(run), _config(run), _footer()]
    return page.document(f"{run.name} · vmae report", "\n".join(filter(None, sections)))


def _header(run: Run) -> str:
    kind, status, detail = _status(run)
    parts = [f'<span class="pill {kind}">{_e(status)}</span><h1>{_e(run.name)}</h1>']
    method = run.setting("method", "call")
    about = [f"method {method}" if method else "", os.fspath(run.path)]
    parts.append(f'<p class="sub">{_e(" · ".join(filter(None, about)))}</p>')
    if detail:
        parts.append(f'<p class="note {"bad" if kind == "bad" else ""}">{_e(detail)}</p>')
    parts += [f'<p class="note">{_e(problem)}</p>' for problem in run.problems]
    return f"<header>{''.join(parts)}</header>"


def _status(run: Run) -> tuple[str, str, str]:
    """How the run stands: a colour, a word, and a sentence where one is needed."""
    if run.events and run.events[-1].get("event") == "too many videos cannot be read":
        return "bad", "stopped", str(run.events[-1].get("message", ""))
    if not run.train:
        where = (
            "config.json is there, so the run was started" if run.config is not None else "nor is there a config.json"
        )
        return (
            "",
            "no metrics yet",
            f"There is no row of metrics in this folder ({where}). Write the report again later.",
        )
    after = [str(event.get("event", "")) for event in run.events if event["step"] >= run.step]
    if "not finite" in after:
        return "bad", "stopped", "The loss or its gradient was not finite in the last steps; see the events below."
    if "spike" in after:
        return "bad", "stopped", "The loss or its gradient stood far above those before it; see the events below."
    if run.length is not None and run.step >= run.length:
        return "good", "done", ""
    if "preempted" in after:
        return "", "preempted", "The run was asked to stop and saved its state: the same command resumes it."
    return "", "not finished", ""


def _summary(run: Run) -> str:
    if not run.train:
        return ""
    row = run.train[-1]
    cards = [_steps_card(run)]
    seen = _number(row.get("examples_seen"))
    if seen is not None:
        cards.append(_card("Examples seen", compact(seen), "videos"))
    losses = [(step, value) for step, value in run.series("loss") if math.isfinite(value)]
    if losses:
        best = min(losses, key=lambda point: point[1])
        cards.append(_card("Loss", compact(losses[-1][1]), f"lowest {compact(best[1])} at step {best[0]:,}"))
    cards += _speed_cards(run)
    devices = run.told("devices")
    if devices is not None:
        cards.append(_card("Devices", str(devices), ""))
    saves = [event["step"] for event in run.events if event.get("event") == "saved"]
    if saves:
        cards.append(_card("Last checkpoint", f"step {saves[-1]:,}", f"{len(saves):,} saved in all"))
    if run.quarantine:
        cards.append(_card("Videos not read", f"{len(run.quarantine):,}", "listed below"))
    return f'<dl class="cards">{"".join(cards)}</dl>'


def _steps_card(run: Run) -> str:
    length = run.length
    if not length:
        return _card("Steps", f"{run.step:,}", "")
    share = min(1.0, run.step / length)
    bar = f'<div class="bar"><i style="width:{share * 100:.1f}%"></i></div>'
    return _card("Steps", f"{run.step:,}", f"of {length:,}, {share:.0%}", extra=bar)


def _speed_cards(run: Run) -> list[str]:
    """Means over the newest half of the rows: the start compiles and fills buffers."""
    cards = []
    mean = lambda name: _mean(run.series(name))  # noqa: E731
    clips, seconds, waiting, mfu = (mean(n) for n in ("clips_per_second", "step_seconds", "data_wait_fraction", "mfu"))
    if clips is not None:
        cards.append(
            _card(
                "Speed",
                f"{compact(float(f'{clips:.3g}'))} clips/s",
                f"{seconds:.3g} s a step" if seconds is not None else "",
            )
        )
    if waiting is not None:
        verdict = "the data keeps up" if waiting < 0.1 else "the data is what bounds the speed" if waiting > 0.4 else ""
        cards.append(_card("Waiting for data", f"{waiting * 100:.2g}%", verdict or "of the time"))
    if mfu is not None:
        cards.append(_card("MFU", f"{mfu * 100:.3g}%", "of the devices' peak FLOPs"))
    return cards


def _curves(run: Run) -> str:
    marks = [event["step"] for event in run.events if event.get("event") == "resumed"]
    whole = Series("loss", run.series("loss"))
    figures = [chart("Loss", [whole], marks=marks)]
    terms = [name for name in run.names() if name.startswith("loss/")]
    series = [Series(name.removeprefix("loss/"), run.series(name)) for name in terms]
    if len(series) > 1 or any(one.finite != whole.finite for one in series):
        figures.append(chart("Terms of the loss", series, marks=marks))
    for name, (title, unit) in _CURVES.items():
        series = [Series(name, run.series(name))]
        percent, smooth = unit == "%", name != "learning_rate"
        figures.append(chart(title, series, unit="" if percent else unit, percent=percent, marks=marks, smooth=smooth))
    others = [name for name in run.names() if name not in _NOT_DRAWN and name not in terms]
    figures += [chart(name, [Series(name, run.series(name))], marks=marks) for name in others]
    figures = list(filter(None, figures))
    told = f'<p class="sub">Dashed lines: resumed at step {_e(", ".join(f"{step:,}" for step in marks[-9:]))}.</p>'
    head = f"<h2>Training</h2>{told if marks else ''}"
    return f'<section>{head}<div class="charts">{"".join(figures)}</div></section>' if figures else ""


def _evaluation(run: Run) -> str:
    names = run.names(kind="eval")
    figures = [chart(name, [Series(name, run.series(name, kind="eval"))]) for name in names]
    figures = list(filter(None, figures))
    return f'<section><h2>Evaluation</h2><div class="charts">{"".join(figures)}</div></section>' if figures else ""


def _events(run: Run) -> str:
    if not run.events:
        return ""
    rows = []
    told = [event for event in run.events if event.get("event") != wall_time.EVENT]  # it has a section of its own
    for event in _merged(told)[-_ROWS:]:
        name = str(event.get("event", ""))
        details = {
            key: value for key, value in event.items() if key not in ("kind", "step", "time", "event", "boot", "uptime")
        }
        told = ", ".join(f"{key} {_short(value)}" for key, value in details.items())
        cells = f'<td class="num">{event["step"]:,}</td><td class="word">{_e(name)}</td><td>{_e(told)}</td>'
        rows.append(f'<tr>{cells}<td class="num wide">{_e(_time(event.get("time")))}</td></tr>')
    head = '<tr><th>Step</th><th>Event</th><th>Details</th><th class="wide">Time (UTC)</th></tr>'
    return f'<section><h2>Events</h2><div class="wrap"><table>{head}{"".join(rows)}</table></div></section>'


def _merged(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Saves that follow one another as one row: a long run has thousands."""
    merged: list[dict[str, Any]] = []
    for event in events:
        if event.get("event") == "saved" and merged and merged[-1].get("event") == "saved":
            first = merged[-1].get("from step", merged[-1]["step"])
            merged[-1] = dict(event) | {"from step": first, "saves": merged[-1].get("saves", 1) + 1}
        else:
            merged.append(dict(event))
    return merged


def _quarantine(run: Run) -> str:
    if not run.quarantine:
        return ""
    rows = ""
    for row in run.quarantine[:_ROWS]:
        cells = (row.get("path", ""), row.get("kind", "broken"), row.get("reason", ""))
        rows += f"<tr>{''.join(f'<td>{_e(_short(cell, 300))}</td>' for cell in cells)}</tr>"
    more = len(run.quarantine) - _ROWS
    rest = f'<p class="sub">and {more:,} more in quarantine.jsonl</p>' if more > 0 else ""
    intro = '<p class="sub">These could not be read; where one was due, its neighbour was used.</p>'
    table = f"<table><tr><th>Video</th><th>Kind</th><th>Reason</th></tr>{rows}</table>"
    return f'<section><h2>Videos not read</h2>{intro}<div class="wrap">{table}</div>{rest}</section>'


def _config(run: Run) -> str:
    if run.config is None:
        return ""
    blocks = ""
    for name, value in run.config.items():
        text = json.dumps(value, indent=2, ensure_ascii=False)
        blocks += f'<details><summary>{_e(name)}</summary><pre tabindex="0">{_e(text)}</pre></details>'
    return f"<section><h2>Config</h2>{blocks}</section>"


def _footer() -> str:
    now = datetime.datetime.now(datetime.UTC)
    return f"<footer>Written by vmae_jax {_e(__version__)} on {now:%Y-%m-%d at %H:%M} UTC.</footer>"


def _card(name: str, value: str, note: str, *, extra: str = "") -> str:
    small = f"<small>{_e(note)}</small>" if note else ""
    return f'<div class="card"><dt>{_e(name)}</dt><dd>{_e(value)}{small}{extra}</dd></div>'


def _mean(points: list[tuple[int, float]]) -> float | None:
    values = [value for _, value in points[len(points) // 2 :] if math.isfinite(value)]
    return sum(values) / len(values) if values else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _short(value: Any, most: int = 160) -> str:
    if isinstance(value, float):
        return compact(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else text[: most - 1] + "…"


def _time(value: Any) -> str:
    try:
        return f"{datetime.datetime.fromtimestamp(float(value), datetime.UTC):%Y-%m-%d %H:%M:%S}"
    except (TypeError, ValueError, OverflowError, OSError):
        return ""


_e: Callable[[object], str] = lambda text: html.escape(str(text), quote=True)  # noqa: E731
