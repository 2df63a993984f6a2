"""`vmae report`: one run, or several side by side, as a self-contained HTML page."""

import datetime
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from vmae_jax.eval import compare, curves, gallery, health, origin, page, wall_time
from vmae_jax.eval.charts import compact
from vmae_jax.eval.markup import card, escape, moment, section, short, table
from vmae_jax.eval.reconstruction import write_whole
from vmae_jax.eval.records import Run, read
from vmae_jax.spec import ConfigError
from vmae_jax.version import VERSION

__all__ = ["render", "write"]

_ROWS = 200  # of a table
_NOT_SHOWN = ("kind", "step", "time", "event", "boot", "uptime")  # of an event


def write(workdirs: epath.PathLike | Sequence[epath.PathLike], out: epath.PathLike | None = None) -> epath.Path:
    """Write the report of a run, or a comparison of several, from the files in their folders.

    Args:
      workdirs: of one run or of several.
      out: the file to write; by default `report.html` in the folder of a single run.

    Returns:
      the path of the file.

    Raises:
      ConfigError: if there is no such folder, a folder is given twice, or several have no `out`.
    """
    given = [workdirs] if isinstance(workdirs, str | os.PathLike) else list(workdirs)
    places = [os.fspath(epath.Path(place)) for place in given]
    twice = next((place for number, place in enumerate(places) if place in places[:number]), None)
    if twice is not None:
        raise ConfigError(f"--workdir={twice} is given twice; give each run once")
    if len(given) != 1 and out is None:
        raise ConfigError(f"a report over {len(given)} runs needs --out=FILE.html")
    if out is not None and epath.Path(out).is_dir():
        raise ConfigError(f"--out={os.fspath(out)} is a folder; name a file, such as compare.html")
    runs = [read(place) for place in given]
    text = render(runs[0]) if len(runs) == 1 else compare.render(runs, _footer())
    return write_whole(runs[0].path / "report.html" if out is None else out, text.encode("utf-8", "backslashreplace"))


def render(run: Run) -> str:
    """Return the page of one run as text; everything from the run is escaped."""
    sections = [
        _summary(run),
        curves.training(run),
        curves.evaluation(run),
        health.features(run),
        _quarantine(run),
        gallery.judgement(run),
        gallery.reconstructions(run),
        wall_time.section(run.events),
        _events(run),
        origin.starts(run),
        _config(run),
        _footer(),
    ]
    return page.document(f"{run.name} · vmae report", "\n".join(filter(None, [_header(run), *sections])))


def _header(run: Run) -> str:
    kind, status, detail = run.status()
    parts = [f'<span class="pill {kind}">{escape(status)}</span><h1>{escape(run.name)}</h1>']
    method = run.setting("method", "call")
    about = [f"method {method}" if method else "", os.fspath(run.path)]
    parts.append(f'<p class="sub">{escape(" · ".join(filter(None, about)))}</p>')
    if detail:
        parts.append(f'<p class="note {"bad" if kind == "bad" else ""}">{escape(detail)}</p>')
    parts += [f'<p class="note">{escape(problem)}</p>' for problem in (*run.problems, *run.warnings())]
    return f"<header>{''.join(parts)}</header>"


def _summary(run: Run) -> str:
    cards = [] if not run.train else _figures(run)
    if run.quarantine:
        cards.append(card("Videos not read", f"{len(run.quarantine):,}", "listed below", link="broken"))
    return f'<dl class="cards">{"".join(cards)}</dl>' if cards else ""


def _figures(run: Run) -> list[str]:
    """Return cards with the steps, the loss and the speed."""
    cards = [_steps_card(run)]
    seen = _number(run.train[-1].get("examples_seen"))
    if seen is not None:
        cards.append(card("Examples seen", compact(seen), "videos"))
    losses = [(step, value) for step, value in run.series("loss") if math.isfinite(value)]
    if losses:
        best = min(losses, key=lambda point: point[1])
        cards.append(card("Loss", compact(losses[-1][1]), f"lowest {compact(best[1])} at step {best[0]:,}"))
    cards += _speed_cards(run)
    devices = run.recorded("devices")
    if devices is not None:
        cards.append(card("Devices", str(devices), ""))
    saves = [event["step"] for event in run.events if event.get("event") == "saved"]
    if saves:
        cards.append(card("Last checkpoint", f"step {saves[-1]:,}", f"{len(saves):,} saved in all"))
    return cards


