"""Functions compiled for a mesh, with the sharding rules of the models."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vmae_jax.train.sharding import RULES, Rules

__all__ = ["OnMesh", "on_mesh", "replicated"]


@dataclasses.dataclass(frozen=True, eq=False)
class OnMesh:
    """A compiled function whose models know the mesh, so that kernels run on each device's own rows and heads.

    Otherwise a program over several devices could not contain kernels that the compiler cannot split, such as
    Pallas kernels.
    """

    jitted: Any
    mesh: Mesh
    rules: Rules

    def __call__(self, *args: Any) -> Any:
        with self._in_force():
            return self.jitted(*args)

    def trace(self, *args: Any) -> Any:
        """Return the traced program, for arrays or their shapes."""
        with self._in_force():
            return self.jitted.trace(*args)

    def lower(self, *args: Any) -> Any:
        """Return the lowered program, for arrays or their shapes."""
        with self._in_force():
            return self.jitted.lower(*args)

    @contextlib.contextmanager
    def _in_force(self) -> Iterator[None]:
        with jax.set_mesh(self.mesh), nn.logical_axis_rules(self.rules):
            yield


def on_mesh(function: Callable[..., Any], mesh: Mesh, rules: Rules = RULES, **options: Any) -> OnMesh:
    """Return `jax.jit(function, **options)` for a mesh.

    Args:
      function: pure.
      mesh: of its arguments.
      rules: logical name -> mesh axis, for the models' axes.
      options: of `jax.jit`: shardings, donated arguments.
    """
    return OnMesh(jax.jit(function, **options), mesh, rules)


def replicated(tree: Any, mesh: Mesh) -> Any:
    """Return arrays that are equal on all processes as global arrays, replicated on every device."""
    place = NamedSharding(mesh, PartitionSpec())

    def put(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, place, lambda index: array[index])

    return jax.tree.map(put, tree)
