"""Cuts seconds out of long videos: examples that are moments of a movie."""

import threading
from fractions import Fraction

import numpy as np

from vmae_jax.data.containers import Video, open_video
from vmae_jax.data.decode import LIMITS
from vmae_jax.data.encode import H264
from vmae_jax.data.prepare.examples import Fit
from vmae_jax.data.prepare.options import options
from vmae_jax.data.video import BadVideo

__all__ = ["cut"]

_open = threading.local()  # the file that this thread cut from last: its packets are counted once


def cut(path: str, start: float, stop: float, *, short_side: int | None = None) -> bytes:
    """The frames shown from second `start` to before second `stop`, as an H.264 file of their own.

    They keep their time stamps, counted from the first of them. Cuts from the same file one after
    another, as rows of a data set come, read through its packets once.

    Args:
      short_side: pixels that the shorter side is shrunk to; smaller videos stay as they are.

    Raises:
      BadVideo: the file cannot be read, or has no frame there.
    """
    reader = _reader(path)
    times = np.asarray(reader.info.times)
    first, last = (int(number) for number in np.searchsorted(times, (start - 1e-6, stop - 1e-6)))
    if first >= last:
        raise BadVideo(f"has no frame from second {start:g} to {stop:g}; it lasts {times[-1]:.1f} s")
    chosen = options(codec="h264", short_side=short_side)
    fit: Fit | None = None
    writer: H264 | None = None
    for number, frame in reader.frames(first):
        if number >= last:
            break
        if fit is None or writer is None:
            begin = reader.stamps[number]
            fit = Fit(frame, chosen, (reader.info.width, reader.info.height))
            rate = Fraction(reader.info.rate).limit_denominator(1001)
            writer = H264(
                fit.width, fit.height, rate=rate, time_base=reader.time_base, group=chosen.gop, quality=chosen.quality
            )
        writer.add(fit(frame), reader.stamps[number] - begin)
    if writer is None:
        raise BadVideo(f"no frame from second {start:g} to {stop:g} can be decoded")
    return writer.finish()


def _reader(path: str) -> Video:
    if getattr(_open, "path", None) != path:
        if getattr(_open, "path", None) is not None:
            _open.reader.close()
            _open.path = None
        _open.reader = open_video(path, limits=LIMITS)
        _open.path = path
    return _open.reader
