"""The loader: source, frame sampler and transforms, put together into batches.

    call("data.pipeline.loader", source=call("data.sources.folder", path="videos"),
         sampler=call("data.clips.dense"), transforms=[call("data.transforms.multi_scale_crop")],
         global_batch=256, repeat=4)

What a batch holds is a function of (seed, position) alone, a position counting videos: the same
on one host or many, and from any start. A clip's row in the global batch is
video * clips_per_video + clip, where the clips of a video are its repeats and their views.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vmae_jax.data.beside import images_of
from vmae_jax.data.clips import Pair
from vmae_jax.data.crops import Crop, leading, misplaced
from vmae_jax.data.labels import Field, fields
from vmae_jax.data.source import Opener
from vmae_jax.data.streams.core import ArraySpec, ClipShape, Stream, Streams, check_streams
from vmae_jax.data.transforms import Transform, output_size
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError

__all__ = ["Loader", "loader"]


def _tiny(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a loader's arguments at `smoke` size; the drawn clips have one label."""
    tiny: dict[str, Any] = {"global_batch": 8, "repeat": min(arguments["repeat"], 2), "workers": 1}
    labels = arguments["labels"]
    return tiny if isinstance(labels, bool) else tiny | {"labels": {"label": next(iter(labels.values()))}}


@register(
    "loader", source="source", sampler="sampler", transforms="transform", labels="label", streams="stream",
    images="loader", smoke=_tiny,
)  # fmt: skip
def loader(
    source: Any,
    sampler: Any,
    transforms: Sequence[Any],
    *,
    global_batch: int = 8,
    repeat: int = 1,
    shuffle: bool = True,
    labels: bool | Mapping[str, Any] = False,
    streams: Mapping[str, Any] | None = None,
    images: Mapping[str, Any] | None = None,
    channels: int = 3,
    workers: int | None = None,
    prefetch: int = 2,
    timeout: float = 30.0,
    max_bad_fraction: float = 0.05,
    memory: float | None = None,
    service: str | None = None,
) -> "Loader":
    """A loader that is not open yet: it has touched no disk and imported no TensorFlow.

    Args:
      source: from `data.sources`.
      sampler: which frames, from `data.clips`.
      transforms: from `data.transforms`, in order; one of them settles the resolution.
      global_batch: videos a step, over all hosts.
      repeat: clips of each decoded video (the papers' num_sample): the same frames, with crops,
        flips and masks of their own.
      shuffle: a new order every epoch; False reads in the source's order.
      labels: True: batches carry "label", one class; every example must have one. Or the labels
        that they carry by name, each from `data.labels`.
      streams: what else batches carry of each clip, by name, each from `data.streams`: batch[NAME], and
        batch[NAME_valid], which is False where a video has no such stream.
      images: loaders of images, by name, whose batches are a multiple k of this one's: batches carry batch[NAME],
        uint8 [b k h w c], and batch[NAME_valid], beside each clip.
      channels: 3 (RGB) or 1 (grey).
      workers: decoding processes of this host; by default one a core.
      prefetch: batches made ahead.
      timeout: seconds that decoding one video may take.
      max_bad_fraction: the share of videos that may be unreadable or missing; above it training ends with their
        list. It is judged over different videos, after 20 of them; up to four, if no more than half, never count.
      memory: GiB of this host that reading ahead may take, by default half of what there is; where
        prefetch and workers would take more, they are lowered.
      service: HOST:PORT of `vmae data serve`, whose workers decode for the training: the same clips in
        every epoch, in an order that is not repeatable (see `data.service`). By default this host decodes.
    """
    for name, value in (
        ("global_batch", global_batch),
        ("repeat", repeat),
        ("workers", workers),
        ("prefetch", prefetch),
    ):
        if value is not None and value < 1:
            raise ConfigError(f"loader: {name}={value}; it must be at least 1")
    if channels not in (1, 3):
        raise ConfigError(f"loader: channels={channels}; videos are read as 3 (RGB) or 1 (grey)")
    if timeout <= 0 or not 0 <= max_bad_fraction <= 1 or (memory is not None and memory <= 0):
        raise ConfigError("loader: timeout and memory must be positive and max_bad_fraction between 0 and 1")
    if getattr(source, "strides", False) and not hasattr(sampler, "stride"):
        raise ConfigError("loader: parts of the mixture have strides of their own, and the sampler has none")
    if isinstance(sampler, Pair) and sampler.gap[1] > 0 and getattr(source, "pictures", None) is True:
        raise ConfigError(
            "loader: data.clips.pair takes frames of different times, and the source has images: use another source, "
            "or gap=[0, 0] for two views of one frame"
        )
    size = output_size(transforms)
    if size is None:
        raise ConfigError(
            "loader: no transform settles the resolution; add one such as data.transforms.multi_scale_crop"
        )
    if (wrong := misplaced(transforms)) is not None:
        raise ConfigError(f"loader: {type(wrong).__name__} is carried out while decoding, so it must come first")
    declared = fields(labels)
    shape = ClipShape(sampler.frames, size, channels)
    crop = leading(transforms)
    cropped = crop is not None and crop.geometric and crop.parts == tuple(transforms)
    check_streams(streams or {}, shape, cropped=cropped, taken=tuple(declared))
    made = Loader(
        source=source,
        sampler=sampler,
        transforms=tuple(transforms),
        size=size,
        global_batch=global_batch,
        repeat=repeat,
        shuffle=shuffle,
        labels=declared,
        streams=dict(streams or {}),
        images=dict(images or {}),
        channels=channels,
        workers=workers,
        prefetch=prefetch,
        timeout=timeout,
        max_bad_fraction=max_bad_fraction,
        memory=memory,
        service=service,
    )
    for name, one in made.images.items():
        _check_images(made, name, one)
    return made


