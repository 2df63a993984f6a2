"""What is beside a clip of `synthetic.world`: sound, captions, and tables of boxes, events and readings."""

import io
import wave
import zipfile
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from vmae_jax.data.synthetic.world_scene import DIRECTIONS, Drawn, World

__all__ = ["PITCHES", "SEGMENTS", "TONE", "sides", "sound", "wav"]

PITCHES = {"circle": 440.0, "square": 660.0, "triangle": 990.0}  # hertz of a bounce
SEGMENTS = (*DIRECTIONS, "bounce")  # the labels of segments
TONE = 0.12  # seconds of a bounce's tone
_LOUD = 9000  # of 32767: three at once are not clipped
_READINGS = 100  # of the sensors, a second


def sound(world: World, rate: int) -> np.ndarray:
    """Return the sound of a world, int16 [n]: a tone at each bounce of a shape that has a voice, else silence."""
    samples = np.zeros(round(world.seconds * rate))
    fade = (1 - np.arange(round(TONE * rate)) / (TONE * rate)) ** 2
    for event in world.events():
        if event.audible:
            pitch = PITCHES[world.shapes[event.shape].form]
            tone = np.sin(2 * np.pi * pitch / rate * (np.arange(len(fade)) + 0.5)) * fade
            first = round(event.time * rate)
            samples[first : first + len(tone)] += _LOUD * tone[: len(samples) - first]
    return np.clip(np.rint(np.round(samples, 6)), -32768, 32767).astype(np.int16)


def wav(samples: np.ndarray, rate: int) -> bytes:
    """Return a WAV file of int16 samples [n]."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def sides(world: World, drawn: Drawn, rate: float) -> dict[str, bytes]:
    """Return the files beside the video, by name.

    Args:
      world: what happens.
      drawn: its pictures.
      rate: frames a second.
    """
    times = np.arange(int(np.ceil(world.seconds * _READINGS - 1e-9)) + 1) / _READINGS
    readings = world.camera.readings(times)
    return {
        "text": _captions(world, drawn).encode(),
        "subtitles": _subtitles(world, drawn, rate).encode(),
        "boxes": _table("frame,id,x0,y0,x1,y1", _boxes(drawn)),
        "segments": _table("begin,end,label,id", _segments(world)),
        "imu": _table("time,ax,ay,gz", ([f"{value:.9f}" for value in row] for row in np.c_[times, readings])),
        "masks": _archive({f"{number:06d}.png": _png(plane) for number, plane in enumerate(drawn.numbers)}),
        "state": _archive(
            {f"{name}.npy": _npy(array) for name, array in _state(world, len(drawn.video), rate).items()}
        ),
    }


def _captions(world: World, drawn: Drawn) -> str:
    """A line for each shape that is ever seen."""
    seen = [world.shapes[number].name for number in np.flatnonzero(np.any(drawn.seen, axis=0))]
    return "".join(f"a {name} moves {world.pace}\n" for name in seen)


def _subtitles(world: World, drawn: Drawn, rate: float) -> str:
    """SRT with a line for each flight that is seen, for as long as it lasts."""
    frames = np.arange(len(drawn.seen)) / rate
    shown = [
        flight
        for flight in world.flights()
        if drawn.seen[(frames >= flight.begin) & (frames < flight.end), flight.shape].any()
    ]
    return "".join(
        f"{number}\n{_clock(flight.begin)} --> {_clock(flight.end)}\n"
        f"a {world.shapes[flight.shape].name} moves {flight.direction} {world.pace}\n\n"
        for number, flight in enumerate(shown, 1)
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(1000 * seconds), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d},{rest % 1000:03d}"


def _boxes(drawn: Drawn) -> Iterable[Sequence[object]]:
    for frame, number in np.argwhere(drawn.seen):
        yield frame, number, *drawn.boxes[frame, number]


def _segments(world: World) -> Iterable[Sequence[object]]:
    """The flights, and the bounces for as long as a tone lasts, in order."""
    flights = [(flight.begin, flight.end, flight.direction, flight.shape) for flight in world.flights()]
    bounces = [(event.time, min(event.time + TONE, world.seconds), "bounce", event.shape) for event in world.events()]
    for begin, end, label, shape in sorted(flights + bounces):
        yield f"{begin:.9f}", f"{end:.9f}", SEGMENTS.index(label), shape


def _table(header: str, rows: Iterable[Sequence[object]]) -> bytes:
    return "".join(f"{line}\n" for line in (header, *(",".join(map(str, row)) for row in rows))).encode()


def _state(world: World, frames: int, rate: float) -> dict[str, np.ndarray]:
    """The truth behind each frame in the form of `vmae features`: the camera's pose, and every shape's place."""
    times = np.arange(frames) / rate
    places = [np.round(world.camera.shown(shape.at(times), times), 6) for shape in world.shapes]
    features = np.concatenate([world.camera.pose(times), *places], 1).astype(np.float32)
    return {"features": features, "seconds": np.stack([times, times + 1 / rate], 1)}


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _png(plane: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(plane).save(file, "PNG")
    return file.getvalue()


def _archive(members: Mapping[str, bytes]) -> bytes:
    """A zip archive without the time at which it was made."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for name, content in members.items():
            out.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()
