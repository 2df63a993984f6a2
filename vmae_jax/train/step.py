"""The training step: loss over the global batch, gradients and update, which is refused if not finite."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool

from vmae_jax.spec import ConfigError
from vmae_jax.train.adamw import Transformation, global_norm
from vmae_jax.train.gradients import gradients, row_count
from vmae_jax.train.on_mesh import OnMesh, on_mesh
from vmae_jax.train.sharding import RULES, Placement, Rules, batch_sharding, check_batch
from vmae_jax.train.spikes import Spikes, judge
from vmae_jax.train.state import TrainState
from vmae_jax.types import Batch, Context, Method, Params, stream

__all__ = ["CompiledStep", "Step", "compile_step", "make_step"]

Metrics = dict[str, Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """(state, batch) -> (state, metrics): pure, to be compiled by `compile_step`.

    The attributes are the arguments of `make_step`.
    """

    method: Method
    tx: Transformation
    accumulate: int
    ema_decay: float | Callable[[Array], Array] | None
    seed: int
    spikes: Spikes | None = None
    steps: float | None = None

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        context = Context(
            key=jax.random.fold_in(stream(jax.random.key(self.seed), "step"), state.step),
            step=state.step,
            extra=state.extra["method"],
            frozen=state.frozen,
            progress=self._progress(state.step),
            average=state.extra.get("ema"),
        )
        loss, grads, metrics, carry = gradients(self.method, state.params, batch, context, self.accumulate)
        with jax.named_scope("optimizer"):
            norm, rate = self.tx.norm(grads), self.tx.rate(state.opt_state)
            finite = jnp.isfinite(loss) & jnp.isfinite(norm)
            good, history = self._judge(state, finite, {"loss": loss, "grad_norm": norm})
            params, opt_state = self.tx.update(grads, state.opt_state, state.params, norm, good)
        params = self._measured(params, carry, context, good)
        extra = self._advance(state, params, carry, context)
        kept = {name: part for name, part in state.extra.items() if name != "spikes"}
        new = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            extra=_choose(good, extra, kept) | history,
            first_bad_step=jnp.where(good | (state.first_bad_step >= 0), state.first_bad_step, state.step),
        )
        own = {"loss": loss, "grad_norm": norm, "learning_rate": rate, "finite": finite}
        own["param_norm"] = global_norm(params)
        if self.spikes is not None:
            own["spike"] = finite & ~good
        if both := own.keys() & metrics.keys():
            raise ValueError(f"the method's metrics {sorted(both)} have names that the step itself uses")
        return new, {name: jnp.asarray(value, jnp.float32) for name, value in (own | metrics).items()}

    def _progress(self, step: Array) -> Array | None:
        """Return the completed share of the run."""
        if self.steps is None:
            return None
        return jnp.minimum(step.astype(jnp.float32) / max(self.steps, 1), 1.0)

    def _judge(
        self, state: TrainState, finite: Bool[Array, ""], values: Metrics
    ) -> tuple[Bool[Array, ""], dict[str, Any]]:
        """Return whether to accept the update, and the part of `extra` that is updated in either case."""
        if ("spikes" in state.extra) != (self.spikes is not None):
            raise ValueError("make_step(spikes=…) and make_init(spikes=…) go together: one was given without the other")
        if self.spikes is None:
            return finite, {}
        spike, history = judge(state.extra["spikes"], values, self.spikes)
        return finite & ~spike, {"spikes": history}

    def _measured(self, params: Params, carry: Any, context: Context, good: Bool[Array, ""]) -> Params:
        """Return the parameters with those replaced that follow statistics of the batch, if the step is accepted."""
        if self.method.statistics is None:
            return params
        return _choose(good, self.method.statistics(params, carry, context), params, "Method.statistics", "parameters")

    def _advance(self, state: TrainState, params: Params, carry: Any, context: Context) -> dict[str, Any]:
        extra = {"method": self.method.advance(state.extra["method"], params, carry, context)}
        if ("ema" in state.extra) != (self.ema_decay is not None):
            raise ValueError(
                "make_step(ema_decay=…) and make_init(ema=True) go together: one was given without the other"
            )
        if self.ema_decay is not None:
            keep = self.ema_decay(state.step) if callable(self.ema_decay) else self.ema_decay
            extra["ema"] = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, state.extra["ema"], params)
        return extra


def make_step(
    method: Method,
    tx: Transformation,
    *,
    accumulate: int = 1,
    ema_decay: float | Callable[[Array], Array] | None = None,
    seed: int = 0,
    spikes: Spikes | None = None,
    steps: float | None = None,
) -> Step:
    """Return the training step of a method.

    The loss is sum(weight * total / count) over the method's terms, with totals and counts of the
    whole global batch, however many devices and micro-batches it is spread over.

    A step whose loss or gradient norm is not finite, or a spike, is refused: parameters, optimizer and extra state
    stay bit-for-bit the same. Its number still advances, because it is the position in the data, and
    `first_bad_step` records the first such step.

    Args:
      method: what is trained.
      tx: its optimizer (`Optimizer.build`).
      accumulate: micro-batches per step; micro-batch i takes the groups of rows i::accumulate, so that
        no row of a sharded batch moves. `advance` receives `Loss.carry` in the order of the batch, with one row
        per clip in each leaf; a `Mean` in it is summed.
      ema_decay: also average the parameters, after the update: ema = decay * ema + (1 - decay) * params. A number, or
        a function of the step.
      seed: of `Context.key`, which is folded with the step.
      spikes: definition of a spike; None detects none.
      steps: length of the run, for `Context.progress`.

    Returns:
      (state, batch) -> (state, metrics); metrics are float32 scalars: "loss", "loss/TERM" before
      its weight, the method's own, "grad_norm" before clipping, "param_norm", "learning_rate" and
      "finite" (1 or 0), and "spike" where spikes are looked for.

    Raises:
      ConfigError: if accumulate is below 1 or ema_decay is outside [0, 1).
    """
    if accumulate < 1:
        raise ConfigError(f"train.accumulate is the number of micro-batches, at least 1; got {accumulate}")
    if isinstance(ema_decay, int | float) and not 0 <= ema_decay <= 1:
        raise ConfigError(f"train.ema_decay must be in [0, 1], got {ema_decay}")
    return Step(method, tx, accumulate, ema_decay, seed, spikes, steps)


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A step for one mesh; the state that it is called with is donated.

    It is compiled once, by its first call. Arguments of another shape, dtype or placement are refused (TypeError,
    ValueError), where `jax.jit` would silently compile again.
    """

    jitted: OnMesh
    programs: list[Any] = dataclasses.field(default_factory=list)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        if not self.programs:
            self.programs.append(self.lower(state, batch).compile())
        return self.programs[0](state, batch)

    def lower(self, state: Any, batch: Any) -> Any:
        """Return the lowered program, for arrays or their shapes."""
        return self.jitted.lower(state, batch)


