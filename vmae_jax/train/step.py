"""The one training step: loss over the global batch, gradients, update; refused where not finite."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool

from vmae_jax.spec import ConfigError
from vmae_jax.train import optim
from vmae_jax.train.on_mesh import OnMesh, on_mesh
from vmae_jax.train.sharding import RULES, Placement, Rules, batch_sharding, check_batch, constrain
from vmae_jax.train.spikes import Spikes, judge
from vmae_jax.train.state import TrainState
from vmae_jax.types import Batch, Context, Loss, Mean, Method, Params, stream

__all__ = ["CompiledStep", "Step", "compile_step", "make_step"]

Metrics = dict[str, Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """(state, batch) -> (state, metrics): pure, to be compiled by `compile_step`.

    The attributes are the arguments of `make_step`.
    """

    method: Method
    tx: optim.Transformation
    accumulate: int
    ema_decay: float | None
    seed: int
    spikes: Spikes | None = None

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        context = Context(
            key=jax.random.fold_in(stream(jax.random.key(self.seed), "step"), state.step),
            step=state.step,
            extra=state.extra["method"],
            frozen=state.frozen,
        )
        loss, grads, metrics, carry = self._gradients(state.params, batch, context)
        with jax.named_scope("optimizer"):
            norm, rate = self.tx.norm(grads), self.tx.rate(state.opt_state)
            finite = jnp.isfinite(loss) & jnp.isfinite(norm)
            good, history = self._judge(state, finite, {"loss": loss, "grad_norm": norm})
            params, opt_state = self.tx.update(grads, state.opt_state, state.params, norm, good)
        extra = self._advance(state, params, carry)
        kept = {name: part for name, part in state.extra.items() if name != "spikes"}
        new = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            extra=_choose(good, extra, kept) | history,
            first_bad_step=jnp.where(good | (state.first_bad_step >= 0), state.first_bad_step, state.step),
        )
        told = {"loss": loss, "grad_norm": norm, "learning_rate": rate, "finite": finite}
        told["param_norm"] = optim.global_norm(params)
        if self.spikes is not None:
            told["spike"] = finite & ~good
        if both := told.keys() & metrics.keys():
            raise ValueError(f"the method's metrics {sorted(both)} have names that the step itself uses")
        return new, {name: jnp.asarray(value, jnp.float32) for name, value in (told | metrics).items()}

    def _judge(
        self, state: TrainState, finite: Bool[Array, ""], values: Metrics
    ) -> tuple[Bool[Array, ""], dict[str, Any]]:
        """Whether the update is taken, and the part of `extra` that is kept up to date even where it is not."""
        if ("spikes" in state.extra) != (self.spikes is not None):
            raise ValueError("make_step(spikes=…) and make_init(spikes=…) go together: one was given without the other")
        if self.spikes is None:
            return finite, {}
        spike, history = judge(state.extra["spikes"], values, self.spikes)
        return finite & ~spike, {"spikes": history}

    def _gradients(self, params: Params, batch: Batch, context: Context) -> tuple[Array, Params, Metrics, Any]:
        """Loss, gradients, metrics and carry of the whole batch."""
        rows = _rows(batch)
        if self.accumulate == 1:
            objective = functools.partial(self._objective, batch=batch, context=context, counts=None)
            (loss, parts), grads = jax.value_and_grad(objective, has_aux=True)(params)
            _check_carry(parts.carry, rows)
            return loss, grads, _means(parts), parts.carry
        micro = jax.tree.map(functools.partial(_split, k=self.accumulate), dict(batch))
        counts = self._counts(params, micro, context)

        def body(total: Params, batch: Batch) -> tuple[Params, tuple[Array, Loss]]:
            objective = functools.partial(self._objective, batch=batch, context=context, counts=counts)
            (loss, parts), grads = jax.value_and_grad(objective, has_aux=True)(params)
            _check_carry(parts.carry, rows // self.accumulate)
            return jax.tree.map(jnp.add, total, grads), (loss, parts)

        grads, (losses, parts) = jax.lax.scan(body, jax.tree.map(jnp.zeros_like, params), micro)
        whole = Loss(
            terms=jax.tree.map(lambda x: x.sum(0), parts.terms),
            metrics=jax.tree.map(lambda x: x.sum(0), parts.metrics),
            carry=_join(parts.carry),
        )
        return losses.sum(), grads, _means(whole), whole.carry

    def _objective(self, params: Params, *, batch: Batch, context: Context, counts: Any) -> tuple[Array, Loss]:
        """This (micro-)batch's part of sum(weight * total / count), counts being those of the whole batch."""
        loss = self.method.loss(params, batch, context)
        counts = _term_counts(loss) if counts is None else counts
        parts = [term.weight * _ratio(term.total, counts[name]) for name, term in loss.terms.items()]
        # Weights are for the objective alone; what is summed over micro-batches is total and count.
        terms = {name: dataclasses.replace(term, weight=None) for name, term in loss.terms.items()}
        told = jax.tree.map(jax.lax.stop_gradient, Loss(terms=terms, metrics=loss.metrics, carry=loss.carry))
        return jnp.asarray(sum(parts), jnp.float32), told

    def _counts(self, params: Params, micro: Batch, context: Context) -> dict[str, Array]:
        """The counts of all micro-batches together.

        Counts follow from masks and labels; the network is traced here but nothing asks for its
        outputs, so the compiler drops it.
        """
        _, counts = jax.lax.scan(
            lambda none, batch: (none, _term_counts(self.method.loss(params, batch, context))), None, micro
        )
        return jax.tree.map(lambda count: count.sum(0), counts)

    def _advance(self, state: TrainState, params: Params, carry: Any) -> dict[str, Any]:
        extra = {"method": self.method.advance(state.extra["method"], params, carry, state.step)}
        if ("ema" in state.extra) != (self.ema_decay is not None):
            raise ValueError(
                "make_step(ema_decay=…) and make_init(ema=True) go together: one was given without the other"
            )
        if self.ema_decay is not None:
            keep = self.ema_decay
            extra["ema"] = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, state.extra["ema"], params)
        return extra


