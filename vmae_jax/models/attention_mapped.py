"""Attention of one head of one example at a time: `models.attention`'s form for long sequences on CPUs."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

__all__ = ["mapped"]


@jax.custom_vjp
def mapped(query: Array, key: Array, value: Array, valid: Array | None = None, limits: Any = None) -> Array:
    """One head of one example at a time, its weights made again for the gradient.

    Nothing of the size of the weights is kept for the backward pass: only the output and, for
    each query, the logarithm of the softmax's denominator.
    """
    return _mapped_forward(query, key, value, valid, limits)[0]


def _mapped_forward(query: Array, key: Array, value: Array, valid: Array | None, limits: Any):
    def head(q: Array, k: Array, v: Array, *bounds: Array | None):
        scores = _scores(q, k, *bounds)
        top = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        out = _dot(weights.astype(v.dtype), v) / total
        return out.astype(v.dtype), top + jnp.log(total)

    out, log_total = _over_heads(head, _bounds(query, valid, limits), query, key, value)
    return out, (query, key, value, valid, limits, out, log_total)


def _mapped_backward(kept: tuple, grad: Array):
    query, key, value, valid, limits, out, log_total = kept

    def head(q: Array, k: Array, v: Array, log_total: Array, inner: Array, g: Array, *bounds: Array | None):
        weights = jnp.exp(_scores(q, k, *bounds) - log_total)
        # The softmax's gradient: weights * (d weights - sum(weights * d weights)), where the sum is `inner`.
        slope = (weights * (_dot(g, v.T) - inner)).astype(q.dtype)
        grads = _dot(slope, k), _dot(slope.T, q), _dot(weights.astype(g.dtype).T, g)
        return tuple(grad.astype(x.dtype) for grad, x in zip(grads, (q, k, v), strict=True))

    inner = (grad.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1, keepdims=True)
    grads = _over_heads(head, _bounds(query, valid, limits), query, key, value, log_total, inner, grad)
    return (*grads, None, None)


mapped.defvjp(_mapped_forward, _mapped_backward)


def _scores(q: Array, k: Array, bias: Array | None, first: Array | None, last: Array | None) -> Array:
    scores = _dot(q, k.T)
    if first is not None and last is not None:
        return jnp.where(first <= last, scores, jnp.finfo(jnp.float32).min)
    return scores if bias is None else scores + bias


def _dot(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _bounds(query: Array, valid: Array | None, limits: Any) -> tuple[Array | None, Array | None, Array | None]:
    """What decides which keys a query sees, once a head.

    The bias of each key [b h 1 m], 0 or the lowest number; or the numbers of keys [b h 1 m] and queries [b h n 1].
    """
    spread = lambda x: jnp.broadcast_to(x[:, None], (*query.shape[:2], *x.shape[1:]))  # noqa: E731
    if limits is not None:
        return None, spread(limits[1][:, None, :]), spread(limits[0][:, :, None])
    if valid is None:
        return None, None, None
    return spread(jnp.where(valid, 0.0, jnp.finfo(jnp.float32).min)[:, None, :]), None, None


def _over_heads(head, bounds: tuple[Array | None, ...], *arrays: Array):
    """`head` of each head of each example, one after the other."""
    b, h = arrays[0].shape[:2]
    flat = [None if x is None else x.reshape(b * h, *x.shape[2:]) for x in (*arrays, *bounds)]
    _, results = jax.lax.scan(lambda none, slices: (none, head(*slices)), None, tuple(flat))
    return jax.tree.map(lambda x: x.reshape(b, h, *x.shape[1:]), results)
