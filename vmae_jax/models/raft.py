"""RAFT-small (Teed and Deng, ECCV 2020): the optical flow between two frames.

Features of both frames are compared at all pairs of places. From no flow at all, a recurrent network reads around the
place to which the flow leads so far, and corrects it. Everything is computed in float32, in the highest precision of
the matrix units.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import initializers
from jaxtyping import Array, Float, Int

from vmae_jax.models.parameters import declare
from vmae_jax.scopes import part
from vmae_jax.types import Params

__all__ = ["STRIDE", "Raft", "hat"]

STRIDE = 8  # pixels a side of a place of the features
LAYERS = ((32, 1), (64, 2), (96, 2))  # channels and stride of the encoders' layers, of two blocks each
FEATURES, HIDDEN, CONTEXT = 128, 96, 64  # channels
LEVELS, RADIUS = 4, 3  # of the correlations
EPSILON = 1e-5  # of the norms

_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class Convolution(nn.Module):
    """A convolution with a bias, padded with zeros by half of the kernel on each side.

    Attributes:
      features: the number of outputs.
      size: pixels on a side of the kernel.
    """

    features: int
    size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b y x d"]:
        shape = (self.size, self.size, x.shape[-1], self.features)
        init = declare(initializers.zeros, None, None, None, None, decay=False)  # `Raft.init` draws all at once
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", declare(initializers.zeros, None, decay=False), (self.features,))
        y = jax.lax.conv_general_dilated(
            x,
            jnp.asarray(kernel),
            (self.stride, self.stride),
            [(self.size // 2, self.size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )
        return y + jnp.asarray(bias)


class Bottleneck(nn.Module):
    """A residual block of three convolutions; where it has a stride, its shortcut is a fourth.

    Attributes:
      norm: whether each channel of a picture is normalized after a convolution.
    """

    features: int
    stride: int
    norm: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b y x d"]:
        normalize = _normalized if self.norm else lambda y: y
        narrow = self.features // 4
        y = jax.nn.relu(normalize(Convolution(narrow, 1, name="reduce")(x)))
        y = jax.nn.relu(normalize(Convolution(narrow, 3, self.stride, name="spatial")(y)))
        y = jax.nn.relu(normalize(Convolution(self.features, 1, name="expand")(y)))
        if self.stride > 1:
            x = normalize(Convolution(self.features, 1, self.stride, name="shortcut")(x))
        return jax.nn.relu(x + y)


class FrameEncoder(nn.Module):
    """Features of a frame at an eighth of its resolution.

    Attributes:
      outputs: their number of channels.
      norm: as in `Bottleneck`.
    """

    outputs: int
    norm: bool

    @nn.compact
    @part("convolutions")
    def __call__(self, frame: Float[Array, "b h w 3"]) -> Float[Array, "b y x d"]:
        x = Convolution(LAYERS[0][0], 7, 2, name="stem")(frame)
        x = jax.nn.relu(_normalized(x) if self.norm else x)
        for number, (features, stride) in enumerate(LAYERS):
            x = Bottleneck(features, stride, self.norm, name=f"layer{number}_first")(x)
            x = Bottleneck(features, 1, self.norm, name=f"layer{number}_second")(x)
        return Convolution(self.outputs, 1, name="project")(x)


class Update(nn.Module):
    """One iteration: a gated recurrent unit of convolutions, and the correction of the flow that it gives."""

    @nn.compact
    @part("convolutions")
    def __call__(
        self,
        hidden: Float[Array, "b h w d"],
        context: Float[Array, "b h w c"],
        correlation: Float[Array, "b h w k"],
        flow: Float[Array, "b h w 2"],
    ) -> tuple[Float[Array, "b h w d"], Float[Array, "b h w 2"]]:
        compared = jax.nn.relu(Convolution(96, 1, name="correlation")(correlation))
        moved = jax.nn.relu(Convolution(64, 7, name="flow_first")(flow))
        moved = jax.nn.relu(Convolution(32, 3, name="flow_second")(moved))
        motion = jax.nn.relu(Convolution(80, 3, name="motion")(jnp.concatenate([compared, moved], axis=-1)))
        given = jnp.concatenate([context, motion, flow], axis=-1)
        both = jnp.concatenate([hidden, given], axis=-1)
        update = jax.nn.sigmoid(Convolution(HIDDEN, 3, name="update")(both))
        reset = jax.nn.sigmoid(Convolution(HIDDEN, 3, name="reset")(both))
        candidate = Convolution(HIDDEN, 3, name="candidate")(jnp.concatenate([reset * hidden, given], axis=-1))
        hidden = (1 - update) * hidden + update * jnp.tanh(candidate)
        head = jax.nn.relu(Convolution(128, 3, name="head_first")(hidden))
        return hidden, Convolution(2, 3, name="head_second")(head)


@dataclasses.dataclass(frozen=True)
class Raft:
    """RAFT-small. Its parameters are {"features": …, "context": …, "update": …}.

    Attributes:
      iterations: the number of corrections.
    """

    iterations: int = 6

    def init(self, key: Array) -> Params:
        """Return initial parameters with their partitioning boxes."""
        frame, places = jnp.zeros((1, STRIDE, STRIDE, 3)), (1, 1, 1)
        shapes = (HIDDEN, CONTEXT, LEVELS * (2 * RADIUS + 1) ** 2, 2)
        inputs: Mapping[str, Sequence[Any]] = {
            "features": [frame],
            "context": [frame],
            "update": [jnp.zeros((*places, channels)) for channels in shapes],
        }
        abstract = {name: jax.eval_shape(one.init, key, *inputs[name])["params"] for name, one in _NETWORKS.items()}
        leaves, tree = jax.tree.flatten(abstract)
        # One draw for the 53 kernels: as many would take seconds to compile, for numbers that an import replaces.
        drawn, used, found = jax.random.normal(key, (sum(leaf.size for leaf in leaves),)), 0, []
        for leaf in leaves:
            one = drawn[used : used + leaf.size].reshape(leaf.shape)
            used += leaf.size
            fan = math.prod(leaf.shape) // leaf.shape[2] if leaf.ndim == 4 else 0
            found.append(one * math.sqrt(2.0 / fan) if fan else jnp.zeros_like(one))
        return jax.tree.unflatten(tree, found)

    def flow(
        self, params: Params, frames: Float[Array, "b t h w 3"], pairs: Sequence[tuple[int, int]] | Int[Array, "b n 2"]
    ) -> Float[Array, "b n h w 2"]:
        """Return the flow of pairs of frames, in pixels: the x and the y by which each place of the first one moves.

        Every frame is encoded once; frames and pairs are worked on one after the other, so that memory is that of one
        frame and of one pair of each clip.

        Args:
          frames: of clips, with colours from -1 to 1; `STRIDE` divides their sides.
          pairs: numbers of frames, the same of all clips or those of each.

        Raises:
          ValueError: if the sides do not divide.
        """
        height, width = frames.shape[2:4]
        if height % STRIDE or width % STRIDE:
            raise ValueError(f"RAFT takes frames whose sides are multiples of {STRIDE} pixels, got {height}x{width}")
        encode = lambda frame: (  # noqa: E731
            _NETWORKS["features"].apply({"params": params["features"]}, frame),
            _NETWORKS["context"].apply({"params": params["context"]}, frame),
        )
        features, context = jax.lax.map(encode, jnp.moveaxis(frames, 1, 0))
        every = jnp.asarray(pairs, jnp.int32)
        # Of one clip by itself, so that a batch split over devices is not moved.
        of = (lambda maps, number: maps[number]) if every.ndim == 2 else jax.vmap(lambda m, n: m[n], (1, 0))
        one = lambda pair: upsampled(  # noqa: E731
            self._coarse(params, of(features, pair[..., 0]), of(features, pair[..., 1]), of(context, pair[..., 0]))
        )
        return jnp.moveaxis(jax.lax.map(one, jnp.moveaxis(every, -2, 0)), 0, 1)

    def _coarse(self, params: Params, one: Array, other: Array, context: Array) -> Float[Array, "b h w 2"]:
        """The flow at an eighth of the resolution, in places."""
        b, height, width, _ = one.shape
        pyramid = correlations(one, other)
        hidden, context = jnp.tanh(context[..., :HIDDEN]), jax.nn.relu(context[..., HIDDEN:])
        places = jnp.stack(jnp.meshgrid(jnp.arange(width), jnp.arange(height)), axis=-1).astype(jnp.float32)

        def correct(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            hidden, flow = state
            found = around(pyramid, (places + flow).reshape(b, -1, 2)).reshape(b, height, width, -1)
            new: Any = _NETWORKS["update"].apply({"params": params["update"]}, hidden, context, found, flow)
            return (new[0], flow + new[1]), None

        # Derived from an input, so that it is split over devices as that is.
        still = jnp.zeros_like(one[..., :2])
        return jax.lax.scan(correct, (hidden, still), None, length=self.iterations)[0][1]


_NETWORKS: dict[str, nn.Module] = {
    "features": FrameEncoder(FEATURES, norm=True),
    "context": FrameEncoder(HIDDEN + CONTEXT, norm=False),
    "update": Update(),
}


@part("correlation")
def correlations(one: Float[Array, "b h w c"], other: Float[Array, "b h w c"]) -> list[Float[Array, "b q y x"]]:
    """Return the products of the features at all pairs of places, and averages of them over 2, 4 and 8 places a side.

    A level that is smaller than one place has none.
    """
    b, height, width, channels = one.shape
    level = _einsum("bqc,byxc->bqyx", one.reshape(b, -1, channels), other) / jnp.sqrt(jnp.float32(channels))
    found = [level]
    for _ in range(LEVELS - 1):
        height, width = height // 2, width // 2
        level = level[:, :, : 2 * height, : 2 * width]
        level = level.reshape(*level.shape[:2], height, 2, width, 2).mean(axis=(3, 5))
        found.append(level)
    return found


@part("correlation")
def around(pyramid: Sequence[Float[Array, "b q y x"]], places: Float[Array, "b q 2"]) -> Float[Array, "b q k"]:
    """Return the correlations in a square around a place (x, y) for each query, from all levels, interpolated.

    Columns come before rows; beyond the edge there are zeros.
    """
    offsets = jnp.arange(-RADIUS, RADIUS + 1, dtype=jnp.float32)
    found = []
    for number, level in enumerate(pyramid):
        centre = places / 2**number
        rows, columns = (
            hat(centre[..., axis, None] + offsets, level.shape[3 - axis]) for axis in (1, 0)
        )  # [b q 7 y], [b q 7 x]
        strips = _einsum("bqyx,bqix->bqiy", level, columns)
        found.append(_einsum("bqiy,bqjy->bqij", strips, rows).reshape(*places.shape[:2], -1))
    return jnp.concatenate(found, axis=-1)


@part("upsample")
def upsampled(flow: Float[Array, "b h w 2"]) -> Float[Array, "b y x 2"]:
    """Return a flow of places as one of pixels, interpolated so that the corners stay where they are."""
    rows, columns = (hat(jnp.linspace(0.0, n - 1, STRIDE * n), n) for n in flow.shape[1:3])
    return STRIDE * _einsum("bhxc,yh->byxc", _einsum("bhwc,xw->bhxc", flow, columns), rows)


def hat(places: Float[Array, "*a"], count: int) -> Float[Array, "*a n"]:
    """Return the weights of `count` samples in a linear interpolation at places, zeros beyond the ends."""
    distance = jnp.abs(places[..., None] - jnp.arange(count, dtype=jnp.float32))
    return jnp.maximum(1.0 - distance, 0.0)


def _normalized(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Each channel of each picture with mean 0 and variance 1."""
    centred = x - x.mean(axis=(1, 2), keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=(1, 2), keepdims=True) + EPSILON)
