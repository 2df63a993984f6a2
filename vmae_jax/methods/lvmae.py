"""LV-MAE (Naiman et al. 2025): a masked autoencoder over the features of a long video's segments.

A frozen encoder has turned every few seconds of a video into a vector (`vmae features`). Some of the vectors are
hidden, and are predicted from the others.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vmae_jax.masking.core import check_ratio, ranks
from vmae_jax.models.sequence import SequenceModel
from vmae_jax.patches import gather
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError
from vmae_jax.types import Batch, Context, Loss, MaskPlan, Mean, Method, Params, Term, row_keys, stream
from vmae_jax.vectors import unit

__all__ = ["SEMANTIC", "LongVideo", "build", "select_padded", "similarities"]

STREAM = "embeddings"
SEMANTIC = ("low", "high")


def select_padded(scores: Float[Array, "b n"], length: Int[Array, "b"], ratio: float) -> MaskPlan:
    """Return the plan for sequences of different lengths: of L vectors the int(L (1 - ratio)) best are visible.

    Args:
      scores: the largest are visible; of equal ones, the first.
      length: the number of vectors of each sequence, from its beginning; the rest is padding.
      ratio: the share of hidden vectors.
    """
    n = scores.shape[1]
    table = np.array([int(count * (1 - ratio)) for count in range(n + 1)], np.int32)
    keep = jnp.asarray(table)[length][:, None]
    there = jnp.arange(n) < length[:, None]
    order = jnp.argsort(jnp.where(there, -scores, jnp.inf), axis=1, stable=True)
    most = int(table[n])
    # A row has fewer than it has room for: places past the end are padding.
    visible, valid = _ascending(order, jnp.arange(most)[None], keep, n)
    decode, decode_valid = _ascending(order, jnp.arange(n - most)[None] + keep, length[:, None], n)
    return MaskPlan(visible, decode, decode_valid.astype(jnp.float32), valid, decode_valid)


def _ascending(order: Array, places: Array, end: Array, n: int) -> tuple[Int[Array, "b k"], Bool[Array, "b k"]]:
    """Return the entries of `order` at places before `end`, sorted, with padding behind them."""
    chosen = jnp.take_along_axis(order, jnp.minimum(places, n - 1), axis=1)
    chosen = jnp.sort(jnp.where(places < end, chosen, n), axis=1)
    return jnp.minimum(chosen, n - 1), chosen < n


def similarities(vectors: Float[Array, "b n d"]) -> Float[Array, "b n"]:
    """Return the cosine between each vector and the one before it; 0 for the first."""
    own = unit(vectors)
    return jnp.pad((own[:, 1:] * own[:, :-1]).sum(axis=-1), ((0, 0), (1, 0)))


@dataclasses.dataclass(frozen=True)
class LongVideo:
    """The functions of LV-MAE; the attributes are the arguments of `build`."""

    network: SequenceModel
    ratio: float
    semantic_keep: str | None
    shortest: int
    cosine: float

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder": …, "decoder": …}, with their partitioning boxes."""
        n, size = batch[STREAM].shape[1:]
        if not 0 < int(n * (1 - self.ratio)) < n:
            raise ValueError(
                f"of {n} embeddings {int(n * (1 - self.ratio))} would be visible: there must be some of each"
            )
        masks = select_padded(jnp.zeros((1, n)), jnp.full((1,), n), self.ratio)
        encoder, decoder = self.network.encoder_of(n, size), self.network.decoder_of(n, {STREAM: size})
        given = jnp.zeros((1, masks.visible.shape[1], size))
        encoded = jnp.zeros((1, encoder.prefix + given.shape[1], encoder.width), encoder.dtype)
        return {
            "encoder": encoder.init(stream(key, "encoder"), given, masks)["params"],
            "decoder": decoder.init(stream(key, "decoder"), encoded, masks)["params"],
        }, None

    def vectors(self, batch: Batch) -> tuple[Float[Array, "b n d"], Int[Array, "b"]]:
        """Return the embeddings at length 1, zeros where there is padding, and how many a row has."""
        mask = jnp.asarray(batch[f"{STREAM}_mask"], bool)
        return unit(jnp.where(mask[..., None], jnp.asarray(batch[STREAM]), 0.0)), mask.sum(axis=1)

    def plan(self, batch: Batch, vectors: Float[Array, "b n d"], length: Int[Array, "b"]) -> MaskPlan:
        """Return which vectors are visible and which are predicted."""
        if self.semantic_keep is None:
            scores = ranks(stream(row_keys(batch["seed"]), "mask"), vectors.shape[1])
        else:
            scores = similarities(vectors) * (1.0 if self.semantic_keep == "high" else -1.0)
        return select_padded(scores, length, self.ratio)

    def forward(self, params: Params, batch: Batch, *, train: bool) -> tuple[MaskPlan, Array, Array]:
        """Return the plan, the predictions at the hidden places [b k d] float32, and their targets."""
        vectors, length = self.vectors(batch)
        n, size = vectors.shape[1:]
        if train and self.shortest:
            keys = stream(row_keys(batch["seed"]), "length")
            draw = functools.partial(jax.random.randint, shape=(), minval=min(self.shortest, n), maxval=n + 1)
            length = jnp.minimum(length, jax.vmap(draw)(keys))
        masks = self.plan(batch, vectors, length)
        encoder, decoder = self.network.encoder_of(n, size), self.network.decoder_of(n, {STREAM: size})
        encoded = encoder.apply({"params": params["encoder"]}, gather(vectors, masks.visible), masks)
        found: Any = decoder.apply({"params": params["decoder"]}, encoded, masks)
        return masks, found[STREAM], gather(vectors, masks.decode)

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the squared error of hidden vectors, averaged over their dimensions, and one minus their cosine."""
        masks, found, target = self.forward(params, batch, train=context.train)
        weight = masks.weight * jnp.asarray(batch["valid"], jnp.float32)[:, None]
        count = weight.sum()
        cosine = (unit(found) * target).sum(axis=-1)
        terms = {STREAM: Term((jnp.square(found - target).mean(axis=-1) * weight).sum(), count)}
        if self.cosine:
            terms["cosine"] = Term(((1 - cosine) * weight).sum(), count, jnp.float32(self.cosine))
        return Loss(terms, {"similarity": Mean((cosine * weight).sum(), count)})

    def features(self, params: Params, batch: Batch, *, layer: int | None = None, pool: bool = True) -> Array:
        """Return the encoder's tokens of whole sequences [b n d], zeros where there is padding, or their mean [b d].

        Args:
          layer: take the tokens after this many blocks, without the final norm; None: the encoder's output.
        """
        vectors, length = self.vectors(batch)
        b, n, size = vectors.shape
        encoder, weights = self.network.encoder_of(n, size), params["encoder"]
        if layer is not None:
            encoder, weights = encoder.shallow(weights, layer)
        valid = jnp.arange(n) < length[:, None]
        everything = jnp.broadcast_to(jnp.arange(n), (b, n))
        masks = MaskPlan(everything, everything[:, :0], jnp.zeros((b, 0)), valid)
        tokens = jnp.asarray(encoder.apply({"params": weights}, vectors, masks), jnp.float32)[:, encoder.prefix :]
        tokens = jnp.where(valid[..., None], tokens, 0.0)
        return tokens.sum(axis=1) / jnp.maximum(length, 1)[:, None] if pool else tokens

    def check_first(self, batch: Batch) -> None:
        """Raise ConfigError if no row of the first batch of a run has embeddings."""
        if not np.asarray(batch[f"{STREAM}_mask"]).any():
            raise ConfigError(f"none of the {len(batch['index'])} videos of the first batch has embeddings")

    def method(self) -> Method:
        """Return these functions as a method."""
        return Method(
            init=self.init,
            loss=self.loss,
            features=self.features,
            check_first=self.check_first,
            inputs=(STREAM, f"{STREAM}_mask"),
        )


@register("method", network="sequence_model")
def build(
    network: SequenceModel,
    ratio: float = 0.4,
    semantic_keep: str | None = None,
    shortest: int = 2,
    cosine: float = 0.0,
) -> Method:
    """Return LV-MAE as a method. It reads the stream `embeddings` (`data.streams.embeddings`) and no pictures.

    Args:
      network: encoder and decoder, `models.sequence.transformer`.
      ratio: the share of hidden vectors; of L vectors int(L (1 - ratio)) are visible.
      semantic_keep: which vectors are visible, by their similarity to the one before: "low", the least similar, as in
        the released code; "high", the most similar, as in the paper. None draws them at random.
      shortest: in training, sequences are cut to a length drawn from this many vectors to all; 0 does not cut.
      cosine: weight of a further loss, one minus the cosine of prediction and target.

    Raises:
      ValueError: if a number is out of range.
    """
    check_ratio(ratio)
    if semantic_keep is not None and semantic_keep not in SEMANTIC:
        raise ValueError(f"semantic_keep={semantic_keep!r}: expected one of {', '.join(SEMANTIC)}, or None")
    if shortest < 0 or cosine < 0:
        raise ValueError(f"shortest={shortest}, cosine={cosine}: they must not be negative")
    return LongVideo(network, ratio, semantic_keep, shortest, cosine).method()