def _steps_card(run: Run) -> str:
    length = run.length
    if not length:
        return card("Steps", f"{run.step:,}", "")
    share = min(1.0, run.step / length)
    bar = f'<div class="bar"><i style="width:{share * 100:.1f}%"></i></div>'
    return card("Steps", f"{run.step:,}", f"of {length:,}, {share:.0%}", extra=bar)


def _speed_cards(run: Run) -> list[str]:
    """Return cards with means over the newest half of the rows, because the start compiles and fills buffers."""
    cards = []
    mean = lambda name: _mean(run.series(name))  # noqa: E731
    clips, seconds, waiting, mfu = (mean(n) for n in ("clips_per_second", "step_seconds", "data_wait_fraction", "mfu"))
    if clips is not None:
        speed = f"{compact(float(f'{clips:.3g}'))} clips/s"
        cards.append(card("Speed", speed, f"{seconds:.3g} s per step" if seconds is not None else ""))
    if waiting is not None:
        verdict = "the data keep up" if waiting < 0.1 else "the data limit the speed" if waiting > 0.4 else ""
        cards.append(card("Waiting for data", f"{compact(round(waiting * 100, 1))}%", verdict or "of the time"))
    if mfu is not None:
        cards.append(card("MFU", f"{mfu * 100:.3g}%", "of the devices' peak FLOPs"))
    return cards


def _events(run: Run) -> str:
    elsewhere = (wall_time.EVENT, "warning")  # they have sections of their own
    rows = []
    for event in _merged(event for event in run.events if event.get("event") not in elsewhere)[-_ROWS:]:
        name = str(event.get("event", ""))
        details = {key: value for key, value in event.items() if key not in _NOT_SHOWN}
        shown = ", ".join(f"{key} {short(value)}" for key, value in details.items())
        cells = f'<td class="num">{event["step"]:,}</td><td class="word">{escape(name)}</td><td>{escape(shown)}</td>'
        rows.append(f'<tr>{cells}<td class="num wide">{escape(moment(event.get("time")))}</td></tr>')
    if not rows:
        return ""
    head = '<tr><th>Step</th><th>Event</th><th>Details</th><th class="wide">Time (UTC)</th></tr>'
    return section("Events", f'<div class="wrap"><table>{head}{"".join(rows)}</table></div>', name="events")


def _merged(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return events with consecutive saves merged into one row: a long run has thousands."""
    merged: list[dict[str, Any]] = []
    for event in events:
        if event.get("event") == "saved" and merged and merged[-1].get("event") == "saved":
            first = merged[-1].get("from step", merged[-1]["step"])
            merged[-1] = dict(event) | {"from step": first, "saves": merged[-1].get("saves", 1) + 1}
        else:
            merged.append(dict(event))
    return merged


def _quarantine(run: Run) -> str:
    rows = [
        (short(row.get("path", ""), 300), short(row.get("kind", "broken")), short(row.get("reason", ""), 300))
        for row in run.quarantine[:_ROWS]
    ]
    more = len(run.quarantine) - _ROWS
    rest = f'<p class="sub">and {more:,} more in {escape(run.path / "quarantine.jsonl")}</p>' if more > 0 else ""
    intro = (
        f"{len(run.quarantine):,} could not be read. Training used a neighbour instead; evaluations left them out. "
        f"The list as a file: {run.path / 'quarantine.jsonl'}"
    )
    listed = table(("Video", "Kind", "Reason"), rows)
    return section("Videos not read", listed and listed + rest, name="broken", intro=intro)


def _config(run: Run) -> str:
    if run.config is None:
        return ""
    blocks = ""
    for name, value in run.config.items():
        text = json.dumps(value, indent=2, ensure_ascii=False)
        blocks += f'<details><summary>{escape(name)}</summary><pre tabindex="0">{escape(text)}</pre></details>'
    return section("Config", blocks, name="config")


def _footer() -> str:
    now = datetime.datetime.now(datetime.UTC)
    return f"<footer>Written by vmae_jax {escape(VERSION)} on {now:%Y-%m-%d at %H:%M} UTC.</footer>"


def _mean(points: list[tuple[int, float]]) -> float | None:
    values = [value for _, value in points[len(points) // 2 :] if math.isfinite(value)]
    return sum(values) / len(values) if values else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
