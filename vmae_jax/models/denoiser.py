"""The decoder of DiffMAE, which predicts hidden cubes from noisy ones and from visible tokens."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vmae_jax.models.cross import MultiHead
from vmae_jax.models.decoder import Decoder
from vmae_jax.models.layers import Attention, Dense, LayerNorm, Mlp
from vmae_jax.models.stack import Stack, repeated
from vmae_jax.scopes import part, tower
from vmae_jax.types import MaskPlan

__all__ = ["KINDS", "Denoiser", "encoder_layers", "time_waves"]

KINDS = ("joint", "cross", "cross_self")
LONGEST = 10_000.0  # of the wavelengths of the time embedding, as of positions


def encoder_layers(depth: int, decoder_depth: int) -> list[int]:
    """Return after how many blocks of the encoder each block of the decoder reads it, from all of them downwards."""
    return [depth - block * depth // decoder_depth for block in range(decoder_depth)]


def time_waves(time: Int[Array, "b"], width: int) -> Float[Array, "b d"]:
    """Return sines and cosines of a time, half the channels each."""
    half = width // 2
    frequency = jnp.asarray(LONGEST ** -(np.arange(half) / half), jnp.float32)
    angle = time.astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class DenoisingBlock(nn.Module):
    """A pre-norm block of attention to visible tokens, perhaps of the noisy tokens to each other, and an MLP.

    Attributes:
      heads, hidden: of the attentions, and of the MLP.
      own: whether the noisy tokens attend to each other.
      attention, initial, biases: of `models.cross.MultiHead`.
    """

    heads: int
    hidden: int
    own: bool
    attention: str = "auto"
    initial: str = "videomae"
    biases: str = "qv"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b k d"], memory: Float[Array, "b n e"], places: Float[Array, "b n d"]):
        """Transform `x`, given the tokens of the encoder that this block reads, and their positions."""
        norm = lambda name: LayerNorm(self.dtype, name=f"norm_{name}")  # noqa: E731
        common = {"initial": self.initial, "dtype": self.dtype}
        options = {"form": self.attention, "biases": self.biases, **common}
        with part("project"):
            memory = Dense(x.shape[-1], ("embed", None), **common, name="project")(norm("memory")(memory))
        x = x + MultiHead(self.heads, **options, name="cross_attention")(norm("cross")(x), memory + places)
        if self.own:
            x = x + Attention(self.heads, **options, name="attention")(norm("own")(x))
        x = x + Mlp(self.hidden, **common, name="mlp")(norm("mlp")(x))
        return nn.with_logical_constraint(x, ("batch", "tokens", None)), None


class DenoisingStack(nn.Module):
    """`depth` denoising blocks whose parameters are stored stacked, [depth, …].

    Attributes:
      depth, remat, unroll: as in `models.stack.Stack`.
      heads, hidden, own, attention, initial, biases: of `DenoisingBlock`.
    """

    depth: int
    heads: int
    hidden: int
    own: bool
    remat: str = "none"
    unroll: int = 1
    attention: str = "auto"
    initial: str = "videomae"
    biases: str = "qv"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, layers: Float[Array, "depth b n e"], places: Array) -> Array:
        blocks = repeated(self, DenoisingBlock, shared=1, first_layer=None)
        return blocks(x, layers, places)[0]


class Denoiser(Decoder):
    """A decoder whose queries are noisy cubes at a time of the diffusion, in place of mask tokens.

    Attributes:
      kind: "joint": visible and noisy tokens attend to each other; "cross": each noisy token attends to the visible
        ones alone; "cross_self": to those, then to the noisy ones.
      reads: in the last two kinds, which of the given blocks of the encoder each block of the decoder reads.
    """

    kind: str = "cross_self"
    reads: tuple[int, ...] = ()

    @nn.compact
    @tower("decoder")
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] - it has noisy cubes
        self,
        encoded: Float[Array, "b n d"],
        layers: Float[Array, "l b n d"] | None,
        plan: MaskPlan,
        noisy: Float[Array, "b k p"],
        time: Int[Array, "b"],
    ) -> dict[str, Float[Array, "b k p"]]:
        """Return the float32 predictions of the clean cubes at `plan.decode`.

        Args:
          encoded: the encoder's prefix and visible tokens.
          layers: these tokens after some blocks of the encoder; not read by kind "joint".
          plan: their places, and those of the noisy cubes.
          noisy: cubes with noise, as the targets are scaled.
          time: of the diffusion, for each clip.
        """
        with part("embed"):
            queries = Dense(self.width, ("cube", "embed"), dtype=self.dtype, name="embed_noisy")(noisy)
            queries = queries + self._time(time)[:, None].astype(self.dtype)
        if self.kind == "joint":
            with part("project"):
                given = self.projection()(encoded if self.keep_prefix else encoded[:, self.prefix :])
            stack = Stack(**self.blocks, first_layer=None, dtype=self.dtype, name="blocks")
            x = stack(self.tokens(given, plan, queries=queries), rotation=self._rotation(plan))
            return self.predictions(x, plan)
        assert layers is not None
        positions = self.positions(self.grid, self.width)
        x = queries + positions(plan.decode).astype(self.dtype)
        places = jnp.pad(positions(plan.visible).astype(self.dtype), ((0, 0), (self.prefix, 0), (0, 0)))
        shared: dict[str, Any] = {name: self.blocks[name] for name in SHARED} | {"own": self.kind == "cross_self"}
        x = DenoisingStack(**shared, dtype=self.dtype, name="blocks")(x, layers[np.asarray(self.reads)], places)
        return self.predictions(x, plan)

    @part("time")
    def _time(self, time: Int[Array, "b"]) -> Float[Array, "b d"]:
        """A sinusoid, then linear, SiLU, linear, in float32."""
        hidden = Dense(self.width, (None, "mlp"), name="time_fc1")(time_waves(time, self.width))
        return Dense(self.width, ("mlp", "embed"), name="time_fc2")(jax.nn.silu(hidden))


SHARED = ("depth", "heads", "hidden", "remat", "unroll", "attention", "initial", "biases")
