"""The sections of a config that are plain settings: train, checkpoint, eval, mesh."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vmae_jax.registry import register
from vmae_jax.train.schedule import Schedule
from vmae_jax.train.spikes import Spikes

__all__ = ["Checkpointing", "Evaluation", "Mesh", "Training"]

Length = Mapping[str, Any]  # {"steps": n}, {"epochs": n} or {"examples": n}

ON_NONFINITE = ("stop", "skip", "rollback")
ON_COLLAPSE = ("report", "stop", "rollback")
ON_ERROR = ("stop", "continue")
LOGGING = ("tensorboard", "wandb", "trackio")


@register(
    "training",
    spikes="spikes",
    ema_decay="schedule",
    smoke={"length": {"steps": 4}, "log_every": {"steps": 1}, "accumulate": 1},
)
@dataclasses.dataclass(frozen=True)
class Training:
    """The section `train`.

    Attributes:
      length: of the whole run, {"steps" | "epochs" | "examples": n}; examples and epochs count videos.
      accumulate: micro-batches per step; the result is that of the whole batch.
      ema_decay: of the exponential moving average of the parameters, in [0, 1], or a schedule of it such as
        `train.schedule.ramp`; None keeps no average.
      log_every: interval between two rows of metrics.
      pictures_every: interval between two drawings of reconstructions; None draws none.
      pictures: number of clips per drawing.
      on_nonfinite: what follows a refused step, whose loss or gradient is not finite or a spike: "stop" ends the
        run; "skip" records it and continues; "rollback" returns to the last checkpoint and continues with the
        data after the bad step.
      on_collapse: what follows when `eval.spectrum` finds that features have collapsed: "report" records it and
        continues; "stop" ends the run; "rollback" returns to the last checkpoint from before and continues with the
        data after.
      rollbacks: maximum number of roll-backs in a row to the same checkpoint before the run stops.
      spikes: `train.spikes.Spikes`, the definition of a spike; None detects none.
      replicas_every: interval at which copies of a parameter on several devices are compared; None never.
      logging: other writers than `metrics.jsonl`: {"tensorboard": True or False, "wandb": a project of
        Weights & Biases or None, "trackio": a project of trackio or None}; missing entries are off.
    """

    length: Length
    accumulate: int = 1
    ema_decay: float | Schedule | None = None
    log_every: Length = dataclasses.field(default_factory=lambda: {"steps": 10})
    pictures_every: Length | None = dataclasses.field(default_factory=lambda: {"steps": 1000})
    pictures: int = 4
    on_nonfinite: str = "stop"
    on_collapse: str = "report"
    rollbacks: int = 3
    spikes: Spikes | None = None
    replicas_every: Length | None = dataclasses.field(default_factory=lambda: {"steps": 1000})
    logging: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"tensorboard": True, "wandb": None, "trackio": None}
    )

    def __post_init__(self) -> None:
        _check_logging(self.logging)
        if self.on_nonfinite not in ON_NONFINITE:
            raise ValueError(f"train.on_nonfinite must be one of {', '.join(ON_NONFINITE)}, got {self.on_nonfinite!r}")
        if self.on_collapse not in ON_COLLAPSE:
            raise ValueError(f"train.on_collapse must be one of {', '.join(ON_COLLAPSE)}, got {self.on_collapse!r}")
        if self.accumulate < 1 or self.pictures < 1 or self.rollbacks < 1:
            raise ValueError("train.accumulate, train.pictures and train.rollbacks must be at least 1")
        if self.spikes is not None and not isinstance(self.spikes, Spikes):
            raise ValueError("train.spikes must be call('train.spikes.Spikes', …) or None")
        decay = self.ema_decay
        if decay is not None and any(not 0 <= end <= 1 for end in _ends(decay)):
            raise ValueError(f"train.ema_decay must be in [0, 1], got {self.ema_decay}")


def _ends(decay: float | Schedule) -> tuple[float, float]:
    return (decay.peak, decay.final) if isinstance(decay, Schedule) else (decay, decay)


def _check_logging(logging: Mapping[str, Any]) -> None:
    for name, value in logging.items():
        if name not in LOGGING:
            raise ValueError(f"train.logging has no entry {name!r}; its entries are {', '.join(LOGGING)}")
        if name == "tensorboard" and not isinstance(value, bool):
            raise ValueError(f"train.logging.tensorboard must be True or False, got {value!r}")
        if name != "tensorboard" and value is not None and not (isinstance(value, str) and value.strip()):
            raise ValueError(f"train.logging.{name} must be the name of a project, or None, got {value!r}")


@register("checkpointing")
@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """The section `checkpoint`.

    Attributes:
      every: interval between two checkpoints.
      keep_last: number of newest checkpoints to keep.
      keep_every: also keep those whose step is a multiple of this; None keeps no others.
      asynchronous: write in the background.
      on_error: what follows a failed save: "stop" ends the run with exit code 75; "continue" records it and
        trains on to the next save (the last one must succeed).
    """

    every: Length = dataclasses.field(default_factory=lambda: {"steps": 1000})
    keep_last: int = 3
    keep_every: int | None = None
    asynchronous: bool = True
    on_error: str = "stop"

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise ValueError(f"checkpoint.on_error must be one of {', '.join(ON_ERROR)}, got {self.on_error!r}")
        if self.keep_last < 1:
            raise ValueError(f"checkpoint.keep_last must be at least 1, got {self.keep_last}")


@register("evaluation", data="loader", evaluators="evaluator")
@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The section `eval`.

    Attributes:
      data: a `data.pipeline.loader` of held-out videos; with None, only evaluators run that have data of their own.
      every: interval between two evaluations while training; None evaluates only at the end.
      at_start: also evaluate before the first step, so that curves show what training changed.
      evaluators: name -> evaluator; metrics are recorded as NAME/METRIC.
      ema: whether to evaluate the averaged parameters.
    """

    data: Any = None
    every: Length | None = None
    at_start: bool = False
    evaluators: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ema: bool = False

    @property
    def ready(self) -> dict[str, Any]:
        """The evaluators that have data: the section's, or annotated videos of their own (`sequences`)."""
        return {
            name: evaluator
            for name, evaluator in self.evaluators.items()
            if self.data is not None or hasattr(evaluator, "sequences")
        }


@register("mesh")
@dataclasses.dataclass(frozen=True)
class Mesh:
    """The layout of the devices: sizes of the axes data, fsdp, tensor; one may be -1, the remaining devices.

    Attributes:
      ici: within a slice (or a host's GPUs).
      dcn: between slices.
    """

    ici: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"data": -1, "fsdp": 1, "tensor": 1})
    dcn: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"data": 1})
