"""A fingerprint of every array of a state, computed on its devices.

A checkpoint library that stores no checksum of its payload returns flipped bits as weights.
Therefore each leaf gets a 32-bit fingerprint: each 32-bit word is hashed together with its index, and the hashes are
added modulo 2**32. The order of an addition does not matter, so the fingerprint is the same for every sharding, mesh
and backend. Each word is hashed by a bijection, so a change of one word is always detected, and changes of several
cancel with probability 2**-32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Examined", "examine", "of_numpy", "words_of"]

CHUNK = 1 << 22  # words hashed at a time on the host: 16 MiB a temporary
SMALL = 1 << 24  # bytes of a state on a CPU that is hashed sooner on the host than the pass over it compiles


class Examined:
    """The results of one pass over the arrays of a state, per leaf, in the given order.

    Attributes:
      fingerprints: eight hexadecimal digits per leaf.
      not_finite: number of NaN or infinite elements per leaf (0 for integers).
    """

    def __init__(self, fingerprints: list[str], not_finite: list[int]):
        self.fingerprints = fingerprints
        self.not_finite = not_finite


def examine(leaves: list, *, small: int = SMALL) -> Examined:
    """Return fingerprints of `leaves` and their counts of non-finite elements, computed on the devices.

    Args:
      leaves: arrays of any dtype, typed keys included, of any sharding; one jitted pass over
        those that share their devices.
      small: on a CPU, leaves of so many bytes in all are examined on the host, without a compilation.
    """
    if _here(leaves) and sum(leaf.nbytes for leaf in leaves) <= small:
        arrays = [np.asarray(_data(leaf)) for leaf in leaves]
        bad = [int(np.sum(~np.isfinite(array))) if _inexact(array) else 0 for array in arrays]
        return Examined([of_numpy(array) for array in arrays], bad)
    groups: dict[object, list[int]] = {}
    for place, leaf in enumerate(leaves):
        devices = frozenset(leaf.sharding.device_set) if isinstance(leaf, jax.Array) else None
        groups.setdefault(devices, []).append(place)
    fingerprints, counts = [""] * len(leaves), [0] * len(leaves)
    for places in groups.values():
        words, bad = jax.device_get(_examine([leaves[place] for place in places]))
        for place, word, count in zip(places, words, bad, strict=True):
            fingerprints[place], counts[place] = f"{int(word):08x}", int(count)
    return Examined(fingerprints, counts)


def _here(leaves: list) -> bool:
    """Return whether all leaves are in the memory of this process, and of a CPU."""
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    return all(leaf.is_fully_addressable for leaf in arrays) and all(
        device.platform == "cpu" for leaf in arrays for device in leaf.devices()
    )


def of_numpy(array: np.ndarray) -> str:
    """Return the same fingerprint of an array in host memory, without a device."""
    words = _words_numpy(np.ascontiguousarray(array))
    total = 0
    for start in range(0, words.size, CHUNK):
        part = words[start : start + CHUNK].astype(np.uint32)
        place = np.arange(start, start + part.size, dtype=np.uint64).astype(np.uint32)
        total += int(_hash(part, place).sum(dtype=np.uint64))
    return f"{total & 0xFFFFFFFF:08x}"


def words_of(leaves: list) -> jax.Array:
    """Return the fingerprints of `leaves` as numbers, uint32 [leaves], inside a compiled function."""
    return jnp.stack([_fingerprint(leaf) for leaf in leaves])


@jax.jit
def _examine(leaves: list) -> tuple[jax.Array, jax.Array]:
    return words_of(leaves), jnp.stack([_not_finite(leaf) for leaf in leaves])


def _fingerprint(leaf: jax.Array) -> jax.Array:
    words = _words(leaf)
    place, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):  # one iota per axis: a flat one would gather the shards
        place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * np.uint32(stride & 0xFFFFFFFF)
        stride *= words.shape[axis]
    return _hash(words, place).sum(dtype=jnp.uint32)


def _not_finite(leaf: jax.Array) -> jax.Array:
    if not _inexact(leaf):
        return jnp.zeros((), jnp.int32)
    return jnp.sum(~jnp.isfinite(leaf), dtype=jnp.int32)


def _inexact(leaf: jax.Array | np.ndarray) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _data(leaf: Any) -> Any:
    """Return `leaf`, or the numbers of a typed key."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _words(leaf: jax.Array) -> jax.Array:
    """Return the bits of `leaf` as uint32, one word per element, or several along a last axis."""
    leaf = _data(leaf)
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    size = leaf.dtype.itemsize
    if size >= 4:
        return jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, jnp.uint16 if size == 2 else jnp.uint8).astype(jnp.uint32)


def _words_numpy(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.bool_:
        return array.reshape(-1).view(np.uint8)
    size = min(array.dtype.itemsize, 4)
    return array.reshape(-1).view({1: np.uint8, 2: np.uint16, 4: np.uint32}[size])


def _hash(words, place):
    """Return Murmur3's finalizer of each word and its index, for numpy and jax arrays."""
    x = words ^ (place * np.uint32(0x9E3779B9) + np.uint32(0x7F4A7C15))
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
