"""Small videos whose frames show their own number, so that a wrong frame is noticed."""

import io
from fractions import Fraction

import av
import numpy as np


def numbered_frames(count, *, size=32, colour=0, first=0):
    """Frame i (from `first`) has brightness 4 + 5 i (mod 250) in its left half and `colour` in its right."""
    frames = np.zeros((count, size, size, 3), np.uint8)
    for number in range(count):
        frames[number, :, : size // 2] = 4 + 5 * (first + number) % 250
        frames[number, :, size // 2 :] = colour
    return frames


INTERLACED = 0x40000 | 0x20000000  # FFmpeg's flags for interlaced coding and motion estimation


def write_video(
    frames,
    *,
    container="mp4",
    codec="libx264",
    group=12,
    rotation=None,
    rate=25,
    aspect=None,
    interlaced=False,
    start=0,
):
    """Any container and codec; B-frames where the codec has them.

    Args:
      aspect: width of a pixel over its height.
      start: frames by which the stream begins after its container does.
    """
    file = io.BytesIO()
    with av.open(file, mode="w", format=container) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = group
        if codec == "libx264":
            stream.options = {"bf": "2", "crf": "4", "sc_threshold": "0"}
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if interlaced:
            stream.codec_context.flags |= INTERLACED
            if codec == "libx264":
                stream.options = {"x264-params": "tff=1", "crf": "4"}
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = start + number
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def changing_size(sizes, count, *, container, codec):
    """One stream of numbered frames, `count` of each of `sizes` (width, height)."""
    file, number, base = io.BytesIO(), 0, Fraction(1, 25)
    with av.open(file, mode="w", format=container) as out:
        stream = out.add_stream(codec, rate=25)
        (stream.width, stream.height), stream.pix_fmt = sizes[0], "yuv420p"
        for width, height in sizes:
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
            encoder.framerate, encoder.time_base, encoder.max_b_frames = 25, base, 0
            packets = []
            for _ in range(count):
                frame = av.VideoFrame.from_ndarray(numbered_frames(1, size=96, first=number)[0], format="rgb24")
                frame = frame.reformat(width=width, height=height, format="yuv420p")
                frame.pts, frame.time_base, number = number, base, number + 1
                packets += encoder.encode(frame)
            for packet in [*packets, *encoder.encode(None)]:
                packet.stream, packet.time_base = stream, base
                out.mux(packet)
    return file.getvalue()


def copied_cut(data, start, seconds):
    """What `ffmpeg -ss START -i … -t SECONDS -c copy` makes: packets copied, an edit list."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, mode="w", format="mp4") as out:
        stream = source.streams.video[0]
        copy = out.add_stream_from_template(stream)
        base = int(start / stream.time_base)
        source.seek(base, stream=stream)
        for packet in source.demux(stream):
            if packet.dts is None or (packet.dts - base) * stream.time_base >= seconds:
                continue
            packet.pts -= base
            packet.dts -= base
            packet.stream = copy
            out.mux(packet)
    return file.getvalue()


def swapped(number):
    """The frame whose time stamp a frame has in `swapped_stamps`."""
    return ((number - 1) ^ 1) + 1 if number else 0


def swapped_stamps(data):
    """An MP4 without B-frames in which frames 1 and 2, 3 and 4, … have one another's time stamps.

    Damage may leave them so; the number of frames is odd.
    """
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, mode="w", format="mp4") as out:
        stream = source.streams.video[0]
        copy, number = out.add_stream_from_template(stream), 0
        for packet in source.demux(stream):
            if packet.size:
                packet.stream, packet.time_base = copy, Fraction(1, 25)
                packet.pts, packet.dts, number = swapped(number), number - 2, number + 1
                out.mux(packet)
    return file.getvalue()


def every_frame(data):
    """All frames in the order the decoder gives them."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.video[0])])
