"""Training on a video while it is predicted: one small step, or a few, on the newest frames before each prediction."""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vmae_jax.train import sharding
from vmae_jax.train.on_mesh import OnMesh, on_mesh, replicated
from vmae_jax.train.optim import adamw
from vmae_jax.train.schedule import Clock, constant
from vmae_jax.train.state import TrainState
from vmae_jax.train.step import make_step
from vmae_jax.types import Batch, Carried, Method, Params, stream

__all__ = ["Adapter", "Predicted", "Settings", "adapter"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The steps before a prediction, and what they learn from.

    Attributes:
      window: clips that are remembered, the newest ones.
      batch: clips that a step draws from them, with replacement, each with a mask of its own.
      steps: number of steps before each prediction.
      accumulate: micro-batches of a step.
      learning_rate: of AdamW, whose moments begin at zero before each prediction.
      encoder_share: factor of the encoder's learning rate.
      weight_decay: of AdamW.
      clip_norm: the largest global norm of the gradients.
      seed: of the draws and the masks.
    """

    window: int = 16
    batch: int = 32
    steps: int = 1
    accumulate: int = 1
    learning_rate: float = 1e-4
    encoder_share: float = 0.1
    weight_decay: float = 0.05
    clip_norm: float = 0.01
    seed: int = 0


class Predicted(NamedTuple):
    """What was computed at one moment of a stream.

    Attributes:
      without: the outputs of the network as it was trained, [outputs].
      adapted: those of the network that has learned from the stream, [outputs].
      loss: of the first step before the prediction.
      refused: whether a step was refused because it was not finite.
    """

    without: np.ndarray
    adapted: np.ndarray
    loss: float
    refused: bool


@dataclasses.dataclass
class Adapter:
    """A network that follows a stream. It holds two networks and `window` clips, however long the stream is.

    Attributes:
      base: the parameters as they were trained.
      params: those that have learned from the stream.
      settings: of the steps.
      train: the program of the steps before a prediction.
      predict: (parameters, clips [1 t h w c]) -> outputs [1 outputs].
      memory: the newest clips.
    """

    base: Params
    params: Params
    settings: Settings
    train: OnMesh
    predict: OnMesh
    memory: collections.deque[np.ndarray]

    def forget(self) -> None:
        """Forget the clips of the stream, and what the weights have learned from it."""
        self.memory.clear()
        self.params = self.base

    def __call__(self, clip: np.ndarray, moment: int) -> Predicted:
        """Remember a clip, learn from the window that ends with it, and predict it.

        Args:
          clip: uint8 [t h w c].
          moment: its number in the stream, from which draws and masks follow.
        """
        self.memory.append(clip)
        missing = self.settings.window - len(self.memory)  # so many rows are never drawn
        window = np.stack([*self.memory, *[clip] * missing])
        self.params, loss, finite = self.train(self.params, window, np.int32(len(self.memory)), np.int32(moment))
        without, adapted = (np.asarray(self.predict(one, clip[None]))[0] for one in (self.base, self.params))
        return Predicted(without, adapted, float(loss), not bool(finite))


def adapter(method: Method, params: Params, carried: Carried, spec: Batch, settings: Settings) -> Adapter:
    """Return the adapter of a method that has `Method.adaptation` and `Method.predict`, on one device of this process.

    Args:
      method: of the network.
      params: its parameters.
      carried: what its state holds beside them.
      spec: shapes of the batches that it was trained on.
      settings: of the steps.

    Raises:
      ConfigError: if the network has no encoder.
    """
    mesh = sharding.make_mesh({"data": 1}, devices=jax.local_devices()[:1])
    predict = on_mesh(lambda params, video: _outputs(method, params, video), mesh)
    base = replicated(params, mesh)
    memory = collections.deque[np.ndarray](maxlen=settings.window)
    program = on_mesh(_program(method, carried, spec, settings), mesh)
    return Adapter(base, base, settings, program, predict, memory)


def _outputs(method: Method, params: Params, video: Array) -> Array:
    assert method.predict is not None
    return method.predict(params, _batch(video, jnp.zeros((len(video), 2), jnp.uint32)))


def _batch(video: Array, seeds: Array) -> dict[str, Array]:
    rows = len(video)
    return {"video": video, "seed": seeds, "index": jnp.zeros(rows, jnp.int32), "valid": jnp.ones(rows, bool)}


def _program(method: Method, carried: Carried, spec: Batch, settings: Settings) -> Callable[..., Any]:
    """Return (parameters, window, how many clips of it there are, moment) -> (parameters, loss, whether finite)."""
    learns, tx = _learning(method, spec, settings)
    step = make_step(learns, tx, accumulate=settings.accumulate, seed=settings.seed)

    def train(params: Params, window: Array, filled: Array, moment: Array) -> tuple[Params, Array, Array]:
        key = jax.random.fold_in(stream(jax.random.key(settings.seed), "online"), moment)

        def once(state: TrainState, key: Array) -> tuple[TrainState, tuple[Array, Array]]:
            drawn = jax.random.randint(stream(key, "clip"), (settings.batch,), 0, filled)
            seeds = jax.random.bits(stream(key, "seed"), (settings.batch, 2), jnp.uint32)
            state, metrics = step(state, _batch(window[drawn], seeds))
            return state, (metrics["loss"], metrics["finite"])

        extra, zero = {"method": carried.extra}, jnp.int32(0)
        state = TrainState(zero, params, tx.init(params), extra, carried.frozen, zero - 1)
        state, (losses, finite) = jax.lax.scan(once, state, jax.random.split(key, settings.steps))
        return state.params, losses[0], finite.all()

    return train


def _learning(method: Method, spec: Batch, settings: Settings) -> tuple[Method, Any]:
    """Return a method whose loss is that of the adaptation, and its optimizer."""
    adaptation = method.adaptation
    assert adaptation is not None
    abstract = sharding.abstract(method.init, spec)[0]

    def loss(params: Params, batch: Batch, context: Any) -> Any:
        return adaptation.loss(params, batch, dataclasses.replace(context, train=False))  # without drop path

    optimizer = adamw(
        constant(settings.learning_rate),
        b2=0.999,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        freeze=sorted(set(abstract) - set(adaptation.trains)),
        rate_shares={"encoder": settings.encoder_share},
    )
    tx, _ = optimizer.build(abstract, Clock(settings.steps, 1.0, settings.batch))
    return Method(init=method.init, loss=loss, features=method.features), tx
