"""Comparison of the copies of an array on several devices.

Every device computes replicated arrays by itself. If memory or arithmetic fails silently on one of them, its copy
diverges, and nothing else would show it.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vmae_jax.io import fingerprint, layout

__all__ = ["ReplicaError", "compare", "differing"]


class ReplicaError(RuntimeError):
    """Copies of a parameter differ between devices, because of faulty hardware or a bug."""


class Differing(NamedTuple):
    """A leaf and the devices whose copy is not that of most others."""

    name: str
    devices: tuple[Any, ...]


def compare(state: Any, step: int) -> None:
    """Raise ReplicaError, naming leaves and devices, if copies of `state` differ."""
    found = differing(state)
    if found:
        devices = sorted({device for leaf in found for device in leaf.devices}, key=lambda device: device.id)
        named = ", ".join(f"device {device.id} of host {device.process_index}" for device in devices[:4])
        raise ReplicaError(
            f"step {step}: copies differ in {len(found)} leaves, {found[0].name} first: {named}"
            f"{' and more' if len(devices) > 4 else ''} differ from most others. Nothing was saved since the last "
            f"comparison; remove that device, then the same command resumes"
        )


def differing(state: Any) -> list[Differing]:
    """Return the leaves whose copies differ; call it on every process, all get the same result.

    Each device computes fingerprints of its parts; all fingerprints are then gathered (a few bytes per leaf
    and device) and compared on the host.
    """
    leaves = {name: leaf for name, leaf in layout.flat(state).items() if _meshed(leaf)}
    found: list[Differing] = []
    for mesh in {leaf.sharding.mesh for leaf in leaves.values()}:
        if mesh.size > 1:
            found += _of_mesh({name: leaf for name, leaf in leaves.items() if leaf.sharding.mesh == mesh}, mesh)
    return found


def _meshed(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding) and leaf.size > 0


def _of_mesh(leaves: dict[str, jax.Array], mesh: Mesh) -> list[Differing]:
    specs = tuple(leaf.sharding.spec for leaf in leaves.values())  # pyright: ignore[reportAttributeAccessIssue]
    prints = np.asarray(jax.device_get(_fingerprints(mesh, specs)(list(leaves.values()))))  # [devices leaves]
    order = list(mesh.devices.flat)
    found = []
    for (name, leaf), column in zip(leaves.items(), prints.T, strict=True):
        wrong = _minority(leaf, order, column)
        if wrong:
            found.append(Differing(name, tuple(wrong)))
    return found


def _minority(leaf: jax.Array, order: list[Any], prints: np.ndarray) -> list[Any]:
    """Return the devices whose part of `leaf` differs from that of most devices with the same part."""
    groups: dict[Any, list[int]] = {}
    for device, index in leaf.sharding.devices_indices_map(leaf.shape).items():
        groups.setdefault(str(index), []).append(order.index(device))
    wrong = []
    for places in groups.values():
        values, counts = np.unique(prints[places], return_counts=True)
        most = values[counts.argmax()]
        wrong += [order[place] for place in places if prints[place] != most]
    return wrong


@functools.cache
def _fingerprints(mesh: Mesh, specs: tuple[PartitionSpec, ...]) -> Any:
    """Return [leaves] -> uint32 [devices leaves], the same on every device."""
    own = jax.shard_map(
        lambda parts: fingerprint.words_of(parts)[None],
        mesh=mesh,
        in_specs=(list(specs),),
        out_specs=PartitionSpec(mesh.axis_names),
        check_vma=False,  # it cannot be assumed that replicas agree
    )
    return jax.jit(own, out_shardings=NamedSharding(mesh, PartitionSpec()))
