"""The placement of every array of a run: one mesh, one table of logical names, and a record of the result.

Models name the axes of their parameters and activations ("embed", "heads", "batch", …); `RULES` maps each
name to the mesh axis it is split over. A parameter may bring rules for names of its own. The boxes of
`models.parameters`, in which flax carries the names, are opened here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from flax.linen.spmd import with_logical_constraint
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from vmae_jax.models.parameters import Parameter
from vmae_jax.spec import ConfigError
from vmae_jax.types import Batch

__all__ = [
    "RULES",
    "Placement",
    "abstract",
    "batch_sharding",
    "batch_shards",
    "check_batch",
    "constrain",
    "create",
    "describe",
    "make_mesh",
    "shardings",
    "unbox",
]

Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]

AXES = ("data", "fsdp", "tensor")  # of the mesh; the last has the fastest links
BATCH = ("data", "fsdp")  # the axes a batch is split over
PARAMETERS = ("params/", "extra/ema/")  # paths in the state whose arrays must declare their axes

# Logical name -> mesh axis. If two names of one array map to the same axis, the first rule wins.
# Another name needs a rule that its parameter brings.
RULES: Rules = (
    ("batch", BATCH),
    ("tokens", None),
    ("layers", None),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
    ("cube", None),
    ("classes", None),
)


class Placement(NamedTuple):
    """The placement of a state.

    Attributes:
      shardings: a NamedSharding for every leaf of the (unboxed) state.
      replicated: dimensions that a rule would split but that do not divide, one line each.
    """

    shardings: Any
    replicated: tuple[str, ...]


def make_mesh(
    ici: Mapping[str, int] = MappingProxyType({"data": -1, "fsdp": 1, "tensor": 1}),
    dcn: Mapping[str, int] = MappingProxyType({"data": 1}),
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Return a mesh with the axes "data", "fsdp" and "tensor".

    Args:
      ici: devices along each axis inside a slice (fast links); one may be -1, the remaining devices.
      dcn: slices (or hosts, or equal shares of the devices if neither is known) along each axis.
      devices: all of `jax.devices()` if None.

    Raises:
      ConfigError: if an axis does not exist, or the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    groups = _groups(devices, dcn)
    across = _sizes("dcn", dcn, len(groups), "slices")
    inside = _sizes("ici", ici, len(groups[0]), "devices a slice" if len(groups) > 1 else "devices")
    meshes = np.empty(across, dtype=object)
    for index, group in zip(np.ndindex(*across), groups, strict=True):
        meshes[index] = mesh_utils.create_device_mesh(inside, group, allow_split_physical_axes=True)
    return Mesh(np.block(meshes.tolist()), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch, whose leaves are split over their first axis, the clips."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def batch_shards(mesh: Mesh) -> int:
    """Return the number of parts into which a mesh splits a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def check_batch(rows: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raise ConfigError if `rows` clips do not divide by the mesh and the micro-batches."""
    shares = {axis: mesh.shape[axis] for axis in BATCH}
    unit = batch_shards(mesh) * accumulate
    if rows % unit == 0 and rows > 0:
        return
    factors = " × ".join(f"{axis} {size}" for axis, size in shares.items())
    factors += f" × {accumulate} micro-batches" if accumulate > 1 else ""
    low = rows // unit * unit
    nearest = f"{low} or {low + unit}" if low else f"{unit}"
    raise ConfigError(f"a batch of {rows} clips does not divide into {unit} ({factors}); {nearest} would")


def abstract(init: Callable[[Array, Batch], Any], batch_spec: Batch) -> Any:
    """Return shapes and dtypes of `init(key, batch)`, with boxes; nothing is computed."""
    return jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)), batch_spec)


def shardings(abstract_state: Any, mesh: Mesh, rules: Rules = RULES) -> Placement:
    """Return the placement of a boxed state; scalars, and unnamed arrays that a method carries, are replicated.

    Raises:
      ConfigError: if a parameter has no names, a name has no rule, or there is not one name per dimension.
    """
    replicated: list[str] = []

    def place(path: Any, leaf: Any) -> NamedSharding:
        names = leaf.names if isinstance(leaf, nn.Partitioned) else ()
        if not names and _path(path).startswith(PARAMETERS) and unbox(leaf).ndim:
            shape = list(unbox(leaf).shape)
            raise ConfigError(f"parameter {_path(path)!r} of shape {shape} names no axes: make it with "
                              "models.parameters.declare(initializer, *names, decay=…)")  # fmt: skip
        sizes = _indivisible(names, unbox(leaf).shape, leaf)
        spec, notes = _spec(_path(path), names, sizes, mesh, _rules_of(_path(path), leaf, rules, mesh))
        replicated.extend(notes)
        return NamedSharding(mesh, spec)

    tree = jax.tree_util.tree_map_with_path(place, abstract_state, is_leaf=meta.is_axis_metadata)
    return Placement(tree, tuple(replicated))


def create(
    init: Callable[[Array, Batch], Any], key: Array, batch_spec: Batch, mesh: Mesh, rules: Rules = RULES
) -> tuple[Any, Placement]:
    """Create a state with its sharding; no device ever holds more than its share.

    Args:
      init: (key, batch) -> state, possibly boxed; it may only use the shapes of the batch.
      key: the same on every host.
      batch_spec: shapes and dtypes of a batch.

    Returns:
      The state without boxes, with the values of an unsharded `init`, and its placement.
    """
    init = jax.jit(init)  # is traced once, for the shapes and for the values
    placement = shardings(abstract(init, batch_spec), mesh, rules)
    kind = jax.random.key_impl(key)

    def initialize(data: Array) -> Any:
        batch = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), batch_spec)
        return unbox(init(jax.random.wrap_key_data(data, impl=kind), batch))

    # This program runs once: on a CPU, optimising its random draws takes far longer than running them.
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    options = {"xla_backend_optimization_level": 0} if on_cpu else None
    compiled = jax.jit(initialize, out_shardings=placement.shardings, compiler_options=options)
    # The key is passed as plain numbers, which every host can pass to a program over all devices.
    return compiled(np.asarray(jax.random.key_data(key))), placement


def unbox(tree: Any) -> Any:
    """Return the tree without boxes; unlike flax's function, this adds no sharding constraint."""

    def open_box(leaf: Any) -> Any:
        return unbox(leaf.value) if isinstance(leaf, nn.Partitioned) else leaf

    return jax.tree.map(open_box, tree, is_leaf=meta.is_axis_metadata)


def constrain(x: Array, names: Sequence[str | None]) -> Array:
    """Constrain an activation to the sharding of its logical names; without a mesh and rules, do nothing."""
    return with_logical_constraint(x, tuple(names))


def describe(abstract_state: Any, placement: Placement) -> str:
    """Return a line for each array (path, dtype, shape, mesh axes), then the replicated dimensions."""
    leaves = jax.tree_util.tree_leaves_with_path(unbox(abstract_state))
    places = jax.tree.leaves(placement.shardings)
    lines = [
        f"{_path(path)}  {leaf.dtype}{list(leaf.shape)}  {_axes(place.spec)}"
        for (path, leaf), place in zip(leaves, places, strict=True)
    ]
    return "\n".join([*lines, *(f"replicated: {note}" for note in placement.replicated)]) + "\n"


def _rules_of(path: str, leaf: Any, rules: Rules, mesh: Mesh) -> dict[str, Any]:
    """Return the rules for one array: the common ones, then those of its box."""
    own, known = dict(leaf.axes) if isinstance(leaf, Parameter) else {}, dict(rules)
    for name, axis in own.items():
        if name in known:
            raise ConfigError(f"parameter {path!r} brings a sharding rule for {name!r}, which has one already")
        wrong = set(_mesh_axes(axis)) - set(mesh.shape)
        if wrong:
            raise ConfigError(f"parameter {path!r}, {name!r}: no mesh axis {wrong.pop()!r}: {', '.join(mesh.shape)}")
    return {**known, **own}


def _indivisible(names: Sequence[str | None], shape: Sequence[int], leaf: Any) -> tuple[int, ...]:
    """Return the shape of an array, counted in blocks where its box declares `units`."""
    units = dict(leaf.units) if isinstance(leaf, Parameter) else {}
    if len(names) != len(shape):
        return tuple(shape)
    return tuple(size if name is None else units.get(name, size) for name, size in zip(names, shape, strict=True))


def _mesh_axes(axis: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if axis is None else (axis,) if isinstance(axis, str) else tuple(axis)


def _spec(
    path: str, names: Sequence[str | None], shape: Sequence[int], mesh: Mesh, rules: dict[str, Any]
) -> tuple[PartitionSpec, list[str]]:
    """Return the axes of one array, and a note for each dimension that does not divide."""
    if names and len(names) != len(shape):
        raise ConfigError(f"parameter {path!r} has {len(shape)} dimensions and {len(names)} logical names: {names}")
    axes: list[Any] = [None] * len(names)
    used: set[str] = set()
    notes = []
    for name in sorted({name for name in names if name is not None} - rules.keys()):
        raise ConfigError(
            f"parameter {path!r}: no sharding rule for {name!r}; there are rules for {', '.join(rules)}, and "
            f"declare(…, axes={{{name!r}: MESH_AXIS}}) brings another"
        )
    order = list(rules)
    for i in sorted((i for i, name in enumerate(names) if name is not None), key=lambda i: order.index(str(names[i]))):
        wanted = _mesh_axes(axis := rules[str(names[i])])
        if not wanted or used.intersection(wanted):
            continue
        size = math.prod(mesh.shape[a] for a in wanted)
        if shape[i] % size:
            notes.append(f"{path}: {names[i]} of {shape[i]} does not divide by {'×'.join(wanted)} of {size}")
            continue
        axes[i] = axis
        used.update(wanted)
    return PartitionSpec(*axes), notes


def _groups(devices: list[Any], dcn: Mapping[str, int]) -> list[list[Any]]:
    """Return the devices of each slice: by slice if there are several, else by host or in equal shares."""
    wanted = math.prod(size for size in dcn.values() if size > 0)
    slices = _by(devices, "slice_index")
    if len(slices) > 1:
        groups = slices
    elif wanted == 1 and -1 not in dcn.values():
        return [devices]
    else:
        groups = _by(devices, "process_index")
        if len(groups) == 1:
            if len(devices) % wanted:
                raise ConfigError(
                    f"mesh.dcn={dict(dcn)}: {len(devices)} devices do not divide into {wanted} equal shares"
                )
            groups = np.asarray(devices, dtype=object).reshape(wanted, -1).tolist()
    if len({len(group) for group in groups}) != 1:
        raise ConfigError(
            f"mesh.dcn={dict(dcn)}: all slices must have the same number of devices, not "
            f"{[len(group) for group in groups]}"
        )
    return groups


def _by(devices: list[Any], attribute: str) -> list[list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for device in devices:
        groups.setdefault(getattr(device, attribute, None), []).append(device)
    return [groups[key] for key in sorted(groups, key=lambda key: -1 if key is None else key)]


def _sizes(which: str, given: Mapping[str, int], total: int, what: str) -> tuple[int, ...]:
    """Return the sizes of all axes, with -1 resolved."""
    unknown = set(given) - set(AXES)
    if unknown:
        raise ConfigError(f"mesh.{which}: there is no axis {', '.join(sorted(unknown))}; there are {', '.join(AXES)}")
    sizes = {axis: given.get(axis, 1) for axis in AXES}
    wrong = {axis: size for axis, size in sizes.items() if size < 1 and size != -1}
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if wrong or len(open_axes) > 1:
        raise ConfigError(
            f"mesh.{which}={dict(given)}: sizes must be at least 1; one may be -1 (the remaining devices)"
        )
    product = math.prod(size for size in sizes.values() if size != -1)
    if open_axes and total % product == 0:
        sizes[open_axes[0]] = total // product
        product = total
    if product != total:
        raise ConfigError(
            f"mesh.{which}={dict(given)} makes {product}, but there are {total} {what}; one axis may be -1"
        )
    return tuple(sizes[axis] for axis in AXES)


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _axes(spec: PartitionSpec) -> str:
    return f"({', '.join('+'.join(a) if isinstance(a, tuple) else a or '-' for a in spec)})"
