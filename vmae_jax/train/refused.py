"""What a run cannot accept: updates that are not finite or a spike, and features that collapse."""

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["COLLAPSE", "SPIKE", "CollapseError", "NotFiniteError", "Refused", "SpikeError", "error", "too_often"]

COLLAPSE = "collapse"
SPIKE = "spike"


class NotFiniteError(ArithmeticError):
    """A loss or gradient that is not finite, where `train.on_nonfinite` does not continue."""


class SpikeError(ArithmeticError):
    """A loss or gradient far above those before it, where `train.on_nonfinite` does not continue."""


class CollapseError(ArithmeticError):
    """Features that have become constant or kept few dimensions, where `train.on_collapse` does not continue."""


class Refused(NamedTuple):
    """What a run stops at or goes back from.

    Attributes:
      step: whose update was refused; of a collapse, the first step after which features were not known to be healthy.
      why: "not finite", "spike" or "collapse".
      details: of its event: "loss" and "grad_norm"; of a collapse, "evaluator" and "reason".
    """

    step: int
    why: str
    details: Mapping[str, Any]

    def __str__(self) -> str:
        if self.why == COLLAPSE:
            return f"features of {self.details['evaluator']}: {self.details['reason']}"
        return f"loss {self.details['loss']}, gradient norm {self.details['grad_norm']}"


def error(bad: Refused) -> ArithmeticError:
    """Return the error of a run that stops."""
    if bad.why == COLLAPSE:
        return CollapseError(
            f"after step {bad.step - 1} the features collapsed ({bad}). Check the objective (stop-gradient, momentum, "
            f"regularization, learning rate), set train.on_collapse to report or rollback, or set other limits of "
            f"eval.spectrum"
        )
    if bad.why == SPIKE:
        return SpikeError(
            f"step {bad.step}: the loss or its gradient is far above those before it ({bad}); the parameters "
            f"were not changed. Check the data, set train.on_nonfinite to skip or rollback, or set another limit in "
            f"train.spikes"
        )
    return NotFiniteError(
        f"step {bad.step}: the loss or its gradient is not finite ({bad}); the parameters were not changed. "
        f"Check the data and the learning rate, or set train.on_nonfinite to skip or rollback"
    )


def too_often(bad: Refused, start: int, times: int) -> ArithmeticError:
    """Return the error of a run that has rolled back to step `start` so many times in a row."""
    kind = {SPIKE: SpikeError, COLLAPSE: CollapseError}.get(bad.why, NotFiniteError)
    return kind(
        f"step {bad.step}: {bad.why} ({bad}), after rolling back to step {start} {times} times in a row "
        f"(train.rollbacks): the data are probably not the cause. Check the learning rate and the rows before step "
        f"{start}"
    )
