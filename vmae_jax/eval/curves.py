"""The curves of a run, and its single values as a table."""

import math
from collections.abc import Sequence

from vmae_jax.eval import health
from vmae_jax.eval.charts import Series, chart, compact
from vmae_jax.eval.markup import section, table
from vmae_jax.eval.records import Run

__all__ = ["CURVES", "UNSEEN", "evaluation", "training", "varies"]

# metric -> its title, its unit ("%" for shares)
CURVES = {
    "grad_norm": ("Gradient norm", ""),
    "param_norm": ("Norm of the parameters", ""),
    "learning_rate": ("Learning rate", ""),
    "clips_per_second": ("Speed", "clips/s"),
    "data_wait_fraction": ("Share of time waiting for data", "%"),
    "mfu": ("Model FLOPs utilisation", "%"),
    "goodput": ("Goodput: share of wall time in steps that were kept", "%"),
}
UNSEEN = ("examples_seen", "examples_per_second", "step_seconds")  # they follow from other charts


def varies(points: Sequence[tuple[int, float]]) -> bool:
    """Whether points make a curve: at least two steps, with different values or one that is not finite."""
    return len({step for step, _ in points}) > 1 and len({str(value) for _, value in points}) > 1


def training(run: Run) -> str:
    """Return the charts of the loss, its terms, and every other metric of the training."""
    marks = [event["step"] for event in run.events if event.get("event") == "resumed"]
    whole = Series("loss", run.series("loss"))
    if len(whole.points) == 1:
        return section("Training", _single(run, run.names(), "train"), name="training")
    figures = [chart("Loss", [whole], marks=marks)]
    terms = [name for name in run.names() if name.startswith("loss/")]
    series = [Series(name.removeprefix("loss/"), run.series(name)) for name in terms]
    if len(series) > 1 or any(one.finite != whole.finite for one in series):
        figures.append(chart("Terms of the loss", series, marks=marks))
    for name, (title, unit) in CURVES.items():
        series = [Series(name, run.series(name))]
        percent, smooth = unit == "%", name != "learning_rate"
        figures.append(chart(title, series, unit="" if percent else unit, percent=percent, marks=marks, smooth=smooth))
    others = [name for name in run.names() if name not in ("loss", *UNSEEN, *CURVES, *terms)]
    figures += [chart(name, [Series(name, run.series(name))], marks=marks) for name in others]
    figures = list(filter(None, figures))
    steps = ", ".join(f"{step:,}" for step in marks[-9:])
    content = f'<div class="charts">{"".join(figures)}</div>' if figures else ""
    return section(
        "Training", content, name="training", intro=f"Dashed lines: resumed at step {steps}." if marks else ""
    )


def evaluation(run: Run) -> str:
    """Return a chart of every metric that changed, and a table of those with a single value, except for `health`."""
    elsewhere = health.owned(run)
    names = [name for name in run.names(kind="eval") if name not in elsewhere]
    curved = [name for name in names if varies(run.series(name, kind="eval"))]
    figures = [chart(name, [Series(name, run.series(name, kind="eval"))]) for name in curved]
    charts = f'<div class="charts">{"".join(figures)}</div>' if any(figures) else ""
    single = _single(run, [name for name in names if name not in curved], "eval")
    return section("Evaluation", charts + single, name="evaluation")


def _single(run: Run, names: Sequence[str], kind: str) -> str:
    rows = []
    for name in names:
        points = run.series(name, kind=kind)
        step, value = points[-1]
        always = len({at for at, _ in points}) > 1
        shown = compact(value) if math.isfinite(value) else "not finite"
        rows.append((name, shown, f"{points[0][0]:,} to {step:,}" if always else f"{step:,}"))
    return table(("Metric", "Value", "Step"), rows, numbers=(1, 2), kind="single")
