"""Seconds of a long video as a file of their own, for records that store whole files."""

from fractions import Fraction

from vmae_jax.data.decode import LIMITS
from vmae_jax.data.encode import H264
from vmae_jax.data.moments import Moment
from vmae_jax.data.prepare.fit import Fit
from vmae_jax.data.prepare.options import options
from vmae_jax.data.video import BadVideo

__all__ = ["cut"]


def cut(path: str, start: float, stop: float, *, short_side: int | None = None) -> bytes:
    """The frames shown from second `start` to before second `stop`, as an H.264 file of their own.

    They keep their time stamps, counted from the first of them.

    Args:
      short_side: pixels that the shorter side is shrunk to; smaller videos stay as they are.

    Raises:
      BadVideo: if the file cannot be read, or has no frame there.
    """
    reader = Moment(path, start, stop, limits=LIMITS)
    chosen = options(codec="h264", short_side=short_side)
    fit: Fit | None = None
    writer: H264 | None = None
    for number, frame in reader.frames():
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