def make_step(
    method: Method,
    tx: optim.Transformation,
    *,
    accumulate: int = 1,
    ema_decay: float | None = None,
    seed: int = 0,
    spikes: Spikes | None = None,
) -> Step:
    """The training step of a method.

    The loss is sum(weight * total / count) over the method's terms, with totals and counts of the
    whole global batch, however many devices and micro-batches it is spread over.

    A step whose loss or gradient norm is not finite, or a spike, leaves parameters, optimizer and
    extra state bit for bit as they were. Its number still advances, for it is the position in the data, and
    `first_bad_step` keeps the first such step.

    Args:
      method: what is trained.
      tx: its optimizer (`Optimizer.build`).
      accumulate: micro-batches a step; micro-batch i takes rows i::accumulate, so that no row of
        a sharded batch moves. What the method hands to `advance` is put back in row order:
        leaves of `Loss.carry` have a row for each clip, and a `Mean` in it is summed.
      ema_decay: also average the parameters, after the update: ema = decay * ema + (1 - decay) * params.
      seed: of `Context.key`, which is folded with the step.
      spikes: when a loss or gradient norm is a spike; None looks for none.

    Returns:
      (state, batch) -> (state, metrics); metrics are float32 scalars: "loss", "loss/TERM" before
      its weight, the method's own, "grad_norm" before clipping, "param_norm", "learning_rate" and
      "finite" (1 or 0), and "spike" where spikes are looked for.

    Raises:
      ConfigError: accumulate below 1 or ema_decay outside [0, 1).
    """
    if accumulate < 1:
        raise ConfigError(f"train.accumulate is the number of micro-batches, at least 1; got {accumulate}")
    if ema_decay is not None and not 0 <= ema_decay < 1:
        raise ConfigError(f"train.ema_decay lies in [0, 1), got {ema_decay}")
    if method.couples_batch and accumulate > 1:
        warnings.warn(
            f"this method compares the examples of a batch with each other: with accumulate={accumulate} each "
            f"micro-batch is compared within itself, which is not the same training",
            stacklevel=2,
        )
    return Step(method, tx, accumulate, ema_decay, seed, spikes)


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A step for one mesh; the state given to it is used up (donated).

    It is compiled by its first call and never again: arguments of another shape, dtype or placement
    are refused (TypeError, ValueError) where `jax.jit` would compile once more without a word.
    """

    jitted: OnMesh
    programs: list[Any] = dataclasses.field(default_factory=list)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if not self.programs:
            self.programs.append(self.lower(state, batch).compile())
        return self.programs[0](state, batch)

    def lower(self, state: Any, batch: Any) -> Any:
        """The lowered program, for arrays or their shapes."""
        return self.jitted.lower(state, batch)


def compile_step(
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    placement: Placement,
    mesh: Mesh,
    batch_spec: Batch,
    rules: Rules = RULES,
) -> CompiledStep:
    """Compiles (on its first call) a step for a mesh: shardings given, state donated.

    Raises:
      ConfigError: the batch does not divide by the mesh's batch axes and the micro-batches.
    """
    check_batch(_rows(batch_spec), mesh, getattr(step, "accumulate", 1))

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return step(state, batch)  # a function has the name that profiles and caches show

    jitted = on_mesh(
        train_step,
        mesh,
        rules,
        in_shardings=(placement.shardings, batch_sharding(mesh)),
        out_shardings=(placement.shardings, NamedSharding(mesh, PartitionSpec())),
        donate_argnums=0,
    )
    return CompiledStep(jitted)


def _rows(batch: Batch) -> int:
    rows = {name: leaf.shape[0] for name, leaf in batch.items()}
    if len(set(rows.values())) != 1:
        raise ValueError(f"the arrays of a batch have one row a clip, all equally many; got {rows}")
    return next(iter(rows.values()))


def _split(x: Array, k: int) -> Array:
    """[b …] -> [k b/k …]; micro-batch i has rows i::k."""
    if x.shape[0] % k:
        raise ConfigError(f"a batch of {x.shape[0]} clips does not divide into train.accumulate={k} micro-batches")
    micro = jnp.swapaxes(x.reshape(x.shape[0] // k, k, *x.shape[1:]), 0, 1)
    return constrain(micro, (None, "batch", *(None,) * (x.ndim - 1)))


def _join(carry: Any) -> Any:
    """What the micro-batches carried, [k b/k …], as one batch would have: rows in order, means summed."""

    def join(leaf: Any) -> Any:
        if isinstance(leaf, Mean):
            return jax.tree.map(lambda x: x.sum(0), leaf)
        return jnp.swapaxes(leaf, 0, 1).reshape(math.prod(leaf.shape[:2]), *leaf.shape[2:])

    return jax.tree.map(join, carry, is_leaf=lambda x: isinstance(x, Mean))


def _check_carry(carry: Any, rows: int) -> None:
    """Raises ValueError where accumulation could not put a leaf of `carry` back together."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(carry, is_leaf=lambda x: isinstance(x, Mean)):
        if not isinstance(leaf, Mean) and leaf.shape[:1] != (rows,):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"Loss.carry {name!r} has shape {leaf.shape}: a leaf has a row for each of the {rows} clips, "
                f"or is a Mean (total and count), which is summed over micro-batches"
            )


