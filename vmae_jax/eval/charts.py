"""Curves as HTML: the lines are an SVG that scales, the numbers are text that does not.

Charts are therefore readable at 390 and at 1,280 pixels. The script of the page shows the values under the
pointer, from the data of each chart.
"""

import dataclasses
import html
import json
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = ["Series", "chart", "colour", "compact", "reduce_points", "ticks"]

_POINTS = 400  # maximum of a curve: more are not visible and enlarge the page
_SMOOTH = 60  # a single curve of at least this many points gets a smoothed one on top
_DOTS = 30  # a curve of at most this many points gets a dot for each
_COLOURS = 6  # further curves are dashed

Points = Sequence[tuple[int, float]]


class Series(NamedTuple):
    """One curve: its name, and (step, value) in ascending order; values may be not finite."""

    name: str
    points: list[tuple[int, float]]

    @property
    def finite(self) -> list[tuple[int, float]]:
        return [(step, value) for step, value in self.points if math.isfinite(value)]


def chart(
    title: str,
    series: Sequence[Series],
    *,
    unit: str = "",
    percent: bool = False,
    marks: Sequence[int] = (),
    smooth: bool = True,
    several: bool = False,
) -> str:
    """One chart as HTML.

    Args:
      title: of the chart.
      series: the curves; one colour each.
      unit: after every value, such as "clips/s".
      percent: values are shares of one.
      marks: steps at which the run was resumed, drawn as dashed lines.
      smooth: draw a running mean over a long curve, if it is the only one of its run.
      several: the curves are those of several runs: each has its own colour in all charts, and a legend names it.

    Returns:
      a `<figure>`, everything escaped; "" when there is not one finite value.
    """
    drawn = [(colour(number), one) for number, one in enumerate(series) if one.finite]
    if not several:
        drawn = [(colour(number), one) for number, (_, one) in enumerate(drawn)]
    series = [one for _, one in drawn]
    if not series:
        return ""
    frame = _Frame.around([point for one in series for point in one.finite], percent)
    format_: Callable[[float], str] = lambda value: _formatted(value, unit, percent)  # noqa: E731
    carried = {"series": [_carried(one) for one in series], "low": frame.first, "high": frame.last}
    data = json.dumps(carried | {"unit": "%" if percent else unit})
    smooth = smooth and (several or len(drawn) == 1)
    head = f'<h3>{_e(title)}</h3><p class="last">{"" if several else _latest(series, format_)}</p>'
    return (
        f'<figure class="chart"><figcaption>{head}</figcaption>'
        f'<div class="plot" tabindex="0" role="img" aria-label="{_e(_aria_label(title, series, format_))}"'
        f' data-chart="{_e(data)}">{_drawing(drawn, frame, marks, smooth)}{_labels(frame, percent)}'
        '<i class="cursor" hidden></i><div class="tip" hidden></div></div>'
        f"{_legend(drawn, several)}{_lost(series)}</figure>"
    )


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers that cover [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(number * step, digits) for number in range(start, end + 1)]