def _check_images(made: "Loader", name: str, images: Any) -> None:
    """Raise ConfigError if a loader's images cannot be beside the clips of another."""
    where = f"loader: images[{name!r}]"
    if not isinstance(images, Loader):
        raise ConfigError(f"{where}: it must be a data.pipeline.loader, got {images!r:.100}")
    taken = {**made.clip_specs(), **made.label_specs(), "seed": 0, "index": 0, "valid": 0}
    if {name, f"{name}_valid"} & set(taken):
        raise ConfigError(f"{where}: batches have {name!r} or {name + '_valid'!r} already")
    if images.sampler.frames != 1 or images.views != 1:
        raise ConfigError(f"{where}: its clips have {images.sampler.frames} frames and {images.views} views, not one")
    if images.labels or images.streams or images.images:
        raise ConfigError(f"{where}: its labels, streams and images would not be read")
    if made.service or images.service:
        raise ConfigError(f"{where}: data services do not carry images beside videos; decode on this host")
    if not images_of(made, images) or images.clips_per_step % made.clips_per_step:
        raise ConfigError(
            f"{where}: {images.clips_per_step} images a step are not a multiple of {made.clips_per_step} clips"
        )


@dataclasses.dataclass(frozen=True)
class Loader:
    """See `loader`; `size` is the resolution of its clips, `recipe` its config as JSON where a service needs it."""

    source: Opener
    sampler: Any
    transforms: tuple[Transform, ...]
    size: int
    global_batch: int
    repeat: int
    shuffle: bool
    labels: Mapping[str, Field]
    streams: Mapping[str, Stream]
    images: Mapping[str, "Loader"]
    channels: int
    workers: int | None
    prefetch: int
    timeout: float
    max_bad_fraction: float
    memory: float | None = None
    service: str | None = None
    recipe: str = ""

    @functools.cached_property
    def crop(self) -> Crop | None:
        """The transforms that are carried out while decoding."""
        return leading(self.transforms)

    @property
    def views(self) -> int:
        """Clips that the sampler takes of a video."""
        return self.sampler.views

    @property
    def clips_per_video(self) -> int:
        return self.repeat * self.views

    @property
    def clips_per_step(self) -> int:
        """Rows of the global batch."""
        return self.global_batch * self.clips_per_video

    @property
    def beside(self) -> Streams:
        """The streams beside the pictures."""
        return Streams(self.streams, ClipShape(self.sampler.frames, self.size, self.channels))

    def clip_specs(self) -> dict[str, ArraySpec]:
        """Return the arrays that are read for each clip, as they are in a row of a batch; "video" is the first."""
        video = ArraySpec((self.sampler.frames, self.size, self.size, self.channels), np.uint8)
        return {"video": video, **self.beside.specs()}

    def read_specs(self) -> dict[str, ArraySpec]:
        """Return them as the decoding processes give them: not cropped where the graph crops."""
        side = self.size if self.crop else None
        video = ArraySpec((self.sampler.frames, side, side, self.channels), np.uint8)
        return self.clip_specs() | {"video": video}

    def label_specs(self) -> dict[str, ArraySpec]:
        """Return the labels of a video, as they are in a row of a batch."""
        return {name: ArraySpec(field.shape, field.dtype) for name, field in self.labels.items()}

    def spec(self) -> dict[str, Any]:
        """Shape and type of each part of the global batch, b = clips_per_step."""
        import jax

        rows = {
            **self.clip_specs(),
            "seed": ArraySpec((2,), np.uint32),
            "index": ArraySpec((), np.int32),
            "valid": ArraySpec((), np.bool_),
            **self.label_specs(),
        }
        for name, one in self.images.items():
            each = images_of(self, one)
            rows[name] = ArraySpec((each, one.size, one.size, one.channels), np.uint8)
            rows[f"{name}_valid"] = ArraySpec((each,), np.bool_)
        return {name: jax.ShapeDtypeStruct((self.clips_per_step, *row.shape), row.dtype) for name, row in rows.items()}
