"""Attention on TPUs as one kernel over flat arrays [b n heads·size], forward and backward.

The projections before and after attention are products of flat arrays. Other kernels take heads as an axis of its own:
the compiler then transposes every array, and stores heads of 64 and 160 tokens in tiles of 128 lanes and blocks of 128
tokens, several times their size. Here the heads are columns of a block that is in fast memory already. The keys of a
clip are there as a whole, so a row's softmax is computed at once, and again for the gradient: nothing is kept for the
backward pass but the queries, keys and values themselves.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

__all__ = ["fits", "flat"]

LANES = 128  # columns of a tile
SCORES = 2**20  # bytes of the weights of one head for a block of queries


class Blocks(NamedTuple):
    """The share of one run of a kernel.

    Attributes:
      rows: queries.
      heads: side by side.
      unit: of these heads, so many at once; their columns fill whole tiles.
    """

    rows: int
    heads: int
    unit: int


def fits(tokens: int, keys: int, width: int, heads: int, itemsize: int, memory: int) -> bool:
    """Whether the smallest block of a clip fits into so many bytes of fast memory."""
    return _memory(_blocks(tokens, keys, width, heads, itemsize, memory), keys, width // heads, itemsize) <= memory


def _blocks(tokens: int, keys: int, width: int, heads: int, itemsize: int, memory: int) -> Blocks:
    """Return the largest blocks that fit: of queries by the weights of a head, of heads by all arrays."""
    size = width // heads
    unit = LANES // math.gcd(size, LANES)
    unit = unit if heads % unit == 0 else heads  # of all heads together, the last tile may have columns to spare
    rows = max(SCORES // (4 * keys) // LANES, 1) * LANES
    rows = tokens if tokens <= rows else rows
    able = [Blocks(rows, n, unit) for n in range(unit, heads + 1, unit) if heads % n == 0]
    return max((blocks for blocks in able if _memory(blocks, keys, size, itemsize) <= memory), default=able[0])


def _memory(blocks: Blocks, keys: int, size: int, itemsize: int) -> int:
    """Return the bytes that the backward pass, the larger one, has in fast memory."""
    columns = math.ceil(blocks.heads * size / LANES) * LANES
    # Each block is there twice: the next is copied while one is in use. Sums are float32.
    arrays = 2 * itemsize * columns * (4 * keys + 3 * blocks.rows) + 2 * 4 * columns * keys
    return arrays + 6 * 4 * keys * math.ceil(blocks.rows / LANES) * LANES


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8))
def flat(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None,
    limits: tuple[Array, Array] | None,
    heads: int,
    scale: float,
    memory: int,
    interpret: bool = False,
) -> Array:
    """softmax(query · keyᵀ · scale + bias) · value of every head.

    Args:
      query: [b n d].
      key, value: [b m d].
      bias: float32 of every key, [b m 1]; None adds nothing.
      limits: numbers of queries [b 1 n] and of keys [b m 1], float32: a query sees a key whose number is not larger.
        In place of a bias.
      heads: of which the columns of d consist.
      memory: bytes of fast memory that the blocks may take.
      interpret: run the kernel's body as ordinary operations, on any platform, slowly.
    """
    return _forward(query, key, value, bias, limits, heads, scale, memory, interpret)[0]


def _forward(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None,
    limits: tuple[Array, Array] | None,
    heads: int,
    scale: float,
    memory: int,
    interpret: bool,
):
    call = _Call.of(query, key, heads, memory)
    about = {"masked": bias is not None, "ordered": limits is not None}
    kernel = functools.partial(_forward_kernel, size=call.size, unit=call.unit, scale=scale, **about)
    out = call.run(kernel, [query], [key, value], bias, limits, outputs=[query], summed=[], interpret=interpret)
    return out[0], (query, key, value, bias, limits)


def _backward(heads: int, scale: float, memory: int, interpret: bool, kept: tuple, grad: Array):
    query, key, value, bias, limits = kept
    call = _Call.of(query, key, heads, memory)
    last = query.shape[1] % call.rows
    kernel = functools.partial(
        _backward_kernel,
        size=call.size,
        unit=call.unit,
        scale=scale,
        masked=bias is not None,
        ordered=limits is not None,
        rows=call.rows,
        last=last,
    )
    grads = call.run(
        kernel, [query, grad], [key, value], bias, limits, outputs=[query], summed=[key, value], interpret=interpret
    )
    return (*grads, *jax.tree.map(jnp.zeros_like, (bias, limits)))


flat.defvjp(_forward, _backward)


class _Bounds(NamedTuple):
    """What decides which keys a query sees: a bias of keys [m 1], or numbers of queries [1 rows] and keys [m 1]."""

    bias: Any = None
    queries: Any = None
    keys: Any = None

    @classmethod
    def read(cls, refs: Any, masked: bool, ordered: bool) -> "_Bounds":
        """From the references after those of queries, keys and values."""
        if ordered:
            return cls(queries=refs[0][0], keys=refs[1][0])
        return cls(bias=refs[0][0] if masked else None)


def _scores(query: Array, key: Array, bounds: _Bounds, scale: float) -> Array:
    """Return the scaled scores of a head as [m rows], keys first: sums over keys then go along the sublanes."""
    scores = _dot(key, query, (1, 1)) * scale
    if bounds.queries is not None:
        return jnp.where(bounds.keys <= bounds.queries, scores, jnp.finfo(jnp.float32).min)
    return scores if bounds.bias is None else scores + bounds.bias


def _dot(a: Array, b: Array, over: tuple[int, int]) -> Array:
    dims = (((over[0],), (over[1],)), ((), ()))
    # float32 in full, as elsewhere; for bfloat16 there is one way only.
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, dims, precision=exact, preferred_element_type=jnp.float32)


def _softmax(scores: Array) -> Array:
    weights = jnp.exp(scores - scores.max(axis=0, keepdims=True))
    return weights / weights.sum(axis=0, keepdims=True)


def _units(columns: int, unit: int, size: int, body: Callable[[Any, list[slice]], None]) -> None:
    """Call `body` with the columns of each unit of heads, and with those of every head inside the unit."""
    inside = [slice(start, start + size) for start in range(0, unit * size, size)]

    def one(number: Array, carry: None) -> None:
        body(pl.ds(pl.multiple_of(number * unit * size, LANES), unit * size), inside)

    if columns == unit * size:
        body(slice(None), inside)
    else:
        jax.lax.fori_loop(0, columns // (unit * size), one, None)


def _forward_kernel(*refs: Any, size: int, unit: int, scale: float, masked: bool, ordered: bool) -> None:
    query, key, value, *rest = refs
    bounds, out = _Bounds.read(rest, masked, ordered), rest[-1]

    def body(columns: Any, heads: list[slice]) -> None:
        q, k, v = (ref[0, :, columns] for ref in (query, key, value))
        made = []
        for head in heads:
            weights = _softmax(_scores(q[:, head], k[:, head], bounds, scale))
            made.append(_dot(weights.astype(v.dtype), v[:, head], (0, 0)).astype(out.dtype))
        out[0, :, columns] = jnp.concatenate(made, axis=1)

    _units(query.shape[-1], unit, size, body)


def _backward_kernel(
    *refs: Any, size: int, unit: int, scale: float, masked: bool, ordered: bool, rows: int, last: int
) -> None:
    query, grad, key, value, *rest = refs
    bounds = _Bounds.read(rest, masked, ordered)
    d_query, d_key, d_value, key_sum, value_sum = rest[-5:]
    turn, turns = pl.program_id(2), pl.num_programs(2)

    @pl.when(turn == 0)
    def _() -> None:
        key_sum[...] = jnp.zeros_like(key_sum)
        value_sum[...] = jnp.zeros_like(value_sum)

    def body(columns: Any, heads: list[slice]) -> None:
        q, g, k, v = (ref[0, :, columns] for ref in (query, grad, key, value))
        if last:  # the last block reaches past the queries, where memory holds anything
            real = jnp.where(turn == turns - 1, last, rows)
            inside = jax.lax.broadcasted_iota(jnp.int32, q.shape, 0) < real
            q, g = jnp.where(inside, q, 0), jnp.where(inside, g, 0)
        found = [_head_gradients(q[:, h], g[:, h], k[:, h], v[:, h], bounds, scale) for h in heads]
        by_query, by_key, by_value = (jnp.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        d_query[0, :, columns] = by_query.astype(d_query.dtype)
        key_sum[:, columns] += by_key
        value_sum[:, columns] += by_value

    _units(query.shape[-1], unit, size, body)

    @pl.when(turn == turns - 1)
    def _() -> None:
        d_key[0] = key_sum[...].astype(d_key.dtype)
        d_value[0] = value_sum[...].astype(d_value.dtype)


def _head_gradients(
    q: Array, g: Array, k: Array, v: Array, bounds: _Bounds, scale: float
) -> tuple[Array, Array, Array]:
    """Return the gradients by queries, keys and values of one head, float32, of the output's gradient `g`."""
    weights = _softmax(_scores(q, k, bounds, scale))
    slope = _dot(v, g, (1, 1))
    slope = weights * (slope - (weights * slope).sum(axis=0, keepdims=True)) * scale
    slope = slope.astype(q.dtype)
    return _dot(slope, k, (0, 0)), _dot(slope, q, (1, 0)), _dot(weights.astype(g.dtype), g, (1, 0))