def compile_step(
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    placement: Placement,
    mesh: Mesh,
    batch_spec: Batch,
    rules: Rules = RULES,
) -> CompiledStep:
    """Return a step for a mesh, with its shardings and a donated state, which its first call compiles.

    Raises:
      ConfigError: if the batch does not divide by the mesh and the micro-batches.
    """
    check_batch(row_count(batch_spec), mesh, getattr(step, "accumulate", 1))

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return step(state, batch)  # profiles and caches show the name of a function

    jitted = on_mesh(
        train_step,
        mesh,
        rules,
        in_shardings=(placement.shardings, batch_sharding(mesh)),
        out_shardings=(placement.shardings, NamedSharding(mesh, PartitionSpec())),
        donate_argnums=0,
    )
    return CompiledStep(jitted)


def _choose(
    good: Bool[Array, ""], new: Any, old: Any, function: str = "Method.advance", what: str = "extra state"
) -> Any:
    """Return what a function of the method has made: `new` if the step is accepted, else `old`, bit-for-bit."""
    forms = [
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (old, new)
    ]
    wrong = [path for path in forms[0] | forms[1] if forms[0].get(path) != forms[1].get(path)]
    if wrong:
        changes = "; ".join(
            f"{path} from {forms[0].get(path, 'absent')} to {forms[1].get(path, 'absent')}" for path in wrong
        )
        raise ValueError(f"{function} changed the {what}'s shapes, dtypes or structure: {changes}")
    return jax.tree.map(lambda n, o: o if n is o else jax.lax.select(good, n, o), new, old)
