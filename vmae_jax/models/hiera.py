"""Hiera (Ryali et al. 2023): four stages of blocks, between which tokens are pooled and their width doubles.

Masks hide whole mask units, squares of 8 by 8 tokens of the patch convolution, which stay whole through all pooling. So
hidden units are left out of the sequence, as in any masked autoencoder. Tokens are stored unit by unit. In a unit, each
2x2 group that is pooled next has an axis of its own, so that pooling is a maximum over an axis of a reshaped array.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

from vmae_jax.models.attention import attend
from vmae_jax.models.initial import SCHEMES, torch_default
from vmae_jax.models.layers import Dense, LayerNorm, Mlp, Qkv, drop_path
from vmae_jax.models.parameters import declare
from vmae_jax.models.positions import learned, separable
from vmae_jax.models.stack import Stack
from vmae_jax.patches import Patch, unpatchify
from vmae_jax.scopes import part, tower
from vmae_jax.types import Grid, MaskPlan

__all__ = ["GROUP", "INITIAL", "SIDE", "Hiera", "Size", "pooled", "rerolled", "unrolled"]

SIDE = 8  # the tokens along a side of a mask unit, before pooling
GROUP = 4  # the tokens that are pooled to one
INITIAL = "mae"


class Size(NamedTuple):
    """The first stage's width and heads, which double from stage to stage, and the number of blocks of each."""

    width: int
    heads: int
    stages: tuple[int, ...]


def unrolled(x: Float[Array, "b t h w d"]) -> Float[Array, "b u 64 d"]:
    """Return tokens unit by unit. Those that differ in the lowest bit of row and column are pooled first."""
    names = dict.fromkeys(("y0", "y1", "y2", "x0", "x1", "x2"), 2)
    return rearrange(x, "b t (h y2 y1 y0) (w x2 x1 x0) d -> b (t h w) (y0 x0 y1 x1 y2 x2) d", **names)


def rerolled(x: Float[Array, "b u k d"]) -> Float[Array, "b u y x d"]:
    """Return the tokens of each unit in place, after any number of poolings: the inverse of `unrolled` in a unit."""
    bits = (x.shape[2].bit_length() - 1) // 2
    apart = x.reshape(*x.shape[:2], *(2,) * (2 * bits), x.shape[-1])
    rows, columns = range(2 * bits, 1, -2), range(2 * bits + 1, 2, -2)  # the highest bit is the last
    side = 2**bits
    return apart.transpose(0, 1, *rows, *columns, 2 * bits + 2).reshape(*x.shape[:2], side, side, x.shape[-1])


def pooled(x: Float[Array, "b u k d"]) -> Float[Array, "b u j d"]:
    """Return the maximum of each group of 2x2 tokens."""
    return x.reshape(*x.shape[:2], GROUP, -1, x.shape[-1]).max(axis=2)


class Widen(nn.Module):
    """The first block of a stage: queries are pooled, keys and values are not; the skip path is projected and pooled.

    The projection on the skip path reads the normalised tokens.

    Attributes:
      width, heads, hidden: after the block; `hidden` is the MLP's width.
      pool: whether tokens are pooled.
      within: whether attention stays within the units.
      attention: of `models.attention.FORMS`.
      layer: for layer decay.
    """

    width: int
    heads: int
    hidden: int
    pool: bool
    within: bool
    attention: str
    dtype: Any
    layer: int

    @nn.compact
    def __call__(self, x: Float[Array, "b u k d"], keys: Array | None, rate: float) -> Float[Array, "b u j e"]:
        options = {"dtype": self.dtype, "layer": self.layer}
        shrink = pooled if self.pool else lambda x: x
        normed = LayerNorm(**options, name="norm1")(x)
        skip = shrink(Dense(self.width, ("embed", None), initial=INITIAL, **options, name="skip")(normed))
        given = _grouped(normed, self.within)
        q, k, v = Qkv(self.heads, INITIAL, "qkv", features=self.width, **options, name="qkv")(given)
        q = _grouped(shrink(q.reshape(*x.shape[:3], -1)), self.within)
        with part("scores"):
            y = attend(q, k, v, heads=self.heads, form=self.attention)
        with part("proj"):
            units = {"heads": self.heads}
            y = Dense(self.width, ("heads", "embed"), initial=INITIAL, units=units, **options, name="proj")(y)
        x = skip + _dropped(y.reshape(skip.shape), keys, 0, rate)
        y = LayerNorm(**options, name="norm2")(_grouped(x, within=False))
        y = Mlp(self.hidden, INITIAL, **options, name="mlp")(y)
        return x + _dropped(y.reshape(x.shape), keys, 1, rate)


def _grouped(x: Array, within: bool) -> Array:
    """Tokens [b u k d] by what attends to each other: those of a unit, or of a clip."""
    return x.reshape(-1, x.shape[2], x.shape[3]) if within else x.reshape(x.shape[0], -1, x.shape[3])


