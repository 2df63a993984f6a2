"""Windows and mel filters, as tables in double precision."""

import numpy as np
from jaxtyping import Float

__all__ = ["SCALES", "WINDOWS", "mel_filters", "window"]

SCALES = ("htk", "slaney")
WINDOWS = ("hann", "hamming", "povey")


def window(kind: str, length: int, *, periodic: bool) -> Float[np.ndarray, " n"]:
    """Return a window.

    Args:
      kind: one of `WINDOWS`; "povey" is Hann's to the power of 0.85 (Kaldi).
      length: in samples.
      periodic: whether it is one period, whose last sample is not the first one's (TensorFlow, librosa); otherwise it
        is symmetric (Kaldi).
    """
    angle = 2 * np.pi * np.arange(length) / (length if periodic else length - 1)
    if kind == "hamming":
        return 0.54 - 0.46 * np.cos(angle)
    hann = 0.5 - 0.5 * np.cos(angle)
    return hann**0.85 if kind == "povey" else hann


def mel_filters(
    scale: str, *, bins: int, fft: int, rate: int, low: float, high: float, in_mel: bool, equal_area: bool
) -> Float[np.ndarray, "k m"]:
    """Return triangular filters over the fft // 2 + 1 frequencies of a spectrum.

    Args:
      scale: of `SCALES`: "htk" is 2595 log10(1 + f/700), "slaney" linear below 1000 Hz and logarithmic above.
      bins: how many filters.
      fft, rate: length of the transform, and samples a second.
      low, high: where the first filter begins and the last one ends, in Hz.
      in_mel: whether the sides of a triangle are straight over mel (Kaldi) or over Hz (librosa).
      equal_area: whether each is divided by half its width in Hz.
    """
    edges = np.linspace(_to_mel(scale, low), _to_mel(scale, high), bins + 2)
    hertz = np.arange(fft // 2 + 1) * rate / fft
    place = _to_mel(scale, hertz) if in_mel else hertz
    corners = edges if in_mel else _to_hertz(scale, edges)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    up = (place[:, None] - left) / (centre - left)
    down = (right - place[:, None]) / (right - centre)
    weights = np.maximum(0.0, np.minimum(up, down))
    if equal_area:
        ends = _to_hertz(scale, edges)
        weights *= 2.0 / (ends[2:] - ends[:-2])
    return weights


_BEND, _SLOPE, _STEP = 1000.0, 200.0 / 3, np.log(6.4) / 27  # of Slaney's scale: Hz, Hz a mel, log of Hz a mel


def _to_mel(scale: str, hertz: float | np.ndarray) -> np.ndarray:
    hertz = np.asarray(hertz, np.float64)
    if scale == "htk":
        return 1127.0 * np.log1p(hertz / 700.0)
    above = _BEND / _SLOPE + np.log(np.maximum(hertz, _BEND) / _BEND) / _STEP
    return np.where(hertz < _BEND, hertz / _SLOPE, above)


def _to_hertz(scale: str, mel: np.ndarray) -> np.ndarray:
    if scale == "htk":
        return 700.0 * np.expm1(mel / 1127.0)
    bend = _BEND / _SLOPE
    return np.where(mel < bend, mel * _SLOPE, _BEND * np.exp(_STEP * (np.maximum(mel, bend) - bend)))
