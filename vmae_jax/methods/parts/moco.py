"""MoCo (He et al. 2020; version 3: Chen et al. 2021): contrast with keys of the average of the encoder."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vmae_jax.methods.masked import Masked
from vmae_jax.methods.parts.core import OfAverage, others
from vmae_jax.methods.parts.projector import Projector
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError
from vmae_jax.types import Batch, Context, Extra, Loss, Mean, Params, Term, stream
from vmae_jax.vectors import unit

__all__ = ["Moco", "moco"]

_NEVER = -1e30  # the logit of a key that is no candidate


@dataclasses.dataclass(frozen=True)
class Moco(OfAverage):
    """See `moco`."""

    modality: str
    widths: tuple[int, ...]
    predictor: tuple[int, ...]
    temperature: float
    queue: int
    weight: float
    views: int

    @property
    def heads(self) -> dict[str, Projector]:
        """The projection and, if any, the predictor, by name; version 3 normalises what both return."""
        normed = bool(self.predictor)
        heads = {"projector": Projector(self.widths, normed=normed)}
        return heads | ({"predictor": Projector(self.predictor, normed=True)} if self.predictor else {})

    def init(self, key: Array, networks: Mapping[str, Masked], batches: Mapping[str, Batch]) -> Params:
        """See `Part.init`: the projection, and the predictor of keys."""
        sizes = {"projector": networks[self.modality].model.encoder.width, "predictor": self.widths[-1]}
        return {
            name: head.init(stream(key, name), jnp.zeros((2, sizes[name])), jnp.ones(2, bool))["params"]
            for name, head in self.heads.items()
        }

    def begin(self, key: Array, networks: Mapping[str, Masked]) -> Extra:
        """Return a queue of random keys, and the place of the oldest one."""
        if not self.queue:
            return None
        keys = jax.random.normal(stream(key, "queue"), (self.queue, self.widths[-1]))
        return {"keys": unit(keys), "oldest": jnp.int32(0)}

    def advance(self, extra: Extra, carry: Any) -> Extra:
        """Replace the oldest keys by those of the batch, in its order; rows that only pad it have none."""
        valid = carry["valid"]
        places = (extra["oldest"] + jnp.cumsum(valid) - 1) % self.queue
        places = jnp.where(valid, places, self.queue)  # out of range: dropped
        keys = extra["keys"].at[places].set(carry["keys"], mode="drop")
        return {"keys": keys, "oldest": (extra["oldest"] + valid.sum(dtype=jnp.int32)) % self.queue}

    def compare(self, params: Params, rows: Any, average: Params, context: Context) -> Loss:
        """Return the cross-entropy of finding the keys of the other views, and how often they are the nearest."""
        valid = rows["valid"]
        if 0 < self.queue < len(valid):
            raise ConfigError(f"moco: queue={self.queue} must be at least the {len(valid)} clips of a batch")
        queries, keys = rows["online"], rows["target"]
        for name, head in self.heads.items():
            queries: Any = head.apply({"params": params[name]}, queries, valid)
        keys: Any = self.heads["projector"].apply({"params": average["projector"]}, keys, valid)
        queries, keys = unit(queries), jax.lax.stop_gradient(unit(keys))
        found = [
            self._found(queries, keys, valid, partner, context.extra)
            for partner in others(self.views, valid.shape[0]).T
        ]
        total, right, count = (jnp.stack(part).sum() for part in zip(*found, strict=True))
        carry = {"keys": keys, "valid": valid} if self.queue else None
        metrics = {"accuracy": Mean(right, count)}
        return Loss({"moco": Term(total, count, jnp.float32(self.weight))}, metrics, carry=carry)

    def _found(
        self,
        queries: Float[Array, "b d"],
        keys: Float[Array, "b d"],
        valid: Bool[Array, "b"],
        partner: Int[Array, "b"],
        extra: Extra,
    ) -> tuple[Array, Array, Array]:
        """Return the sum of the errors of all rows, how many partners are the nearest, and the number of rows.

        Candidates are the partner and the queue, or all rows that are the same view as the partner.
        """
        scaled = queries / self.temperature
        right = jnp.einsum("bd,bd->b", scaled, keys[partner], precision="highest")
        if self.queue:
            wrong = jnp.matmul(scaled, extra["keys"].T, precision="highest")
        else:
            row = jnp.arange(len(partner))
            same = (partner % self.views)[:, None] == row % self.views
            wanted = valid & same & (partner[:, None] != row)
            wrong = jnp.where(wanted, jnp.matmul(scaled, keys.T, precision="highest"), _NEVER)
        error = jnp.logaddexp(right, jax.nn.logsumexp(wrong, axis=1)) - right
        counted = (valid & valid[partner]).astype(jnp.float32)
        return (error * counted).sum(), ((right > wrong.max(axis=1)) * counted).sum(), counted.sum()


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {"widths": [16, 16, 8], "queue": 64 if given.get("queue") else 0}
    return sizes if given.get("predictor") == [] else {**sizes, "predictor": [16, 8]}


@register("joint_part", smoke=_smoke)
def moco(
    modality: str,
    widths: Sequence[int] = (4096, 4096, 256),
    predictor: Sequence[int] = (4096, 256),
    temperature: float = 0.2,
    queue: int = 0,
    weight: float = 1.0,
    views: int = 2,
) -> Moco:
    """Find, of each view of a video, the features that the average of the encoder has of the other views.

    The average is that of the trainer, `train.ema_decay`. Candidates are the same views of all videos of the global
    batch, or the partner and a queue of the keys of earlier batches.

    Args:
      modality: its name.
      widths: of the projection's layers, with batch norm between them.
      predictor: of the layers of a predictor of the keys (version 3), whose outputs and those of the projection are
        then normalised over the batch; none: queries are projections.
      temperature: by which cosines are divided.
      queue: how many keys of earlier batches are kept, at least those of one batch; 0: none.
      weight: of the term in the loss.
      views: of a video, at least 2.

    Raises:
      ValueError: if a number is out of range, or the predictor's last width is not the projection's.
    """
    if not widths or min(*widths, *predictor, 1) < 1:
        raise ValueError(f"widths={list(widths)}, predictor={list(predictor)}: there is a width, and all are 1 or more")
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: it must be above 0")
    if queue < 0 or weight < 0 or views < 2:
        raise ValueError(f"queue={queue}, weight={weight}, views={views}: at least 0, at least 0, at least 2")
    if predictor and predictor[-1] != widths[-1]:
        raise ValueError(f"predictor={list(predictor)}: its last width must be that of the keys, {widths[-1]}")
    return Moco(modality, tuple(widths), tuple(predictor), float(temperature), queue, float(weight), views)
