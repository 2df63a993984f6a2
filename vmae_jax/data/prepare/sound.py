"""The sound of a part of a video, copied as it is coded into a file of its own."""

import io
from typing import Any

import av
from av.error import FFmpegError

from vmae_jax.data.opening import opened_sound
from vmae_jax.data.video import BadVideo, Encoded

__all__ = ["BadSound", "copied_sound"]


class BadSound(ValueError):  # noqa: N818 - like BadVideo
    """Sound that cannot be copied; the message is the reason, in one line."""


def copied_sound(encoded: Encoded, start: float, end: float | None) -> bytes:
    """The sound from `start` to `end` seconds after the first picture, as a Matroska file.

    Packets are copied, not decoded: nothing is lost, and a packet that begins before `end` is there
    whole. Times in the file count from `start`.

    Returns:
      b"" where there is no sound.

    Raises:
      BadSound: it is damaged, or of a kind that Matroska does not hold.
    """
    stored = encoded.sides.get("audio")  # of a record
    if stored is not None:
        return (
            _copied_from(Encoded(data=stored.data, path=stored.path), start, end, beside=True) if stored.data else b""
        )
    if encoded.frames is not None:
        return b""
    if encoded.moment is not None:
        start, end = start + encoded.moment[0], encoded.moment[1] if end is None else end + encoded.moment[0]
    return _copied_from(encoded, start, end)


def _copied_from(encoded: Encoded, start: float, end: float | None, *, beside: bool = False) -> bytes:
    """The sound of a file; `beside` of one that has no pictures and begins with them."""
    source = encoded.data if encoded.data is not None else encoded.path
    assert source is not None
    try:
        with opened_sound(source, encoded.span) as container:
            streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
            if not streams or not (beside or container.streams.video):
                return b""
            origin = 0.0
            if not beside:
                video = container.streams.video[0]
                origin = float((video.start_time or 0) * (video.time_base or 0))
            return _copied(container, streams[0], origin + start, None if end is None else origin + end)
    except BadVideo as error:
        raise BadSound(f"its sound {error}") from error


def _copied(container: Any, stream: Any, start: float, end: float | None) -> bytes:
    base = stream.time_base
    first, last = round(start / base), None if end is None else round(end / base)
    file = io.BytesIO()
    written = 0
    try:
        container.seek(max(first - round(1 / base), 0), stream=stream)
        with av.open(file, mode="w", format="matroska", options={"fflags": "+bitexact"}) as out:
            copy = out.add_stream_from_template(stream)
            for packet in container.demux(stream):
                if packet.pts is None or packet.dts is None or packet.pts < first:
                    continue
                if last is not None and packet.pts >= last:
                    break
                packet.pts -= first
                packet.dts -= first
                packet.stream = copy
                out.mux(packet)
                written += 1
    except (FFmpegError, ValueError) as error:
        raise BadSound(f"its sound ({stream.codec_context.name}) cannot be copied: {error}") from error
    return file.getvalue() if written else b""
