"""Trajectories of points as a target: where the optical flow takes them in the frames that follow (MME)."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from vmae_jax.patches import Patch, gather
from vmae_jax.registry import register
from vmae_jax.types import Batch

__all__ = ["NEXT", "Trajectory", "trajectory"]

NEXT = "flow_next"  # of the annotated batch: the flow of each frame but the last to the one after it, [b t h w 2]
EPSILON = 1e-6  # added to a deviation


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """The target of `trajectory`."""

    steps: int
    points: int
    limit: float
    normalize: bool
    still: float
    inputs: tuple[str, ...] = (NEXT,)

    def __call__(self, batch: Batch, decode: Int[Array, "b k"], patch: Patch) -> Float[Array, "b k q"]:
        moves = self.paths(jnp.asarray(batch[NEXT]), patch)[0]
        if self.normalize:
            deviation = jnp.maximum(moves.std(axis=2, ddof=1, keepdims=True), self.still)
            moves = (moves - moves.mean(axis=2, keepdims=True)) / (deviation + EPSILON * self.limit)
        else:
            moves = moves / self.limit
        return gather(rearrange(moves, "b n q l d -> b n (l d q)"), decode)

    def counted(self, batch: Batch, decode: Int[Array, "b k"], patch: Patch) -> Float[Array, "b k"]:
        """Return 1 for tokens at least one of whose points stays in the picture and in the clip, and else 0."""
        valid = self.paths(jnp.asarray(batch[NEXT]), patch)[1]
        return gather(valid.any(axis=2, keepdims=True).astype(jnp.float32), decode)[..., 0]

    def paths(
        self, flow: Float[Array, "b t h w 2"], patch: Patch
    ) -> tuple[Float[Array, "b n q l 2"], Bool[Array, "b n q"]]:
        """Return the moves of the points of every token in pixels, x and y, and which points stay inside throughout.

        Raises:
          ValueError: if the points do not divide a patch.
        """
        if patch.h % self.points or patch.w % self.points:
            raise ValueError(f"trajectory: {self.points} points a side do not divide {patch.h}x{patch.w} pixels")
        b, count, h, w, _ = flow.shape
        first = np.arange((count + 1) // patch.t) * patch.t
        size = jnp.asarray([w, h], jnp.float32) - 1
        centres = _centres(h, w, patch, self.points)
        place = jnp.broadcast_to(centres, (b, len(first), *centres.shape))
        valid, moves = jnp.ones(place.shape[:-1], bool), []
        for step in range(self.steps):
            at = np.minimum(first + step, count - 1)
            x, y = (jnp.round(place[..., axis]).astype(jnp.int32) for axis in (0, 1))
            here = flow[:, at].reshape(b, len(first), h * w, 2)
            move = jnp.take_along_axis(here, (y * w + x)[..., None], axis=2)
            to = place + move
            inside = ((to >= 0) & (to <= size)).all(axis=-1)
            valid &= inside & (first + step < count)[:, None]
            moves.append(jnp.clip(move, -self.limit, self.limit))
            place = jnp.clip(to, 0.0, size)
        sides = {"h": h // patch.h, "y": self.points, "x": self.points}
        found = rearrange(jnp.stack(moves, axis=3), "b t (h y w x) l d -> b (t h w) (y x) l d", **sides)
        return found, rearrange(valid, "b t (h y w x) -> b (t h w) (y x)", **sides)


def _centres(height: int, width: int, patch: Patch, points: int) -> np.ndarray:
    """The x and the y of the points of a frame, in rows, [p 2]."""
    places = []
    for side, one in ((height, patch.h // points), (width, patch.w // points)):
        places.append(np.arange(side // one) * one + one // 2)
    y, x = np.meshgrid(*places, indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)


@register("target")
def trajectory(
    steps: int = 4, points: int = 2, limit: float = 20.0, normalize: bool = True, still: float = 0.5
) -> Trajectory:
    """Predict how the points of a patch move over the next frames of the clip.

    The points of each slot begin in its first frame, and the flow at the pixel that each has reached takes it to the
    next frame. Tokens all of whose points leave the picture, or of which the clip has no further frames, do not count
    (`counted`). With the default of four points and four steps a token has 32 values. The flow comes from a guide
    (`methods.flow.onward`).

    Args:
      steps: of a trajectory, in frames of the clip.
      points: of a patch, along each side.
      limit: in pixels, to which the moves of a step are clamped, and by which they are divided if not normalised.
      normalize: of each step, subtract the mean of a patch's points and divide by their deviation (unbiased). Only the
        motion inside of the patch remains: it is 0 if a patch moves as a whole.
      still: the least deviation in pixels by which moves are divided; 0 in the official code, where noise of patches
        that stand still becomes as large as motion.

    Raises:
      ValueError: if a number is out of range; when it is used, if points do not divide a patch.

    Source: MME (Sun et al. 2023).
    """
    if steps < 1 or points < 1 or limit <= 0 or still < 0:
        raise ValueError(
            f"steps={steps}, points={points}, limit={limit}, still={still}: at least 1; at least 1; above 0; at least 0"
        )
    if normalize and points < 2:
        raise ValueError("points=1: a deviation needs at least two of a patch; set normalize=False")
    return Trajectory(steps, points, float(limit), normalize, float(still))
