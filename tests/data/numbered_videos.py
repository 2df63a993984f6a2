"""Small videos whose frames say their own number, so that a wrong frame shows."""

import io

import av
import numpy as np


def numbered_frames(count, *, size=32, colour=0):
    """Frame i has brightness 4 + 5 i (mod 250) in its left half and `colour` in its right."""
    frames = np.zeros((count, size, size, 3), np.uint8)
    for number in range(count):
        frames[number, :, : size // 2] = 4 + 5 * number % 250
        frames[number, :, size // 2 :] = colour
    return frames


def write_video(frames, *, container="mp4", codec="libx264", group=12, rotation=None, rate=25):
    """Any container and codec; B-frames where the codec has them."""
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
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
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


def every_frame(data):
    """All frames in the order the decoder gives them."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.video[0])])
