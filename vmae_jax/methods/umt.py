"""UMT (Li et al. 2023), and stage 1 of InternVideo2: visible tokens are aligned with those of a frozen teacher.

The teacher sees every token; the student sees those that the teacher attends to, and is to give them the directions
that the teacher's last blocks give them. Nothing hidden is predicted, so there is no decoder.

    build(model=vit("B", frames=8, tubelet=1), teacher=vit("B", frames=1, …), encoder_mask=attention_guided(0.8))
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vmae_jax.masking.attention_guided import STREAM
from vmae_jax.masking.core import Masker, plan, select
from vmae_jax.methods import teachers
from vmae_jax.methods.encoding import EncoderFeatures
from vmae_jax.methods.masked import supervision
from vmae_jax.methods.pretrained import projected, projector
from vmae_jax.models.aligned import Aligned
from vmae_jax.models.layers import LayerNorm
from vmae_jax.models.positions import sinusoid_1d
from vmae_jax.models.variants import Model
from vmae_jax.patches import gather, gather_cubes
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError
from vmae_jax.types import Batch, Context, Loss, MaskPlan, Method, Params, Term, row_keys, stream
from vmae_jax.vectors import unit

__all__ = ["Aligning", "Taught", "build"]


@dataclasses.dataclass(frozen=True)
class Taught:
    """What a batch is compared with: unit vectors, by the names of the heads.

    Attributes:
      tokens: for every token of a clip, [b n e].
      pooled: for whole clips, [b e]; empty where these are not compared.
      attention: what each token receives, [b n].
    """

    tokens: Mapping[str, Float[Array, "b n e"]]
    pooled: Mapping[str, Float[Array, "b e"]]
    attention: Float[Array, "b n"]


@dataclasses.dataclass(frozen=True)
class Aligning(EncoderFeatures):
    """The functions of an aligned student, which `build` returns as a `Method`."""

    model: Model
    teacher: Model
    encoder_mask: Masker
    layers: int
    projection: int | None
    video_teacher: Model | None
    video_layers: int
    pooled: bool

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder": …, "heads": …}, with their partitioning boxes."""
        self.model.check(batch["video"].shape)
        grid, encoder = self.model.grid, self.model.encoder
        masks = select(jnp.zeros((batch["video"].shape[0], grid.size)), self.encoder_mask.keep(grid))
        cubes = self.model.normalize(gather_cubes(batch["video"], masks.visible, self.model.patch))
        params = {"encoder": encoder.init(stream(key, "encoder"), cubes, masks)["params"]}
        heads = self._heads()
        tokens = {name: jnp.zeros((1, encoder.width)) for name in heads.sizes}
        params["heads"] = heads.init(stream(key, "heads"), tokens)["params"]
        return params, None

    def frozen(self, key: Array, batch: Batch) -> Params:
        """Return initial parameters of the teachers, {"teacher": …, "projector": …, "video_teacher": …}."""
        del batch
        found = {"teacher": teachers.initial(self.teacher, stream(key, "teacher"))}
        if self.projection is not None:
            token = jnp.zeros((1, self.teacher.encoder.width))
            found["projector"] = projector(self.projection).init(stream(key, "projector"), token)["params"]
        if self.video_teacher is not None:
            found["video_teacher"] = teachers.initial(self.video_teacher, stream(key, "video_teacher"))
        return found

    def taught(self, frozen: Params, batch: Batch) -> Taught:
        """Return what the teachers make of whole clips.

        Raises:
          ConfigError: if there are no parameters of the teachers.
        """
        if not frozen or "teacher" not in frozen:
            raise ConfigError("the loss of an aligned student needs its teacher; use an evaluator of features instead")
        frozen = jax.lax.stop_gradient(frozen)
        weights = frozen["teacher"]
        found = teachers.seen(self.teacher, weights, batch, self.model, levels=self.layers, attended=True)
        tokens = self._directions(self.teacher, weights, found.levels, frozen.get("projector"))
        taught = {f"image_{i}": one for i, one in enumerate(tokens)}
        pooled = {}
        if self.pooled:
            assert found.classes is not None
            whole = found.classes if self.projection is None else projected(frozen["projector"], found.classes)
            pooled = {"pooled": unit(jnp.asarray(whole).astype(jnp.float32).mean(axis=1))}
        if self.video_teacher is not None:
            weights = frozen["video_teacher"]
            seen = teachers.seen(self.video_teacher, weights, batch, self.model, levels=self.video_layers)
            tokens = self._directions(self.video_teacher, weights, seen.levels, None)
            taught |= {f"video_{i}": one for i, one in enumerate(tokens)}
        assert found.attention is not None
        return Taught(taught, pooled, found.attention)

    def plan(self, batch: Batch) -> MaskPlan:
        """Return the masks of a batch that has the teacher's attention."""
        keys = stream(row_keys(batch["seed"]), "mask")
        with jax.named_scope("masks"):
            return plan(keys, batch, self.model.grid, self.encoder_mask)

    def aligned(self, params: Params, batch: Batch, masks: MaskPlan, *, train: bool) -> dict[str, Array]:
        """Return the student's unit vectors by head: of visible tokens [b v e], and "pooled" [b e]."""
        model, encoder = self.model, self.model.encoder
        depth, count = encoder.blocks["depth"], max(self.layers, self.video_layers)
        with jax.named_scope("cubes"):
            cubes = model.normalize(gather_cubes(batch["video"], masks.visible, model.patch))
        keys = stream(row_keys(batch["seed"]), "drop_path") if train else None
        collecting: Any = encoder.clone(collect=tuple(range(depth - count, depth)))
        last, levels = collecting.apply({"params": params["encoder"]}, cubes, masks, keys)
        norm = LayerNorm(encoder.dtype, encoder.style.epsilon)
        normed = jnp.asarray(norm.apply({"params": params["encoder"]["norm"]}, levels[:, :, encoder.prefix :]))
        places = sinusoid_1d()(model.grid, encoder.width).apply({}, masks.visible)
        normed = normed + jnp.asarray(places).astype(normed.dtype)
        tokens = {f"image_{i}": normed[count - self.layers + i] for i in range(self.layers)}
        tokens |= {f"video_{i}": normed[count - self.video_layers + i] for i in range(self.video_layers)}
        tokens |= {"pooled": last[:, 0]} if self.pooled else {}
        return self._heads().apply({"params": params["heads"]}, tokens)  # pyright: ignore[reportReturnType]

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return 2 - 2 cos between student and teachers, averaged over layers and visible tokens.

        Terms: "image", and with a second teacher "video", and "pooled".
        """
        self.model.check(batch["video"].shape)
        taught = self.taught(context.frozen, batch)
        masks = self.plan({**batch, STREAM: taught.attention})
        mine = self.aligned(params, batch, masks, train=context.train)
        valid = jnp.asarray(batch["valid"], jnp.float32)
        terms: dict[str, Term] = {}
        with jax.named_scope("loss"):
            for kind, count in (("image", self.layers), ("video", self.video_layers)):
                names = [f"{kind}_{i}" for i in range(count)]
                errors = [_apart(mine[name], gather(taught.tokens[name], masks.visible)).mean(axis=1) for name in names]
                terms |= {kind: _mean(sum(errors) / count, valid)} if names else {}
            if self.pooled:
                terms["pooled"] = _mean(_apart(mine["pooled"], taught.pooled["pooled"]), valid)
        return Loss(terms)

    def method(self) -> Method:
        """Return these functions as a method."""
        needed = supervision((self.encoder_mask,), ())
        return Method(
            init=self.init,
            loss=self.loss,
            features=self.features,
            frame_features=self.frame_features,
            frozen=self.frozen,
            check_first=self.encoder_mask.check,
            supervision=tuple(name for name in needed if name != STREAM),
        )

    def _directions(self, model: Model, weights: Params, levels: Array, projection: Params | None) -> Array:
        """Unit vectors of a teacher's tokens: its final norm, its projection where it has one, over their length."""
        norm = LayerNorm(model.encoder.dtype, model.encoder.style.epsilon)
        tokens = jnp.asarray(norm.apply({"params": weights["norm"]}, levels))
        return unit(tokens if projection is None else projected(projection, tokens))

    def _heads(self) -> Aligned:
        size = self.projection or self.teacher.encoder.width
        sizes = {f"image_{i}": size for i in range(self.layers)}
        if self.video_teacher is not None:
            sizes |= {f"video_{i}": self.video_teacher.encoder.width for i in range(self.video_layers)}
        sizes |= {"pooled": size} if self.pooled else {}
        return Aligned(sizes, self.model.encoder.dtype, self.model.encoder.initial)


