"""SiamMAE (Gupta et al., NeurIPS 2023) and CropMAE (Eymaël et al., ECCV 2024): one view is predicted from another.

Both views of a video, or of an image, are encoded by one network. The first is seen whole; of the second almost
everything is hidden, and a decoder that attends to the first predicts it. SiamMAE's views are two frames
(`data.clips.pair`), CropMAE's a crop and a crop of that (`data.crops.nested`); else the methods are the same.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.masking.core import Masker
from vmae_jax.methods.masked import Masked, Pass
from vmae_jax.models.classifier import everything
from vmae_jax.models.cross import NORMS, CrossDecoder
from vmae_jax.models.variants import Model
from vmae_jax.registry import register
from vmae_jax.spec import call
from vmae_jax.targets.core import Objective
from vmae_jax.types import Batch, Context, Method, Params, Pictures, row_keys, stream

__all__ = ["Pairs", "Siamese", "build", "views", "without_reference"]

VIEWS = 2
SHARED = ("depth", "heads", "remat", "unroll", "attention", "initial", "biases")  # of a decoder's blocks


def views(batch: Batch) -> tuple[Batch, Batch]:
    """Return the first and the second view of each video, which are consecutive rows, as two batches."""
    pairs = {name: rows.reshape(-1, VIEWS, *rows.shape[1:]) for name, rows in batch.items()}
    first, second = ({name: rows[:, number] for name, rows in pairs.items()} for number in range(VIEWS))
    return first, second


def without_reference(batch: Batch) -> Batch:
    """Return the batch with noise in place of every first view.

    The loss of a trained network is higher on it; the difference is what the network takes from the first view. A
    network that predicts the second view from its visible tokens alone has no difference.
    """
    video = jnp.asarray(batch["video"])
    keys = stream(row_keys(batch["seed"]), "noise")
    noise = jax.vmap(lambda key: jax.random.bits(key, video.shape[1:], jnp.uint8))(keys)
    first = jnp.arange(len(video)) % VIEWS == 0
    return {**batch, "video": jnp.where(first[:, None, None, None, None], noise, video)}


@dataclasses.dataclass(frozen=True)
class Pairs(Masked):
    """What masked autoencoders have in common whose batches hold the two views of a video in consecutive rows."""

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Fresh parameters, {"encoder": …, "decoder": …}, with their partitioning boxes."""
        model = self.model
        model.check(batch["video"].shape)
        masks = self._any_plan(1)
        cubes = jnp.zeros((1, masks.visible.shape[1], model.cube))
        encoder = model.encoder.init(stream(key, "encoder"), cubes, masks)["params"]
        tokens = [
            jnp.zeros((1, model.encoder.prefix + n, model.encoder.width), model.encoder.dtype)
            for n in (masks.visible.shape[1], model.grid.size)
        ]
        decoder = self._decoder(batch).init(stream(key, "decoder"), tokens[0], masks, tokens[1])["params"]
        return {"encoder": encoder, "decoder": decoder}, None

    def features(self, params: Params, batch: Batch, *, layer: int | None = None, pool: bool = True) -> Array:
        """What the encoder makes of each frame by itself: [b d], or [b n d], the tokens of all frames, without pooling.

        Args:
          batch: with clips of any multiple of the model's frames (one, in the published models), which are encoded
            one after the other; tokens are in (t, h, w) order.
          layer: as in `Masked.features`.
        """
        video = jnp.asarray(batch["video"])
        frames = self.model.grid.t * self.model.patch.t
        if video.shape[1] % frames:
            raise ValueError(f"clips of {video.shape[1]} frames do not divide into the model's {frames}")
        parts = video.reshape(-1, frames, *video.shape[2:])
        tokens = super().features(params, {"video": parts}, layer=layer, pool=False)
        tokens = tokens.reshape(video.shape[0], -1, tokens.shape[-1])
        return tokens.mean(axis=1) if pool else tokens

    def reconstruct(self, params: Params, batch: Batch, context: Context, *, mask: Masker | None = None) -> Pictures:
        """The second view, the first, what is visible of the second, and what the decoder makes of the rest."""
        pictures = super().reconstruct(params, batch, context, mask=mask)
        (original, *others), (name, *names) = pictures.videos, pictures.names
        first, _ = views(batch)
        target: Any = self.objectives[str(self._drawable())].target
        reference, _ = target.shown(jnp.asarray(first["video"]), self.model.patch)
        return dataclasses.replace(pictures, videos=(original, reference, *others), names=(name, "reference", *names))

    def method(self) -> Method:
        """These functions as a method, whose rows come in pairs."""
        return super().method()._replace(group=VIEWS, views=VIEWS)


