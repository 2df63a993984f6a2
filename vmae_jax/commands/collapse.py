"""The verdict on collapse: process 0 judges the evaluations of the whole run, and every host receives its verdict."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vmae_jax.commands.experiment import Experiment
from vmae_jax.eval.collapse import Limits, verdict
from vmae_jax.eval.spectrum import Spectrum
from vmae_jax.spec import ConfigError
from vmae_jax.train.refused import COLLAPSE, Refused

__all__ = ["Watch", "check_watched"]

log = logging.getLogger(__name__)
_BYTES = 2048  # of a verdict, as JSON


class Watch:
    """Judges the results of `eval.spectrum` after each evaluation (`loop.Run.collapsed`).

    The history follows from `metrics.jsonl`, so a resumed run reaches the verdicts of an undisturbed one.

    Args:
      evaluators: of the run, by name.
      rows: of `metrics.jsonl` up to the step that the run continues from; only those of process 0 matter.
    """

    def __init__(self, evaluators: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]):
        self._limits = _limits(evaluators)
        self._history: dict[str, dict[int, dict[str, float]]] = {name: {} for name in self._limits}
        self._collapsed = False
        for row in rows:
            for name in self._limits if row.get("kind") == "eval" else ():
                found = _own(name, row)
                if found:  # `vmae eval` may have added another row of the same step
                    self._history[name].setdefault(row["step"], found)

    def __call__(self, step: int, results: Mapping[str, float]) -> Refused | None:
        """Return the collapse that the evaluation after `step` shows, or None; the same on every process."""
        if not any(_own(name, results) for name in self._limits):
            return None
        found = _of_process_0(self._judge(step, results))
        if found is not None and not self._collapsed:
            log.warning("step %d: the features have collapsed: %s", step, found)
        self._collapsed = found is not None
        return found

    def _judge(self, step: int, results: Mapping[str, float]) -> Refused | None:
        first = None
        for name, limits in self._limits.items():
            # After a roll-back, the steps that follow come again.
            known = {at: found for at, found in self._history[name].items() if at < step}
            self._history[name] = known | {step: _own(name, results)}
            judged = verdict(sorted(self._history[name].items()), limits)
            if judged.reasons and first is None:
                details = {"evaluator": name, "reason": "; ".join(judged.reasons)}
                first = Refused(judged.healthy + 1, COLLAPSE, details)
        return first


def check_watched(made: Experiment) -> None:
    """Raise ConfigError if `train.on_collapse` is to end or roll back a run in which nothing can find a collapse."""
    action = made.train.on_collapse
    if action == "report":
        return
    if not _limits(made.eval.ready) or made.eval.every is None:
        raise ConfigError(
            f"config.train.on_collapse={action} needs an evaluator call('eval.spectrum') in config.eval.evaluators, "
            "held-out videos in config.eval.data, and config.eval.every"
        )


def _limits(evaluators: Mapping[str, Any]) -> dict[str, Limits]:
    return {name: one.limits for name, one in evaluators.items() if isinstance(one, Spectrum)}


def _own(name: str, row: Mapping[str, Any]) -> dict[str, float]:
    """Return the results of an evaluator in a row, without its name."""
    return {key.removeprefix(f"{name}/"): float(value) for key, value in row.items() if key.startswith(f"{name}/")}


def _of_process_0(found: Refused | None) -> Refused | None:
    """Return the verdict of process 0, the only one that has the earlier evaluations of a resumed run."""
    if jax.process_count() == 1:
        return found
    text = b"" if found is None else json.dumps([found.step, found.details]).encode()
    padded = np.zeros(_BYTES, np.uint8)
    padded[: len(text)] = np.frombuffer(text, np.uint8)
    text = np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes().rstrip(b"\0")
    if not text:
        return None
    step, details = json.loads(text)
    return Refused(step, COLLAPSE, details)