class _Call(NamedTuple):
    """The blocks of a kernel: which part of each array a run of it has in fast memory."""

    grid: tuple[int, int, int]  # clips, groups of heads, blocks of queries
    rows: int
    keys: int
    columns: int
    size: int
    unit: int
    memory: int

    @classmethod
    def of(cls, query: Array, key: Array, heads: int, memory: int) -> "_Call":
        (b, n, width), m = query.shape, key.shape[1]
        size = width // heads
        blocks = _blocks(n, m, width, heads, query.dtype.itemsize, memory)
        grid = (b, heads // blocks.heads, math.ceil(n / blocks.rows))
        return cls(grid, blocks.rows, m, blocks.heads * size, size, blocks.unit, memory)

    def run(
        self,
        kernel: Any,
        of_queries: list[Array],
        of_keys: list[Array],
        bias: Array | None,
        limits: tuple[Array, Array] | None,
        *,
        outputs: list[Array],
        summed: list[Array],
        interpret: bool,
    ) -> list[Array]:
        """Run a kernel; `summed` are outputs of the form of keys, to which every block of queries adds."""
        block = pl.BlockSpec((1, self.rows, self.columns), lambda b, h, i: (b, i, h))
        whole = pl.BlockSpec((1, self.keys, self.columns), lambda b, h, i: (b, 0, h))
        given = [block] * len(of_queries) + [whole] * len(of_keys)
        arrays = [*of_queries, *of_keys]
        of_key = pl.BlockSpec((1, self.keys, 1), lambda b, h, i: (b, 0, 0))
        if limits is not None:
            given += [pl.BlockSpec((1, 1, self.rows), lambda b, h, i: (b, 0, i)), of_key]
            arrays += limits
        elif bias is not None:
            given.append(of_key)
            arrays.append(bias)
        made = [*outputs, *summed]
        return pl.pallas_call(
            kernel,
            grid=self.grid,
            in_specs=given,
            out_specs=[block] * len(outputs) + [whole] * len(summed),
            out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in made],
            scratch_shapes=[pltpu.VMEM((self.keys, self.columns), jnp.float32) for _ in summed],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=self.memory * 5 // 4
            ),
            interpret=interpret,
        )(*arrays)
