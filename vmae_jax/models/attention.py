"""Scaled dot-product attention, in one place: each platform has a form that is best there.

All forms compute the same: softmax(query · keyᵀ · scale) · value for every head, the softmax in float32. Arrays come
flat, [b n heads·size], as the projections before make them, and leave flat. `attend` chooses by the platform that the
program is compiled for, which is the mesh's, not this machine's; the models use nothing but `attend`.

  plain   three XLA operations; what every platform can do, and the best for short sequences
  mapped  one head at a time with a gradient of its own: XLA's CPU compiler multiplies matrices well
          one by one and slowly in batches, and the weights of one head stay in the cache
  cudnn   cuDNN's fused kernel, on NVIDIA GPUs from Ampere on, in half precision
  flat    our fused kernel for TPUs, which takes the heads from flat arrays (`models/attention_tpu.py`)
  splash  JAX's fused kernel for TPUs, for sequences that do not fit into the fast memory as a whole
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from vmae_jax.models import attention_tpu
from vmae_jax.types import typed

__all__ = ["FORMS", "attend", "form_for"]

FORMS = ("auto", "plain", "mapped", "cudnn", "flat", "splash")
CAUSAL = ("plain", "cudnn", "splash")

AMPERE = 8.0  # the first compute capability for which cuDNN has fused attention
LANES = 128  # of a TPU's vectors, which splash attention's blocks are multiples of
NO_KERNELS = ("TPU v2", "TPU v3")
FAST = {"TPU v4": 12 * 2**20}  # bytes of fast memory that our kernel may take, where it is less than on other TPUs
MAPPED_FROM = 384  # tokens; measured in docs/performance.md: below, `plain` is as fast on a CPU


@typed
def attend(
    query: Float[Array, "b n d"],
    key: Float[Array, "b m d"],
    value: Float[Array, "b m d"],
    *,
    heads: int,
    valid: Bool[Array, "b m"] | None = None,
    scale: float | None = None,
    form: str = "auto",
    causal: bool = False,
) -> Float[Array, "b n d"]:
    """softmax(query · keyᵀ · scale) · value of each head, with the softmax in float32.

    Args:
      query, key, value: the columns of one head after the other.
      heads: must divide d.
      valid: False where a key is padding, which no query sees.
      scale: by default 1 / √(d / heads).
      form: one of `FORMS`; "auto" is the platform's best for these shapes.
      causal: whether query i sees the keys 0 to i alone.

    Raises:
      ValueError: if the attention is causal and the form is none of `CAUSAL`.
    """
    if causal and form != "auto" and form not in CAUSAL:
        raise ValueError(f"form={form!r}: causal attention has the forms {', '.join(CAUSAL)}")
    factor = (query.shape[-1] // heads) ** -0.5 if scale is None else scale
    if form == "auto":
        form = form_for(query.shape, key.shape[1], heads, query.dtype, masked=valid is not None, causal=causal)
    if form == "flat":
        return _per_device(functools.partial(_flat, scale=factor), query, key, value, valid, heads)
    q, k, v = (_split(x, heads) for x in (query * factor, key, value))
    if form in ("mapped", "splash"):
        run: Any = mapped if form == "mapped" else functools.partial(splash, causal=causal)
        out = _per_device(lambda q, k, v, valid, heads: run(q, k, v, valid), q, k, v, valid, heads)
    else:
        run = {"plain": plain, "cudnn": cudnn}[form]
        out = run(q, k, v, valid, causal=causal)
    return _joined(out)


def form_for(query: tuple[int, ...], keys: int, heads: int, dtype: Any, *, masked: bool, causal: bool = False) -> str:
    """The form that "auto" stands for, on the platform that is compiled for.

    Args:
      query: its shape, [b n d].
      keys: how many.
      masked: whether some keys are padding.
      causal: as in `attend`.
    """
    (platform, kind), (_, tokens, width) = _platform(), query
    size = width // heads
    if platform == "cpu" and tokens * keys >= MAPPED_FROM**2 and not causal:
        return "mapped"
    half = dtype in (jnp.bfloat16, jnp.float16)
    if (
        platform in ("gpu", "cuda")
        and half
        and not masked
        and size % 8 == 0
        and size <= 128
        and _capability() >= AMPERE
    ):
        return "cudnn"
    # By the compiled memory traffic (docs/performance.md), at the encoder's 160 tokens as well.
    if platform == "tpu" and kind not in NO_KERNELS:
        small = attention_tpu.fits(tokens, keys, width, heads, jnp.dtype(dtype).itemsize, _fast_memory())
        return "flat" if small and not causal else "splash"
    return "plain"


def _split(x: Array, heads: int) -> Array:
    """[b n d] -> [b h n k].

    On TPUs the projection before it remains a product of flat matrices, whose lanes are full. Without the barrier the
    compiler would form the heads inside the product and pad the 64 columns of a head to the 128 lanes of the matrix
    unit, which doubles its arithmetic.
    """
    b, n, width = x.shape
    split = jnp.swapaxes(_kept_flat(x).reshape(b, n, heads, width // heads), 1, 2)
    return nn.with_logical_constraint(split, ("batch", "heads", "tokens", None))


def _joined(x: Array) -> Array:
    """[b h n k] -> [b n d], the inverse of `_split`."""
    b, heads, n, size = x.shape
    return _kept_flat(jnp.swapaxes(x, 1, 2).reshape(b, n, heads * size))


def _kept_flat(x: Array) -> Array:
    return jax.lax.optimization_barrier(x) if _platform()[0] == "tpu" else x


def _flat(query: Array, key: Array, value: Array, valid: Array | None, heads: int, *, scale: float) -> Array:
    bias = None if valid is None else jnp.where(valid, 0.0, jnp.finfo(jnp.float32).min)[:, :, None]
    return attention_tpu.flat(query, key, value, bias, heads, scale, _fast_memory())


def plain(query: Array, key: Array, value: Array, valid: Array | None = None, *, causal: bool = False) -> Array:
    """As three XLA operations; the weights of all heads exist at once."""
    scores = jnp.einsum("bhnk,bhmk->bhnm", query, key, preferred_element_type=jnp.float32)
    if causal:
        scores = jnp.where(jnp.tri(*scores.shape[2:], dtype=bool), scores, jnp.finfo(scores.dtype).min)
    if valid is not None:
        scores = jnp.where(valid[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhnm,bhmk->bhnk", weights, value)


def cudnn(query: Array, key: Array, value: Array, valid: Array | None = None, *, causal: bool = False) -> Array:
    """cuDNN's fused kernel; it wants tokens before heads, half precision and a recent GPU."""
    mask = None if valid is None else valid[:, None, None, :]
    swapped = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    options = {"mask": mask, "scale": 1.0, "is_causal": causal, "implementation": "cudnn"}
    return jnp.swapaxes(jax.nn.dot_product_attention(*swapped, **options), 1, 2)


