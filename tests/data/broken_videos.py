"""Videos that are broken in every way we could think of, and strange ones that are not."""

import io
import struct

import av
import numpy as np
from numbered_videos import numbered_frames, write_video

from vmae_jax.data.encode import encode_h264

# What has to be read, however strange it is; what may not be; what may go either way.
GOOD, BAD, EITHER = "good", "bad", "either"


def broken_videos(flips: int = 75):
    """(name, bytes, GOOD | BAD | EITHER) of each; the same ones every time.

    Args:
      flips: how many files with damaged bytes, of each of three containers.
    """
    mp4 = encode_h264(numbered_frames(24), quality=8)
    mkv = write_video(numbered_frames(24), container="matroska")
    avi = write_video(numbered_frames(24), container="avi", codec="mpeg4")
    yield from _strange(mp4)
    yield from _wrong(mp4)
    for suffix, data in (("mp4", mp4), ("mkv", mkv), ("avi", avi)):
        yield f"whole.{suffix}", data, GOOD
        for tenth in range(1, 10):
            # Without its end an AVI has no index, and nothing shows how long it should be.
            yield f"cut_{tenth}.{suffix}", data[: len(data) * tenth // 10], EITHER if suffix == "avi" else BAD
        generator = np.random.Generator(np.random.Philox(key=len(suffix) + ord(suffix[0])))
        for number in range(flips):
            damaged = bytearray(data)
            for place in generator.integers(len(data), size=1 + number % 20):
                damaged[place] ^= int(generator.integers(1, 256))
            yield f"flipped_{number:02}.{suffix}", bytes(damaged), EITHER


def _strange(mp4):
    yield "one_frame.mp4", encode_h264(numbered_frames(1)), GOOD
    yield "rotated.mp4", write_video(numbered_frames(8), rotation=90), GOOD
    yield "variable_rate.mp4", _timed([0, 1, 2, 10, 11, 30, 31, 32]), GOOD
    yield "called_avi.avi", mp4, GOOD  # the content counts, not the name
    yield "odd_size.mkv", write_video(numbered_frames(8, size=33), container="matroska", codec="mpeg4"), GOOD


def _wrong(mp4):
    yield "empty.mp4", b"", BAD
    yield "zeros.mp4", bytes(4096), BAD
    yield "text.mp4", b"This is no video at all.\n" * 50, BAD
    yield "page.mp4", b"<html><body>404 not found</body></html>", BAD
    yield "list.mp4", b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n#EXT-X-ENDLIST\n", BAD
    yield "concat.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n", BAD
    yield "picture.mp4", _picture(), BAD
    yield "sound.mp4", _sound(), BAD
    yield "no_moov.mp4", mp4.replace(b"moov", b"xxxx"), BAD  # FFmpeg takes a large "free" for one
    yield "no_data.mp4", mp4[: mp4.index(b"mdat") + 4] + mp4[mp4.index(b"moov") - 4 :], BAD
    yield "eleven_hours.mp4", _timed([0, 1, 1_000_000]), BAD
    yield "no_size.mp4", _sized(mp4, 0, 0), BAD
    yield "huge_size.mp4", _sized(mp4, 65535, 65535), BAD


def _timed(stamps):
    """A video whose frames are shown at these multiples of 1/25 s."""
    file = io.BytesIO()
    with av.open(file, mode="w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        stream.options = {"bf": "0"}
        for stamp, picture in zip(stamps, numbered_frames(len(stamps)), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = stamp
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def _picture():
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(numbered_frames(1)[0]).save(file, "PNG")
    return file.getvalue()


def _sound():
    file = io.BytesIO()
    with av.open(file, mode="w", format="mp4") as out:
        stream = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue()


def _sized(mp4, width, height):
    """The picture's size in the file's index and in the stream's own header, changed and spoiled."""
    at = mp4.index(b"avc1") + 4 + 24
    spoiled = bytearray(mp4)
    spoiled[at : at + 4] = struct.pack(">HH", width, height)
    header = mp4.index(b"avcC") + 4
    spoiled[header + 8 : header + 24] = b"\xff" * 16
    start = mp4.index(b"mdat") + 4
    spoiled[start : start + 64] = b"\xff" * 64
    return bytes(spoiled)


def four_k():
    """Within the limits, and large."""
    return encode_h264(np.zeros((2, 2160, 3840, 3), np.uint8), quality=40)
