"""V-JEPA 2.1 (Mur-Labadia et al. 2026): latent prediction that also supervises visible tokens, at several depths.

V-JEPA 2 leaves out the tokens that the encoder sees, and they become carriers of what concerns the whole clip.
Here the predictor reproduces the target's features at visible tokens too, the more the nearer they are to a hidden
one, and at four depths of the encoder. Images have a patch embedding and a modality of their own, all else is shared.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.masking.multiblock import Multiblock
from vmae_jax.methods.baselines import offsets
from vmae_jax.methods.latent import Latent, few_tokens
from vmae_jax.models.predictor import DensePredictor
from vmae_jax.models.variants import Model
from vmae_jax.patches import Patch
from vmae_jax.registry import register
from vmae_jax.targets.core import Penalty, l1
from vmae_jax.types import Batch, Context, Grid, Loss, MaskPlan, Method, Params, Term, stream

__all__ = ["LatentDense", "build", "distances"]


@dataclasses.dataclass(frozen=True)
class LatentDense(Latent):
    """The functions of V-JEPA 2.1, which `build` returns as a `Method`.

    With images, the parameters have a tower "image": their patch embedding and both modality vectors.

    Attributes:
      context_weight: step -> the weight of the errors at visible tokens.
      nearness: whether these errors count less the farther a token is from the nearest hidden one.
      images: the masks of images, by name; without any, no images are read.
    """

    context_weight: Callable[[Array], Array] = lambda step: jnp.float32(1.0)
    nearness: bool = True
    images: Mapping[str, Multiblock] = dataclasses.field(default_factory=dict)

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder": …, "predictor": …, "image": …}, with their partitioning boxes."""
        params, extra = super().init(key, batch)
        if self.images:
            frames = {**batch, "video": batch["video"][:, :1]}  # of the images' shape
            own, _ = self.of_images().init(stream(key, "image"), frames)
            encoder, predictor = own["encoder"], own["predictor"]
            vectors = {"modality": encoder["modality"], "predictor_modality": predictor["modality"]}
            params = {**params, "image": {"embed": encoder["embed"], **vectors}}
        return params, extra

    def of_images(self) -> "LatentDense":
        """Return the same method for images, which are clips of one frame; `image_params` are its parameters."""
        model, grid = self.model, Grid(1, self.model.grid.h, self.model.grid.w)
        patch = Patch(1, model.patch.h, model.patch.w)
        encoder, decoder = model.encoder.clone(grid=grid), {**model.decoder, "grid": grid}
        one = dataclasses.replace(model, patch=patch, grid=grid, encoder=encoder, decoder=decoder)
        return dataclasses.replace(self, model=one, masks=self.images, images={})

    def image_params(self, params: Params) -> Params:
        """Return the parameters of `of_images`."""
        own = params["image"]
        return {
            "encoder": {**params["encoder"], "embed": own["embed"], "modality": own["modality"]},
            "predictor": {**params["predictor"], "modality": own["predictor_modality"]},
        }

    def image_batch(self, batch: Batch) -> Batch:
        """Return the images of a batch, [b k h w c], as clips of one frame, [b*k 1 h w c], with seeds of their own."""
        images = jnp.asarray(batch["image"])
        b, k = images.shape[:2]
        seed = jnp.asarray(batch["seed"])[:, None] + jnp.arange(k, dtype=jnp.uint32)[None, :, None]
        valid = jnp.asarray(batch["image_valid"]) & jnp.asarray(batch["valid"])[:, None]
        rows = {"video": images[:, :, None], "seed": seed, "valid": valid}
        return {name: rows[name].reshape(b * k, *rows[name].shape[2:]) for name in rows}

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the errors at hidden and at visible tokens, for each mask, of videos and of images.

        Videos and images count the same, whatever their numbers. Metrics are those of `Latent.loss`, of the videos.
        """
        share = 0.5 if self.images else 1.0
        found = self.terms(params, self._averages(context), batch, context, share)
        terms, metrics = found.terms, found.metrics
        if self.images:
            averages = self.image_params(self._averages(context))
            one, rows = self.of_images(), self.image_batch(batch)
            images = one.terms(self.image_params(params), averages, rows, context, share)
            terms = terms | {f"image_{name}": term for name, term in images.terms.items()}
        return Loss(terms, metrics)

    def terms(self, params: Params, averages: Params, batch: Batch, context: Context, share: float) -> Loss:
        """Return the terms of videos, or of images, and metrics.

        Args:
          averages: parameters of the target encoder, {"encoder": …}.
          share: the weight of all terms together.
        """
        self.model.check(batch["video"].shape)
        raw = self.targets(averages["encoder"], batch)
        terms: dict[str, Term] = {}
        metrics = {"target_spread": self._spread(raw, batch)}
        weight = share / len(self.masks)
        for number, (name, masks) in enumerate(self.plans(batch).items()):
            predicted = self.predictions(params, batch, masks, number, train=context.train)
            rows = jnp.asarray(batch["valid"], jnp.float32)[:, None]
            with jax.named_scope("loss"):
                hidden, seen = masks.weight * rows, self._seen(masks) * rows
                target, given = self._wanted(raw, masks.decode), self._wanted(raw, masks.visible)
                terms[name] = self._term(predicted["features"], target, hidden, hidden, weight)
                near = seen / jnp.sqrt(distances(masks, self.model.grid)) if self.nearness else seen
                more = weight * self.context_weight(context.step)
                terms[f"{name}_context"] = self._term(predicted["context"], given, near, seen, more)
            metrics |= {} if number else self._baselines(raw, target, masks, hidden)
        return Loss(terms, metrics)

    def method(self) -> Method:
        """Return these functions as a method."""
        return super().method()._replace(inputs=("video",), supervision=("image", "image_valid") if self.images else ())

    def _averages(self, context: Context) -> Params:
        """The averaged parameters, whose encoder is the target."""
        self._target_weights(context)  # refuses a context without them
        return context.average

    def _predictor(self) -> Any:
        width = self._target_model().encoder.outputs
        heads = {"features": width, "context": width}
        return DensePredictor(**self.model.decoder, heads=heads, inputs=self.model.encoder.width)

    def _seen(self, masks: MaskPlan) -> Float[Array, "b v"]:
        valid = jnp.ones(masks.visible.shape) if masks.valid is None else masks.valid
        return jnp.asarray(valid, jnp.float32)


def distances(masks: MaskPlan, grid: Grid) -> Float[Array, "b v"]:
    """Return the Euclidean distance, in tokens, from each visible token to the nearest token that is predicted.

    It is at least 1, also for padding.
    """

    apart = sum(jnp.square(steps.astype(jnp.float32)) for steps in offsets(masks.visible, masks.decode, grid))
    if masks.decode_valid is not None:
        apart = jnp.where(masks.decode_valid[:, None], apart, jnp.inf)
    return jnp.sqrt(jnp.maximum(jnp.asarray(apart).min(axis=-1), 1.0))


def warmed(weight: float, begin: int, end: int) -> Callable[[Array], Array]:
    """Return step -> a weight that is 0 until `begin`, then grows linearly, and is whole from `end` on."""
    if not end:
        return lambda step: jnp.full((), weight, jnp.float32)
    return lambda step: weight * jnp.clip((step - begin) / (end - begin), 0.0, 1.0).astype(jnp.float32)


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    few = {"masks": few_tokens(given["masks"]), "context_begin": 1, "context_end": 2}
    return few | ({"images": few_tokens(given["images"])} if given.get("images") else {})


@register("method", model="model", masks="blocks", images="blocks", penalty="penalty", smoke=_smoke)
def build(
    model: Model,
    masks: Mapping[str, Multiblock],
    images: Mapping[str, Multiblock] | None = None,
    context_weight: float = 0.5,
    context_begin: int = 15_000,
    context_end: int = 30_000,
    nearness: bool = True,
    penalty: Penalty | None = None,
    normalize: bool = True,
) -> Method:
    """Return V-JEPA 2.1 as a method. Its target is the moving average of the encoder, `train.ema_decay`.

    Args:
      model: the encoder with `levels` and `modality`, and as its decoder the predictor, `models.variants.vit`.
      masks: what is predicted from what, by name; a clip is encoded once for each.
      images: the masks of images, by name. The method then reads streams "image", uint8 [b k h w c], and
        "image_valid", bool [b k], beside each video.
      context_weight: the weight of the errors at visible tokens.
      context_begin, context_end: the weight is 0 until the first of these steps and grows linearly until the second;
        0 and 0 is the whole weight from the start.
      nearness: whether an error at a visible token is divided by the root of its distance to the nearest hidden one.
      penalty: of the errors; by default the absolute error.
      normalize: whether the targets of each token and level are normalised over their channels.

    Raises:
      ValueError: if there is no mask, one does not fit the grid, or the model has no modality.
    """
    if not masks:
        raise ValueError("masks is empty: name at least one, such as short=call('masking.multiblock', …)")
    if not model.encoder.modality:
        raise ValueError("model: V-JEPA 2.1 adds a vector to all tokens: set modality=True")
    if context_weight < 0 or not 0 <= context_begin <= context_end:
        raise ValueError(
            f"context_weight={context_weight}, context_begin={context_begin}, context_end={context_end}: at least 0, "
            "and steps in this order"
        )
    weight = warmed(context_weight, context_begin, context_end)
    about = {"context_weight": weight, "nearness": nearness, "images": dict(images or {})}
    one = LatentDense(model, dict(masks), None, penalty or l1(), normalize, **about)
    for part in (one, *([one.of_images()] if images else [])):
        for mask in part.masks.values():
            mask.counts(part.model.grid)
    return one.method()