@jax.custom_vjp
def mapped(query: Array, key: Array, value: Array, valid: Array | None = None) -> Array:
    """One head of one example at a time, its weights made again for the gradient.

    Nothing of the size of the weights is kept for the backward pass: only the output and, for
    each query, the logarithm of the softmax's denominator.
    """
    return _mapped_forward(query, key, value, valid)[0]


def _mapped_forward(query: Array, key: Array, value: Array, valid: Array | None):
    def head(q: Array, k: Array, v: Array, bias: Array | None):
        scores = _scores(q, k, bias)
        top = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        out = _dot(weights.astype(v.dtype), v) / total
        return out.astype(v.dtype), top + jnp.log(total)

    out, log_total = _over_heads(head, _bias(query, valid), query, key, value)
    return out, (query, key, value, valid, out, log_total)


def _mapped_backward(kept: tuple, grad: Array):
    query, key, value, valid, out, log_total = kept

    def head(q: Array, k: Array, v: Array, log_total: Array, inner: Array, g: Array, bias: Array | None):
        weights = jnp.exp(_scores(q, k, bias) - log_total)
        # The softmax's gradient: weights * (d weights - sum(weights * d weights)), where the sum is `inner`.
        slope = (weights * (_dot(g, v.T) - inner)).astype(q.dtype)
        grads = _dot(slope, k), _dot(slope.T, q), _dot(weights.astype(g.dtype).T, g)
        return tuple(grad.astype(x.dtype) for grad, x in zip(grads, (q, k, v), strict=True))

    inner = (grad.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1, keepdims=True)
    grads = _over_heads(head, _bias(query, valid), query, key, value, log_total, inner, grad)
    return (*grads, None)


mapped.defvjp(_mapped_forward, _mapped_backward)


