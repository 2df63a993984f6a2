"""DiffMAE (Wei et al. 2023): hidden cubes are denoised, given the visible ones.

The encoder sees the visible cubes, without noise. The decoder gets the hidden cubes with noise of a random strength and
predicts them clean. With nothing but noise left this is a masked autoencoder; from there to no noise it samples. With a
frozen teacher, such as CLIP, its features of the hidden cubes get the noise and are predicted, in place of pixels.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.masking.core import Masker
from vmae_jax.methods import teachers
from vmae_jax.methods.diffusion import Diffusion, diffusion
from vmae_jax.methods.encoding import encoded
from vmae_jax.methods.masked import Masked, Pass
from vmae_jax.methods.pictures import reconstruction
from vmae_jax.models.denoiser import KINDS, Denoiser, encoder_layers
from vmae_jax.models.rotary import Rotary
from vmae_jax.models.variants import Model
from vmae_jax.registry import register
from vmae_jax.targets.core import Objective
from vmae_jax.targets.features import Features
from vmae_jax.targets.pixels import Pixels
from vmae_jax.types import Batch, Context, MaskPlan, Method, Params, Pictures, row_keys, stream

__all__ = ["Denoising", "build"]


@dataclasses.dataclass(frozen=True)
class Denoising(Masked):
    """The functions of DiffMAE; there is one objective.

    Attributes:
      diffusion: how noise is added.
      kind: of the decoder (`models.denoiser.Denoiser`).
      samples: predictions of a sample.
    """

    diffusion: Diffusion = dataclasses.field(default_factory=lambda: diffusion(1000, 0.8))
    kind: str = "cross_self"
    samples: int = 100

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder": …, "decoder": …}, with their partitioning boxes."""
        model = self.model
        model.check(batch["video"].shape)
        masks = self._any_plan(1)
        v, k = masks.visible.shape[1], masks.decode.shape[1]
        cubes = jnp.zeros((1, v, model.cube))
        encoder = model.encoder.init(stream(key, "encoder"), cubes, masks)["params"]
        tokens = jnp.zeros((1, model.encoder.prefix + v, model.encoder.width), model.encoder.dtype)
        layers = jnp.broadcast_to(tokens, (max(len(self._collected), 1), *tokens.shape))
        decoder = self._decoder(batch)
        noisy = jnp.zeros((1, k, next(iter(decoder.heads.values()))))
        given = (tokens, layers, masks, noisy, jnp.ones((1,), jnp.int32))
        return {"encoder": encoder, "decoder": decoder.init(stream(key, "decoder"), *given)["params"]}, None

    def encode_layers(self, params: Params, batch: Batch, masks: MaskPlan, *, train: bool) -> tuple[Array, Any]:
        """Return the encoded prefix and visible tokens, and the same after those blocks that the decoder reads."""
        model = dataclasses.replace(self.model, encoder=self.model.encoder.clone(collect=self._collected))
        found = encoded(model, params["encoder"], batch, masks, train=train)
        return found if self._collected else (found, None)

    def denoiser(self, params: Params, batch: Batch, masks: MaskPlan, *, train: bool) -> tuple[Array, Callable]:
        """Encode the visible cubes once, and return the tokens and the decoder, (noisy [b k p], times [b]) -> clean."""
        tokens, layers = self.encode_layers(params, batch, masks, train=train)
        decoder, weights = self._decoder(batch), {"params": params["decoder"]}
        return tokens, lambda noisy, time: decoder.apply(weights, tokens, layers, masks, noisy, time)

    def noise(self, batch: Batch, masks: MaskPlan, size: int) -> Array:
        """Return standard normal values for the hidden cubes of each example, [b k size]."""
        keys = stream(row_keys(batch["seed"]), "noise")
        return jax.vmap(lambda key: jax.random.normal(key, (masks.decode.shape[1], size)))(keys)

    def forward(self, params: Params, batch: Batch, context: Context, *, decode_all: bool = False) -> Pass:
        """Add noise of a random time to the hidden cubes, and predict them."""
        self.model.check(batch["video"].shape)
        batch = self.annotated(context.frozen, batch)
        masks = self.plan(batch, decode_all=decode_all)
        with jax.named_scope("targets"):
            clean = self._objective.target(batch, masks.decode, self.model.patch)
            time = self.diffusion.times(stream(row_keys(batch["seed"]), "time"))
            noisy = self.diffusion.noised(clean, time, self.noise(batch, masks, clean.shape[-1]))
        tokens, denoise = self.denoiser(params, batch, masks, train=context.train)
        return Pass(batch, masks, tokens, denoise(jax.lax.stop_gradient(noisy), time))

    def reconstruct(self, params: Params, batch: Batch, context: Context, *, mask: Masker | None = None) -> Pictures:
        """Return the original, the visible cubes, the prediction from nothing but noise, and a sample.

        Args:
          mask: replaces that of the encoder.
        """
        one = self if mask is None else dataclasses.replace(self, encoder_mask=mask)
        batch = one.annotated(context.frozen, batch)
        masks = one.plan(batch, decode_all=True)
        _, denoise = one.denoiser(params, batch, masks, train=False)
        name, target = next(iter(self.objectives)), self._objective.target
        assert isinstance(target, Pixels)
        size = next(iter(self._decoder(batch).heads.values()))
        noise = one.noise(batch, masks, size)

        def clean(noisy: Array, time: Array) -> Array:
            return denoise(noisy, jnp.broadcast_to(time, len(noisy)))[name]

        keys = stream(row_keys(batch["seed"]), "sampling")
        found = {"reconstructed": clean(noise, jnp.int32(self.diffusion.steps))}
        found["sampled"] = self.diffusion.sample(clean, noise, keys, self.samples)
        rows, borrowed = {}, []
        for word, prediction in found.items():
            pictures = reconstruction(
                batch["video"], masks, prediction, target, self.model.grid, self.model.patch, word=word
            )
            rows |= pictures.rows
            borrowed += pictures.borrowed
        return Pictures.of(rows, tuple(borrowed))

    @property
    def _objective(self) -> Objective:
        return next(iter(self.objectives.values()))

    @property
    def _layers(self) -> list[int]:
        """After how many blocks of the encoder each block of the decoder reads it."""
        depths = self.model.encoder.blocks["depth"], self.model.decoder["blocks"]["depth"]
        return [] if self.kind == "joint" else encoder_layers(*depths)

    @property
    def _collected(self) -> tuple[int, ...]:
        """The blocks of the encoder that are read, from 0."""
        return tuple(sorted({layer - 1 for layer in self._layers}))

    def _make_decoder(self, heads: Mapping[str, int]) -> Any:
        reads = tuple(self._collected.index(layer - 1) for layer in self._layers)
        return Denoiser(**self.model.decoder, heads=dict(heads), kind=self.kind, reads=reads)