@dataclasses.dataclass(frozen=True)
class Siamese(Pairs):
    """The functions of a siamese masked autoencoder.

    Attributes:
      hidden, norm, dropout: of the decoder's blocks (`models.cross.CrossBlock`).
    """

    hidden: int = 2048
    norm: str = "post"
    dropout: float = 0.1

    def forward(self, params: Params, batch: Batch, context: Context, *, decode_all: bool = False) -> Pass:
        """Encode the first view whole and the visible tokens of the second, and predict the hidden ones.

        The result is of the second views: its batch has one row a video.
        """
        self.model.check(batch["video"].shape)
        first, second = views(batch)
        masks = self.plan(second, decode_all=decode_all)
        whole = everything(masks.visible.shape[0], self.model.grid.size)
        memory = self.encode(params, first, whole, train=context.train)
        encoded = self.encode(params, second, masks, train=context.train)
        keys = stream(row_keys(second["seed"]), "decoder") if context.train else None
        decoder = self._decoder(second)
        predictions = decoder.apply({"params": params["decoder"]}, encoded, masks, memory, keys)
        return Pass(second, masks, encoded, predictions)

    def _make_decoder(self, heads: Mapping[str, int]) -> Any:
        decoder = self.model.decoder
        blocks = {name: decoder["blocks"][name] for name in SHARED}
        blocks |= {"hidden": self.hidden, "norm": self.norm, "dropout": self.dropout}
        return CrossDecoder(**{**decoder, "blocks": blocks}, heads=dict(heads))


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    """A narrow MLP, and a mask that leaves some of few tokens."""
    return {"hidden": 32, "encoder_mask": call("masking.random", ratio=0.75, rounded_down="visible")}


@register("method", model="model", encoder_mask="mask", objectives="objective", smoke=_smoke)
def build(
    model: Model,
    encoder_mask: Masker,
    objectives: Mapping[str, Objective],
    hidden: int = 2048,
    norm: str = "post",
    dropout: float = 0.1,
) -> Method:
    """SiamMAE or CropMAE as a method: which of them it is follows from the views of the data.

    The loader's sampler gives two views of each video, such as `data.clips.pair`. The first is seen whole; the second
    is predicted.

    Args:
      model: the networks, `models.variants.vit` of images; a class token passes to the decoder (decoder_prefix="kept").
      encoder_mask: which tokens of the second view the encoder sees.
      objectives: what is predicted of the second view, by name.
      hidden: width of the MLP in the decoder's blocks; the model's `mlp_ratio` is for the encoder alone.
      norm: the form of the decoder's blocks. "post": cross-attention, MLP, self-attention, each followed by a norm, the
        form of CropMAE's code. "pre": cross-attention, self-attention, MLP, each after a norm, the cross-self decoder
        of SiamMAE's paper, of which there is no code. "late": as "post", with the norms of "pre" (RVM).
      dropout: rate in the decoder, attention weights included. In training these are then computed without a fused
        kernel; with 0 they are fused as elsewhere.

    Raises:
      ValueError: if a number is out of range, the model has parts that the decoder does not have, or a mask does not
        fit its grid.
    """
    if not objectives:
        raise ValueError("objectives is empty: name at least one, such as pixels=call('targets.core.objective', …)")
    if hidden < 1 or not 0 <= dropout < 1 or norm not in NORMS:
        raise ValueError(f"hidden={hidden}, dropout={dropout}, norm={norm!r}: at least 1; in [0, 1); one of {NORMS}")
    blocks = model.decoder["blocks"]
    if blocks["cosine"] or blocks["layer_scale"]:
        raise ValueError("model: the cross decoder has no cosine_attention and no layer_scale")
    if model.encoder.prefix and not model.decoder["keep_prefix"]:
        raise ValueError('model: the decoder attends to the class token of the first view: set decoder_prefix="kept"')
    encoder_mask.keep(model.grid)
    options = {"hidden": hidden, "norm": norm, "dropout": dropout}
    return Siamese(model, encoder_mask, None, dict(objectives), **options).method()
