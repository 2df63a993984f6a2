"""Lengths of a training in any unit, and learning-rate schedules."""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.registry import register
from vmae_jax.spec import ConfigError

__all__ = ["Clock", "Rate", "Schedule", "arctangent", "constant", "length_in_steps", "warmup_cosine"]

UNITS = ("steps", "epochs", "examples")
SHAPES = ("cosine", "linear")


class Clock(NamedTuple):
    """The lengths of one training run.

    Attributes:
      steps: of the whole run.
      steps_per_epoch: steps of one pass over the videos; need not be a whole number.
      global_batch: videos per step (not counting the clips of `repeat`).
    """

    steps: int
    steps_per_epoch: float
    global_batch: int

    def length(self, length: Mapping[str, float]) -> int:
        """Return `length_in_steps` by this clock."""
        return length_in_steps(length, steps_per_epoch=self.steps_per_epoch, global_batch=self.global_batch)


def length_in_steps(length: Mapping[str, float], *, steps_per_epoch: float, global_batch: int) -> int:
    """Return the steps of a length such as {"epochs": 20}, rounded; at least one unless the length is 0.

    Args:
      length: exactly one of "steps", "epochs" (passes over the videos), "examples" (videos).
      steps_per_epoch: of the data.
      global_batch: videos per step.

    Raises:
      ConfigError: if there is not exactly one of these units, or the length is not a number of at least 0.
    """
    given = {unit: value for unit, value in dict(length).items() if value is not None}
    if len(given) != 1 or next(iter(given)) not in UNITS:
        raise ConfigError(f"a length must be exactly one of {', '.join(UNITS)}, such as {{'epochs': 20}}; got {given}")
    [(unit, value)] = given.items()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigError(f"a length in {unit} must be a number of at least 0, got {value!r}")
    steps = value * {"steps": 1.0, "epochs": steps_per_epoch, "examples": 1.0 / global_batch}[unit]
    return max(math.floor(steps + 0.5), int(value > 0))


