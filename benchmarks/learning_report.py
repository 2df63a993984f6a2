"""Tables and pictures of the learning experiment, from its lines of results."""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import stats

from benchmarks.learning_arms import GUIDED, LADDER, LONG, MAIN, SCRATCH, Setting
from benchmarks.learning_methods import DOUBLE, METHODS, SALT
from benchmarks.learning_runs import RANDOM, STUDENTS, Job, Rows, chosen_rate
from vmae_jax.eval.charts import compact, ticks

__all__ = [
    "Dots",
    "Estimate",
    "Line",
    "difference",
    "draw_dots",
    "draw_lines",
    "estimate",
    "pictures",
    "table",
    "tables",
]

PAIRS = (
    *((f"tube-{ratio}", f"random-{ratio}") for ratio in (50, 75, 89)),
    *((f"{kind}-{ratio}", f"{kind}-50") for kind in ("tube", "random") for ratio in (75, 89)),
    (SALT, DOUBLE),
    (SALT, "vjepa"),
)
# The arm of which another changes one thing; MAIN where none is named.
BASES = {
    "random-decoder": "dual",
    "visible-too": "dual",
    "random-75-dual": "random-75",
    "adamae": "random-50",
    GUIDED: "tube-75",
}
COLOURS = (
    "#1f5fbf", "#c8501e", "#2e8b57", "#8a4fbf", "#c8a400", "#555555", "#6fb7ff", "#ff9d6f", "#8fd6a8", "#d66fc0",
    "#7a4a20", "#b0b0b0",
)  # fmt: skip


class Estimate(NamedTuple):
    """A mean over seeds and half its 95% interval (Student's t); nan where there is one seed alone."""

    mean: float
    half: float
    n: int

    def __str__(self) -> str:
        if not self.n:
            return "not run"
        return f"{100 * self.mean:.1f}" + (f" ± {100 * self.half:.1f}" if self.n > 1 else "")


class Line(NamedTuple):
    """A line of a picture: (x, y, half the height of its bar, 0 for none)."""

    name: str
    points: Sequence[tuple[float, float, float]]


def estimate(values: Iterable[float]) -> Estimate:
    """The mean of these and its interval."""
    array = np.asarray(list(values), float)
    n = len(array)
    if n < 2:
        return Estimate(float(array.mean()) if n else np.nan, np.nan, n)
    half = float(stats.t.ppf(0.975, n - 1) * array.std(ddof=1) / np.sqrt(n))
    return Estimate(float(array.mean()), half, n)


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> Estimate:
    """one - other over the seeds that both have: the same clips, labels and order, so it is paired."""
    return estimate(one[seed] - other[seed] for seed in sorted(one.keys() & other.keys()))


