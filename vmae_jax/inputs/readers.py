"""What a modality of a method is, in terms of the streams of a batch: pictures, one of them, or a spectrogram."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key, Shaped

from vmae_jax.augment.colors import ByView, Colors
from vmae_jax.inputs.log_mel import LogMel
from vmae_jax.inputs.spec_augment import SpecAugment
from vmae_jax.inputs.waveform import Waveform
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError
from vmae_jax.types import Batch, stream

__all__ = ["Frame", "Read", "Reader", "Readers", "Share", "Sound", "Video", "frame", "sound", "video"]

ENOUGH = 20  # rows before their share means anything


class Read(NamedTuple):
    """A modality of a batch, as a video.

    Attributes:
      video: with one row a clip.
      valid: which rows have the modality.
      real: which frames are no padding; None where all are.
    """

    video: Shaped[Array, "b t h w c"]
    valid: Bool[Array, "b"]
    real: Bool[Array, "b t"] | None = None


class Reader:
    """Base of the readers.

    Attributes:
      inputs: the streams that are read.
      expects: attributes that streams of the loader must have, by stream.
      missing: the largest share of rows that may lack the modality.
      views: how many consecutive rows it takes for the views of one video.
    """

    inputs: tuple[str, ...] = ()
    expects: Mapping[str, Mapping[str, Any]] = {}
    missing: float = 0.0
    views: int = 1

    def shape(self, batch: Batch, wanted: tuple[int, ...]) -> None:
        """Raise ValueError if a batch, or its shapes, do not give videos of the shape `wanted`, [t h w c]."""
        raise NotImplementedError

    def read(self, batch: Batch, frames: int, keys: Key[Array, "b"] | None = None) -> Read:
        """Return the modality of a batch, with this many frames; keys switch augmentation on."""
        raise NotImplementedError

    def there(self, batch: Batch) -> np.ndarray:
        """Return which rows of a batch on the host have the modality."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Video(Reader):
    """See `video`."""

    colors: Colors | ByView | None = None
    inputs: tuple[str, ...] = ("video",)

    @property
    def views(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride] - it follows the colours
        return self.colors.views if isinstance(self.colors, ByView) else 1

    def shape(self, batch: Batch, wanted: tuple[int, ...]) -> None:
        """See `Reader.shape`; the model itself checks its clips."""

    def read(self, batch: Batch, frames: int, keys: Key[Array, "b"] | None = None) -> Read:
        """Return the pictures as they are, or with other colours where there are keys, as float32 from 0 to 255.

        Those are not rounded: which way a value is rounded would depend on the program that contains it.
        """
        pictures = jnp.asarray(batch["video"])
        if keys is not None and self.colors is not None:
            pictures = self.colors(pictures.astype(jnp.float32) / 255.0, keys) * 255.0
        return Read(pictures, jnp.asarray(batch["valid"]))

    def there(self, batch: Batch) -> np.ndarray:
        """Return True for every row."""
        return np.ones(len(batch["valid"]), bool)


@register("reader", colors=("colors", "view_colors"))
def video(colors: Colors | ByView | None = None) -> Video:
    """Read the pictures of a clip.

    Args:
      colors: changes of their colours in training, `augment.colors.jitter`, of each clip by its own seed, or
        `augment.colors.by_view`.
    """
    return Video(colors)


