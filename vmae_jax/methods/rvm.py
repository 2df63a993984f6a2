"""RVM (Zoran et al., CVPR 2026): a state that is carried from frame to frame predicts frames of the future.

Every frame is encoded by itself. A gated core folds the source frames into a state, and a decoder that attends to the
states after each of them predicts a later frame, of which almost everything is hidden. It knows how much later that
frame is. The features of a frame are the state after it, so a video is read frame by frame at a constant cost.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vmae_jax.masking.core import Masker
from vmae_jax.methods.encoding import part_keys
from vmae_jax.methods.masked import Masked, Pass
from vmae_jax.methods.siamese import SHARED
from vmae_jax.models.classifier import everything
from vmae_jax.models.cross import CrossDecoder
from vmae_jax.models.frames import frame_tokens
from vmae_jax.models.recurrent import GatedCore
from vmae_jax.models.variants import Model
from vmae_jax.patches import patchify
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError, call
from vmae_jax.targets.core import Objective
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Params, Pictures, row_keys, stream

__all__ = ["Recurrent", "States", "build"]

GAPS = 64  # distances that have a learned vector each [code]


class States(NamedTuple):
    """What the core makes of a clip.

    Attributes:
      states: those after each frame, [b t n d] float32.
      update: the mean of the update gate at each frame, [b t].
    """

    states: Array
    update: Array


@dataclasses.dataclass(frozen=True)
class Recurrent(Masked):
    """The functions of RVM.

    Attributes:
      sources: frames at the beginning of a clip that are seen; those after them are predicted.
      core_depth, gaps: as in `build`.
    """

    sources: int = 4
    core_depth: int = 4
    gaps: int = GAPS

    def init(self, key: Array, batch: Batch) -> tuple[Params, None]:
        """Return initial parameters, {"encoder": …, "core": …, "decoder": …}, with their partitioning boxes."""
        self._check_clips(batch["video"].shape)
        encoder, masks = self.model.encoder, self._any_plan(1)
        cubes = jnp.zeros((1, masks.visible.shape[1], self.model.cube))
        whole = jnp.zeros((1, encoder.prefix + self.model.grid.size, encoder.width))
        seen = jnp.zeros((1, encoder.prefix + masks.visible.shape[1], encoder.width), encoder.dtype)
        gap = jnp.zeros(1, jnp.int32)
        decoder = self._decoder(self.split(batch)[1])
        return {
            "encoder": encoder.init(stream(key, "encoder"), cubes, masks)["params"],
            "core": self.core.init(stream(key, "core"), whole, whole)["params"],
            "decoder": decoder.init(stream(key, "decoder"), seen, masks, whole, gap=gap)["params"],
        }, None

    @property
    def core(self) -> GatedCore:
        """The core, with the width and the blocks' form of the encoder."""
        blocks = self.model.encoder.blocks
        shared = {name: blocks[name] for name in (*SHARED, "hidden", "style")}
        return GatedCore({**shared, "norm": "late", "depth": self.core_depth}, self.model.encoder.dtype)

    def split(self, batch: Batch) -> tuple[Batch, Batch]:
        """Return the source and the target frames of a batch as batches of single frames, b·t rows.

        Each has seeds of its own. The second has "gap", the frames from the last source to each target.
        """
        video = jnp.asarray(batch["video"])
        b, t = video.shape[:2]
        keys = part_keys(row_keys(batch["seed"]), t)
        seeds = jax.vmap(lambda key: jax.random.bits(stream(key, "frame"), (2,), jnp.uint32))(keys).reshape(b, t, 2)

        def frames(of: slice, count: int) -> Batch:
            shared = {name: jnp.repeat(jnp.asarray(batch[name]), count, axis=0) for name in ("index", "valid")}
            return {**shared, "video": _rows(video[:, of, None]), "seed": _rows(seeds[:, of])}

        past, future = slice(self.sources), slice(self.sources, t)
        numbers = jnp.asarray(batch["frames"])
        gap = numbers[:, self.sources :] - numbers[:, self.sources - 1, None]
        return frames(past, self.sources), {**frames(future, t - self.sources), "gap": gap.reshape(-1)}

    def fold(self, params: Params, tokens: Float[Array, "b t n d"], state: Array | None = None) -> States:
        """Carry a state through the encoded frames of clips.

        Args:
          tokens: of each frame, prefix included.
          state: before the first of them, [b n d]; None is zero.
        """

        def step(state: Array, tokens: Array) -> tuple[Array, tuple[Array, Array]]:
            found: Any = self.core.apply({"params": params["core"]}, state, tokens)
            state, update = found
            return state, (state, update.mean(axis=(1, 2)))

        begin = jnp.zeros((tokens.shape[0], *tokens.shape[2:]), jnp.float32) if state is None else state
        states, update = jax.lax.scan(step, begin, tokens.swapaxes(0, 1))[1]
        return States(states.swapaxes(0, 1), update.swapaxes(0, 1))

    def predicted(
        self, params: Params, batch: Batch, context: Context, *, decode_all: bool = False
    ) -> tuple[Pass, States]:
        """Predict the target frames, one row each, and return the states that they are predicted from."""
        self._check_clips(batch["video"].shape)
        past, future = self.split(batch)
        rows = len(batch["video"])
        masks = self.plan(future, decode_all=decode_all)
        whole = everything(len(past["video"]), self.model.grid.size)
        tokens = self.encode(params, past, whole, train=context.train)
        states = self.fold(params, tokens.reshape(rows, self.sources, *tokens.shape[1:]))
        encoded = self.encode(params, future, masks, train=context.train)
        memory = states.states.reshape(rows, -1, tokens.shape[-1]).astype(tokens.dtype)
        weights = {"params": params["decoder"]}
        predictions: Any = self._decoder(future).apply(weights, encoded, masks, memory, gap=future["gap"])
        return Pass(future, masks, encoded, predictions), states

    def forward(self, params: Params, batch: Batch, context: Context, *, decode_all: bool = False) -> Pass:
        """Predict the target frames; the result has a row for each."""
        return self.predicted(params, batch, context, decode_all=decode_all)[0]

    def loss(self, params: Params, batch: Batch, context: Context) -> Loss:
        """Return the error of the target frames.

        Metrics: `update`, the mean of the update gate (near 1, nothing is remembered); `state_norm`, the mean length
        of the last state's tokens; `copied`, the error of the last source in place of a prediction.
        """
        done, found = self.predicted(params, batch, context)
        valid = jnp.asarray(batch["valid"], jnp.float32)
        update, length = found.update.mean(axis=1), jnp.linalg.norm(found.states[:, -1], axis=-1).mean(axis=-1)
        metrics = {
            name: Mean((one * valid).sum(), valid.sum()) for name, one in (("update", update), ("state_norm", length))
        }
        last = jnp.asarray(batch["video"])[:, self.sources - 1, None]
        later = {**done.batch, "video": jnp.repeat(last, len(done.batch["video"]) // len(last), axis=0)}
        for name, objective in self.objectives.items():
            copied = objective.target(later, done.masks.decode, self.model.patch)
            term = self.terms(done._replace(predictions={**done.predictions, name: copied}))[name]
            metrics["copied" if len(self.objectives) == 1 else f"copied_{name}"] = Mean(term.total, term.count)
        return Loss(self.terms(done), metrics)

    def features(self, params: Params, batch: Batch, *, layer: int | None = None, pool: bool = True) -> Array:
        """Return the states after each frame of clips of any length, [b d], or [b n d] in (t, h, w) order.

        Args:
          layer: in place of the states, the tokens of each frame by itself after this many blocks of the encoder.
        """
        video = jnp.asarray(batch["video"])
        if video.shape[2:] != self.model.video_shape[1:]:
            self.model.check((1, 1, *video.shape[2:]))
        encoder, weights = self.model.encoder, params["encoder"]
        if layer is not None:
            encoder, weights = encoder.shallow(weights, layer)
        cubes = self.model.normalize(patchify(_rows(video[:, :, None]), self.model.patch))
        tokens = jnp.asarray(encoder.apply({"params": weights}, cubes, everything(*cubes.shape[:2])))
        tokens = tokens.reshape(*video.shape[:2], *tokens.shape[1:])
        tokens = self.fold(params, tokens).states if layer is None else tokens.astype(jnp.float32)
        tokens = tokens[:, :, encoder.prefix :].reshape(video.shape[0], -1, tokens.shape[-1])
        return tokens.mean(axis=1) if pool else tokens

    def frame_features(self, params: Params, frames: Array, *, layer: int | None = None) -> Array:
        """Return the state after each picture where that is the first of a video; `layer` as in `features`."""
        if layer is not None:
            return super().frame_features(params, frames, layer=layer)
        tokens, grid = frame_tokens(self.model, self.model.encoder, params["encoder"], frames)
        states = self.fold(params, tokens[:, None]).states[:, 0, self.model.encoder.prefix :]
        return states.reshape(len(frames), grid.h, grid.w, -1)

    def frame_states(
        self, params: Params, frames: UInt8[Array, "t h w c"], state: Array | None = None
    ) -> tuple[Float[Array, "t y x d"], Float[Array, "t 1 n d"]]:
        """Return the states after successive pictures of one video, of any size, in place, and as they are carried.

        Args:
          state: after the picture before, [1 n d]; None at the beginning of a video.
        """
        tokens, grid = frame_tokens(self.model, self.model.encoder, params["encoder"], frames)
        states = self.fold(params, tokens[None], state).states[0]
        placed = states[:, self.model.encoder.prefix :].reshape(len(frames), grid.h, grid.w, -1)
        return placed, states[:, None]

    def reconstruct(self, params: Params, batch: Batch, context: Context, *, mask: Masker | None = None) -> Pictures:
        """Draw the target frames, the last source, what is visible of the targets, and their predictions."""
        pictures = super().reconstruct(params, batch, context, mask=mask)
        video = jnp.asarray(batch["video"])
        b, t = len(video), video.shape[1] - self.sources
        (original, *others) = (one.reshape(b, t, *one.shape[2:]) for one in pictures.videos)
        name, *names = pictures.names
        reference = jnp.repeat(video[:, self.sources - 1, None], t, axis=1)
        videos = (original, reference, *others)
        return dataclasses.replace(pictures, videos=videos, names=(name, "last source", *names))

    def check(self, batch: Batch) -> None:
        """Raise ConfigError if a target is farther from the last source than the decoder can express."""
        numbers = np.asarray(batch["frames"])[np.asarray(batch["valid"])]
        gap = numbers[:, self.sources :] - numbers[:, self.sources - 1, None]
        if gap.size and not 0 <= gap.min() <= gap.max() < self.gaps:
            raise ConfigError(
                f"targets are {gap.min()} to {gap.max()} frames after the last source, and the decoder expresses "
                f"0 to {self.gaps - 1}: set data.sampler.gap or method.gaps"
            )

    def method(self) -> Method:
        """Return these functions as a method."""
        made = super().method()
        inputs = ("frames", *made.supervision)
        return made._replace(check=self.check, frame_states=self.frame_states, supervision=inputs)

    def _make_decoder(self, heads: Mapping[str, int]) -> Any:
        decoder = self.model.decoder
        blocks = {name: decoder["blocks"][name] for name in (*SHARED, "hidden")}
        blocks |= {"norm": "late", "style": self.model.encoder.blocks["style"]}
        return CrossDecoder(**{**decoder, "blocks": blocks}, heads=dict(heads), gaps=self.gaps)

    def _check_clips(self, shape: tuple[int, ...]) -> None:
        if shape[1] <= self.sources:
            raise ValueError(f"clips of {shape[1]} frames: {self.sources} are sources, and at least one is predicted")
        self.model.check((shape[0], 1, *shape[2:]))


def _rows(x: Array) -> Array:
    """[b t …] as [b·t …]."""
    return x.reshape(-1, *x.shape[2:])


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    """Two sources, a core of one block, and a mask that leaves some of few tokens."""
    mask = call("masking.random", ratio=0.75, rounded_down="visible")
    return {"sources": min(given.get("sources", 4), 2), "core_depth": 1, "encoder_mask": mask}


@register("method", model="model", encoder_mask="mask", objectives="objective", smoke=_smoke)
def build(
    model: Model,
    encoder_mask: Masker,
    objectives: Mapping[str, Objective],
    sources: int = 4,
    core_depth: int = 4,
    gaps: int = GAPS,
) -> Method:
    """Return RVM as a method, for clips of sources and targets (`data.future`) with the stream of frame numbers.

    Args:
      model: the networks, `models.variants.vit` of single frames; a class token passes to the decoder
        (decoder_prefix="kept"). The core and the decoder have blocks of the same style as the encoder.
      encoder_mask: which tokens of a target frame are seen.
      objectives: what is predicted of it, by name.
      sources: the source frames of a clip.
      core_depth: blocks of the core, which has the width, heads and MLP of the encoder.
      gaps: distances in frames that the decoder can express, from 0.

    Raises:
      ValueError: if a number is out of range, the model or an objective does not suit, or a mask does not fit its grid.
    """
    if not objectives:
        raise ValueError("objectives is empty: name at least one, such as pixels=call('targets.core.objective', …)")
    if min(sources, core_depth, gaps) < 1:
        raise ValueError(f"sources={sources}, core_depth={core_depth}, gaps={gaps}: each at least 1")
    if model.grid.t * model.patch.t != 1:
        raise ValueError(f"model: frames are encoded one by one: set frames=1, tubelet=1, not {model.video_shape[0]}")
    blocks = model.encoder.blocks
    if blocks["cosine"] or blocks["layer_scale"] or model.encoder.levels:
        raise ValueError("model: core and decoder have no cosine_attention, layer_scale or levels")
    if model.encoder.prefix and not model.decoder["keep_prefix"]:
        raise ValueError('model: the decoder reads the class tokens: set decoder_prefix="kept"')
    if encoder_mask.inputs or any(getattr(one.target, "inputs", ()) for one in objectives.values()):
        raise ValueError("masks and targets are of single frames, and can read no further streams")
    encoder_mask.keep(model.grid)
    return Recurrent(model, encoder_mask, None, dict(objectives), {}, sources, core_depth, gaps).method()
