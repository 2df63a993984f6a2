"""What the decoding process shows of each frame: the crop that comes first, with what is around it; shared crops.

    transforms=[call("data.crops.together", transforms=[call("data.transforms.random_resized_crop", size=224)])]

The views of a video (`data.clips.pair`) draw their crops independently, unless one of these ties them together.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vmae_jax.data.order import stream
from vmae_jax.data.scaling import View
from vmae_jax.data.transforms import (
    Features,
    Flip,
    Geometric,
    Painted,
    Painter,
    RandomResizedCrop,
    Transform,
    output_size,
    random_resized_crop,
)
from vmae_jax.registry import register

__all__ = ["Crop", "Nested", "Shared", "Together", "leading", "misplaced", "nested", "together"]


@register("transform", transforms="transform")
def together(transforms: Sequence[Any]) -> "Together":
    """A crop and flips that all views of a sampler share, such as the two clips of `data.clips.pair`.

    It comes first: it is carried out while decoding.

    Args:
      transforms: a crop, and perhaps flips after it.
    """
    crop = leading(transforms)
    if crop is None or not crop.geometric or crop.parts != tuple(transforms):
        raise ValueError("transforms must be a crop, and perhaps flips after it")
    size = output_size(transforms)
    if size is None:
        raise ValueError("the first of the transforms must be a crop")
    return Together(size, crop.parts)


@register("transform", smoke={"size": 32})
def nested(
    size: int = 224,
    outer: Sequence[float] = (0.5, 1.0),
    inner: Sequence[float] = (0.3, 0.6),
    ratio: Sequence[float] = (0.75, 1.3333333333333333),
    interpolation: str = "bilinear",
) -> "Nested":
    """Crops of which the first contains the others, scaled to `size`: the global and local views of CropMAE.

    The first view of a sampler shows a random crop of the picture, every other view a random crop of that, drawn in
    the square of `size` pixels that the first one was scaled to. Those views are therefore scaled twice, as in
    CropMAE's code. It comes first: it is carried out while decoding.

    Args:
      size: side of the square that comes out.
      outer: (smallest, largest) share of the picture's area that the first view shows.
      inner: (smallest, largest) share of the first view's area that another view shows.
      ratio: (smallest, largest) width over height of every crop, in the pixels that it is drawn in.
      interpolation: as in `data.transforms.random_resized_crop`.
    """
    return Nested(*(random_resized_crop(size, area, ratio, interpolation) for area in (outer, inner)))


class Shared(Geometric):
    """A transform of which the views of a video share the random draw; only the decoding process can carry it out."""

    def shared_view(self, height: int, width: int, *, base: np.ndarray, repeat: int, view: int) -> View:
        """What view number `view` shows; `base` is the same for all views."""
        raise TypeError(f"{type(self).__name__} has no view")

    def __call__(self, features: Features, seed: Any) -> Features:
        raise TypeError(f"{type(self).__name__} is carried out while decoding")


@dataclasses.dataclass(frozen=True)
class Together(Shared):
    """See `together`."""

    size: int
    parts: tuple[Any, ...]

    def shared_view(self, height: int, width: int, *, base: np.ndarray, repeat: int, view: int) -> View:
        return _composed(
            part.shared_view(height, width, base=stream(base, number), repeat=repeat, view=view)
            if isinstance(part, Shared)
            else part.view(height, width, seed=stream(base, number), repeat=repeat)
            for number, part in enumerate(self.parts)
        )


@dataclasses.dataclass(frozen=True)
class Nested(Shared):
    """See `nested`."""

    outer: RandomResizedCrop
    inner: RandomResizedCrop

    @property
    def size(self) -> int:
        """Side of the square that comes out."""
        return self.outer.size

    def shared_view(self, height: int, width: int, *, base: np.ndarray, repeat: int, view: int) -> View:
        outer = self.outer.view(height, width, seed=base, repeat=repeat)
        if view == 0:
            return outer
        return self.inner.view(*outer.shape, seed=stream(base, view), repeat=repeat)._replace(inside=outer)


@dataclasses.dataclass(frozen=True)
class Crop:
    """The transforms that the decoding worker carries out: a crop, flips of what it shows, and those that paint.

    What paints comes before the crop or after the flips.
    """

    parts: tuple[Any, ...]

    @property
    def geometric(self) -> bool:
        """Whether pictures are only cropped and flipped."""
        return not any(isinstance(part, Painted) for part in self.parts)

    def painters(self, clip: Any) -> tuple[list[Painter], list[Painter]]:
        """What is done to the pictures of a clip before the crop, and after it."""
        words = np.asarray(clip.seed, np.int64)
        place = next(number for number, part in enumerate(self.parts) if isinstance(part, Geometric))
        both: tuple[list[Painter], list[Painter]] = ([], [])
        for number, part in enumerate(self.parts):
            if isinstance(part, Painted):
                both[number > place].append(part.painter(stream(words, number)))
        return both

    def __call__(self, height: int, width: int, clip: Any) -> View:
        """What a clip (`decode.Wanted`) shows: as `apply` with the same transforms and seed."""
        words = np.asarray(clip.seed, np.int64)
        base = words if clip.base is None else np.asarray(clip.base, np.int64)
        return _composed(
            part.shared_view(height, width, base=stream(base, number), repeat=clip.repeat, view=clip.view)
            if isinstance(part, Shared)
            else part.view(height, width, seed=stream(words, number), repeat=clip.repeat)
            for number, part in enumerate(self.parts)
            if isinstance(part, Geometric)
        )


def _composed(views: Iterable[View]) -> View:
    """A crop, and flips of what it shows, as one view."""
    first, *flips = views
    return first._replace(mirrored=first.mirrored ^ (sum(view.mirrored for view in flips) % 2 == 1))


def leading(transforms: Sequence[Transform]) -> Crop | None:
    """What of `transforms` can be done while decoding: a crop, flips after it, and what paints before and after."""
    kinds = ["p" if isinstance(one, Painted) else "f" if isinstance(one, Flip) else "g" if isinstance(one, Geometric)
             else "-" for one in transforms]  # fmt: skip
    found = re.match("p*gf*p*", "".join(kinds))
    return Crop(tuple(transforms[: found.end()])) if found else None


def misplaced(transforms: Sequence[Transform]) -> Transform | None:
    """The first transform that only the decoding process can carry out, and that is not carried out there."""
    crop = leading(transforms)
    rest = transforms[len(crop.parts) if crop else 0 :]
    return next((transform for transform in rest if isinstance(transform, Shared)), None)