def _term_counts(loss: Loss) -> dict[str, Array]:
    return {name: jax.lax.stop_gradient(jnp.asarray(term.count, jnp.float32)) for name, term in loss.terms.items()}


def _ratio(total: Array, count: Array) -> Array:
    """total / count; where nothing was counted, the (zero) total."""
    return jnp.asarray(total, jnp.float32) / jnp.where(count == 0, 1.0, count)


def _means(loss: Loss) -> Metrics:
    terms = {f"loss/{name}": _ratio(term.total, term.count) for name, term in loss.terms.items()}
    return terms | {name: _ratio(mean.total, mean.count) for name, mean in loss.metrics.items()}


def _choose(good: Bool[Array, ""], new: Any, old: Any) -> Any:
    """The extra state: `new` where the step is taken, else `old`, bit for bit."""
    forms = [
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (old, new)
    ]
    wrong = [path for path in forms[0] | forms[1] if forms[0].get(path) != forms[1].get(path)]
    if wrong:
        told = "; ".join(
            f"{path} from {forms[0].get(path, 'absent')} to {forms[1].get(path, 'absent')}" for path in wrong
        )
        raise ValueError(f"Method.advance changed the extra state's shapes, dtypes or structure: {told}")
    return jax.tree.map(lambda n, o: jax.lax.select(good, n, o), new, old)
