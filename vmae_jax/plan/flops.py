"""The operations of a program, counted from its dimensions including loops, and the peaks of devices.

XLA counts the body of a scanned stack of layers once; this module walks the traced
program and multiplies by the length of every loop. A multiply and an add are two operations.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from vmae_jax import scopes

__all__ = ["Cost", "by_part", "count", "of_training", "peak"]

# Dense bfloat16 operations per second of one chip, from data sheets.
PEAKS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def count(function: Callable[..., Any], *args: Any) -> float:
    """Return the operations of the matrix products and convolutions in a call of `function`.

    Args:
      function: any traceable function.
      *args: arrays or their shapes.
    """
    return _of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def of_training(loss: Callable[..., Any], params: Any, *args: Any) -> float:
    """Return the model FLOPs of a training step: three times the forward pass, without recomputation.

    The backward pass has two products for each one of the forward pass (the convention of
    PaLM's appendix B and of published "MFU"). Operations that do not depend on `params`, the
    first argument, such as those of a teacher, have no backward pass and count once.
    """
    jaxpr = jax.make_jaxpr(loss)(params, *args).jaxpr
    trained = set(jaxpr.invars[: len(jax.tree.leaves(params))])
    total = 0.0
    for equation in jaxpr.eqns:
        depends = any(isinstance(one, core.Var) and one in trained for one in equation.invars)
        trained |= set(equation.outvars) if depends else set()
        total += (3.0 if depends else 1.0) * _of_equation(equation)
    return total


class Cost(NamedTuple):
    """Operations, and bytes of the arrays that products read and write, each once."""

    flops: float
    bytes: float


def by_part(function: Callable[..., Any], *args: Any) -> dict[str, Cost]:
    """Return `count` by the part of the network, with the bytes that its products read and write.

    Operations between products are assumed to be fused with them, so the bytes are a lower bound for a
    program that does not fuse one product with the next.

    Returns:
      "encoder mlp", "decoder scores", … -> its cost, in the order of the program.
    """
    found: dict[str, Cost] = {}

    def add(part: str, cost: Cost) -> None:
        so_far = found.get(part, Cost(0.0, 0.0))
        found[part] = Cost(so_far.flops + cost.flops, so_far.bytes + cost.bytes)

    def walk(jaxpr: core.Jaxpr, above: str, times: float) -> None:
        for equation in jaxpr.eqns:
            path = f"{above}/{equation.source_info.name_stack}"
            if equation.primitive.name in ("dot_general", "conv_general_dilated"):
                arrays: list[Any] = [variable.aval for variable in (*equation.invars, *equation.outvars)]
                size = sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays)
                add(_part(path), Cost(times * _of_equation(equation), times * size))
            turns = equation.params["length"] if equation.primitive.name == "scan" else 1
            for inner in _jaxprs(equation.params):
                walk(inner, path, times * turns)

    walk(jax.make_jaxpr(function)(*args).jaxpr, "", 1.0)
    return found


def _part(path: str) -> str:
    """Return the tower and part that the scopes of a product name."""
    return " ".join(filter(None, scopes.names(path))) or "rest"


def peak(devices: Sequence[Any]) -> float | None:
    """Return the operations per second of all `devices` together, or None if a peak is unknown."""
    peaks = [PEAKS.get(device.device_kind) for device in devices]
    return sum(peak for peak in peaks if peak) if all(peaks) else None


def _of_jaxpr(jaxpr: core.Jaxpr) -> float:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        return _of_dot(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    inner = [_of_jaxpr(jaxpr) for jaxpr in _jaxprs(equation.params)]
    if name == "scan":
        return equation.params["length"] * sum(inner)
    if name == "cond":
        return max(inner, default=0.0)
    if name == "pallas_call":  # its body runs once per point of its grid
        return math.prod(equation.params["grid_mapping"].grid) * sum(inner)
    return sum(inner)


def _jaxprs(params: dict[str, Any]) -> list[core.Jaxpr]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, core.ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, core.Jaxpr):
                found.append(item)
    return found


def _of_dot(equation: Any) -> float:
    (contract, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contract)


def _of_convolution(equation: Any) -> float:
    kernel = equation.invars[1].aval.shape
    outputs = equation.params["dimension_numbers"].rhs_spec[0]
    each = math.prod(kernel) / kernel[outputs]
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * each
