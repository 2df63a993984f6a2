"""The room of `synthetic.world`: shapes that fly and bounce in it, and a camera that sways and turns before it.

Lengths are in sides of the picture. At rest the camera shows the square from (0, 0) to (1, 1), x to the right and y
down. The wall on the right is outside it, so some bounces are out of sight; the other walls are in it.
"""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

__all__ = ["COLOURS", "DIRECTIONS", "FORMS", "PACES", "Camera", "Drawn", "Event", "Flight", "Shape", "World", "draw"]

COLOURS = {
    "red": (225, 45, 45),
    "green": (45, 200, 60),
    "blue": (60, 80, 240),
    "yellow": (235, 220, 50),
    "white": (245, 245, 245),
}
FORMS = ("circle", "square", "triangle")
PACES = {"slowly": 0.5, "steadily": 1.0, "quickly": 2.0}
DIRECTIONS = ("left", "right", "up", "down")
ROOM = (0.08, 0.08, 1.5, 0.92)  # x0, y0, x1, y1
_CELLS = 16  # of the background's texture, on a side of the picture
_TEXTURE = 32  # cells after which it repeats


class Event(NamedTuple):
    """A bounce: the second, the number of the shape, whether it makes a sound, and whether the picture shows it."""

    time: float
    shape: int
    audible: bool
    seen: bool


class Flight(NamedTuple):
    """A straight flight: its first and last second, the number of the shape, and the main direction."""

    begin: float
    end: float
    shape: int
    direction: str


