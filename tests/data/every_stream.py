"""Videos with sound and something beside them of every kind, and a loader of all of it."""

import io
import zipfile
from fractions import Fraction

import av
import numpy as np
from numbered_videos import numbered_frames
from PIL import Image

from vmae_jax.spec import call

RATE = 16000
SIZE = 32
SIDES = {
    "text": ".txt",
    "subtitles": ".srt",
    "imu": "_imu.csv",
    "boxes": "_boxes.csv",
    "embeddings": ".npz",
    "flow": "_flow.zip",
}


def tone(seconds, rate=RATE, channels=1):
    """A tone whose pitch rises, so that every place in it sounds different."""
    t = np.arange(int(seconds * rate)) / rate
    wave = (12000 * np.sin(2 * np.pi * (200 * t + 40 * t**2))).astype(np.int16)
    return np.repeat(wave[:, None], channels, 1)


def file_of(sound, *, frames=None, container="matroska", codec="flac", rate=RATE, late=0.0):
    """A file with sound (from second `late` on), and with video where there are frames (25 a second)."""
    file = io.BytesIO()
    with av.open(file, mode="w", format=container) as out:
        video = None if frames is None else out.add_stream("libx264", rate=25)
        layout = None if sound is None else "mono" if sound.shape[1] == 1 else "stereo"
        stream = None if sound is None else out.add_stream(codec, rate=rate, layout=layout)
        if video is not None:
            video.height, video.width = frames.shape[1:3]
            video.pix_fmt = "yuv420p"
            for number, picture in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                out.mux(video.encode(frame))
            out.mux(video.encode(None))
        for first in range(0, 0 if stream is None else len(sound), 1152):
            piece = np.ascontiguousarray(sound[first : first + 1152])
            frame = av.AudioFrame.from_ndarray(piece.reshape(1, -1), format="s16", layout=layout)
            frame.rate, frame.pts, frame.time_base = rate, first + round(late * rate), Fraction(1, rate)
            out.mux(stream.encode(frame))
        if stream is not None:
            out.mux(stream.encode(None))
    return file.getvalue()


def write_every(folder, count=4, frames=40):
    """Videos that have everything beside them, named 0.mp4, 1.mp4, …; what it is depends on the number."""
    for number in range(count):
        stem = str(folder / str(number))
        pictures = numbered_frames(frames, size=48, colour=20 * number + 20)
        sound = tone(frames / 25) // (number + 1)
        with open(f"{stem}.mp4", "wb") as file:
            file.write(file_of(sound, frames=pictures, container="mp4", codec="aac"))
        with open(f"{stem}.txt", "w") as file:
            file.write(f"video {number}\nnumber {number}\n")
        with open(f"{stem}.srt", "w") as file:
            file.write(f"1\n00:00:00,000 --> 00:01:00,000\nspoken {number}\n")
        with open(f"{stem}_imu.csv", "w") as file:
            file.write("time,x\n" + "".join(f"{0.1 * step},{number + 0.1 * step}\n" for step in range(30)))
        with open(f"{stem}_boxes.csv", "w") as file:
            file.write("frame,id,x0,y0,x1,y1\n" + "".join(f"{n},{number},2,2,46,46\n" for n in range(frames)))
        np.savez(f"{stem}.npz", features=np.full((3, 2), number, np.float32), seconds=np.ones((3, 2)))
        with zipfile.ZipFile(f"{stem}_flow.zip", "w") as archive:
            content = io.BytesIO()
            Image.fromarray(np.full((12, 12), 100 + number, np.uint8)).save(content, "PNG")
            for frame in range(frames):
                archive.writestr(f"{frame}.png", content.getvalue())


def streams():
    """Every stream, as calls of a config."""
    tokenizer = call("data.streams.tokenizers.utf8")
    return {
        "seconds": call("data.streams.times.seconds"),
        "frames": call("data.streams.times.frames"),
        "audio": call("data.streams.audio", seconds=0.25, rate=RATE),
        "text": call("data.streams.text", tokenizer=tokenizer, length=16),
        "spoken": call("data.streams.text", tokenizer=tokenizer, length=16, of="subtitles"),
        "imu": call("data.streams.series", columns=["x"], samples=6),
        "boxes": call("data.streams.boxes", count=2, least=0.0),
        "embeddings": call("data.streams.embeddings", length=4, width=2),
        "flow": call("data.streams.planes", channels=1),
        "motion": call("data.streams.motion", cell=8),
    }


def source(folder):
    """The videos with what is beside them."""
    beside = {name: call("data.sides.sidecar", suffix=suffix) for name, suffix in SIDES.items()}
    return call("data.sides.beside", source=call("data.sources.folder", path=str(folder)), sides=beside)


def config(folder, **options):
    """A loader of all of it."""
    given = {
        "source": source(folder),
        "sampler": call("data.clips.dense", frames=4, stride=2),
        "transforms": [call("data.transforms.multi_scale_crop", size=SIZE), call("data.transforms.flip")],
        "streams": streams(),
        "global_batch": 2,
        "repeat": 2,
        "workers": 2,
    }
    return call("data.pipeline.loader", **(given | options))
