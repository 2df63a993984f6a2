"""MVD (Wang et al. 2023): hidden tokens are predicted as the features of frozen teachers, of images and of video.

An encoder sees the visible tokens. For each teacher a decoder of its own predicts what the last block of that teacher,
which sees everything, has at the hidden tokens.

    build(model=vit("B", positions=sincos_time_space()), encoder_mask=tube(0.9), video_teacher=vit("B"))
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.masking.core import Masker, plan, select
from vmae_jax.methods import teachers
from vmae_jax.methods.baselines import loss_of, mean_targets
from vmae_jax.methods.encoding import EncoderFeatures, encoded
from vmae_jax.methods.latent import normalized
from vmae_jax.methods.masked import supervision
from vmae_jax.models.variants import Model
from vmae_jax.patches import gather, gather_cubes
from vmae_jax.registry import register
from vmae_jax.scopes import tower
from vmae_jax.spec import ConfigError
from vmae_jax.targets.core import Penalty, smooth_l1
from vmae_jax.types import Batch, Context, Loss, MaskPlan, Mean, Method, Params, Term, row_keys, stream

__all__ = ["MaskedDistillation", "Teacher", "build"]

EPSILON = 1e-6  # of the norm of the targets


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A frozen network, and the weight of its branch in the loss."""

    model: Model
    weight: float


