"""The section of a report that shows whether features collapse: curves of `eval.spectrum`, and what is healthy."""

from collections.abc import Sequence
from typing import NamedTuple

from vmae_jax.eval.charts import Series, chart, compact
from vmae_jax.eval.markup import escape, section, table
from vmae_jax.eval.records import Run

__all__ = ["features", "owned"]

_MARK = "rankme_centred"  # of the evaluators that belong here
_ABOUT = ("clips", "dimensions", "averaged")  # these are in the introduction


class _Figure(NamedTuple):
    """A chart: its title, its metrics, and what is healthy."""

    title: str
    metrics: tuple[str, ...]
    healthy: str
    percent: bool = False


FIGURES = (
    _Figure(
        "Effective rank", ("rankme_centred", "rankme", "eigen_rank", "participation"),
        "Centred RankMe stays well above 5% of the possible; it may fall during training, but not to a quarter. It "
        "does not show features that become constant as a whole. RankMe, not centred, is low while they share a mean.",
    ),
    _Figure(
        "Normalized std", ("normalized_std",),
        "1 if features point in all directions, 0 if they are constant. It may fall in early training and recover.",
    ),
    _Figure("Std of the dimensions", ("std", "std_min"), "Both stay; the least one is not a thousandth of the mean."),
    _Figure(
        "Cosine between clips", ("cosine", "cosine_centred"),
        "The first is 1 if features are constant, and close to 1 if they share a mean. The centred one is near 0.",
    ),
    _Figure("Dead dimensions", ("dead",), "None: no std below a hundredth of the mean.", percent=True),
    _Figure("Alpha", ("alpha",), "About 1. Larger: few dimensions have most of the variance. Near 0: noise."),
    _Figure("Off-diagonal covariance", ("off_diagonal",), "Not growing; it depends on the scale of the features."),
    _Figure("SIGReg S", ("sigreg",), "About 1.05 for methods that regularize with it; otherwise of no meaning."),
    _Figure("LiDAR", ("lidar",), "Not falling. It counts only what differs between clips; read the ratio beside it."),
    _Figure("Variance between over within clips", ("trace_ratio",), "Not falling to 0: clips differ more than views."),
)  # fmt: skip


def owned(run: Run) -> set[str]:
    """Return the metrics of a run that this section shows."""
    metrics = [*_ABOUT, *(name for figure in FIGURES for name in figure.metrics)]
    return {f"{evaluator}/{metric}" for evaluator in _evaluators(run) for metric in metrics}


def features(run: Run) -> str:
    """Return the section; "" if no evaluator measured features."""
    parts = [_of_evaluator(run, name) for name in _evaluators(run)]
    intro = (
        "Whether features collapse, which the loss does not show. No statistic is a score: compare runs by probes and "
        "nearest neighbours (section Evaluation)."
    )
    return section("Features", "".join(parts), name="features", intro=intro)


def _evaluators(run: Run) -> list[str]:
    return [name.removesuffix(f"/{_MARK}") for name in run.names(kind="eval") if name.endswith(f"/{_MARK}")]


def _of_evaluator(run: Run, name: str) -> str:
    last = {metric: run.series(f"{name}/{metric}", kind="eval")[-1:] for metric in _ABOUT}
    clips, dimensions, averaged = (points[0][1] if points else 0.0 for points in last.values())
    encoder = "the moving average of the parameters" if averaged else "the trained parameters"
    possible = min(clips - 1, dimensions)
    about = (
        f"{name}: {compact(clips)} clips, {compact(dimensions)} dimensions, of {encoder}; a centred effective rank is "
        f"at most {compact(possible)}."
    )
    drawn = [_chart(run, name, figure) for figure in FIGURES]
    charts = f'<div class="charts">{"".join(drawn)}</div>' if any(drawn) else ""
    return f'<p class="sub">{escape(about)}</p>{_verdict(run, name)}{charts}{_table(run, name)}'


def _verdict(run: Run, name: str) -> str:
    found = [event for event in run.events if event.get("event") == "collapse" and event.get("evaluator") == name]
    if not found:
        return '<p class="note">No collapse was found.</p>'
    steps = ", ".join(f"{event['step']:,}" for event in found[:8]) + (" and later ones" if len(found) > 8 else "")
    text = f"Collapsed at the evaluations after steps {steps}. The last: {found[-1].get('reason', '')}."
    return f'<p class="note bad">{escape(text)}</p>'


def _series(run: Run, name: str, metrics: Sequence[str]) -> list[Series]:
    found = [Series(metric, run.series(f"{name}/{metric}", kind="eval")) for metric in metrics]
    return [one for one in found if one.points]


def _chart(run: Run, name: str, figure: _Figure) -> str:
    series = _series(run, name, figure.metrics)
    if not any(len({step for step, _ in one.points}) > 1 for one in series):
        return ""
    return chart(figure.title, series, percent=figure.percent, smooth=False)


def _table(run: Run, name: str) -> str:
    rows = []
    for figure in FIGURES:
        series = _series(run, name, figure.metrics)
        values = ", ".join(f"{one.name} {compact(one.points[-1][1])}" for one in series)
        if series:
            rows.append((figure.title, values, figure.healthy))
    return table(("Statistic", "Last value", "Healthy"), rows)
