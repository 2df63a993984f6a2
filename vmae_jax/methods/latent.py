"""Prediction in feature space: V-JEPA (Bardes et al. 2024), V-JEPA 2 (Assran et al. 2025), SALT (Li et al. 2025).

An encoder sees the context, what large blocks leave of a clip. From its output a narrow transformer predicts the
features that another encoder, which sees the whole clip, has at the hidden tokens. That target encoder is a moving
average of the first one (V-JEPA), or it is frozen (SALT).

    build(model=vit("L", positions=rotary("tiled"), decoder_depth=12, …), masks={"short": multiblock(), …})
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vmae_jax.masking.multiblock import Multiblock
from vmae_jax.methods.baselines import loss_of, mean_targets, nearest_visible
from vmae_jax.methods.encoding import EncoderFeatures, encoded
from vmae_jax.models.classifier import everything
from vmae_jax.models.initial import divided_by_depth
from vmae_jax.models.variants import Model
from vmae_jax.patches import gather
from vmae_jax.registry import register
from vmae_jax.scopes import tower
from vmae_jax.spec import ConfigError, call
from vmae_jax.targets.core import Penalty, l1
from vmae_jax.types import Batch, Context, Loss, MaskPlan, Mean, Method, Params, Term, row_keys, stream

__all__ = ["Latent", "build", "few_tokens", "normalized"]

TARGET_EPSILON = 1e-5  # of the norm of the targets, which has no parameters: PyTorch's default


@dataclasses.dataclass(frozen=True)
class Latent(EncoderFeatures):
    """The functions of a latent predictor, which `build` returns as a `Method`."""

    model: Model
    masks: Mapping[str, Multiblock]
    teacher: Model | None
    penalty: Penalty
    normalize: bool

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder": …, "predictor": …}, with their partitioning boxes."""
        self.model.check(batch["video"].shape)
        encoder, predictor = self.model.encoder, self._predictor()
        plans = self.plans(batch)
        masks = next(iter(plans.values()))
        cubes = jnp.zeros((*masks.visible.shape, self.model.cube), jnp.float32)
        params = {"encoder": encoder.init(stream(key, "encoder"), cubes, masks)["params"]}
        seen = jnp.zeros((masks.visible.shape[0], encoder.prefix + masks.visible.shape[1], encoder.outputs))
        params["predictor"] = predictor.init(stream(key, "predictor"), seen.astype(encoder.dtype), masks)["params"]
        if encoder.initial == "vjepa":
            params = {name: divided_by_depth(one) for name, one in params.items()}
        return params, None

    def frozen(self, key: Array, batch: Batch) -> Params:
        """Return initial parameters of the teacher, {"teacher": …}, which `init_from` replaces."""
        teacher = self._target_model()
        cubes = jnp.zeros((1, teacher.grid.size, teacher.cube), jnp.float32)
        return {"teacher": teacher.encoder.init(stream(key, "teacher"), cubes, everything(*cubes.shape[:2]))["params"]}

    def plans(self, batch: Batch) -> dict[str, MaskPlan]:
        """Return the context and the targets of each mask, which are functions of the examples' seeds."""
        keys = stream(row_keys(batch["seed"]), "mask")
        with jax.named_scope("masks"):
            return {name: mask.plan(stream(keys, name), self.model.grid) for name, mask in self.masks.items()}

    def targets(self, weights: Params, batch: Batch) -> Float[Array, "b n d"]:
        """Return the target encoder's output for all tokens, before it is normalised. No gradient flows from it.

        Args:
          weights: of the target encoder.
          batch: of clips.
        """
        model = self._target_model()
        whole = everything(batch["video"].shape[0], model.grid.size)
        with tower("teacher"):
            found = encoded(model, jax.lax.stop_gradient(weights), batch, whole, train=False)
        return jax.lax.stop_gradient(found[:, model.encoder.prefix :])

    def predictions(
        self, params: Params, batch: Batch, masks: MaskPlan, number: int, *, train: bool
    ) -> dict[str, Float[Array, "b k d"]]:
        """Return what the predictor's heads make of one mask's context alone: "features", those of its targets.

        Args:
          number: of the mask.
        """
        seen = encoded(self.model, params["encoder"], batch, masks, train=train)
        token = number if self.model.decoder["mask_tokens"] > 1 else 0
        with tower("predictor"):
            return self._predictor().apply({"params": params["predictor"]}, seen, masks, token)

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the error of the predicted features, with one term for each mask, averaged over the masks.

        Metrics: `target_spread`, the standard deviation over a clip's tokens of the targets before they are normalised,
        averaged over channels, which goes to 0 if the features of all tokens become the same; and `loss_of_mean` and
        `loss_of_copy` of the first mask (`methods.baselines`).
        """
        self.model.check(batch["video"].shape)
        raw = self.targets(self._target_weights(context), batch)
        terms: dict[str, Term] = {}
        metrics: dict[str, Mean] = {"target_spread": self._spread(raw, batch)}
        for number, (name, masks) in enumerate(self.plans(batch).items()):
            predicted = self.predictions(params, batch, masks, number, train=context.train)["features"]
            weight = masks.weight * batch["valid"][:, None]
            with jax.named_scope("loss"):
                target = self._wanted(raw, masks.decode)
                terms[name] = self._term(predicted, target, weight, weight, 1.0 / len(self.masks))
            metrics |= {} if number else self._baselines(raw, target, masks, weight)
        return Loss(terms, metrics)

    def method(self) -> Method:
        """Return these functions as a method."""
        return Method(
            init=self.init,
            loss=self.loss,
            features=self.features,
            frame_features=self.frame_features,
            frozen=self.frozen if self.teacher is not None else None,
            averaged=self.teacher is None,
        )

    def _target_model(self) -> Model:
        return self.model if self.teacher is None else self.teacher

    def _target_weights(self, context: Context) -> Params:
        """The weights of the target encoder: the average of the encoder's, or the frozen teacher's.

        Raises:
          ConfigError: if the context has none.
        """
        if self.teacher is None and context.average is not None:
            return context.average["encoder"]
        if self.teacher is not None and context.frozen:
            return context.frozen["teacher"]
        raise ConfigError("the loss of a latent method needs its target encoder; use an evaluator of features instead")

    def _predictor(self) -> Any:
        return self.model.make_decoder({"features": self._target_model().encoder.outputs})

    def _wanted(self, raw: Float[Array, "b n d"], places: Int[Array, "b k"]) -> Float[Array, "b k d"]:
        """The targets at some tokens, float32."""
        found = gather(raw, places).astype(jnp.float32)
        return normalized(found, self._target_model().encoder.width) if self.normalize else found

    def _term(
        self,
        predicted: Float[Array, "b k d"],
        target: Float[Array, "b k d"],
        weight: Float[Array, "b k"],
        counted: Float[Array, "b k"],
        share: Any,
    ) -> Term:
        """The weighted error at some tokens, over how many are counted: weights are not divided by their sum."""
        error = self.penalty(predicted, target).mean(axis=-1)
        return Term(jnp.where(counted > 0, error * weight, 0.0).sum(), counted.sum(), jnp.float32(share))

    def _spread(self, raw: Float[Array, "b n d"], batch: Batch) -> Mean:
        valid = jnp.asarray(batch["valid"], jnp.float32)
        return Mean((raw.astype(jnp.float32).std(axis=1).mean(axis=-1) * valid).sum(), valid.sum())

    def _baselines(
        self, raw: Float[Array, "b n d"], target: Float[Array, "b k d"], masks: MaskPlan, weight: Float[Array, "b k"]
    ) -> dict[str, Mean]:
        copied = self._wanted(raw, nearest_visible(masks, self.model.grid))
        found = {"loss_of_mean": mean_targets(target, weight), "loss_of_copy": copied}
        return {name: loss_of(one, target, weight, self.penalty) for name, one in found.items()}


def normalized(x: Float[Array, "b k d"], width: int, epsilon: float = TARGET_EPSILON) -> Float[Array, "b k d"]:
    """Return features whose `width` channels, of each level by itself, have mean 0 and variance 1."""
    levels = x.reshape(*x.shape[:-1], -1, width)
    centred = levels - levels.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + epsilon)).reshape(x.shape)


def few_tokens(names: Iterable[str]) -> dict[str, Any]:
    """Return masks of these names that suit few tokens, for configs at `smoke` size."""
    return dict.fromkeys(names, call("masking.multiblock", count=2, scale=0.25, context=0.4, targets=0.4))


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"masks": few_tokens(given["masks"])}


@register("method", model="model", masks="blocks", teacher="model", penalty="penalty", smoke=_smoke)
def build(
    model: Model,
    masks: Mapping[str, Multiblock],
    teacher: Model | None = None,
    penalty: Penalty | None = None,
    normalize: bool = True,
) -> Method:
    """Return a latent predictor as a method.

    Without a teacher, the target is the moving average of the encoder, `train.ema_decay`; `eval.ema` and `--ema` then
    take that encoder, as the published evaluations do.

    Args:
      model: the encoder, and as its decoder the predictor, `models.variants.vit`.
      masks: what is predicted from what, by name; a clip is encoded once for each.
      teacher: a frozen target encoder on the same grid of tokens, `frozen/teacher`, which `init_from` sets. Its width
        may be another (SALT).
      penalty: of the errors; by default the absolute error.
      normalize: whether the targets of each token are normalised over their channels.

    Raises:
      ValueError: if there is no mask, one does not fit the grid, or the teacher has another grid.
    """
    if not masks:
        raise ValueError("masks is empty: name at least one, such as short=call('masking.multiblock', …)")
    for mask in masks.values():
        mask.counts(model.grid)
    tokens = model.decoder["mask_tokens"]
    if tokens not in (1, len(masks)):
        raise ValueError(f"mask_tokens={tokens}: one for all masks, or one for each of the {len(masks)}")
    if teacher is not None and (model.grid, model.video_shape) != (teacher.grid, teacher.video_shape):
        raise ValueError(
            f"teacher and student see the same clips as the same tokens; the teacher has {teacher.grid} tokens of "
            f"clips {teacher.video_shape}, the student {model.grid} of {model.video_shape}"
        )
    return Latent(model, dict(masks), teacher, penalty or l1(), normalize).method()