@dataclasses.dataclass(frozen=True)
class Shape:
    """A shape.

    Attributes:
      colour: one of COLOURS.
      form: one of FORMS.
      radius: of the circle around it.
      place: of its centre at second 0.
      velocity: at second 0, sides a second.
      voiced: whether its bounces make a sound.
    """

    colour: str
    form: str
    radius: float
    place: tuple[float, float]
    velocity: tuple[float, float]
    voiced: bool

    @property
    def name(self) -> str:
        """Its colour and form."""
        return f"{self.colour} {self.form}"

    def at(self, times: np.ndarray) -> np.ndarray:
        """Return its centre at some seconds, [t 2]."""
        places = []
        for axis in (0, 1):
            low, span, begin, pace = self._course(axis)
            turn = (begin + pace * times) % 2.0
            places.append(low + span * np.where(turn > 1, 2 - turn, turn))
        return np.stack(places, 1)

    def bounces(self, seconds: float) -> list[float]:
        """Return when it touches a wall, in order."""
        found = []
        for axis in (0, 1):
            _, _, begin, pace = self._course(axis)
            first, last = sorted((begin, begin + pace * seconds))
            walls = np.arange(np.ceil(first), np.floor(last) + 1)
            found += [(wall - begin) / pace for wall in walls]
        return sorted(round(float(time), 9) for time in found)

    def direction(self, time: float) -> str:
        """Return the main direction of its flight at a second."""
        signs = []
        for axis in (0, 1):
            _, _, begin, pace = self._course(axis)
            forth = np.floor(begin + pace * time) % 2 == 0
            signs.append((pace > 0) == forth)
        across, down = (abs(part) for part in self.velocity)
        return DIRECTIONS[int(signs[0])] if across > down else DIRECTIONS[2 + int(signs[1])]

    def inside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return which offsets from its centre, in radii, are within the shape."""
        if self.form == "circle":
            return x * x + y * y < 1
        if self.form == "square":
            return np.maximum(np.abs(x), np.abs(y)) < 0.7
        return (np.abs(x) * 1.732 < y + 1) & (y < 0.5)

    def _course(self, axis: int) -> tuple[float, float, float, float]:
        """Where its centre can be along an axis (begin, length); its place and its velocity in units of the length."""
        low, high = ROOM[axis] + self.radius, ROOM[axis + 2] - self.radius
        span = high - low
        return low, span, (self.place[axis] - low) / span, self.velocity[axis] / span


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera whose x, y and roll swing, each evenly: extents (sides, sides, radians), turns a second, phases."""

    extent: tuple[float, float, float]
    frequency: tuple[float, float, float]
    phase: tuple[float, float, float]

    def pose(self, times: np.ndarray) -> np.ndarray:
        """Return x, y and roll at some seconds, float64 [t 3]."""
        return np.round(np.asarray(self.extent) * np.sin(self._angles(times)), 9)

    def readings(self, times: np.ndarray) -> np.ndarray:
        """Return what its accelerometer and gyroscope measure, float64 [t 3].

        They are acceleration along its own right and down (sides a second squared, without gravity), and the speed
        of its roll (radians a second).
        """
        turns = 2 * np.pi * np.asarray(self.frequency)
        accelerations = -np.asarray(self.extent) * turns**2 * np.sin(self._angles(times))
        roll = self.extent[2] * np.sin(self._angles(times)[:, 2])
        x, y = accelerations[:, 0], accelerations[:, 1]
        right, down = np.cos(roll) * x + np.sin(roll) * y, np.cos(roll) * y - np.sin(roll) * x
        spin = (self.extent[2] * turns[2]) * np.cos(self._angles(times)[:, 2])
        return np.stack([right, down, spin], 1)

    def shown(self, places: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Return where places of the room [t 2] are in the picture at some seconds, [t 2] in sides."""
        x, y, roll = self.pose(times).T
        across, down = places[:, 0] - x - 0.5, places[:, 1] - y - 0.5
        return 0.5 + np.stack(
            [np.cos(roll) * across + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * across], 1
        )

    def _angles(self, times: np.ndarray) -> np.ndarray:
        return 2 * np.pi * np.asarray(times)[:, None] * np.asarray(self.frequency) + np.asarray(self.phase)


@dataclasses.dataclass(frozen=True)
class World:
    """All that happens in a clip.

    Attributes:
      shapes: later ones are in front of earlier ones.
      camera: which shows them.
      pace: of all shapes, one of PACES.
      seconds: how long it lasts.
      texture: of the background, uint8 [n n 3].
    """

    shapes: tuple[Shape, ...]
    camera: Camera
    pace: str
    seconds: float
    texture: np.ndarray

    @classmethod
    def of(
        cls, generator: np.random.Generator, *, count: int, pace: str, speed: float, seconds: float, silent: float,
        sway: float, roll: float,
    ) -> "World":  # fmt: skip
        """Draw a world; the arguments are those of `world.settings`."""
        looks = generator.permutation(len(COLOURS) * len(FORMS))[:count]
        names = list(COLOURS)
        shapes = []
        for number, look in enumerate(looks):
            radius, across, down, angle, voice = generator.random(5)
            radius = 0.08 + 0.06 * radius
            right = 0.9 if number == 0 else ROOM[2]  # the first shape begins in sight
            place = [
                low + radius + 0.02 + part * (high - low - 2 * radius - 0.04)
                for low, high, part in ((ROOM[0], right, across), (ROOM[1], ROOM[3], down))
            ]
            pull = PACES[pace] * speed
            velocity = [pull * np.cos(2 * np.pi * angle), pull * np.sin(2 * np.pi * angle)]
            x, y, u, v = (round(float(part), 9) for part in (*place, *velocity))
            colour, form = names[look // len(FORMS)], FORMS[look % len(FORMS)]
            shapes.append(Shape(colour, form, float(radius), (x, y), (u, v), bool(voice >= silent)))
        frequency, phase = generator.uniform(0.3, 0.8, 3), generator.uniform(0, 2 * np.pi, 3)
        camera = Camera((sway, sway, roll), tuple(frequency.tolist()), tuple(phase.tolist()))
        texture = generator.integers(60, 130, (_TEXTURE, _TEXTURE, 3), np.uint8)
        return cls(tuple(shapes), camera, pace, seconds, texture)

    def events(self) -> list[Event]:
        """Return the bounces of all shapes, in order."""
        found = []
        for number, shape in enumerate(self.shapes):
            times = np.array(shape.bounces(self.seconds))
            if len(times):
                shown = self.camera.shown(shape.at(times), times)
                seen = np.all((shown >= 0) & (shown < 1), axis=1).tolist()
                found += [Event(t, number, shape.voiced, s) for t, s in zip(times.tolist(), seen, strict=True)]
        return sorted(found)

    def flights(self) -> list[Flight]:
        """Return what each shape does from one bounce to the next, in order."""
        found = []
        for number, shape in enumerate(self.shapes):
            times = [0.0, *shape.bounces(self.seconds), self.seconds]
            for begin, end in itertools.pairwise(times):
                if end > begin:
                    found.append(Flight(begin, end, number, shape.direction((begin + end) / 2)))
        return sorted(found)


class Drawn(NamedTuple):
    """The pictures of a world.

    Attributes:
      video: uint8 [t h w 3].
      numbers: which shape each pixel shows, counted from 1, or 0 for none: uint8 [t h w].
      boxes: x0, y0, x1, y1 of each shape within the picture, in pixels, also where others cover it: int32 [t n 4].
      seen: which of them are in the picture, bool [t n].
    """

    video: np.ndarray
    numbers: np.ndarray
    boxes: np.ndarray
    seen: np.ndarray


def draw(world: World, *, size: int, frames: int, rate: float) -> Drawn:
    """Draw the frames of a world, `rate` a second, with `size` pixels a side."""
    times = np.arange(frames) / rate
    poses, places = world.camera.pose(times), [shape.at(times) for shape in world.shapes]
    count = len(world.shapes)
    drawn = Drawn(
        np.zeros((frames, size, size, 3), np.uint8),
        np.zeros((frames, size, size), np.uint8),
        np.zeros((frames, count, 4), np.int32),
        np.zeros((frames, count), bool),
    )
    for frame in range(frames):
        x, y = _rays(poses[frame], size)
        drawn.video[frame] = _background(world.texture, x, y)
        for number, shape in enumerate(world.shapes):
            across, down = places[number][frame]
            inside = shape.inside((x - across) / shape.radius, (y - down) / shape.radius)
            drawn.video[frame][inside] = COLOURS[shape.colour]
            drawn.numbers[frame][inside] = number + 1
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            if len(rows):
                drawn.boxes[frame, number] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
                drawn.seen[frame, number] = True
    return drawn


def _rays(pose: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where in the room each pixel looks, x and y [h w]."""
    axis = (np.arange(size) + 0.5) / size - 0.5
    across, down = axis[None], axis[:, None]
    cos, sin = np.round((np.cos(pose[2]), np.sin(pose[2])), 9)
    return pose[0] + 0.5 + cos * across - sin * down, pose[1] + 0.5 + sin * across + cos * down


def _background(texture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    cells = [np.floor(part * _CELLS).astype(int) % len(texture) for part in (y, x)]
    within = (x >= ROOM[0]) & (x < ROOM[2]) & (y >= ROOM[1]) & (y < ROOM[3])
    return np.where(within[..., None], texture[cells[0], cells[1]], texture[cells[0], cells[1]] // 4)
