"""Log-mel spectrograms, computed on the device from the 16-bit samples of a batch.

Three published forms: `kaldi` (AudioMAE, MAViL), `hamming` (MBT, AV-MAE) and `decibels` (TVLT). The Fourier transform
is a product of matrices, which is split over devices like any other; XLA's own transform would gather the whole batch.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vmae_jax.inputs.filters import SCALES, WINDOWS, mel_filters, window
from vmae_jax.registry import register

__all__ = ["LogMel", "decibels", "hamming", "kaldi"]

_FULL = 32768.0  # the 16-bit sample that counts as 1


class Filters(NamedTuple):
    """The mel filters of a spectrogram; see `filters.mel_filters`."""

    scale: str
    bins: int
    low: float
    high: float
    in_mel: bool
    equal_area: bool


@dataclasses.dataclass(frozen=True)
class LogMel:
    """A form of log-mel spectrogram; `kaldi`, `hamming` and `decibels` build it.

    Attributes:
      rate: samples a second.
      window: samples of a frame.
      hop: samples from a frame to the next.
      fft: length of the Fourier transform.
      shape, periodic: of the window function (`filters.window`).
      filters: the mel filters.
      padding: where frames are: "inside" the samples alone, one for every hop with zeros after the "end", or around
        every hop, with the samples "reflected" at both ends.
      centred: whether each frame's mean is subtracted.
      emphasis: share of the sample before that is subtracted from each.
      power: of the magnitudes that are added up, 1 or 2.
      floor: smallest value of which a logarithm is taken.
      added: what is added before the logarithm instead.
      unit: "natural" logarithms, or "decibels".
      span: decibels below the largest value of a clip, at which values are cut off.
      mean, deviation: what values are normalised with.
      bounds: of the normalised values; None for none.
    """

    rate: int
    window: int
    hop: int
    fft: int
    shape: str
    periodic: bool
    filters: Filters
    padding: str = "inside"
    centred: bool = False
    emphasis: float = 0.0
    power: int = 2
    floor: float = 0.0
    added: float = 0.0
    unit: str = "natural"
    span: float | None = None
    mean: float = 0.0
    deviation: float = 1.0
    bounds: tuple[float, float] | None = None

    @property
    def bins(self) -> int:
        """The number of mel bins."""
        return self.filters.bins

    def frames(self, samples: int) -> int:
        """Return the number of frames of this many samples."""
        if self.padding == "inside":
            return max(0, 1 + (samples - self.window) // self.hop)
        return -(-samples // self.hop) if self.padding == "end" else samples // self.hop

    def samples(self, frames: int) -> int:
        """Return the fewest samples that have this many frames."""
        if self.padding == "inside":
            return (frames - 1) * self.hop + self.window
        return (frames - 1) * self.hop + 1 if self.padding == "end" else frames * self.hop

    def __call__(self, samples: Num[Array, "b n"]) -> Float[Array, "b t m"]:
        """Return the normalised spectrograms, float32, of sound on the scale of 16-bit integers."""
        frames = self._framed(jnp.asarray(samples, jnp.float32) / _FULL)
        if self.centred:
            frames = frames - frames.mean(axis=-1, keepdims=True)
        if self.emphasis:
            before = jnp.concatenate([frames[..., :1], frames[..., :-1]], axis=-1)
            frames = frames - self.emphasis * before
        product = functools.partial(jnp.matmul, precision="highest")
        cosine, sine = _transform(self.shape, self.window, self.fft, self.periodic)
        power = jnp.square(product(frames, cosine)) + jnp.square(product(frames, sine))
        weights = _weights(self.filters, self.fft, self.rate)
        mel = product(power if self.power == 2 else jnp.sqrt(power), weights)
        return self._normalised(self._logarithm(mel))

    def _framed(self, samples: Float[Array, "b n"]) -> Float[Array, "b t w"]:
        """Return overlapping frames; they are put together from pieces of one hop, without a gather."""
        count = self.frames(samples.shape[1])
        if self.padding == "reflected":
            samples = jnp.pad(samples, ((0, 0), (self.window // 2,) * 2), mode="reflect")
        pieces = -(-self.window // self.hop)
        needed = (count + pieces - 1) * self.hop
        samples = jnp.pad(samples[:, :needed], ((0, 0), (0, max(0, needed - samples.shape[1]))))
        hops = samples.reshape(samples.shape[0], -1, self.hop)
        frames = jnp.concatenate([hops[:, k : k + count] for k in range(pieces)], axis=-1)
        return frames[..., : self.window]

    def _logarithm(self, mel: Float[Array, "b t m"]) -> Float[Array, "b t m"]:
        if self.unit == "natural":
            return jnp.log(jnp.maximum(mel, self.floor) + self.added)
        found = 10.0 / np.log(10.0) * jnp.log(jnp.maximum(mel, self.floor))
        if self.span is None:
            return found
        return jnp.maximum(found, found.max(axis=(1, 2), keepdims=True) - self.span)

    def _normalised(self, values: Float[Array, "b t m"]) -> Float[Array, "b t m"]:
        values = (values - self.mean) / self.deviation
        return values if self.bounds is None else jnp.clip(values, *self.bounds)


@functools.lru_cache(maxsize=4)
def _transform(shape: str, length: int, fft: int, periodic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the window times cosines and sines, [window fft//2+1] each."""
    angle = 2 * np.pi * ((np.arange(length)[:, None] * np.arange(fft // 2 + 1)) % fft) / fft
    weight = window(shape, length, periodic=periodic)[:, None]
    return (weight * np.cos(angle)).astype(np.float32), (weight * np.sin(angle)).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _weights(filters: Filters, fft: int, rate: int) -> np.ndarray:
    return mel_filters(**filters._asdict(), fft=fft, rate=rate).astype(np.float32)


def _milliseconds(value: float, rate: int) -> int:
    return round(value * rate / 1000)


def _power_of_two(length: int) -> int:
    return 1 << (length - 1).bit_length()


@register("log_mel", smoke={"bins": 32})
def kaldi(
    rate: int = 16000,
    bins: int = 128,
    window: float = 25.0,
    hop: float = 10.0,
    shape: str = "hann",
    low: float = 20.0,
    high: float | None = None,
    emphasis: float = 0.97,
    mean: float = -4.2677393,
    deviation: float = 9.1379,
) -> LogMel:
    """Return Kaldi's filter banks without dither and energy, as AudioMAE and MAViL use them.

    Args:
      rate: samples a second; that of the stream must be the same.
      bins: mel bins.
      window, hop: milliseconds of a frame, and from a frame to the next.
      shape: of the window, one of `inputs.filters.WINDOWS`.
      low, high: the lowest and the highest frequency in Hz; the highest is half the rate by default.
      emphasis: share of the sample before that is subtracted.
      mean, deviation: subtracted from the logarithms, and divided by (AudioMAE: twice the deviation of AudioSet).

    Raises:
      ValueError: if a number or a name is out of range.
    """
    length, step = _milliseconds(window, rate), _milliseconds(hop, rate)
    filters = Filters("htk", bins, low, high or rate / 2, in_mel=True, equal_area=False)
    made = LogMel(rate, length, step, _power_of_two(length), shape, False, filters, centred=True, emphasis=emphasis)
    return _checked(dataclasses.replace(made, floor=float(np.finfo(np.float32).eps), mean=mean, deviation=deviation))


@register("log_mel", smoke={"bins": 32})
def hamming(
    rate: int = 16000,
    bins: int = 128,
    window: float = 25.0,
    hop: float = 10.0,
    low: float = 125.0,
    high: float = 7500.0,
    power: int = 1,
    added: float = 0.01,
    mean: float = 0.0,
    deviation: float = 1.0,
) -> LogMel:
    """Return log-mel of Hamming windows, a frame for every hop, as MBT and AV-MAE use it.

    Their paper gives windows, hops and bins. Everything else is not public, and follows TensorFlow's functions and the
    figures of VGGish.

    Args:
      rate, bins, window, hop, low, high: as in `kaldi`.
      power: of the magnitudes that are added up, 1 or 2.
      added: to them, before the logarithm.
      mean, deviation: as in `kaldi`; MBT has 1.102 and 2.762 for its own values.

    Raises:
      ValueError: if a number or a name is out of range.
    """
    length, step = _milliseconds(window, rate), _milliseconds(hop, rate)
    filters = Filters("htk", bins, low, high, in_mel=True, equal_area=False)
    made = LogMel(rate, length, step, _power_of_two(length), "hamming", True, filters, padding="end", power=power)
    return _checked(dataclasses.replace(made, added=added, mean=mean, deviation=deviation))


@register("log_mel", smoke={"bins": 32})
def decibels(rate: int = 44100, bins: int = 128, window: int = 2048, hop: int = 512, span: float = 80.0) -> LogMel:
    """Return mel spectra in decibels between -1 and 1, as TVLT uses them: librosa's plus 20, divided by 40.

    Args:
      rate, bins: as in `kaldi`.
      window, hop: samples of a frame, and from a frame to the next.
      span: decibels below the largest value of a clip, at which values are cut off.

    Raises:
      ValueError: if a number is out of range.
    """
    filters = Filters("slaney", bins, 0.0, rate / 2, in_mel=False, equal_area=True)
    made = LogMel(rate, window, hop, window, "hann", True, filters, padding="reflected", floor=1e-10, unit="decibels")
    return _checked(dataclasses.replace(made, span=span, mean=-20.0, deviation=40.0, bounds=(-1.0, 1.0)))


def _checked(made: LogMel) -> LogMel:
    """Return a spectrogram whose figures are possible; raise ValueError if they are not."""
    own = made.filters
    if not 1000 <= made.rate <= 192_000 or own.bins < 1 or not 1 <= made.hop <= made.window:
        raise ValueError(
            f"rate={made.rate}, bins={own.bins}, and a hop of {made.hop} and a window of {made.window} samples: a rate "
            "from 1000 to 192000, at least one bin, and a hop of at least one sample and at most a window"
        )
    if not 0 <= own.low < own.high <= made.rate / 2:
        raise ValueError(f"low={own.low:g}, high={own.high:g}: 0 <= low < high <= {made.rate / 2:g}, half the rate")
    if made.shape not in WINDOWS or own.scale not in SCALES or made.power not in (1, 2):
        raise ValueError(f"shape={made.shape!r}, power={made.power}: one of {', '.join(WINDOWS)}; 1 or 2")
    if made.deviation <= 0 or made.added < 0 or not 0 <= made.emphasis < 1 or (made.span or 1) <= 0:
        raise ValueError(
            f"deviation={made.deviation}, added={made.added}, emphasis={made.emphasis}, span={made.span}: deviation "
            "and span above 0, added at least 0, emphasis in [0, 1)"
        )
    if not made.floor and not made.added:
        raise ValueError("added must be above 0: silence has no logarithm")
    return made