def _dropped(y: Array, keys: Array | None, branch: int, rate: float) -> Array:
    keys = None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, branch))(keys)
    return drop_path(y.reshape(y.shape[0], -1, y.shape[-1]), keys, jnp.float32(rate)).reshape(y.shape)


def _refuse() -> NoReturn:
    raise ValueError("Hiera has stages in place of one stack of blocks, which is needed here: use models.variants.vit")


class Hiera(nn.Module):
    """The hierarchical encoder, which takes the place of `models.encoder.Encoder`.

    Its tokens are those after the last pooling: with two poolings, a unit has 2x2 of them.

    Attributes:
      grid: these tokens, of a whole clip.
      patch: the pixels of one of them.
      size: width, heads and blocks.
      mlp_ratio: the width of the MLPs relative to that of their block.
      pools: the number of poolings, 2 (pre-training) or 3 (classification). No parameter depends on it.
      drop_path: the rate at the last block; it grows linearly from 0 at the first.
      final_norm: whether the outputs of the stages are added up and normalised (pre-training).
      dtype: the dtype of the matrix products.
      remat, unroll, attention: of `models.stack.Stack`.
    """

    grid: Grid
    patch: Patch
    size: Size
    mlp_ratio: float = 4.0
    pools: int = 2
    drop_path: float = 0.0
    final_norm: bool = True
    dtype: Any = jnp.float32
    remat: str = "none"
    unroll: int = 1
    attention: str = "auto"

    # What a plain encoder may have and this one has not.
    prefix, levels, modality, causal = 0, (), False, False
    blocks = positions = property(lambda self: _refuse())

    @property
    def side(self) -> int:
        """The number of tokens along a side of a unit, after the last pooling."""
        return SIDE >> self.pools

    @property
    def unit(self) -> tuple[int, int, int]:
        """The tokens of a mask unit, in time, height and width."""
        return 1, self.side, self.side

    @property
    def fine(self) -> Grid:
        """The tokens of the patch convolution, before any pooling, which have the positions."""
        return Grid(self.grid.t, self.grid.h << self.pools, self.grid.w << self.pools)

    @property
    def width(self) -> int:
        """The width of the last stage."""
        return self.size.width << (len(self.size.stages) - 1)

    @property
    def outputs(self) -> int:
        """The number of channels of the output."""
        return self.width

    @nn.compact
    @tower("encoder")
    def __call__(
        self, cubes: Float[Array, "b v p"], plan: MaskPlan, keys: Array | None = None
    ) -> Float[Array, "b v d"]:
        """Encode the visible tokens, which must be those of whole units.

        The patch convolution runs over the whole clip, in which hidden units are 0; everything after it is computed for
        visible units only.

        Args:
          cubes: the cubes of `plan.visible`, normalised.
          plan: their positions.
          keys: one key per example, for drop path; None disables it.

        Raises:
          ValueError: if the mask is not one of whole units, or pads the visible tokens.
        """
        b, v = plan.visible.shape
        whole = v == self.grid.size or self.unit == (1, 1, 1) or plan.unit == self.unit
        whole |= self.is_initializing() and v % self.side**2 == 0  # any tokens give parameters their shapes
        if plan.valid is not None or not whole:
            side = self.side
            raise ValueError(
                f"Hiera hides whole mask units: it needs masking.units with unit=[1, {side}, {side}], and the same "
                f"number of visible ones in every clip"
            )
        # Sorted by unit, tokens of a unit are in the order of rows and columns, since the plan is ascending.
        numbers = self._units(plan.visible)
        order = jnp.argsort(numbers, axis=1, stable=True)
        units = jnp.take_along_axis(numbers, order, axis=1)[:, :: self.side**2]
        with part("embed"):
            x = jnp.take_along_axis(unrolled(self._embedded(cubes, plan)), units[..., None, None], axis=1)
        outputs = self.stages(x, keys)
        x = rerolled(outputs[-1]).reshape(b, v, -1)
        if self.final_norm:
            x = LayerNorm(self.dtype, name="norm")(x + self._fused(outputs).reshape(x.shape))
        back = jnp.argsort(order, axis=1)
        return jnp.take_along_axis(x, back[..., None], axis=1)

    def stages(self, x: Float[Array, "b u 64 d"], keys: Array | None) -> list[Array]:
        """Return the tokens after each stage, unit by unit, [b u k d] each."""
        depth, block, outputs = sum(self.size.stages), 0, []
        rates = [float(rate) for rate in np.linspace(0.0, self.drop_path, depth)]
        keys = keys if self.drop_path else None
        for stage, count in enumerate(self.size.stages):
            width, heads = self.size.width << stage, self.size.heads << stage
            hidden, last = int(width * self.mlp_ratio), block + count
            own = None if keys is None else jax.vmap(lambda key, n=stage: jax.random.fold_in(key, n))(keys)
            if stage:
                options = {"attention": self.attention, "dtype": self.dtype, "layer": block + 1}
                # The first block of a stage attends within units if the blocks of the stage before do.
                shape = {"pool": stage <= self.pools, "within": stage <= 2}
                x = Widen(width, heads, hidden, **shape, **options, name=f"widen_{stage}")(x, own, rates[block])
                block += 1
            if block < last:
                x = self._stack(stage, last - block, heads, hidden, block + 1, (rates[block], rates[last - 1]))(x, own)
            block = last
            x = nn.with_logical_constraint(x, ("batch", None, "tokens", None))
            outputs.append(x)
        return outputs

    def _stack(self, stage: int, depth: int, heads: int, hidden: int, layer: int, rates: tuple[float, float]) -> Any:
        """The remaining blocks of a stage, (tokens [b u k d], keys) -> tokens."""
        within = stage < 2
        blocks = Stack(
            depth,
            heads,
            hidden,
            drop_from=rates[0],
            drop_path=rates[1],
            remat=self.remat,
            unroll=self.unroll or depth,
            attention=self.attention,
            initial=INITIAL,
            biases="qkv",
            dtype=self.dtype,
            first_layer=layer,
            name=f"stage_{stage}",
        )

        def run(x: Array, keys: Array | None) -> Array:
            given = _grouped(x, within)
            # Units of a clip share its key: a branch is dropped for the whole clip.
            keys = keys if keys is None or not within else jnp.repeat(keys, x.shape[1], axis=0)
            return blocks(given, keys).reshape(x.shape)

        return run

    def _units(self, index: Int[Array, "b v"]) -> Int[Array, "b v"]:
        """The unit of each token."""
        time, place = index // self.grid.slot, index % self.grid.slot
        row, column = place // self.grid.w // self.side, place % self.grid.w // self.side
        columns = self.grid.w // self.side
        return (time * (self.grid.h // self.side) + row) * columns + column

    def _embedded(self, cubes: Array, plan: MaskPlan) -> Float[Array, "b t h w d"]:
        """The patch convolution over a whole clip whose hidden pixels are 0, with positions."""
        canvas = jnp.zeros((cubes.shape[0], self.grid.size, cubes.shape[-1]), self.dtype)
        canvas = jax.vmap(lambda row, at, new: row.at[at].set(new))(canvas, plan.visible, cubes.astype(self.dtype))
        video = jnp.asarray(unpatchify(canvas, self.grid, self.patch))
        stride = self.patch.t, self.patch.h // 2**self.pools, self.patch.w // 2**self.pools
        size = (*(2 * step - 1 for step in stride), video.shape[-1])  # 3x7x7 for a stride of 2x4x4
        scheme, fan_in, width = SCHEMES[INITIAL], int(np.prod(size)), self.size.width
        names = (None,) * len(size)
        init = declare(scheme.embed(fan_in, width), *names, "embed", decay=True, layer=0)
        kernel = jnp.asarray(self.param("embed_kernel", init, (*size, width))).astype(self.dtype)
        init = declare(scheme.bias(fan_in), "embed", decay=False, layer=0)
        bias = jnp.asarray(self.param("embed_bias", init, (width,))).astype(self.dtype)
        padding = [(step - 1, step - 1) for step in stride]
        form = ("NDHWC", "DHWIO", "NDHWC")
        x = jax.lax.conv_general_dilated(video, kernel, stride, padding, dimension_numbers=form) + bias
        positions = (separable() if self.fine.t > 1 else learned())(self.fine, width)
        return x + positions(jnp.arange(self.fine.size)[None]).reshape(1, *x.shape[1:]).astype(self.dtype)

    def _fused(self, outputs: Sequence[Array]) -> Float[Array, "b u k d"]:
        """The sum of the outputs of stages before each pooling, brought to the last grid and width.

        Each passes through a convolution whose kernel is as large as its stride.
        """
        total = jnp.zeros((), self.dtype)
        for stage, x in enumerate(outputs[: self.pools]):
            y = rerolled(x)
            apart = {"y": self.side, "x": self.side}
            y = rearrange(y, "b u (y q) (x r) d -> b u (y x) (q r d)", **apart)
            init = torch_default(y.shape[-1])
            options = {"kernel_init": init, "bias_init": init, "dtype": self.dtype}
            total = total + Dense(self.width, (None, "embed"), **options, name=f"fuse_{stage}")(y)
        return total

    def embedded(self, params: Any, cubes: Array) -> NoReturn:
        """Raise ValueError: tokens are embedded together, by a convolution over the clip."""
        del params, cubes
        _refuse()

    def shallow(self, params: Any, depth: int) -> Any:
        """Raise ValueError: tokens of a block before the last have other widths and grids."""
        del params
        raise ValueError(f"layer {depth}: Hiera has features of its last block only; leave out the layer")
