"""Weights for other frames, resolution, cubes and channels; exact where nothing changes.

Positions: the fixed 1-D sinusoid is not a weight and is computed for any grid. Learned tables
are resized bicubically in space and linearly in time (what `torch.nn.functional.interpolate`
does with align_corners=False).

Patch embeddings: PI-resize (Beyer et al. 2023, "FlexiViT", eq. 4) over t, y and x at once: with B
the linear resampling of a cube, the new kernel is the least-squares solution of
<w', B x> = <w, x>, so that a resampled cube keeps its embedding. The decoder's head predicts
a cube, so its kernel and bias are resampled by B itself.

Channels: one channel takes the sum of the three kernels (a grey video then has the embedding of its RGB
copy), other numbers cycle through them, scaled by 3 / n (timm's rule); "keep" keeps the first
three and starts the others at zero, so that the embedding of RGB does not change.
"""

import numpy as np

from vmae_jax.resampling import cubic, linear, matrix
from vmae_jax.types import Grid
from vmae_jax.weights.layouts.rules import MismatchError

__all__ = ["embedding", "head", "inflate", "positions"]

CHANNEL_RULES = ("cycle", "keep")
INFLATIONS = ("average", "central")


def positions(table: np.ndarray, old: Grid, new: Grid) -> np.ndarray:
    """Return a learned table [n d] of the grid `old` for the grid `new`."""
    if old == new:
        return table
    if table.shape[0] != old.size:
        raise MismatchError(f"a table of {table.shape[0]} positions is not that of a grid of {old} tokens")
    space = np.kron(matrix(old.h, new.h, cubic), matrix(old.w, new.w, cubic))
    time = matrix(old.t, new.t, linear)
    grid = table.reshape(old.t, old.slot, -1).astype(np.float64)
    result = np.einsum("ut,sp,tpd->usd", time, space, grid, optimize=True)
    return result.reshape(new.size, -1).astype(np.float32)


def embedding(
    kernel: np.ndarray, cube: tuple[int, int, int], channels: int | None = None, *, rule: str = "cycle"
) -> np.ndarray:
    """Return a patch embedding [d c t y x] for cubes of another size and number of channels."""
    old = kernel.shape[2:]
    if tuple(old) != tuple(cube):
        inverses = [np.linalg.pinv(matrix(a, b, linear).T) for a, b in zip(old, cube, strict=True)]
        kernel = np.einsum("at,by,ex,dctyx->dcabe", *inverses, kernel.astype(np.float64), optimize=True)
    if channels not in (None, kernel.shape[1]):
        kernel = _channels(kernel, channels, rule)
    return kernel.astype(np.float32)


def head(
    kernel: np.ndarray,
    bias: np.ndarray,
    old: tuple[int, int, int, int],
    new: tuple[int, int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the head that predicts cubes: kernel [p width] and bias [p], p in (t y x c) order.

    Args:
      old, new: t, y, x and channels of the cube. A new channel has the prediction of the one that it
        cycles to; a single channel, the average.
    """
    if old == new:
        return kernel, bias

    def resized(a: np.ndarray) -> np.ndarray:
        a = a.reshape(*old, -1).astype(np.float64)
        a = np.einsum("at,by,ex,tyxcd->abecd", *(matrix(m, n, linear) for m, n in zip(old[:3], new[:3])), a)
        if new[3] != old[3]:
            a = a.mean(axis=3, keepdims=True) if new[3] == 1 else a[:, :, :, np.arange(new[3]) % old[3]]
        return a.reshape(int(np.prod(new)), -1).astype(np.float32)

    return resized(kernel), resized(bias)[:, 0]


def inflate(kernel: np.ndarray, frames: int, rule: str = "average") -> np.ndarray:
    """Return an image model's patch embedding [d c y x] as one of cubes [d c t y x].

    Args:
      rule: "average" distributes it evenly, so that a still clip has the embedding of its picture; "central"
        puts it into the middle frame (as I3D and ViViT).
    """
    if rule not in INFLATIONS:
        raise MismatchError(f"inflation {rule!r} is not known: {' or '.join(INFLATIONS)}")
    result = np.zeros((*kernel.shape[:2], frames, *kernel.shape[2:]), np.float32)
    if rule == "average":
        result[:] = (kernel.astype(np.float32) / frames)[:, :, None]
    else:
        result[:, :, frames // 2] = kernel
    return result


def _channels(kernel: np.ndarray, channels: int, rule: str) -> np.ndarray:
    old = kernel.shape[1]
    if rule not in CHANNEL_RULES:
        raise MismatchError(f"channel rule {rule!r} is not known: {' or '.join(CHANNEL_RULES)}")
    if channels == 1:
        return kernel.sum(axis=1, keepdims=True)
    if rule == "cycle":
        return kernel[:, np.arange(channels) % old] * (old / channels)
    if channels < old:
        raise MismatchError(f"channels 'keep' needs at least the {old} channels of the weights, not {channels}")
    extra = np.zeros((kernel.shape[0], channels - old, *kernel.shape[2:]), kernel.dtype)
    return np.concatenate([kernel, extra], axis=1)