@dataclasses.dataclass(frozen=True)
class Frame(Video):
    """See `frame`."""

    def shape(self, batch: Batch, wanted: tuple[int, ...]) -> None:
        """Raise ValueError if the model takes more than one frame."""
        if wanted[0] != 1:
            raise ValueError(f"inputs.readers.frame gives one frame, and the model takes {wanted[0]}: set its frames=1")

    def read(self, batch: Batch, frames: int, keys: Key[Array, "b"] | None = None) -> Read:
        """Return one frame of each clip as it is, or with other colours where there are keys."""
        pictures = jnp.asarray(batch["video"])
        count = pictures.shape[1]
        chosen = jnp.full(pictures.shape[:1], count // 2)
        if keys is not None:
            chosen = jax.vmap(lambda key: jax.random.randint(key, (), 0, count))(stream(keys, "frame"))
        one = jnp.take_along_axis(pictures, chosen[:, None, None, None, None], axis=1)
        return super().read({**batch, "video": one}, frames, keys)


@register("reader", colors=("colors", "view_colors"))
def frame(colors: Colors | ByView | None = None) -> Frame:
    """Read one frame of each clip, of the same crop: a random one in training, otherwise the middle one.

    Args:
      colors: as for `video`, drawn independently of those of the clip.
    """
    return Frame(colors)


@dataclasses.dataclass(frozen=True)
class Sound(Reader):
    """See `sound`."""

    log_mel: LogMel
    stream: str
    augment: SpecAugment | None
    pad: bool
    missing: float
    waveform: Waveform | None = None

    @property
    def inputs(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride] - it follows the stream
        return (self.stream, f"{self.stream}_span", f"{self.stream}_valid")

    @property
    def expects(self) -> Mapping[str, Mapping[str, Any]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {self.stream: {"rate": self.log_mel.rate, "channels": 1}}

    def shape(self, batch: Batch, wanted: tuple[int, ...]) -> None:
        """Raise ValueError if a window of sound is too short or too long for a model, or the bins differ."""
        frames, bins, *_ = wanted
        form, samples = self.log_mel, batch[self.stream].shape[1]
        if form.bins != bins:
            raise ValueError(f"the model takes {bins} mel bins, and {self.stream!r} is read with bins={form.bins}")
        least, given = form.samples(frames), form.frames(samples)
        seconds = math.ceil(100 * least / form.rate) / 100
        if not given or (given < frames and not self.pad):
            raise ValueError(
                f"the model takes {frames} frames of sound, and windows of {samples / form.rate:g} s have {given}: set "
                f"the stream's seconds={seconds:g}, or pad=True of inputs.readers.sound"
            )
        if given - frames >= min(frames, 16):
            raise ValueError(
                f"the model takes {frames} frames of sound, and windows of {samples / form.rate:g} s have {given}, of "
                f"which {given - frames} would be cut off: set the stream's seconds={seconds:g}"
            )

    def read(self, batch: Batch, frames: int, keys: Key[Array, "b"] | None = None) -> Read:
        """Return spectrograms [b t m 1 1]; a row without a sample other than 0 does not have the modality."""
        samples, span = jnp.asarray(batch[self.stream]), jnp.asarray(batch[f"{self.stream}_span"])
        sound, by, hop = samples, 0, self.log_mel.hop
        if keys is not None and self.waveform is not None:
            sound, rolled = self.waveform(samples, keys)
            by = rolled[:, None]
        values = self.log_mel(sound)
        begin = (jnp.arange(values.shape[1])[None] * hop - by) % samples.shape[1]
        real = (begin + hop > span[:, :1]) & (begin < span[:, 1:])
        if keys is not None and self.augment is not None:
            values, real = self.augment(values, real, keys)
        values, real = values[:, :frames], real[:, :frames]
        more = frames - values.shape[1]
        values, real = jnp.pad(values, ((0, 0), (0, more), (0, 0))), jnp.pad(real, ((0, 0), (0, more)))
        valid = jnp.asarray(batch[f"{self.stream}_valid"]) & (samples != 0).any(axis=1) & real.any(axis=1)
        return Read(values[..., None, None], valid & jnp.asarray(batch["valid"]), real)

    def there(self, batch: Batch) -> np.ndarray:
        """Return which rows have any sound."""
        return np.asarray(batch[f"{self.stream}_valid"]) & np.asarray(batch[self.stream]).any(axis=1)


def _smoke(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"missing": 1.0}  # of a few short clips all may be silent


@register("reader", log_mel="log_mel", augment="spectrogram_augment", waveform="waveform_augment", smoke=_smoke)
def sound(
    log_mel: LogMel,
    stream: str = "audio",
    augment: SpecAugment | None = None,
    pad: bool = False,
    missing: float = 0.5,
    waveform: Waveform | None = None,
) -> Sound:
    """Read the sound around a clip as a spectrogram.

    Rows without sound, or with silence alone, do not have the modality: nothing is learned from them. Frames beyond the
    sound are padding, which is neither attended to nor predicted.

    Args:
      log_mel: the form of the spectrogram; its rate must be that of the stream.
      stream: the name of a `data.streams.audio.audio` of the loader.
      augment: of spectrograms in training.
      pad: whether windows may be shorter than the model's spectrograms, which then end with padding.
      missing: the share of clips that may be without sound; above it a training ends.
      waveform: changes of the waveform in training, `inputs.waveform`.

    Raises:
      ValueError: if the share is not in [0, 1].
    """
    if not 0 <= missing <= 1:
        raise ValueError(f"missing={missing}: a share, from 0 to 1")
    return Sound(log_mel, stream, augment, pad, missing, waveform)


class Share:
    """The share of rows that lack a modality, over all batches that this process has seen."""

    def __init__(self, name: str, reader: Reader) -> None:
        self._name, self._reader = name, reader
        self._seen = self._lacking = 0

    def add(self, batch: Batch) -> None:
        """Count a batch on the host.

        Raises:
          ConfigError: if the share exceeds the reader's `missing` by more than chance, four deviations of a sample.
        """
        real, reader = np.asarray(batch["valid"]), self._reader
        self._seen += int(real.sum())
        self._lacking += int((real & ~reader.there(batch)).sum())
        chance = 4 * math.sqrt(reader.missing * (1 - reader.missing) * self._seen)
        if self._seen >= ENOUGH and self._lacking > reader.missing * self._seen + chance:
            raise ConfigError(
                f"{self._lacking} of {self._seen} clips have no {self._name} ({self._lacking / self._seen:.0%}, limit "
                f"{reader.missing:.0%}); raise missing of config.method.modalities.{self._name}.read to continue"
            )

    def first(self, batch: Batch) -> None:
        """Raise ConfigError if no row of the first batch of a run has the modality."""
        if not (np.asarray(batch["valid"]) & self._reader.there(batch)).any():
            raise ConfigError(
                f"none of the {len(batch['index'])} clips of the first batch has {self._name}: "
                f"{', '.join(map(repr, self._reader.inputs))} hold nothing"
            )


class Readers:
    """What the readers of a method's modalities need of its data.

    Attributes:
      inputs: the streams that they read, each once.
      expects: what these streams must be, by name.
    """

    def __init__(self, readers: Mapping[str, Reader]) -> None:
        self._shares = [Share(name, one) for name, one in readers.items()]
        self.inputs = tuple(dict.fromkeys(name for one in readers.values() for name in one.inputs))
        self.expects = {name: values for one in readers.values() for name, values in one.expects.items()}

    def check(self, batch: Batch) -> None:
        """Count who lacks what in a batch; see `Share.add`."""
        for share in self._shares:
            share.add(batch)

    def check_first(self, batch: Batch) -> None:
        """Look at the first batch of a run; see `Share.first`."""
        for share in self._shares:
            share.first(batch)
