"""How the encoders of several modalities exchange what they see: joint layers on top, or bottlenecks between them."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import initializers
from jaxtyping import Array

from vmae_jax.models.encoder import Encoder
from vmae_jax.models.layers import Block, LayerNorm
from vmae_jax.models.parameters import declare
from vmae_jax.models.rotary import Rotary
from vmae_jax.models.stack import REMAT, Stack
from vmae_jax.registry import register
from vmae_jax.scopes import tower
from vmae_jax.types import MaskPlan, Params

__all__ = ["Fused", "Fusion", "Tower", "alone", "bottleneck", "joint"]


class Tower(NamedTuple):
    """An encoder with what it is applied to.

    Attributes:
      encoder: of a modality.
      weights: its parameters.
      cubes: the normalised cubes of `masks.visible`.
      masks: what is visible.
      keys: one an example, for drop path, or None.
      present: which rows have the modality; None where all have.
    """

    encoder: Encoder
    weights: Params
    cubes: Array
    masks: MaskPlan
    keys: Array | None
    present: Array | None = None


class Fused(NamedTuple):
    """The prefix and visible tokens of a modality, before and after the exchange."""

    own: Array
    fused: Array


def alone(one: Tower) -> Array:
    """Return the output of an encoder that exchanges nothing."""
    return one.encoder.apply({"params": one.weights}, one.cubes, one.masks, one.keys)  # pyright: ignore


class Fusion:
    """Base of the fusions."""

    def check(self, encoders: Mapping[str, Encoder]) -> None:
        """Raise ValueError if encoders cannot be fused."""
        if len({encoder.width for encoder in encoders.values()}) > 1:
            widths = ", ".join(f"{name} {encoder.width}" for name, encoder in encoders.items())
            raise ValueError(f"fuse: the encoders must have one width, got {widths}")

    def init(self, key: Array, encoders: Mapping[str, Encoder]) -> Params:
        """Return initial parameters, with their partitioning boxes."""
        raise NotImplementedError

    def __call__(self, params: Params, towers: Mapping[str, Tower]) -> dict[str, Fused]:
        """Return the tokens of every modality."""
        raise NotImplementedError


class JointLayers(nn.Module):
    """Blocks over the tokens of all modalities, and a norm."""

    blocks: dict[str, Any]
    dtype: Any = jnp.float32

    @nn.compact
    @tower("fusion")
    def __call__(self, tokens: Array, keys: Array | None = None, valid: Array | None = None) -> Array:
        x = Stack(**self.blocks, dtype=self.dtype, name="blocks")(tokens, keys, valid)
        return LayerNorm(self.dtype, name="norm")(x)


@dataclasses.dataclass(frozen=True)
class Joint(Fusion):
    """See `joint`."""

    depth: int

    def init(self, key: Array, encoders: Mapping[str, Encoder]) -> Params:
        """See `Fusion.init`."""
        encoder = next(iter(encoders.values()))
        return self._layers(encoder).init(key, jnp.zeros((1, 2, encoder.width), encoder.dtype))["params"]

    def __call__(self, params: Params, towers: Mapping[str, Tower]) -> dict[str, Fused]:
        """See `Fusion`: each encoder is run whole, and the joint layers on all of their tokens."""
        own = {name: alone(one) for name, one in towers.items()}
        first = next(iter(towers.values()))
        keys = None if first.keys is None else jax.vmap(lambda key: jax.random.fold_in(key, 1))(first.keys)
        valid = _all_valid([_valid(one, own[name].shape[1]) for name, one in towers.items()], own.values())
        layers = self._layers(first.encoder)
        x: Any = layers.apply({"params": params}, jnp.concatenate(list(own.values()), axis=1), keys, valid)
        ends = np.cumsum([tokens.shape[1] for tokens in own.values()])[:-1].tolist()
        return {name: Fused(own[name], fused) for name, fused in zip(own, jnp.split(x, ends, axis=1), strict=True)}

    def _layers(self, encoder: Encoder) -> JointLayers:
        return JointLayers({**encoder.blocks, "depth": self.depth}, encoder.dtype)


def _valid(one: Tower, n: int) -> Array | None:
    """Return which tokens of an encoder others may attend to, its prefix among them; None for all."""
    if one.present is None and one.masks.valid is None:
        return None
    b, v = one.masks.visible.shape
    valid = jnp.ones((b, v), bool) if one.masks.valid is None else one.masks.valid
    valid = valid if one.present is None else valid & one.present[:, None]
    return jnp.pad(valid, ((0, 0), (n - v, 0)), constant_values=True)


def _all_valid(valid: list[Array | None], tokens: Any) -> Array | None:
    if all(one is None for one in valid):
        return None
    known = [jnp.ones(x.shape[:2], bool) if one is None else one for one, x in zip(valid, tokens, strict=True)]
    return jnp.concatenate(known, axis=1)


@dataclasses.dataclass(frozen=True)
class Bottleneck(Fusion):
    """See `bottleneck`."""

    start: int
    count: int

    def check(self, encoders: Mapping[str, Encoder]) -> None:
        """Raise ValueError if encoders differ in what the exchange needs to be the same."""
        super().check(encoders)
        depths = {encoder.blocks["depth"] for encoder in encoders.values()}
        if len(depths) > 1 or self.start > min(depths):
            raise ValueError(
                f"fuse: start={self.start}, and the encoders have {depths} blocks: one number, at least it"
            )
        for name, encoder in encoders.items():
            if isinstance(encoder.positions, Rotary) or encoder.levels or encoder.causal:
                raise ValueError(
                    f"fuse: the encoder of {name!r} has rotary positions, levels or block-causal attention; "
                    "bottlenecks have none of these"
                )

    def init(self, key: Array, encoders: Mapping[str, Encoder]) -> Params:
        """See `Fusion.init`: the bottleneck tokens; the layers are the encoders' own."""
        width = next(iter(encoders.values())).width
        init = declare(initializers.normal(0.02), None, "embed", decay=False)
        return {"bottleneck": init(key, (self.count, width), jnp.float32)}

    def __call__(self, params: Params, towers: Mapping[str, Tower]) -> dict[str, Fused]:
        """See `Fusion`: `own` are the tokens before the first layer with bottlenecks."""
        first = next(iter(towers.values()))
        own, layers = {}, {}
        for name, one in towers.items():
            encoder, weights = one.encoder.shallow(one.weights, self.start)
            with tower(name):
                own[name] = alone(one._replace(encoder=encoder, weights=weights))
            layers[name] = jax.tree.map(lambda leaf: leaf[self.start :], one.weights["blocks"])
        rows, encoder = first.cubes.shape[0], first.encoder
        token = jnp.asarray(params["bottleneck"], encoder.dtype)
        shared = jnp.broadcast_to(token, (rows, *token.shape))
        blocks = encoder.blocks
        depth, rate = blocks["depth"], blocks.get("drop_path", 0.0)
        rates = jnp.asarray(np.linspace(0.0, rate, depth, dtype=np.float32)[self.start :])
        step = functools.partial(self._layer, towers)
        if REMAT[blocks["remat"]] is not None:
            step = jax.checkpoint(step, policy=REMAT[blocks["remat"]], prevent_cse=False)
        (x, _), _ = jax.lax.scan(step, (own, shared), (layers, jnp.arange(self.start, depth), rates))
        return {name: Fused(own[name], _normed(one, x[name])) for name, one in towers.items()}

    def _layer(self, towers: Mapping[str, Tower], carried: Any, layer: Any) -> tuple[Any, None]:
        """Apply one block of each encoder to its tokens and the bottleneck, whose results are averaged."""
        (x, shared), (weights, index, rate) = carried, layer
        results, total, counted = {}, 0.0, 0.0
        for name, one in towers.items():
            options = {key: one.encoder.blocks[key] for key in _OF_BLOCK if key in one.encoder.blocks}
            given = jnp.concatenate([x[name], shared], axis=1)
            valid = None if one.masks.valid is None else _valid(one._replace(present=None), x[name].shape[1])
            valid = None if valid is None else jnp.pad(valid, ((0, 0), (0, self.count)), constant_values=True)
            keys = one.keys if one.encoder.blocks.get("drop_path") else None
            with tower(name):
                block = Block(**options, dtype=one.encoder.dtype)
                out: Any = block.apply({"params": weights[name]}, given, (index, rate), keys, valid, None, None)
            n = x[name].shape[1]
            results[name], exchanged = out[0][:, :n], out[0][:, n:]
            share = 1.0 if one.present is None else one.present[:, None, None].astype(exchanged.dtype)
            total, counted = total + share * exchanged, counted + share
        return (results, (total / jnp.maximum(counted, 1)).astype(shared.dtype)), None


