"""The uses of the wall time of a run, as a section of the report."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["EVENT", "section"]

EVENT = "time spent"
# The uses of time in `metrics.jsonl`, in words.
_KINDS = {
    "trained": "steps whose result was kept",
    "compiled": "compiling and the first step",
    "waited": "waiting for data",
    "saved": "saving checkpoints",
    "evaluated": "pictures and evaluation",
    "started": "starting and restoring",
    "lost": "steps repeated after a restart or a roll-back",
    "down": "between attempts",
}


def section(events: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of uses, durations and shares, from the newest event that has them, or ""."""
    newest = next((event for event in reversed(events) if event.get("event") == EVENT), None)
    if newest is None:
        return ""
    seconds = {kind: float(newest.get(kind, 0.0)) for kind in _KINDS if isinstance(newest.get(kind, 0.0), int | float)}
    whole = sum(seconds.values())
    if whole <= 0:
        return ""
    cells = lambda spent: f'<td class="num">{_duration(spent)}</td><td class="num">{spent / whole:.1%}</td>'  # noqa: E731
    rows = "".join(f"<tr><td>{_KINDS[kind]}</td>{cells(spent)}</tr>" for kind, spent in seconds.items())
    head = "<tr><th>Went into</th><th>Time</th><th>Share</th></tr>"
    intro = f'<p class="sub">{_duration(whole)} since the first start, restarts included.</p>'
    return f'<section><h2>Wall time</h2>{intro}<div class="wrap"><table>{head}{rows}</table></div></section>'


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.1f} min" if minutes < 100 else f"{hours:.1f} h"
