"""The sections of a config that are plain settings: training, checkpoint, eval, mesh."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vmae_jax.registry import register
from vmae_jax.train.spikes import Spikes

__all__ = ["Checkpointing", "Evaluation", "Mesh", "Training"]

Length = Mapping[str, Any]  # {"steps": n}, {"epochs": n} or {"examples": n}

ON_NONFINITE = ("stop", "skip", "rollback")
ON_ERROR = ("stop", "continue")
LOGGING = ("tensorboard", "wandb", "trackio")


@register("training", spikes="spikes", smoke={"length": {"steps": 4}, "log_every": {"steps": 1}, "accumulate": 1})
@dataclasses.dataclass(frozen=True)
class Training:
    """How long and how to train.

    Attributes:
      length: in all, {"steps" | "epochs" | "examples": n}; examples and epochs count videos.
      accumulate: micro-batches a step; the result is that of the whole batch.
      ema_decay: of an average of the parameters; None keeps none.
      log_every: how often a row of metrics is fetched and written.
      pictures_every: how often reconstructions are drawn; None draws none.
      pictures: how many clips they show.
      on_nonfinite: after a step whose loss or gradient is not finite, or a spike (it changed nothing):
        "stop" ends the run; "skip" goes on and records it; "rollback" goes back to the last
        checkpoint and on from there with the data after the bad step.
      rollbacks: how often in a row, to the same checkpoint, before the run stops.
      spikes: `train.spikes.Spikes`, when a loss counts as a spike; None looks for none.
      replicas_every: how often copies of a parameter on several devices are compared; None never.
      logging: where metrics go besides `metrics.jsonl`: {"tensorboard": True or False, "wandb": a project of
        Weights & Biases or None, "trackio": a project of trackio or None}; what is left out is off.
    """

    length: Length
    accumulate: int = 1
    ema_decay: float | None = None
    log_every: Length = dataclasses.field(default_factory=lambda: {"steps": 10})
    pictures_every: Length | None = dataclasses.field(default_factory=lambda: {"steps": 1000})
    pictures: int = 4
    on_nonfinite: str = "stop"
    rollbacks: int = 3
    spikes: Spikes | None = None
    replicas_every: Length | None = dataclasses.field(default_factory=lambda: {"steps": 1000})
    logging: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {"tensorboard": True, "wandb": None, "trackio": None}
    )

    def __post_init__(self) -> None:
        _check_logging(self.logging)
        if self.on_nonfinite not in ON_NONFINITE:
            raise ValueError(f"train.on_nonfinite is one of {', '.join(ON_NONFINITE)}, not {self.on_nonfinite!r}")
        if self.accumulate < 1 or self.pictures < 1 or self.rollbacks < 1:
            raise ValueError("train.accumulate, train.pictures and train.rollbacks are at least 1")
        if self.spikes is not None and not isinstance(self.spikes, Spikes):
            raise ValueError("train.spikes is call('train.spikes.Spikes', …) or None")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"train.ema_decay lies in [0, 1), not {self.ema_decay}")


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
    """When to save, and what to keep.

    Attributes:
      every: how often.
      keep_last: so many newest checkpoints stay.
      keep_every: besides, those whose step is a multiple of this; None keeps none.
      asynchronous: write while training goes on.
      on_error: after a save that failed: "stop" ends the run with a status that resumes;
        "continue" records it and trains on to the next save (the last one must succeed).
    """

    every: Length = dataclasses.field(default_factory=lambda: {"steps": 1000})
    keep_last: int = 3
    keep_every: int | None = None
    asynchronous: bool = True
    on_error: str = "stop"

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise ValueError(f"checkpoint.on_error is one of {', '.join(ON_ERROR)}, not {self.on_error!r}")
        if self.keep_last < 1:
            raise ValueError(f"checkpoint.keep_last is at least 1, not {self.keep_last}")


@register("evaluation", data="loader", evaluators="evaluator")
@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is measured on other data.

    Attributes:
      data: a `data.pipeline.loader` of held-out videos; None evaluates nothing.
      every: how often while training, besides at the end; None only at the end.
      at_start: also before the first step, so that a curve shows what training changed.
      evaluators: name -> evaluator; their results are recorded as NAME/METRIC.
      ema: evaluate the averaged parameters.
    """

    data: Any = None
    every: Length | None = None
    at_start: bool = False
    evaluators: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ema: bool = False


@register("mesh")
@dataclasses.dataclass(frozen=True)
class Mesh:
    """How devices are laid out: sizes of the axes data, fsdp, tensor; one may be -1, the rest.

    Attributes:
      ici: within a slice (or a host's GPUs).
      dcn: between slices.
    """

    ici: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"data": -1, "fsdp": 1, "tensor": 1})
    dcn: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"data": 1})
