"""TGM (Fan et al., ECCV 2024): a masked autoencoder that hides what a caption is about, with a contrast of both.

    build(model=vit("B"), encoder_mask=text_guided(0.6), objectives={"pixels": objective(pixels())},
          image=vit("B", frames=1, style="clip", …), text=transformer())

CLIP, which is frozen, compares each patch of each frame with the clip's caption; the mask hides the most similar ones.
The encoder's mean over what is visible is then to find the caption among those of the batch.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vmae_jax.masking.core import Masker
from vmae_jax.masking.text_guided import SIMILARITY
from vmae_jax.methods import teachers
from vmae_jax.methods.masked import Masked, Pass
from vmae_jax.methods.parts.core import Seen, pooled
from vmae_jax.methods.parts.nce import Nce
from vmae_jax.methods.pretrained import projected, projector
from vmae_jax.models.classifier import everything
from vmae_jax.models.text import TextModel
from vmae_jax.models.variants import Model
from vmae_jax.patches import patchify
from vmae_jax.registry import register
from vmae_jax.scopes import tower
from vmae_jax.spec import ConfigError
from vmae_jax.targets.core import Objective
from vmae_jax.types import Batch, Context, Loss, Method, Params, stream
from vmae_jax.vectors import unit

__all__ = ["TextGuided", "build"]

STREAM = "text"
CAPTION = "caption"  # of the annotated batch: the embedding


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextGuided(Masked):
    """The functions of a masked autoencoder that is guided by captions, which `build` returns as a `Method`.

    Attributes:
      image: CLIP's image tower, of one frame.
      text: its text tower.
      contrast: of clips and captions; None leaves it out.
    """

    image: Model
    text: TextModel
    contrast: Nce | None

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder": …, "decoder": …, "contrast": …}, with their partitioning boxes."""
        params, extra = super().init(key, batch)
        if self.contrast is None:
            return params, extra
        sizes = {"video": self.model.encoder.width, CAPTION: self.text.network.size}
        return {**params, "contrast": self.contrast.fresh(stream(key, "contrast"), sizes)}, extra

    def frozen(self, key: Array, batch: Batch) -> Params:
        """Return initial parameters of CLIP, {"image": …, "projection": …, "text": …}, which `init_from` replaces."""
        del batch
        token = jnp.zeros((1, self.image.encoder.width))
        return {
            "image": teachers.initial(self.image, stream(key, "image")),
            "projection": projector(self.text.network.size).init(stream(key, "projection"), token)["params"],
            "text": self.text.init(stream(key, "text")),
        }

    def captions(self, frozen: Params, batch: Batch) -> Float[Array, "b e"]:
        """Return the embedding of each clip's caption, zeros where there is none."""
        there = jnp.asarray(batch[f"{STREAM}_mask"])
        found = self.text.embed(frozen["text"], jnp.asarray(batch[STREAM]), there)
        return jnp.where(jnp.asarray(batch[f"{STREAM}_valid"])[:, None], found, 0.0)

    def similarities(self, frozen: Params, video: Array, captions: Float[Array, "b e"]) -> Float[Array, "b t h w"]:
        """Return the cosines of each patch of each frame and the clip's caption, 0 where that is zero.

        One frame of every clip is worked on at a time, so that memory is that of one frame each.
        """
        model, direction = self.image, unit(captions)

        def of_frame(frame: Array) -> Array:
            cubes = model.normalize(patchify(teachers.pictures(model, frame[:, None]), model.patch))
            tokens: Any = model.encoder.apply({"params": frozen["image"]}, cubes, everything(*cubes.shape[:2]))
            patches = unit(projected(frozen["projection"], tokens[:, model.encoder.prefix :]))
            return jnp.einsum("bne,be->bn", patches, direction, precision="highest")

        with tower("image"):
            found = jax.lax.map(of_frame, jnp.moveaxis(jnp.asarray(video), 1, 0))
        return jnp.moveaxis(found, 0, 1).reshape(video.shape[0], -1, model.grid.h, model.grid.w)

    def matched(self, frozen: Params, batch: Batch) -> Batch:
        """Return the batch with the caption's embedding and the similarities; no gradient flows into them.

        Raises:
          ConfigError: if there are no parameters of CLIP.
        """
        if not frozen or "image" not in frozen:
            raise ConfigError("masks that follow captions need CLIP; use an evaluator of features instead")
        frozen = jax.lax.stop_gradient(frozen)
        captions = self.captions(frozen, batch)
        found = {CAPTION: captions, SIMILARITY: self.similarities(frozen, batch["video"], captions)}
        return {**batch, **jax.lax.stop_gradient(found)}

    def forward(self, params: Params, batch: Batch, context: Context, *, decode_all: bool = False) -> Pass:
        """See `Masked.forward`."""
        self.model.check(batch["video"].shape)
        return super().forward(params, self.matched(context.frozen, batch), context, decode_all=decode_all)

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the error of each objective, and what the contrast compares."""
        done = self.forward(params, batch, context)
        if self.contrast is None:
            return Loss(self.terms(done))
        valid = jnp.asarray(batch["valid"]) & jnp.asarray(batch[f"{STREAM}_valid"])
        clips = pooled(Seen(done.batch, done.masks, done.encoded, done.encoded, self.model.grid))
        return Loss(self.terms(done), rows={"video": clips, CAPTION: done.batch[CAPTION], "": valid})

    def compare(self, params: Params, rows: Any, context: Context) -> Loss:
        """Return the contrast of the global batch, `Method.global_loss`."""
        assert self.contrast is not None
        found = self.contrast.compare(params["contrast"], rows, None, context)
        metrics = {f"contrast_{name}": value for name, value in found.metrics.items()}
        return Loss({"contrast": found.terms["nce"]}, metrics)

    def check(self, batch: Batch) -> None:
        """Raise ConfigError if a text has numbers that the text tower does not have."""
        largest = int(np.max(batch[STREAM], initial=0))
        if largest >= self.text.network.vocabulary:
            raise ConfigError(
                f"config.data.streams.{STREAM} gives the number {largest}, and config.method.text has a vocabulary of "
                f"{self.text.network.vocabulary}: use the tokenizer that the text tower was trained with"
            )

    def check_first(self, batch: Batch) -> None:
        """Raise ConfigError if no clip of the first batch of a run has a caption."""
        super().check_first(batch)
        valid = np.asarray(batch["valid"], bool)
        if valid.any() and not np.asarray(batch[f"{STREAM}_valid"])[valid].any():
            raise ConfigError(f"methods.tgm: none of the {valid.sum()} clips of the first batch has a caption")

    def method(self) -> Method:
        """Return these functions as a method."""
        one = super().method()
        streams = tuple(name for name in one.supervision if name != SIMILARITY)
        return one._replace(
            frozen=self.frozen,
            global_loss=self.compare if self.contrast else None,
            check=self.check,
            check_first=self.check_first,
            supervision=(STREAM, *streams),
        )


@register("method", model="model", encoder_mask="mask", objectives="objective", image="model", text="text_model")
def build(
    model: Model,
    encoder_mask: Masker,
    objectives: Mapping[str, Objective],
    image: Model,
    text: TextModel,
    weight: float = 1.0,
    temperature: float = 0.07,
    width: int = 512,
) -> Method:
    """Return TGM as a method. Its captions are the stream "text" of the loader.

    Args:
      model: encoder and decoder, `models.variants.vit`.
      encoder_mask: which tokens the encoder sees, `masking.text_guided`.
      objectives: what is predicted, by name.
      image: CLIP's image tower, a model of one frame; its weights are `frozen/image`, and those of the projection to
        the embeddings `frozen/projection`.
      text: CLIP's text tower, whose tokenizer the loader's stream has; its weights are `frozen/text`.
      weight: of the contrast in the loss; 0 leaves it out.
      temperature: of the contrast, from which it is learned.
      width: to which clips and captions are projected before they are compared.

    Raises:
      ValueError: if a number is out of range, a mask does not fit the grid of the model, or `image` is no image tower.
    """
    if not objectives:
        raise ValueError("objectives is empty: name at least one, such as pixels=call('targets.core.objective', …)")
    if weight < 0 or temperature <= 0 or width < 1:
        raise ValueError(f"weight={weight}, temperature={temperature}, width={width}: at least 0; above 0; at least 1")
    if image.video_shape[0] != 1 or image.encoder.levels or image.channels != model.channels:
        raise ValueError(
            f"image is a model of one frame of {model.channels} channels, one output (frames=1, tubelet=1, levels=[])"
        )
    encoder_mask.keep(model.grid)  # fails now if the grid does not suit the mask
    contrast = Nce("video", CAPTION, float(temperature), True, (width,), float(weight)) if weight else None
    parts = {"image": image, "text": text, "contrast": contrast}
    return TextGuided(model, encoder_mask, None, dict(objectives), **parts).method()
