"""What a run carries from step to step, and how it begins."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from vmae_jax.spec import ConfigError
from vmae_jax.train.optim import Transformation
from vmae_jax.train.spikes import Spikes, empty
from vmae_jax.types import Batch, Extra, Method, Params

__all__ = ["TrainState", "eval_params", "make_init"]


@struct.dataclass
class TrainState:
    """Everything a checkpoint holds and the step changes.

    Attributes:
      step: steps taken, which is also the position in the data; a refused update counts.
      params: what is trained.
      opt_state: the optimizer's.
      extra: {"method": what the method carries, "ema": the average of `params`, where it is kept,
        "spikes": the losses that spikes are told by, where they are looked for}.
      frozen: networks that are never trained (teachers, flow, text).
      first_bad_step: the first step whose update was refused; -1 if none was.
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
    """The function (key, batch) -> TrainState at step 0, for `sharding.create`.

    Args:
      method: gives parameters and what it carries; either may hold flax partitioning boxes.
      tx: the optimizer; its state takes over the boxes of the parameters.
      ema: also keep an average of the parameters, which starts as their copy.
      frozen: (key, batch) -> the networks that are never trained, usually filled by `init_from`.
      spikes: also keep the losses by which spikes are told.
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


def eval_params(state: TrainState, ema: bool = False) -> Params:
    """The parameters to evaluate or export: the trained ones, or their average.

    Raises:
      ConfigError: the run keeps no average.
    """
    if not ema:
        return state.params
    if "ema" not in state.extra:
        raise ConfigError("the average of the parameters was asked for, but this run keeps none (train.ema_decay)")
    return state.extra["ema"]