def _apart(mine: Float[Array, "... e"], theirs: Float[Array, "... e"]) -> Float[Array, "..."]:
    """2 - 2 cos of unit vectors, from 0 to 4."""
    return 2.0 - 2.0 * (mine * theirs).sum(axis=-1)


def _mean(error: Any, valid: Float[Array, "b"]) -> Term:
    return Term(jnp.where(valid > 0, error, 0.0).sum(), valid.sum())


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: min(given[name], 2) for name in ("layers", "video_layers")}


@register("method", model="model", teacher="model", encoder_mask="mask", video_teacher="model", smoke=_smoke)
def build(
    model: Model,
    teacher: Model,
    encoder_mask: Masker,
    layers: int = 6,
    projection: int | None = None,
    video_teacher: Model | None = None,
    video_layers: int = 0,
    pooled: bool = False,
) -> Method:
    """Return an aligned student as a method.

    The weights of the teachers are `frozen/teacher`, `frozen/projector` and `frozen/video_teacher`, which `init_from`
    sets.

    Args:
      model: its encoder is the student, `models.variants.vit`; its decoder is not used.
      teacher: an encoder of images, which sees the first frame of each tubelet, or of the student's clips.
      encoder_mask: which tokens the student sees, such as `masking.attention_guided`, which draws those that the
        teacher attends to. Others need no attention.
      layers: how many of the last blocks are compared, the last with the last and so on.
      projection: the size of the embedding to which the teacher's tokens are projected (CLIP).
      video_teacher: a second teacher, of the student's clips (InternVideo2).
      video_layers: how many of its last blocks are compared.
      pooled: whether the class token of the student is compared with that of the teacher, averaged over pictures
        (InternVideo2).

    Raises:
      ValueError: if a teacher does not have the student's tokens or too few blocks, or class tokens are missing.
    """
    teachers.check("teacher", teacher, model)
    if video_teacher is not None:
        teachers.check("video_teacher", video_teacher, model)
    if (video_teacher is None) != (video_layers == 0):
        raise ValueError(f"video_layers={video_layers}: at least 1 with a video_teacher, and 0 without one")
    depths = {"model": model, "teacher": teacher} | ({} if video_teacher is None else {"video_teacher": video_teacher})
    for name, one in depths.items():
        depth, needed = one.encoder.blocks["depth"], max(layers, 2)
        needed = {"video_teacher": video_layers, "model": max(layers, video_layers)}.get(name, needed)
        if not 1 <= needed <= depth or layers < 1:
            raise ValueError(
                f"layers={layers}, video_layers={video_layers}: {name} has {depth} blocks, {needed} are needed"
            )
    if teacher.encoder.blocks["cosine"] or teacher.encoder.causal or model.encoder.levels:
        raise ValueError("a teacher with cosine attention or a causal one, and a student with levels, are impossible")
    if pooled and not (model.encoder.prefix and teacher.encoder.prefix):
        raise ValueError("pooled compares class tokens: student and teacher need prefix=1")
    encoder_mask.keep(model.grid)
    return Aligning(model, teacher, encoder_mask, layers, projection, video_teacher, video_layers, pooled).method()
