"""Loss and gradients of a global batch, whole or in micro-batches, with the same result up to rounding.

Terms of `Method.loss` are sums over rows divided by counts, so micro-batches only need the counts of
the whole batch first. Terms of `Method.global_loss` compare rows with each other. They are computed
once, over the rows of all micro-batches, and their gradient with respect to each row is carried back
through the network that produced it (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size
under Memory Limited Setup"). Parameters used after the rows were brought together (a temperature, a
projection head with batch norm) therefore get their gradient exactly once.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vmae_jax.spec import ConfigError
from vmae_jax.train.sharding import constrain
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Params, merge

__all__ = ["Gradients", "check_groups", "gradients", "row_count"]


class Gradients(NamedTuple):
    """Loss and gradients of one batch.

    Attributes:
      loss: sum of weight * total / count over the terms.
      grads: of the parameters.
      metrics: "loss/TERM" before its weight, and the method's own.
      carry: what `Method.advance` receives.
    """

    loss: Array
    grads: Params
    metrics: dict[str, Array]
    carry: Any


def gradients(method: Method, params: Params, batch: Batch, context: Context, accumulate: int) -> Gradients:
    """Return loss, gradients, metrics and carry of a whole batch.

    Args:
      method: gives the terms of the loss.
      params: to differentiate by.
      batch: arrays with one row per clip.
      context: of the step.
      accumulate: number of micro-batches; each has whole groups of `Method.group` rows.

    Raises:
      ConfigError: if the groups of the batch do not divide into the micro-batches.
      ValueError: if a leaf of `Loss.carry` or `Loss.rows` does not have one row per clip.
    """
    rows = row_count(batch)
    if accumulate == 1:
        objective = functools.partial(_whole, method, batch=batch, context=context, rows=rows)
        (value, loss), grads = jax.value_and_grad(objective, has_aux=True)(params)
        return Gradients(value, grads, _means(loss), loss.carry)
    group = check_groups(method, rows, accumulate)
    split, join = functools.partial(_split, k=accumulate, group=group), functools.partial(_join, group=group)
    micro = jax.tree.map(split, dict(batch))
    counts, seen = _look_ahead(method, params, micro, context)
    value, grads, compared, pull = _compared(method, params, join(seen), context)
    pull = jax.tree.map(split, pull)  # split as its rows are

    def body(total: Params, part: tuple[Batch, Any]) -> tuple[Params, tuple[Array, Loss]]:
        objective = functools.partial(
            _part, method, batch=part[0], pull=part[1], counts=counts, context=context, rows=rows // accumulate
        )
        (value, loss), grads = jax.value_and_grad(objective, has_aux=True)(params)
        return jax.tree.map(jnp.add, total, grads), (value, loss)

    grads, (values, parts) = jax.lax.scan(body, grads, (micro, pull))
    local = Loss(
        terms=jax.tree.map(lambda x: x.sum(0), parts.terms),
        metrics=jax.tree.map(lambda x: x.sum(0), parts.metrics),
        carry=join(parts.carry),
    )
    loss = merge(local, compared)
    return Gradients(values.sum() + value, grads, _means(loss), loss.carry)


def row_count(batch: Batch) -> int:
    """Number of rows of a batch or of its shapes.

    Raises:
      ValueError: if the arrays do not all have the same number of rows.
    """
    rows = {name: leaf.shape[0] for name, leaf in batch.items()}
    if len(set(rows.values())) != 1:
        raise ValueError(f"the arrays of a batch must all have the same number of rows, one per clip; got {rows}")
    return next(iter(rows.values()))


def _whole(method: Method, params: Params, *, batch: Batch, context: Context, rows: int) -> tuple[Array, Loss]:
    """The objective of a batch that is not divided, and its parts without gradient."""
    loss = method.total_loss(params, batch, context)
    _check_rows(loss, rows)
    return _value(loss, _counts(loss)), _recorded(loss)


def _part(
    method: Method, params: Params, *, batch: Batch, pull: Any, counts: Any, context: Context, rows: int
) -> tuple[Array, Loss]:
    """A micro-batch's share of the objective, counts being those of the whole batch.

    `pull` is the gradient of the compared terms with respect to this micro-batch's rows. Its inner
    product with the rows has that gradient and no part in the value.
    """
    loss = method.loss(params, batch, context)
    _check_rows(loss, rows)
    value = _value(loss, counts)
    if pull is not None:
        pairs = zip(jax.tree.leaves(pull), jax.tree.leaves(_inexact(loss.rows)), strict=True)
        steer = sum(jnp.sum(grad.astype(jnp.float32) * row.astype(jnp.float32)) for grad, row in pairs)
        value = value + (steer - jax.lax.stop_gradient(steer))
    return value, _recorded(loss)


def _look_ahead(method: Method, params: Params, micro: Batch, context: Context) -> tuple[dict[str, Array], Any]:
    """The counts of all micro-batches together, and their rows for `Method.global_loss`.

    Counts follow from masks and labels. If no rows are compared, the network's outputs are not used here, and
    the compiler drops it.
    """

    def look(none: None, batch: Batch) -> tuple[None, tuple[dict[str, Array], Any]]:
        loss = method.loss(params, batch, context)
        return none, (_counts(loss), None if method.global_loss is None else _required_rows(loss))

    _, (counts, rows) = jax.lax.scan(look, None, micro)
    return jax.tree.map(lambda count: count.sum(0), counts), rows


def _compared(method: Method, params: Params, rows: Any, context: Context) -> tuple[Array, Params, Loss, Any]:
    """Value, gradient, parts of the terms that compare rows, and their gradient by each row."""
    if method.global_loss is None:
        return jnp.float32(0.0), jax.tree.map(jnp.zeros_like, params), Loss({}), None
    moved = _inexact(rows)

    def objective(params: Params, moved: Any) -> tuple[Array, Loss]:
        loss = method.global_loss(params, _with(rows, moved), context)  # pyright: ignore[reportOptionalCall]
        return _value(loss, _counts(loss)), _recorded(loss)

    (value, loss), (grads, pull) = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)(params, moved)
    return value, grads, loss, pull


def _inexact(tree: Any) -> Any:
    """A tree's floating-point leaves, None in place of the others, which have no gradient."""
    return jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None, tree)