_OF_BLOCK = ("heads", "hidden", "cosine", "layer_scale", "attention", "initial", "biases")


def _normed(one: Tower, x: Array) -> Array:
    if not one.encoder.final_norm:
        return x
    return jnp.asarray(LayerNorm(one.encoder.dtype).apply({"params": one.weights["norm"]}, x))


@register("fusion", smoke={"depth": 1})
def joint(depth: int = 2) -> Joint:
    """Run `depth` more blocks over the tokens of all modalities, side by side, and a norm (AV-MAE, MAViL).

    Raises:
      ValueError: if there is no block.
    """
    if depth < 1:
        raise ValueError(f"depth={depth}: at least 1")
    return Joint(depth)


@register("fusion", smoke={"start": 1})
def bottleneck(start: int, count: int = 4) -> Bottleneck:
    """Exchange through a few learned tokens (MBT, Nagrani et al. 2021).

    From block `start` on, every block of an encoder sees its own tokens and the bottleneck's; what the encoders make of
    the latter is averaged. All read the same bottleneck, so their order is irrelevant.

    Args:
      start: the first block with bottlenecks, counted from 0, so that at least one has none. As many as there are
        blocks: nothing is exchanged.
      count: the number of bottleneck tokens.

    Raises:
      ValueError: if a number is out of range.
    """
    if start < 1 or count < 1:
        raise ValueError(f"start={start}, count={count}: each at least 1")
    return Bottleneck(start, count)
