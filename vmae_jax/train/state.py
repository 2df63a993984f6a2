"""The state of a run, and its initialization."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from vmae_jax.spec import ConfigError
from vmae_jax.train.adamw import Transformation
from vmae_jax.train.spikes import Spikes, empty
from vmae_jax.types import Batch, Carried, Extra, Method, Params

__all__ = ["TrainState", "carried", "eval_params", "make_init"]


@struct.dataclass
class TrainState:
    """The state that a step changes and a checkpoint holds.

    Attributes:
      step: number of steps, including refused ones, which is also the position in the data.
      params: the trained parameters.
      opt_state: of the optimizer.
      extra: {"method": the state of the method, and, where they are kept, "ema": the average of `params`,
        "spikes": the history for the detection of spikes}.
      frozen: networks that are never trained (teachers, flow, text).
      first_bad_step: the first step whose update was refused, or -1.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: Any
    extra: dict[str, Any]
    frozen: Params
    first_bad_step: Int[Array, ""]


def make_init(
    method: Method,
    tx: Transformation,
    *,
    ema: bool = False,
    frozen: Callable[[Array, Batch], Params] | None = None,
    spikes: Spikes | None = None,
) -> Callable[[Array, Batch], TrainState]:
    """Return (key, batch) -> TrainState at step 0, for `sharding.create`.

    Args:
      method: initializes parameters and its state, possibly in flax partitioning boxes.
      tx: the optimizer, whose state has the boxes of the parameters.
      ema: also keep an average of the parameters, which starts as their copy.
      frozen: (key, batch) -> the networks that are never trained, usually loaded by `init_from`.
      spikes: also keep the history for the detection of spikes.
    """

    def init(key: Array, batch: Batch) -> TrainState:
        params, method_extra = method.init(key, batch)
        extra: dict[str, Extra] = {"method": method_extra}
        if ema:
            extra["ema"] = jax.tree.map(jnp.copy, params)
        if spikes is not None:
            extra["spikes"] = empty(spikes)
        return TrainState(
            step=jnp.int32(0),
            params=params,
            opt_state=tx.init(params),
            extra=extra,
            frozen={} if frozen is None else frozen(key, batch),
            first_bad_step=jnp.int32(-1),
        )

    return init


def carried(method: Method, state: TrainState) -> Carried:
    """Return what a state holds beside its parameters, for computing the method's loss."""
    return Carried(state.extra["method"], state.frozen, state.extra["ema"] if method.averaged else None)


def eval_params(state: TrainState, ema: bool = False) -> Params:
    """Return the parameters to evaluate or export: the trained ones, or their average.

    Raises:
      ConfigError: if the run keeps no average.
    """
    if not ema:
        return state.params
    if "ema" not in state.extra:
        raise ConfigError("this run keeps no average of the parameters; set train.ema_decay in training")
    return state.extra["ema"]
