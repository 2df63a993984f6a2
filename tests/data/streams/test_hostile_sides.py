"""Files beside videos with any bytes in them: they are read, or a `BadVideo` has the reason, and nothing else."""

import io

import every_stream
import numpy as np
import pytest
from numbered_videos import numbered_frames, write_video

from vmae_jax.data import crops, transforms
from vmae_jax.data.decode import read_clips
from vmae_jax.data.streams.core import ClipShape, Streams
from vmae_jax.data.video import BadVideo, Encoded, Side
from vmae_jax.data.workers import Workers
from vmae_jax.spec import build

SIZE = 32
ROUNDS = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    every_stream.write_every(root, count=1, frames=20)
    return root


@pytest.fixture(scope="module")
def video():
    return write_video(numbered_frames(20, size=40), container="mp4")


def contents(folder):
    """Bytes of a valid file of every kind, by the stream that reads it."""
    found = {name: (folder / f"0{suffix}").read_bytes() for name, suffix in every_stream.SIDES.items()}
    found["spoken"] = found.pop("subtitles")
    wav = io.BytesIO()
    wav.write(every_stream.file_of(every_stream.tone(1.0), container="wav", codec="pcm_s16le"))
    table = io.BytesIO()
    np.savez_compressed(table, time=np.arange(9) / 9, x=np.arange(9.0))
    return found | {"audio": wav.getvalue(), "imu npz": table.getvalue()}


def damaged(content, random):
    """Some bytes changed, or a part left out, doubled, or filled with one value."""
    data = bytearray(content)
    for _ in range(int(random.integers(1, 6))):
        at = int(random.integers(len(data)))
        length = int(random.integers(1, 40))
        how = random.integers(5)
        if how == 0:
            data[at : at + length] = random.integers(0, 256, length).astype(np.uint8).tobytes()
        elif how == 1:
            data[at : at + length] = b""
        elif how == 2:
            data[at:at] = data[at : at + length]
        elif how == 3:
            data[at : at + length] = bytes([int(random.choice([0, 9, 34, 44, 57, 255]))]) * length
        else:
            data = data[: max(1, at)]
        data = data or bytearray(b"x")
    return bytes(data)


@pytest.mark.parametrize("name", ["text", "spoken", "imu", "imu npz", "boxes", "embeddings", "flow", "audio"])
def test_damaged_files_are_read_or_refused(folder, video, name):
    content = contents(folder)[name]
    stream = build(every_stream.streams()[name.split()[0]], "stream")
    sampler = lambda info, seed: np.array([[0, 2, 4, 6], [5, 7, 9, 11]])  # noqa: E731
    crop = crops.leading([transforms.resize(SIZE)])
    streams = Streams({"x": stream}, ClipShape(4, SIZE, 3))
    whole = read_clips(
        Encoded(data=video, sides={stream.of or "x": Side(data=content)}),
        sampler,
        np.zeros(2),
        crop=crop,
        streams=streams,
    )
    assert whole.arrays["x_valid"].any(), "the file itself is good"
    random = np.random.default_rng(sum(name.encode()))
    refused = 0
    for _ in range(ROUNDS):
        encoded = Encoded(data=video, sides={stream.of or "x": Side(data=damaged(content, random))})
        try:
            arrays = read_clips(encoded, sampler, np.zeros(2), crop=crop, streams=streams).arrays
        except BadVideo:
            refused += 1
            continue
        assert arrays.keys() == whole.arrays.keys()
        assert all(np.isfinite(array).all() for array in arrays.values())
    assert refused < ROUNDS or name in ("imu npz", "flow", "embeddings"), "some damage is harmless"


class Liar:
    """A stream that declares one shape to the trainer and another in the decoding process."""

    of, geometric, needs_motion = None, False, False

    def __init__(self, declared, made):
        self.declared, self.made = declared, made
        self.pickled = False

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.pickled = True

    def fields(self, shape):
        from vmae_jax.data.streams.core import ArraySpec

        return {"": ArraySpec(self.made if self.pickled else self.declared, np.float32)}

    def read(self, recording, clips, out):
        return [True] * len(clips)


@pytest.mark.parametrize("made", [(8,), (4, 1), (1 << 40,), ()])
def test_a_decoder_that_asks_for_other_arrays_is_refused(video, made):
    streams = Streams({"x": Liar((4,), made)}, ClipShape(4, SIZE, 3))
    workers = Workers(1, sampler=every_frame, streams=streams)
    try:
        with pytest.raises(BadVideo, match="another shape than 'x' has"):
            workers.decode(Encoded(data=video), np.array([0, 0], np.uint32))
        honest = Workers(1, sampler=every_frame, streams=Streams({"x": Liar((4,), (4,))}, ClipShape(4, SIZE, 3)))
        assert honest.decode(Encoded(data=video), np.array([0, 0], np.uint32)).arrays["x"].shape == (1, 4)
        honest.close()
    finally:
        workers.close()


def every_frame(info, seed):
    return np.arange(4)[None]