def _scores(q: Array, k: Array, bias: Array | None) -> Array:
    scores = _dot(q, k.T)
    return scores if bias is None else scores + bias


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _bias(query: Array, valid: Array | None) -> Array | None:
    """0 or the lowest number for each key, once a head: [b h 1 m]."""
    if valid is None:
        return None
    bias = jnp.where(valid, 0.0, jnp.finfo(jnp.float32).min)[:, None, None, :]
    return jnp.broadcast_to(bias, (*query.shape[:2], 1, valid.shape[1]))


def _over_heads(head, bias: Array | None, *arrays: Array):
    """`head` of each head of each example, one after the other."""
    b, h = arrays[0].shape[:2]
    flat = [None if x is None else x.reshape(b * h, *x.shape[2:]) for x in (*arrays, bias)]
    _, results = jax.lax.scan(lambda none, slices: (none, head(*slices)), None, tuple(flat))
    return jax.tree.map(lambda x: x.reshape(b, h, *x.shape[1:]), results)


def splash(
    query: Array, key: Array, value: Array, valid: Array | None = None, *, causal: bool = False, interpret: bool = False
) -> Array:
    """JAX's fused Pallas kernel for TPUs; tokens are padded to a multiple of its blocks.

    Args:
      causal: as in `attend`.
      interpret: run the kernel's body as ordinary operations, on any platform, slowly.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    (b, h, n, _), m = query.shape, key.shape[2]
    long = math.ceil(max(n, m) / LANES) * LANES
    block = next(size for size in (512, 384, 256, LANES) if long % size == 0)
    kernel: Any = kernels.make_splash_mha(
        masks.MultiHeadMask([(masks.CausalMask if causal else masks.FullMask)((long, long))] * h),
        block_sizes=kernels.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            use_fused_bwd_kernel=True,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    query, key, value = (_pad(x, long, axis=2) for x in (query, key, value))
    if n == m == long and valid is None:
        return jax.vmap(kernel)(query, key, value)
    # Real queries see real keys; the padding sees padding, as a softmax over nothing is not a number.
    real = jnp.ones((b, m), bool) if valid is None else valid
    ids = kernels.SegmentIds(
        q=_pad(jnp.ones((b, n), jnp.int32), long, axis=1), kv=_pad(real.astype(jnp.int32), long, axis=1)
    )
    return jax.vmap(kernel)(query, key, value, ids)[:, :, :n]


def _pad(x: Array, length: int, *, axis: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, widths)


def _per_device(form: Any, query: Array, key: Array, value: Array, valid: Array | None, heads: int) -> Array:
    """`form` on each device's own examples and heads: the compiler cannot split a loop or a kernel.

    Args:
      form: (query, key, value, valid, heads) -> output, of flat arrays or of arrays [b h n k].
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or mesh.are_all_axes_manual:
        return form(query, key, value, valid, heads)
    rows, columns = (
        axis if axis is not None and size % _extent(mesh, axis) == 0 else None
        for axis, size in zip(
            nn.logical_to_mesh_axes(("batch", "heads")) or (None, None), (query.shape[0], heads), strict=True
        )
    )
    own = heads if columns is None else heads // _extent(mesh, columns)
    split = PartitionSpec(rows, columns) if query.ndim == 4 else PartitionSpec(rows, None, columns)
    given = (query, key, value) if valid is None else (query, key, value, valid)
    specs = (split,) * 3 if valid is None else (split, split, split, PartitionSpec(rows))

    def here(query: Array, key: Array, value: Array, valid: Array | None = None) -> Array:
        return form(query, key, value, valid, own)

    return jax.shard_map(here, in_specs=specs, out_specs=split, check_vma=False)(*given)


def _extent(mesh: jax.sharding.AbstractMesh, axes: str | tuple[str, ...]) -> int:
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


def _platform() -> tuple[str, str]:
    """Platform and kind of the devices of the mesh that is compiled for; without one, of this process."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None:
        return device.platform, device.device_kind
    return jax.default_backend(), jax.local_devices()[0].device_kind


def _fast_memory() -> int:
    return FAST.get(_platform()[1], 48 * 2**20)  # TPU v5p has 64 MiB, later ones more


def _capability() -> float:
    """The compute capability of this machine's GPU; 0 where there is none."""
    if jax.default_backend() != "gpu":
        return 0.0
    return float(getattr(jax.local_devices()[0], "compute_capability", 0.0))
