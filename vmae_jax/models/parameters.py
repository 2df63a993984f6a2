"""What a module declares of each parameter it creates: logical axes, weight decay, layer.

    kernel = self.param("kernel", declare(init, "embed", "mlp", decay=True), (width, hidden))

Flax carries these in a box around the parameter. The trainer reads it: `train.sharding` splits parameters over
devices, `train.optim` applies weight decay and layer decay. So a new module, even of a plugin, needs no table entry.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
from flax import struct

__all__ = ["FIRST_LAYER", "Parameter", "declare"]

FIRST_LAYER = "first_layer"  # in `metadata_params` of nn.scan: the layer of the first block of a stack

MeshAxes = str | tuple[str, ...] | None


class Parameter(nn.LogicallyPartitioned):
    """A parameter with what is declared of it.

    Attributes:
      decay: whether weight decay applies.
      layer: for layer decay: 0 below the first block (embedding, positions), k in block k (for stacked blocks, that of
        the first), None above the blocks or in a tower without layer decay.
      axes: the mesh axes of logical names that are not in `train.sharding.RULES`.
      units: for logical names whose dimension consists of equal blocks, such as heads: how many. No block is split over
        devices.
    """

    decay: bool = struct.field(default=False, pytree_node=False)
    layer: int | None = struct.field(default=None, pytree_node=False)
    axes: tuple[tuple[str, MeshAxes], ...] = struct.field(default=(), pytree_node=False)
    units: tuple[tuple[str, int], ...] = struct.field(default=(), pytree_node=False)

    def add_axis(self, index: int, params: dict[Any, Any]) -> Any:
        """Return the box of the stacked parameter; nn.scan calls this."""
        box: Any = super().add_axis(index, params)
        return box.replace(layer=params.get(FIRST_LAYER))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> Any:
        """Return the box of one entry of the stack; nn.scan calls this."""
        box: Any = super().remove_axis(index, params)
        return box.replace(layer=None)


def declare(
    initializer: Callable[..., Any],
    *names: str | None,
    decay: bool,
    layer: int | None = None,
    axes: Mapping[str, MeshAxes] | None = None,
    units: Mapping[str, int] | None = None,
) -> Callable[..., Any]:
    """Return an initializer that declares its parameter.

    Args:
      initializer: (key, shape, dtype) -> array.
      *names: the logical name of each dimension; a dimension without one (None) is not split over devices.
      decay: whether weight decay applies. The official recipes apply it to matrices alone.
      layer, axes, units: see `Parameter`.
    """

    def initialize(*args: Any, **options: Any) -> Parameter:
        value = initializer(*args, **options)
        more = {"axes": tuple((axes or {}).items()), "units": tuple((units or {}).items())}
        return Parameter(value, names, decay=decay, layer=layer, **more)

    return initialize