@dataclasses.dataclass(frozen=True)
class MaskedDistillation(EncoderFeatures):
    """The functions of masked distillation, which `build` returns as a `Method`."""

    model: Model
    encoder_mask: Masker
    teachers: Mapping[str, Teacher]
    penalty: Penalty
    normalize: bool

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder": …, "image_decoder": …, "video_decoder": …}, with their boxes."""
        self.model.check(batch["video"].shape)
        encoder, grid = self.model.encoder, self.model.grid
        b = batch["video"].shape[0]
        masks = select(jnp.zeros((b, grid.size)), self.encoder_mask.keep(grid))
        cubes = self.model.normalize(gather_cubes(batch["video"], masks.visible, self.model.patch))
        params = {"encoder": encoder.init(stream(key, "encoder"), cubes, masks)["params"]}
        tokens = jnp.zeros((b, encoder.prefix + masks.visible.shape[1], encoder.width), encoder.dtype)
        for name in self.teachers:
            decoder = f"{name}_decoder"
            params[decoder] = self._decoder(name).init(stream(key, decoder), tokens, masks)["params"]
        return params, None

    def frozen(self, key: Array, batch: Batch) -> Params:
        """Return initial parameters of the teachers, {"image_teacher": …, "video_teacher": …}."""
        del batch
        named = {f"{name}_teacher": one.model for name, one in self.teachers.items()}
        return {name: teachers.initial(model, stream(key, name)) for name, model in named.items()}

    def plan(self, batch: Batch) -> MaskPlan:
        """Return the masks of a batch, which are functions of the examples' seeds."""
        keys = stream(row_keys(batch["seed"]), "mask")
        with jax.named_scope("masks"):
            return plan(keys, batch, self.model.grid, self.encoder_mask)

    def targets(self, frozen: Params, batch: Batch, name: str) -> Float[Array, "b n d"]:
        """Return what the last block of a teacher has at every token, without its final norm.

        Args:
          frozen: the parameters of the teachers.
          batch: of clips.
          name: "image" or "video".

        Raises:
          ConfigError: if there are no parameters of the teacher.
        """
        if not frozen or f"{name}_teacher" not in frozen:
            raise ConfigError("the loss of masked distillation needs its teachers; use an evaluator of features")
        one = self.teachers[name].model
        return teachers.seen(one, frozen[f"{name}_teacher"], batch, self.model, levels=1).levels[0]

    def predictions(self, params: Params, batch: Batch, masks: MaskPlan, *, train: bool) -> dict[str, Array]:
        """Return the predicted features of each teacher at the hidden tokens, [b k d] float32."""
        tokens = encoded(self.model, params["encoder"], batch, masks, train=train)
        found = {}
        for name in self.teachers:
            with tower(f"{name}_decoder"):
                decoder = self._decoder(name)
                found[name] = decoder.apply({"params": params[f"{name}_decoder"]}, tokens, masks)["features"]  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]
        return found

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the errors of the predicted features, one term for each teacher.

        Metrics of each teacher: `NAME_spread`, the deviation of its features over the tokens of a clip, averaged over
        channels; and `NAME_of_mean`, the loss of always predicting the mean of a clip's targets.
        """
        self.model.check(batch["video"].shape)
        masks = self.plan(batch)
        predicted = self.predictions(params, batch, masks, train=context.train)
        valid = jnp.asarray(batch["valid"], jnp.float32)
        weight = masks.weight * valid[:, None]
        terms: dict[str, Term] = {}
        metrics: dict[str, Mean] = {}
        for name, one in self.teachers.items():
            raw = self.targets(context.frozen, batch, name).astype(jnp.float32)
            with jax.named_scope("loss"):
                target = gather(raw, masks.decode)
                target = normalized(target, target.shape[-1], EPSILON) if self.normalize else target
                found = loss_of(predicted[name], target, weight, self.penalty)
                terms[name] = Term(found.total, found.count, jnp.float32(one.weight))
                metrics[f"{name}_of_mean"] = loss_of(mean_targets(target, weight), target, weight, self.penalty)
                metrics[f"{name}_spread"] = Mean((raw.std(axis=1).mean(axis=-1) * valid).sum(), valid.sum())
        return Loss(terms, metrics)

    def method(self) -> Method:
        """Return these functions as a method."""
        return Method(
            init=self.init,
            loss=self.loss,
            features=self.features,
            frame_features=self.frame_features,
            frozen=self.frozen,
            check_first=self.encoder_mask.check,
            supervision=supervision((self.encoder_mask,), ()),
        )

    def _decoder(self, name: str) -> Any:
        return self.model.make_decoder({"features": self.teachers[name].model.encoder.width})


@register("method", model="model", encoder_mask="mask", image_teacher="model", video_teacher="model", penalty="penalty")
def build(
    model: Model,
    encoder_mask: Masker,
    image_teacher: Model | None = None,
    video_teacher: Model | None = None,
    image_weight: float = 1.0,
    video_weight: float = 1.0,
    penalty: Penalty | None = None,
    normalize: bool = False,
) -> Method:
    """Return masked distillation as a method.

    The teachers' weights are `frozen/image_teacher` and `frozen/video_teacher`, which `init_from` sets.

    Args:
      model: the encoder, and the form of the decoders, `models.variants.vit`. Each teacher has a decoder of its own.
      encoder_mask: which tokens the encoder sees.
      image_teacher: an encoder of images (one frame), which sees the first frame of each tubelet.
      video_teacher: an encoder of the same clips and tokens. Widths of teachers may be others than the student's.
      image_weight, video_weight: of the terms of the loss; a term of weight 0 is measured alone.
      penalty: of the errors; by default `targets.core.smooth_l1`.
      normalize: whether the targets of each token are normalised over their channels.

    Raises:
      ValueError: if there is no teacher, one does not have the student's tokens, or a weight is negative.
    """
    given = {"image": (image_teacher, image_weight), "video": (video_teacher, video_weight)}
    chosen = {name: Teacher(one, weight) for name, (one, weight) in given.items() if one is not None}
    if not chosen:
        raise ValueError("give image_teacher, video_teacher or both")
    for name, one in chosen.items():
        teachers.check(f"{name}_teacher", one.model, model)
        if one.weight < 0:
            raise ValueError(f"{name}_weight={one.weight}: must not be negative")
    if image_teacher is not None and image_teacher.video_shape[0] != 1:
        raise ValueError("image_teacher is a model of one frame (frames=1, tubelet=1); use video_teacher for clips")
    encoder_mask.keep(model.grid)
    return MaskedDistillation(model, encoder_mask, chosen, penalty or smooth_l1(), normalize).method()