def _with(tree: Any, moved: Any) -> Any:
    """`tree` with its floating-point leaves from `moved`."""
    leaves = iter(jax.tree.leaves(moved))
    return jax.tree.map(lambda leaf: next(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf, tree)


def _required_rows(loss: Loss) -> Any:
    if loss.rows is None:
        raise ValueError("Method.global_loss compares Loss.rows, but Method.loss returned none")
    return loss.rows


def _value(loss: Loss, counts: dict[str, Array]) -> Array:
    parts = [term.weight * _ratio(term.total, counts[name]) for name, term in loss.terms.items()]
    return jnp.asarray(sum(parts), jnp.float32)


def _recorded(loss: Loss) -> Loss:
    """Return the parts of a loss that are reported, without gradients, and without weights, which do not add up."""
    terms = {name: dataclasses.replace(term, weight=None) for name, term in loss.terms.items()}
    return jax.tree.map(jax.lax.stop_gradient, Loss(terms=terms, metrics=loss.metrics, carry=loss.carry))


def check_groups(method: Method, rows: int, accumulate: int) -> int:
    """Return the size of a group, all of whose rows stay in one micro-batch.

    Raises:
      ConfigError: if the micro-batches would divide a group.
    """
    if method.group is None:
        if accumulate > 1:
            raise ConfigError(
                f"train.accumulate={accumulate} would divide a batch whose clips are all mixed with each other; set "
                f"the group of config.method.mix to a number of clips, or train.accumulate to 1"
            )
        return rows
    if accumulate > 1 and rows % (accumulate * method.group):
        unit = f" of whole groups of {method.group} clips" if method.group > 1 else ""
        raise ConfigError(
            f"a batch of {rows} clips does not divide into train.accumulate={accumulate} micro-batches{unit}"
        )
    return method.group


def _split(x: Array, k: int, group: int) -> Array:
    """[b …] -> [k b/k …]; micro-batch i has groups i::k."""
    rest = x.shape[1:]
    micro = jnp.swapaxes(x.reshape(-1, k, group, *rest), 0, 1).reshape(k, -1, *rest)
    return constrain(micro, (None, "batch", *(None,) * len(rest)))


def _join(tree: Any, group: int) -> Any:
    """[k b/k …] -> [b …] with rows in the order of the batch; each `Mean` is summed over micro-batches."""

    def join(leaf: Any) -> Any:
        if isinstance(leaf, Mean):
            return jax.tree.map(lambda x: x.sum(0), leaf)
        k, rows, *rest = leaf.shape
        return jnp.swapaxes(leaf.reshape(k, -1, group, *rest), 0, 1).reshape(k * rows, *rest)

    return jax.tree.map(join, tree, is_leaf=lambda x: isinstance(x, Mean))


def _check_rows(loss: Loss, rows: int) -> None:
    """Raise ValueError if a leaf of `carry` or `rows` does not have one row per clip."""
    for name, tree in (("carry", loss.carry), ("rows", loss.rows)):
        means = (lambda x: isinstance(x, Mean)) if name == "carry" else None
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=means):
            if not isinstance(leaf, Mean) and leaf.shape[:1] != (rows,):
                where = jax.tree_util.keystr(path, simple=True, separator="/")
                raise ValueError(
                    f"Loss.{name} {where!r} has shape {leaf.shape}; every leaf needs one row for each of the {rows} "
                    f"clips" + (", or must be a Mean (total and count), which is summed" if name == "carry" else "")
                )


def _counts(loss: Loss) -> dict[str, Array]:
    return {name: jax.lax.stop_gradient(jnp.asarray(term.count, jnp.float32)) for name, term in loss.terms.items()}


def _ratio(total: Array, count: Array) -> Array:
    """Return total / count, or the (zero) total if nothing was counted."""
    return jnp.asarray(total, jnp.float32) / jnp.where(count == 0, 1.0, count)


def _means(loss: Loss) -> dict[str, Array]:
    terms = {f"loss/{name}": _ratio(term.total, term.count) for name, term in loss.terms.items()}
    return terms | {name: _ratio(mean.total, mean.count) for name, mean in loss.metrics.items()}