def compact(value: float) -> str:
    """Return a number with about four significant digits: 1,234,567; 0.1235; 1.5e-4."""
    if not math.isfinite(value):
        return "not finite"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 1e-3:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def reduce_points(points: Points, limit: int = _POINTS) -> list[tuple[int, float]]:
    """Return at most about `limit` points, including the first, the last, peaks, and values that are not finite."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(2 * len(points) / limit)
    kept = [points[0]]
    for start in range(1, len(points) - 1, size):
        part = points[start : min(start + size, len(points) - 1)]
        good = [point for point in part if math.isfinite(point[1])]
        chosen = {min(good, key=lambda p: p[1]), max(good, key=lambda p: p[1])} if good else set()
        kept += sorted(chosen | {point for point in part if not math.isfinite(point[1])}, key=lambda p: p[0])
    return [*kept, points[-1]]


@dataclasses.dataclass(frozen=True)
class _Frame:
    """The positions of steps and values, in percent from the left and from the top."""

    first: int
    last: int
    low: float
    high: float
    levels: list[float]

    @classmethod
    def around(cls, points: Points, percent: bool) -> "_Frame":
        values = [value for _, value in points]
        low, high = min(values), max(values)
        if percent:
            levels = ticks(0.0, max(high, 0.02), 4)
        elif low == high:
            levels = [low - abs(low) * 0.5 - (low == 0), low, low + abs(low) * 0.5 + (low == 0)]
        else:  # the axis of a curve near zero includes zero
            levels = ticks(0.0 if 0 <= low <= 0.35 * high else low, high, 4)
        steps = [step for step, _ in points]
        return cls(min(steps), max(steps), levels[0], levels[-1], levels)

    def across(self, step: float) -> float:
        return 100.0 * (step - self.first) / (self.last - self.first) if self.last > self.first else 50.0

    def down(self, value: float) -> float:
        return 100.0 * (1.0 - (value - self.low) / (self.high - self.low))


def _carried(one: Series) -> dict[str, object]:
    points = reduce_points(one.points)
    return {"name": one.name, "points": [[step, value if math.isfinite(value) else None] for step, value in points]}


def _drawing(series: Sequence[tuple[str, Series]], frame: _Frame, marks: Sequence[int], smooth: bool) -> str:
    parts = [
        f'<line class="grid" x1="0" x2="100" y1="{frame.down(v):.2f}" y2="{frame.down(v):.2f}"/>' for v in frame.levels
    ]
    for step in marks:
        if frame.first < step < frame.last:
            x = f"{frame.across(step):.2f}"
            parts.append(f'<line class="mark" x1="{x}" x2="{x}" y1="0" y2="100"/>')
    dots = []
    for kind, one in series:
        smoothed = smooth and len(one.points) >= _SMOOTH
        parts.append(_path(reduce_points(one.points), frame, f"{kind} faint" if smoothed else kind))
        if smoothed:
            parts.append(_path(reduce_points(_smoothed(one.points)), frame, kind))
        if len(one.points) <= _DOTS:
            dots += [
                f'<b class="dot {kind}" style="left:{frame.across(step):.2f}%;top:{frame.down(value):.2f}%"></b>'
                for step, value in one.finite
            ]
    svg = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>'
    return svg + "".join(dots)


def _path(points: Points, frame: _Frame, kind: str) -> str:
    """A line with a gap where values are not finite."""
    parts, pen = [], "M"
    for step, value in points:
        if math.isfinite(value):
            parts.append(f"{pen}{frame.across(step):.2f} {frame.down(value):.2f}")
        pen = "L" if math.isfinite(value) else "M"
    return f'<path class="{kind}" d="{"".join(parts)}"/>'


def _smoothed(points: Points, share: float = 0.04) -> list[tuple[int, float]]:
    """Return an exponentially weighted running mean over `share` of the points, without bias at the start."""
    keep, total, weight, result = 1 - 1 / max(2.0, share * len(points)), 0.0, 0.0, []
    for step, value in points:
        if math.isfinite(value):
            total, weight = total * keep + value, weight * keep + 1.0
            value = total / weight
        result.append((step, value))
    return result


def _labels(frame: _Frame, percent: bool) -> str:
    fine = percent and frame.levels[1] - frame.levels[0] < 0.01
    spell = (lambda v: f"{v * 100:.{1 if fine else 0}f}%") if percent else compact
    labels = [f'<span class="y" style="top:{frame.down(v):.2f}%">{_e(spell(v))}</span>' for v in frame.levels]
    steps = [
        step for step in ticks(frame.first, frame.last, 4) if step == int(step) and frame.first <= step <= frame.last
    ]
    labels += [
        f'<span class="x" style="left:{frame.across(step):.2f}%">{_e(compact(step))}</span>'
        for step in steps or [frame.first]
    ]
    return "".join(labels)


def _formatted(value: float, unit: str, percent: bool) -> str:
    if not math.isfinite(value):
        return "not finite"
    if percent:
        return f"{value * 100:.3g}%"
    return f"{compact(value)} {unit}".strip()


def _latest(series: Sequence[Series], format_: Callable[[float], str]) -> str:
    if len(series) > 1:
        return ""
    step, value = series[0].points[-1]
    return f"<strong>{_e(format_(value))}</strong> at step {step:,}"


def colour(number: int) -> str:
    """Return the CSS classes of the curve with this number: a colour, and dashes once they repeat."""
    return f"c{number % _COLOURS}" + (" dashed" if number // _COLOURS % 2 else "")


def _legend(series: Sequence[tuple[str, Series]], several: bool) -> str:
    if len(series) < 2 and not several:
        return ""
    items = "".join(f'<li><b class="key {kind}"></b>{_e(one.name)}</li>' for kind, one in series)
    return f'<ul class="legend">{items}</ul>'


def _lost(series: Sequence[Series]) -> str:
    lost = [step for one in series for step, value in one.points if not math.isfinite(value)]
    return f'<p class="lost">{len(lost)} not finite, the first at step {min(lost):,}</p>' if lost else ""


def _aria_label(title: str, series: Sequence[Series], format_: Callable[[float], str]) -> str:
    parts = []
    for one in series:
        (first, start), (last, end) = one.finite[0], one.finite[-1]
        parts.append(f"{one.name}: {format_(start)} at step {first:,}, {format_(end)} at step {last:,}")
    return f"{title}. {'; '.join(parts)}"


def _e(text: object) -> str:
    return html.escape(str(text), quote=True)
