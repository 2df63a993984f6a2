"""Draws, films and plays the two clips of this folder: `python tests/clips/make.py [FOLDER]`.

They stand for real recordings, so that tests of reading need no others: codecs, containers, sound, time bases and
turned or wide pixels as cameras write them; pictures that move and have detail. What is drawn is free for any use.
"""

import pathlib
import sys
from fractions import Fraction

import av
import numpy as np


def scene(count, width, height, seed):
    """Frames of discs that roll over a textured floor under a panning camera, with a sensor's noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    discs = random.uniform([0, 0, 8, -2, -1.5, 60, 60, 60], [width, height, 26, 2, 1.5, 255, 255, 255], (6, 8))
    for number in range(count):
        pan = 40 * np.sin(number / 25)
        floor = 90 + 50 * np.sin((columns + pan) / 9) * np.cos((rows - 0.5 * pan) / 13) + 0.25 * rows
        picture = np.stack([floor, 0.8 * floor + 20, 0.6 * floor + 60], -1)
        for x, y, radius, across, down, *colour in discs:
            left = (x + across * number) % (width + 2 * radius) - radius
            top = (y + down * number) % (height + 2 * radius) - radius
            inside = (columns - left) ** 2 + (rows - top) ** 2 < radius**2
            spoke = np.cos(4 * np.arctan2(rows - top, columns - left) + number / 4) > 0
            picture[inside] = np.where(spoke[inside, None], colour, 0.5 * np.array(colour))
        picture += random.normal(0, 2, (height, width, 1))
        yield np.clip(picture, 0, 255).astype(np.uint8)


def melody(seconds, rate):
    """A rising tone, float32 [1 samples]."""
    time = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (220 + 40 * time) * time))[None].astype(np.float32)


def film(path, *, count, size, rate, codec, sound, options, seed, rotation=None, aspect=None):
    """Writes a clip: `count` frames of `size` at `rate`, and sound as long.

    Args:
      sound: codec, sample rate and sample format.
    """
    width, height = size
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as out:
        video = out.add_stream(codec, rate=rate, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.thread_count = 1
        if aspect is not None:
            video.codec_context.sample_aspect_ratio = aspect
        if rotation is not None:
            video.set_display_rotation(rotation)
        audio = out.add_stream(sound[0], rate=sound[1], layout="mono", format=sound[2])
        audio.bit_rate = 32_000
        samples = melody(count / rate, sound[1])
        for number, picture in enumerate(scene(count, width, height, seed)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            out.mux(video.encode(frame))
            begin, end = (int(k * sound[1] / rate) for k in (number, number + 1))
            heard = av.AudioFrame.from_ndarray(samples[:, begin:end].copy(), format="fltp", layout="mono")
            heard.sample_rate, heard.pts = sound[1], begin
            out.mux(audio.encode(heard))
        out.mux(video.encode())
        out.mux(audio.encode())


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    film(
        folder / "turned.mp4", count=250, size=(160, 120), rate=Fraction(25), seed=1, rotation=-90,
        codec="libx264", options={"crf": "30", "g": "50", "bf": "2"}, sound=("aac", 32_000, "fltp"),
    )  # fmt: skip
    film(
        folder / "wide.avi", count=77, size=(176, 144), rate=Fraction(30000, 1001), seed=2, aspect=Fraction(12, 11),
        codec="mpeg4", options={"b": "300k", "g": "25", "bf": "1"},
        sound=("libmp3lame", 44_100, "fltp"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