@register("method", model="model", encoder_mask="mask", objectives="objective", teacher="model", smoke={"samples": 4})
def build(
    model: Model,
    encoder_mask: Masker,
    objectives: Mapping[str, Objective],
    kind: str = "cross_self",
    steps: int = 1000,
    exponent: float = 0.8,
    samples: int = 100,
    teacher: Model | None = None,
) -> Method:
    """Return DiffMAE as a method.

    Args:
      model: encoder and decoder, `models.variants.vit`.
      encoder_mask: which tokens the encoder sees; all others are denoised.
      objectives: what is predicted, one objective under a name. Its targets are what noise is added to, so their
        deviation should be about 1.
      kind: of the decoder, one of `models.denoiser.KINDS`.
      steps: times of the diffusion.
      exponent: the power to which its noise rates are raised (`methods.diffusion.diffusion`).
      samples: predictions of a sample in reconstructions.
      teacher: a frozen encoder of images, which sees the first frame of each tubelet, or of the model's clips, whose
        features are the objective's target, `targets.features`. Its weights are `frozen/teacher`.

    Raises:
      ValueError: if there is not one objective, a number is out of range, the model has parts that the decoder does
        not have, the mask does not fit its grid, a teacher has other tokens than the model, or there is a teacher
        without an objective of its features, or the other way round.
    """
    if len(objectives) != 1:
        raise ValueError(f"objectives: one of them gets noise and is predicted; got {', '.join(objectives) or 'none'}")
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
    if not 1 <= samples <= steps:
        raise ValueError(f"samples={samples}: from 1 to the {steps} steps of the diffusion")
    blocks = model.decoder["blocks"]
    if kind != "joint" and (blocks["cosine"] or blocks["layer_scale"] or isinstance(model.encoder.positions, Rotary)):
        raise ValueError(
            'model: decoders of kind "cross" and "cross_self" have no cosine_attention, no layer_scale and no rotary '
            "positions"
        )
    encoder_mask.keep(model.grid)
    if (teacher is None) == isinstance(next(iter(objectives.values())).target, Features):
        raise ValueError("teacher: its features are the target of the objective, call('targets.features'); give both")
    options = {"diffusion": diffusion(steps, exponent), "kind": kind, "samples": samples}
    if teacher is not None:
        teachers.check("teacher", teacher, model)
        options["guides"] = {"teacher": teachers.guide(teacher, model)}
    return Denoising(model, encoder_mask, None, dict(objectives), **options).method()