def tables(setting: Setting, rows: Rows) -> str:
    """Everything that was run, as Markdown."""
    parts = [
        _labels(setting, rows),
        _probes(rows),
        masks(setting, rows),
        _pairs(setting, rows),
        _students(setting, rows),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def pictures(setting: Setting, rows: Rows, folder: pathlib.Path) -> list[pathlib.Path]:
    """Accuracy against labels, losses of pre-training, the ladder of masks; what has no results is not drawn."""
    drawn: dict[str, Image.Image] = {}
    lines = []
    for arm, name in ((MAIN, "pre-trained"), (SCRATCH, "from scratch")):
        found = {
            labels: estimate(_tested(setting, rows, "finetune", arm, labels).values()) for labels in setting.counts
        }
        points = [(float(np.log10(k)), 100 * e.mean, 100 * np.nan_to_num(e.half)) for k, e in found.items() if e.n]
        lines += [Line(name, points)] if points else []
    if lines:
        marks = [(float(np.log10(count)), str(count)) for count in setting.counts]
        title = "Test accuracy, % (bars: 95% of the mean)"
        drawn["learning_labels.png"] = draw_lines(title, "labelled clips", lines, marks, low=0.0)
    curves = [
        Line(arm if seed == 0 else "", [(step, loss, 0.0) for step, loss in row["curve"]])
        for arm in LADDER
        for seed in range(100)
        if (row := rows.get(Job("pretrain", arm, seed))) and (seed == 0 or arm == MAIN)
    ]
    if curves:
        title = "Loss of pre-training (each arm averages over other tokens)"
        drawn["learning_pretraining.png"] = draw_lines(title, "step", curves)
    ladder = [
        Dots(arm, [list(measure(arm).values()) for measure in _ladder_measures(setting, rows)])
        for arm in (*LADDER, *METHODS)
        if _column(rows, "probe", arm, "probe_last")
    ]
    if len(ladder) > 1:
        title = "Test accuracy, %: each seed, the mean and its 95%"
        drawn["learning_ladder.png"] = draw_dots(title, ("linear probe", f"{setting.middle} labels"), ladder)
    for name, image in drawn.items():
        image.save(folder / name)
    return [folder / name for name in drawn]


class Dots(NamedTuple):
    """A row of a picture: what each seed has, in one or more measures."""

    name: str
    measures: Sequence[Sequence[float]]


def draw_dots(title: str, names: Sequence[str], rows: Sequence[Dots], *, width: int = 960) -> Image.Image:
    """A picture with a row an arm: small dots for seeds, a large one and a bar for the mean and its interval."""
    step, top = 26 * len(names) + 14, 70
    image = Image.new("RGB", (width, top + step * len(rows) + 60), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(18)
    left = max(170, 24 + round(max(font.getlength(row.name) for row in rows)))
    box = (left, top, width - 190, top + step * len(rows))
    found = [estimate(values) for row in rows for values in row.measures if values]
    levels = ticks(0.0, 100 * max(e.mean + np.nan_to_num(e.half) for e in found), 6)
    across = lambda x: box[0] + x / levels[-1] * (box[2] - box[0])  # noqa: E731
    pen.text((box[0], 22), title, "black", font)
    for level in levels:
        pen.line((across(level), box[1], across(level), box[3]), "#dddddd")
        pen.text((across(level), box[3] + 12), compact(level), "#444444", font, anchor="ma")
    for number, name in enumerate(names):
        at = box[1] + 26 * number
        pen.ellipse((box[2] + 20, at + 2, box[2] + 34, at + 16), fill=COLOURS[number])
        pen.text((box[2] + 44, at), name, "black", font)
    for index, row in enumerate(rows):
        start = box[1] + step * index
        pen.text((box[0] - 12, start + step / 2), row.name, "black", font, anchor="rm")
        for number, values in enumerate(row.measures):
            if values:
                _dots(pen, [100 * value for value in values], across, start + 20 + 26 * number, COLOURS[number])
    return image


def _dots(pen: ImageDraw.ImageDraw, values: Sequence[float], across: Callable[[float], float], y: float, colour: str):
    mean, half, _ = estimate(values)
    if half > 0:
        pen.line((across(max(0.0, mean - half)), y, across(mean + half), y), colour, 3)
    for value, size in [*((value, 3) for value in values), (mean, 7)]:
        pen.ellipse((across(value) - size, y - size, across(value) + size, y + size), fill=colour)


def draw_lines(
    title: str,
    below: str,
    lines: Sequence[Line],
    marks: Sequence[tuple[float, str]] | None = None,
    *,
    low: float | None = None,
    size: tuple[int, int] = (960, 560),
) -> Image.Image:
    """A picture of lines with bars; a line without a name has the colour of the one before it."""
    xs, ys, halves = (np.array(column) for column in zip(*[p for line in lines for p in line.points], strict=True))
    levels = ticks(low if low is not None else float((ys - halves).min()), float((ys + halves).max()), 5)
    marks = marks or [(value, compact(value)) for value in ticks(float(xs.min()), float(xs.max()), 5)]
    left, right = min(xs.min(), marks[0][0]), max(xs.max(), marks[-1][0])
    image = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(18)
    box = (70, 60, size[0] - 210, size[1] - 70)
    across = lambda x: box[0] + (x - left) / ((right - left) or 1) * (box[2] - box[0])  # noqa: E731
    down = lambda y: box[3] - (y - levels[0]) / ((levels[-1] - levels[0]) or 1) * (box[3] - box[1])  # noqa: E731
    pen.text((box[0], 18), title, "black", font)
    pen.text(((box[0] + box[2]) / 2, size[1] - 18), below, "black", font, anchor="ms")
    for level in levels:
        pen.line((box[0], down(level), box[2], down(level)), "#dddddd")
        pen.text((box[0] - 8, down(level)), compact(level), "#444444", font, anchor="rm")
    for x, text in marks:
        pen.text((across(x), box[3] + 10), text, "#444444", font, anchor="ma")
    _lines(pen, font, lines, across, down, box)
    return image


def _lines(
    pen: ImageDraw.ImageDraw,
    font: Any,
    lines: Sequence[Line],
    across: Callable[[float], float],
    down: Callable[[float], float],
    box: tuple[int, int, int, int],
) -> None:
    """The lines, their bars and the legend beside them."""
    number = -1
    for line in lines:
        number += bool(line.name) or number < 0
        colour = COLOURS[number % len(COLOURS)]
        pen.line([(across(x), down(y)) for x, y, _ in line.points], colour, 3)
        for x, y, half in line.points:
            if half:
                pen.line((across(x), down(y - half), across(x), down(y + half)), colour, 2)
            if len(line.points) < 20:
                pen.ellipse((across(x) - 5, down(y) - 5, across(x) + 5, down(y) + 5), fill=colour)
        if line.name:
            at = box[1] + 26 * number
            pen.line((box[2] + 16, at + 9, box[2] + 46, at + 9), colour, 4)
            pen.text((box[2] + 54, at), line.name, "black", font)


def _tested(setting: Setting, rows: Rows, stage: str, arm: str, labels: int) -> dict[int, float]:
    """Test accuracy by seed, at the rate that was chosen."""
    rate = chosen_rate(setting, stage, arm, labels, rows)
    return {job.seed: row["test"] for job, row in rows.items() if (job.stage, job.arm, job.labels, job.rate)
            == (stage, arm, labels, rate)}  # fmt: skip


def _column(rows: Rows, stage: str, arm: str, name: str) -> dict[int, float]:
    return {job.seed: row[name] for job, row in rows.items() if (job.stage, job.arm) == (stage, arm)}


def table(head: Sequence[str], body: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown; nothing where it has no lines."""
    lines = [list(map(str, line)) for line in body]
    if not lines:
        return ""
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(head), ["---"] * len(head), *lines])


def _labels(setting: Setting, rows: Rows) -> str:
    body = []
    for labels in setting.counts:
        one, other = (_tested(setting, rows, "finetune", arm, labels) for arm in (MAIN, SCRATCH))
        if one or other:
            rates = [chosen_rate(setting, "finetune", arm, labels, rows) for arm in (MAIN, SCRATCH)]
            best = " / ".join("-" if rate is None else f"{rate:g}" for rate in rates)
            gain = difference(one, other)
            body.append((labels, best, estimate(one.values()), estimate(other.values()), gain, gain.n))
    long = _tested(setting, rows, "finetune", LONG, setting.middle)
    if long:
        gain, rate = (
            difference(_tested(setting, rows, "finetune", MAIN, setting.middle), long),
            chosen_rate(setting, "finetune", LONG, setting.middle, rows),
        )
        body.append(
            (f"{setting.middle}, from scratch for longer", rate, "as above", estimate(long.values()), gain, gain.n)
        )
    head = ("labels", "rates (pre-trained / scratch)", "pre-trained", "from scratch", "difference", "seeds")
    return table(head, body)


def _probes(rows: Rows) -> str:
    body = []
    for name in ("probe_last", "probe_before", "knn_last", "knn_before"):
        one, other = (_column(rows, "probe", arm, name) for arm in (MAIN, RANDOM))
        if one or other:
            gain = difference(one, other)
            body.append((name, estimate(one.values()), estimate(other.values()), gain, gain.n))
    return table(("frozen features", "pre-trained", "random", "difference", "seeds"), body)


def masks(setting: Setting, rows: Rows) -> str:
    """The ladder: each arm, and how it differs from the one of which it changes one thing."""
    arms = [arm for arm in (*LADDER, *METHODS) if _column(rows, "probe", arm, "probe_last")]
    if arms == [MAIN]:
        return ""
    body = []
    for arm in arms:
        cells, base = [], BASES.get(arm, MAIN)
        for measure in _ladder_measures(setting, rows):
            mine, other = measure(arm), measure(base)
            cells += [estimate(mine.values()), "" if arm == MAIN else difference(mine, other)]
        costs = [row for job, row in rows.items() if (job.stage, job.arm) == ("pretrain", arm)]
        cpu = np.median([row["cpu_seconds"] for row in costs])  # an interrupted one has its last part alone
        body.append((arm, *cells, "" if arm == MAIN else base, f"{costs[0]['step_gflops']:.2f}",
                     f"{cpu:.0f}", len(costs)))  # fmt: skip
    head = ("arm", "linear probe", "difference", f"fine-tuned, {setting.middle} labels", "difference", "to",
            "GFLOP a step", "CPU seconds", "seeds")  # fmt: skip
    return table(head, body)


def _pairs(setting: Setting, rows: Rows) -> str:
    """Tube against random at each ratio, and each ratio against the lowest."""
    body = []
    for one, other in PAIRS:
        gains = [difference(measure(one), measure(other)) for measure in _ladder_measures(setting, rows)]
        if gains[0].n:
            body.append((one, other, *gains, gains[0].n))
    return table(("arm", "less", "linear probe", f"fine-tuned, {setting.middle} labels", "seeds"), body)


def _ladder_measures(setting: Setting, rows: Rows) -> tuple[Callable[[str], dict[int, float]], ...]:
    """Probe and fine-tuning of an arm, by seed."""
    return (
        lambda arm: _column(rows, "probe", arm, "probe_last"),
        lambda arm: _tested(setting, rows, "finetune", arm, setting.middle),
    )


def _students(setting: Setting, rows: Rows) -> str:
    alone, taught = (_tested(setting, rows, "student", arm, setting.teacher) for arm in STUDENTS)
    if not alone and not taught:
        return ""
    gain = difference(taught, alone)
    line = (setting.teacher, estimate(taught.values()), estimate(alone.values()), gain, gain.n)
    return table(("labels", "student with a teacher", "the same alone", "difference", "seeds"), [line])
