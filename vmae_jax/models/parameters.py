"""What a module declares of each of its parameters where it makes it: axes, weight decay, layer.

    kernel = self.param("kernel", declare(init, "embed", "mlp", decay=True), (width, hidden))

The trainer reads this from the boxes in which flax carries it: `train.sharding` splits parameters over devices,
`train.optim` applies weight decay and layer decay. So a new module, of a plugin too, needs no entry in a table.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
from flax import struct

__all__ = ["FIRST_LAYER", "Parameter", "declare"]

FIRST_LAYER = "first_layer"  # in `metadata_params` of nn.scan: the layer of the first block of a stack

MeshAxes = str | tuple[str, ...] | None


class Parameter(nn.LogicallyPartitioned):
    """The box of a parameter.

    Attributes:
      decay: whether weight decay applies.
      layer: for layer decay, 0 below the first block (embedding, positions), k in block k (along an axis "layers",
        of its first entry), None above the blocks or where a tower has no layer decay.
      axes: mesh axes of logical names that `train.sharding.RULES` does not have.
      units: of logical names whose dimension consists of equal blocks, such as heads: how many. No block is split over
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
    """Return an initializer whose parameter is in a box.

    Args:
      initializer: (key, shape, dtype) -> array.
      *names: the logical name of each dimension; None is not split over devices.
      decay: whether weight decay applies. The official recipes apply it to matrices alone.
      layer, axes, units: see `Parameter`.
    """

    def initialize(*args: Any, **options: Any) -> Parameter:
        value = initializer(*args, **options)
        more = {"axes": tuple((axes or {}).items()), "units": tuple((units or {}).items())}
        return Parameter(value, names, decay=decay, layer=layer, **more)

    return initialize