@dataclasses.dataclass(frozen=True)
class Rate:
    """A number for every step of one run, such as the learning rate: a linear warm-up, then half a cosine or a line.

    Attributes:
      start, peak, final: learning rates, already scaled by the batch.
      warmup, steps: steps of the warm-up and of the whole schedule.
      text: the origin of the peak, in words.
      open_ended: whether the step after the warm-up is the first one at the peak, and not its last step.
      shape: of what follows the warm-up, one of `SHAPES`.
      ahead: by how many steps the schedule is ahead of the run.
    """

    start: float
    peak: float
    final: float
    warmup: int
    steps: int
    text: str
    open_ended: bool = False
    shape: str = "cosine"
    ahead: int = 0

    def value(self, step: int) -> float:
        """Return the rate of a step, counted from 0, in float64; after the last step it is `final`.

        As in VideoMAE's code, the last step of the warm-up and the first of the cosine both have the peak. With
        `open_ended` the warm-up would reach it one step later (MAE), so only the cosine has it.
        """
        step += self.ahead
        if step < self.warmup:
            return self.start + (self.peak - self.start) * step / self._climb
        length = max(self.steps - self.warmup, 1)
        left = max(length - (step - self.warmup), 0) / length
        share = left if self.shape == "linear" else math.sin(0.5 * math.pi * left) ** 2
        return self.final + (self.peak - self.final) * share

    def __call__(self, step: Array) -> Array:
        """Return the same in float32, for a step number inside a compiled program."""
        step = jnp.asarray(step) + self.ahead
        climb = step.astype(jnp.float32) / self._climb
        length = max(self.steps - self.warmup, 1)
        left = jnp.clip(length - (step - self.warmup), 0, length).astype(jnp.float32) / length
        # sin², not (1 + cos) / 2, which cancels to nothing at the end of the run.
        share = left if self.shape == "linear" else jnp.sin(0.5 * jnp.pi * left) ** 2
        fall = self.final + (self.peak - self.final) * share
        return jnp.where(step < self.warmup, self.start + (self.peak - self.start) * climb, fall).astype(jnp.float32)

    @property
    def _climb(self) -> int:
        """The steps from `start` to `peak`."""
        return max(self.warmup if self.open_ended else self.warmup - 1, 1)

    def describe(self) -> str:
        """Return a description of the schedule in one line."""
        if self.peak == self.final and not self.warmup:
            return f"{self.text}, constant"
        climb = f"warm-up of {self.warmup} steps from {self.start:.4g}"
        return f"{self.text}, {climb}, {self.shape} to {self.final:.4g} at {self.steps}"


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A schedule as built from a config; `at` turns it into a `Rate` for the clock of a run.

    The attributes are the arguments of `warmup_cosine`.
    """

    peak: float
    final: float
    start: float
    warmup: tuple[tuple[str, float], ...]
    batch_unit: int | None
    recipe_batch: int | None
    min_rate: float | None = None
    open_ended: bool = False
    shape: str = "cosine"
    stretch: float = 1.0
    ahead: int = 0

    def at(self, clock: Clock) -> Rate:
        """Return the learning rates of a run.

        Warns if the batch is not that of the recipe and the learning rate is not scaled with it.

        Raises:
          ConfigError: if the warm-up is longer than the run.
        """
        warmup = clock.length(dict(self.warmup)) if self.warmup and clock.steps else 0  # no steps, no warm-up
        if warmup > clock.steps:
            unit = self.warmup[0][0]
            raise ConfigError(
                f"a warm-up of {warmup} steps does not fit into a training of {clock.steps} steps: set "
                f"optimizer.schedule.warmup, for example --config.optimizer.schedule.warmup.{unit}=0, or train.length"
            )
        scale, text = 1.0, f"learning rate {self.peak:.4g}"
        if self.batch_unit is not None:
            scale = clock.global_batch / self.batch_unit
            text += f" × {clock.global_batch}/{self.batch_unit} = {self.peak * scale:.4g}"
        elif self.recipe_batch not in (None, clock.global_batch):
            warnings.warn(
                f"the recipe's batch of {self.recipe_batch} was changed to {clock.global_batch}, but its learning rate "
                f"of {self.peak:.4g} was not scaled: set batch_unit, or choose a learning rate for this batch",
                stacklevel=2,
            )
        return Rate(
            start=self.start * scale,
            peak=self.peak * scale,
            final=self.final * scale if self.min_rate is None else self.min_rate,
            warmup=warmup,
            steps=int(clock.steps * self.stretch),
            text=text,
            open_ended=self.open_ended,
            shape=self.shape,
            ahead=self.ahead,
        )


@register("schedule", smoke={"warmup": {"steps": 1}, "recipe_batch": None})
def warmup_cosine(
    peak: float,
    final: float = 1e-5,
    start: float = 0.0,
    warmup: Mapping[str, float] = MappingProxyType({"epochs": 0}),
    batch_unit: int | None = 256,
    recipe_batch: int | None = None,
    min_rate: float | None = None,
    open_ended: bool = False,
    shape: str = "cosine",
    stretch: float = 1.0,
    ahead: int = 0,
) -> Schedule:
    """Linear warm-up, then half a cosine or a line, computed for every step (VideoMAE V2, `utils.cosine_scheduler`).

    Args:
      peak, final, start: learning rates; all three are multiplied by global_batch / batch_unit.
      warmup: its length, as {"epochs": 20}, {"steps": …} or {"examples": …}.
      batch_unit: the batch, in videos, of the given rates; None does not scale them.
      recipe_batch: the batch that the rates were chosen for; another one without `batch_unit` warns.
      min_rate: the last rate instead of `final`, independent of the batch, as MAE-ST's `min_lr`.
      open_ended: the warm-up reaches the peak at the step after it (MAE, MAE-ST), not at its own last step.
      shape: of what follows the warm-up, "cosine" or "linear".
      stretch: the schedule is that of a run this many times as long, and ends early (V-JEPA: 1.25).
      ahead: each step has the value of this many steps later (V-JEPA's code moves its schedules before an update: 1).

    Raises:
      ValueError: if a rate is negative, a batch below 1, or the shape unknown.
    """
    if shape not in SHAPES or not 1 <= stretch < math.inf or ahead < 0:
        raise ValueError(
            f"shape={shape!r}, stretch={stretch}, ahead={ahead}: one of {', '.join(SHAPES)}; at least 1; at least 0"
        )
    for name, value in (("peak", peak), ("final", final), ("start", start), ("min_rate", min_rate or 0.0)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}: a learning rate must be a number of at least 0, got {value}")
    for name, batch in (("batch_unit", batch_unit), ("recipe_batch", recipe_batch)):
        if batch is not None and batch < 1:
            raise ValueError(f"{name}: a batch must have at least one video, got {batch}")
    length_in_steps(warmup, steps_per_epoch=1.0, global_batch=1)  # reports a wrong unit here
    lengths = tuple(dict(warmup).items())
    more = {"shape": shape, "stretch": float(stretch), "ahead": ahead}
    return Schedule(peak, final, start, lengths, batch_unit, recipe_batch, min_rate, open_ended, **more)


@register("schedule")
def ramp(start: float, final: float, shape: str = "linear", stretch: float = 1.0, ahead: int = 0) -> Schedule:
    """From one value to another over the run, for a weight decay or the decay of an average.

    Args:
      start, final: of the whole schedule.
      shape, stretch, ahead: as in `warmup_cosine`.

    Raises:
      ValueError: if a value is negative, or the shape unknown.
    """
    more = {"shape": shape, "stretch": stretch, "ahead": ahead}
    return warmup_cosine(start, final=final, start=start, batch_unit=None, **more)


@register("schedule")
def constant(value: float) -> Schedule:
    """The same learning rate at every step, for any batch.

    Raises:
      ValueError: if the rate is negative.
    """
    return warmup_cosine(value, final=value, start=value, batch_unit=None)


@dataclasses.dataclass(frozen=True)
class Turning(Rate):
    """A rate that passes from about twice a value to about 0, or the other way; see `arctangent`."""

    middle: float = 0.0
    slope: float = 0.0
    turn: float = 0.0

    def value(self, step: int) -> float:
        """Return the rate of a step, counted from 0, in float64."""
        share = min(step / max(self.steps, 1), 1.0)
        return self.middle * (1 + math.atan(self.slope * (share - self.turn)) / (math.pi / 2))

    def __call__(self, step: Array) -> Array:
        """Return the same in float32, for a step number inside a compiled program."""
        share = jnp.minimum(jnp.asarray(step).astype(jnp.float32) / max(self.steps, 1), 1.0)
        return self.middle * (1 + jnp.arctan(self.slope * (share - self.turn)) / (jnp.pi / 2))

    def describe(self) -> str:
        """Return a description of the schedule in one line."""
        return f"{self.text}, arctangent of slope {self.slope:g}, turning at {self.turn:g} of the run"


@dataclasses.dataclass(frozen=True)
class Arctangent(Schedule):
    """An arctangent as built from a config, with the arguments of `arctangent`."""

    middle: float = 0.0
    slope: float = 0.0
    turn: float = 0.0

    def at(self, clock: Clock) -> Rate:
        """Return the learning rates of a run."""
        shape: dict[str, Any] = {"middle": self.middle, "slope": self.slope, "turn": self.turn}
        ends = Turning(0.0, 0.0, 0.0, 0, 1, "", **shape)
        text = f"learning rate {self.middle:.4g} in the middle"
        return Turning(ends.value(0), self.middle, ends.value(1), 0, clock.steps, text, **shape)


@register("schedule")
def arctangent(value: float, slope: float, turn: float) -> Schedule:
    """value · (1 + atan(slope · (share of the run − turn)) / (π/2)), which has `value` at `turn` (CDFSL-V).

    Args:
      value: at the turn; with a negative slope the rate falls from about twice this to about 0.
      slope: how fast it changes.
      turn: the share of the run at which it has `value`.

    Raises:
      ValueError: if the value is negative, or the turn is not in [0, 1].
    """
    if not 0 <= value < math.inf or not 0 <= turn <= 1 or not abs(slope) < math.inf:
        raise ValueError(f"value={value}, slope={slope}, turn={turn}: at least 0, a number, and in [0, 1]")
    shape: dict[str, Any] = {"middle": value, "slope": slope, "turn": turn}
    return Arctangent(value, 0.0, 0.0, (), None, None, **shape)
