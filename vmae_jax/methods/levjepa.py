"""LeVJEPA (Kuhn et al. 2026): views of a clip agree, and a regularizer makes their embeddings normally distributed.

There is no teacher, no average of the parameters, no predictor and no decoder. The encoder sees a few random tokens of
the clip and of small crops of it; a projection of the class token has to be the same for all of them. SIGReg
(`methods.sigreg`) rules out collapse.

    build(model=vit("B", tubelet=1, prefix=1, causal=True, positions=rotary("tiled")), mask=random(0.95),
          local=views(10, 96, colors=jitter()))
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.augment.views import Views
from vmae_jax.masking.core import Masker, plan, select
from vmae_jax.methods.embeddings import spread
from vmae_jax.methods.encoding import EncoderFeatures, encoded, part_keys
from vmae_jax.methods.parts.projector import Projector
from vmae_jax.methods.sigreg import directions, divergence
from vmae_jax.models.initial import divided_by_depth
from vmae_jax.models.rotary import Rotary
from vmae_jax.models.variants import Model
from vmae_jax.patches import gather_cubes, grid_of
from vmae_jax.registry import register
from vmae_jax.types import Batch, Context, Grid, Loss, MaskPlan, Mean, Method, Params, Term, row_keys, stream

__all__ = ["Agreeing", "build", "disagreement"]


@dataclasses.dataclass(frozen=True)
class Agreeing(EncoderFeatures):
    """The functions of the method, which `build` returns; the attributes are its arguments."""

    model: Model
    mask: Masker
    local: Views
    widths: tuple[int, ...]
    regularization: float
    directions: int

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder": …, "projector": …}, with their partitioning boxes."""
        self.model.check(batch["video"].shape)
        encoder, grid = self.model.encoder, self.model.grid
        masks = select(jnp.zeros((1, grid.size)), self.mask.keep(grid))
        cubes = jnp.zeros((*masks.visible.shape, self.model.cube), jnp.float32)
        weights = encoder.init(stream(key, "encoder"), cubes, masks)["params"]
        token = jnp.zeros((2, encoder.width)), jnp.ones(2, bool)
        head = self._projector().init(stream(key, "projector"), *token)["params"]
        if encoder.initial == "vjepa":
            weights = divided_by_depth(weights)
        return {"encoder": weights, "projector": head}, None

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the class tokens of the views of each clip, for `compare`; no term is of one clip alone."""
        self.model.check(batch["video"].shape)
        whole = self._whole(params, batch, train=context.train)[:, None]
        parts = self._parts(params, batch, train=context.train)
        views = jnp.concatenate([whole, parts], axis=1).astype(jnp.float32)
        return Loss({}, rows={"views": views, "valid": jnp.asarray(batch["valid"], bool)})

    def compare(self, params: Params, rows: Any, context: Context) -> Loss:
        """Return how far views are apart, and their distribution from the normal one, over the whole global batch.

        Metrics: `sigreg`, the statistic S, about 1.05 if embeddings are normally distributed; `embedding_std` and
        `embedding_rank`, the spread of whole clips' embeddings (`methods.embeddings`), which are then 1 and near their
        number of dimensions.
        """
        tokens, valid = rows["views"], rows["valid"]
        found = self._embedded(params["projector"], tokens, valid)
        axes = directions(stream(context.key, "directions"), found.shape[-1], self.directions)
        count = valid.sum().astype(jnp.float32)
        one, counted = jnp.float32(1.0), valid.astype(jnp.float32)
        agreement = Term((disagreement(found) * counted).sum(), count)
        distance = divergence(found, valid, axes)
        terms = {"agreement": agreement, "sigreg": Term(distance, one, jnp.float32(self.regularization))}
        std, rank = spread(found[:, 0], counted)
        return Loss(terms, {"sigreg": Mean(count * distance, one), "embedding_std": std, "embedding_rank": rank})

    def summary(self, tokens: Float[Array, "b n d"], prefix: int) -> Float[Array, "b d"]:
        """Return the class token, which alone the loss is about."""
        del prefix
        return tokens[:, 0]

    def method(self) -> Method:
        """Return these functions as a method."""
        return Method(
            init=self.init,
            loss=self.loss,
            global_loss=self.compare,
            features=self.features,
            frame_features=self.frame_features,
        )

    def _whole(self, params: Params, batch: Batch, *, train: bool) -> Float[Array, "b d"]:
        """The class token of a few tokens of each clip."""
        keys = stream(row_keys(batch["seed"]), "mask")
        with jax.named_scope("masks"):
            masks = plan(keys, batch, self.model.grid, self.mask)
        return encoded(self.model, params["encoder"], batch, masks, train=train)[:, 0]

    def _parts(self, params: Params, batch: Batch, *, train: bool) -> Float[Array, "b v d"]:
        """The class token of a few tokens of each small view."""
        model, count, b = self.model, self.local.count, batch["video"].shape[0]
        grid, keys = _grid(model, self.local), part_keys(stream(row_keys(batch["seed"]), "local"), count)

        def one(own: Array) -> tuple[Array, Array]:
            masks = plan(stream(own, "mask"), {}, grid, self.mask)
            video = self.local(jnp.asarray(batch["video"]), own, model.encoder.dtype)
            return gather_cubes(video, masks.visible, model.patch), masks.visible

        # One view after the other: only the tokens that are kept of a view are there at once with those of the others.
        cubes, visible = jax.lax.map(one, keys.reshape(b, count).T)
        cubes, visible = (jnp.swapaxes(x, 0, 1).reshape(b * count, *x.shape[2:]) for x in (cubes, visible))
        masks = MaskPlan(visible, jnp.zeros((b * count, 0), jnp.int32), jnp.zeros((b * count, 0)))
        encoder, weights = model.encoder.clone(grid=grid), {"params": params["encoder"]}
        drop = stream(keys, "drop_path") if train else None
        tokens = encoder.apply(weights, model.normalize(cubes), masks, drop)
        return jnp.asarray(tokens)[:, 0].reshape(b, count, -1)

    def _projector(self) -> Projector:
        return Projector(self.widths, activation="gelu")

    def _embedded(self, weights: Params, tokens: Float[Array, "b v d"], valid: Array) -> Float[Array, "b v e"]:
        b, v, _ = tokens.shape
        flat = tokens.reshape(b * v, -1), jnp.repeat(valid, v)
        return jnp.asarray(self._projector().apply({"params": weights}, *flat)).reshape(b, v, -1)


def disagreement(embeddings: Float[Array, "b v e"]) -> Float[Array, "b"]:
    """Return the mean square of the difference of each view's embedding and the first one's, itself included."""
    return jnp.square(embeddings[:, :1] - embeddings).mean(axis=(1, 2))


def _grid(model: Model, local: Views) -> Grid:
    frames, channels = model.video_shape[0], model.channels
    return grid_of((frames, local.size, local.size, channels), model.patch)


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"widths": [16, 8], "directions": 16}


@register("method", model="model", mask="mask", local="views", smoke=_smoke)
def build(
    model: Model,
    mask: Masker,
    local: Views,
    widths: Sequence[int] = (2048, 256),
    regularization: float = 30.72,
    directions: int = 1024,
) -> Method:
    """Return a joint embedding of views as a method.

    Args:
      model: the encoder, `models.variants.vit`, with a class token (prefix=1) and rotary positions, which any grid has;
        `causal=True` makes its attention block-causal. Its decoder is not used.
      mask: which tokens of each view the encoder sees.
      local: the small views of a clip, `augment.views`. The clip itself is the large one.
      widths: of the layers of the projection of the class token, with batch norm and GELU between them.
      regularization: the weight of SIGReg's statistic divided by N, the number of clips. It is the product λ · N, by
        which recipes of different batches can be compared: LeVJEPA's .02 · 1,536 clips.
      directions: the number of random directions, drawn at each step.

    Raises:
      ValueError: if the model lacks a class token or rotary positions, a view does not divide into patches, the mask
        reads more than the seed, or a number is out of range.
    """
    if model.encoder.prefix != 1 or model.encoder.levels or not isinstance(model.encoder.positions, Rotary):
        raise ValueError(
            "views of two sizes are compared by a class token: the model needs prefix=1, "
            "positions=call('models.rotary') and no levels"
        )
    if mask.inputs or mask.check is not None:
        raise ValueError("mask: small views have no other streams, so use masking.random or another that needs none")
    if regularization < 0 or directions < 1 or not widths or min(widths) < 1:
        raise ValueError(
            f"regularization={regularization}, directions={directions}, widths={list(widths)}: at least 0, at least 1, "
            "at least one width of at least 1"
        )
    for grid in (model.grid, _grid(model, local)):
        mask.keep(grid)
    return Agreeing(model, mask, local, tuple(widths), float(regularization), directions).method()
