"""Draws textured shapes that move over a textured background, for `synthetic.moving_shapes`.

How the motion is made the only sign of the class. A shape's state is a point on a torus: place
(the picture's edges meet), angle, and phase (its size, on a scale whose ends meet while the shape
is faded out). Every clip draws its states uniformly, whatever its class; a motion moves the
states of all shapes by the same step each frame. Such a step leaves the uniform distribution as
it is, so every single frame, first, last or middle, looks the same for every class. Speeds are
drawn in pixels a frame, at the shape's rim where it turns or grows, from one distribution.
"""

import dataclasses

import numpy as np

__all__ = ["MOTIONS", "Scene", "draw"]

MOTIONS = (
    "translate_left",
    "translate_right",
    "translate_up",
    "translate_down",
    "rotate_left",
    "rotate_right",
    "zoom_in",
    "zoom_out",
    "orbit_left",
    "orbit_right",
)
_SMALLEST, _LARGEST = 0.06, 0.40  # radius over the picture's side
_TYPICAL = float(np.sqrt(_SMALLEST * _LARGEST))
_ORBIT = 0.15  # radius of an orbit over the picture's side
_FADE = 0.15  # of the scale of sizes, at either end
_SPRITE = 96  # pixels of a shape's own picture


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a clip looks like, all but its motion.

    Attributes:
      size: pixels a side.
      frames: frames of the clip.
      shapes: shapes that move.
      clutter: shapes that stand still.
      speed: mean pixels a frame.
      contrast: of the textures' grain, 0 (smooth) to 1.
      drift: how often the textures' colour changes across a picture or a shape; few is easy to guess.
      light: how unevenly light falls, 0 (evenly) to 1; the same everywhere, so each part gives away the others.
    """

    size: int
    frames: int
    shapes: int
    clutter: int
    speed: float
    contrast: float
    drift: int = 3
    light: float = 0.0


def draw(scene: Scene, motion: str, generator: np.random.Generator) -> np.ndarray:
    """A clip of `motion`, uint8 [t h w 3].

    Nothing is drawn from `generator` that depends on `motion`: two motions with the same
    generator share their first frame.
    """
    size = scene.size
    background = _texture(generator, size, cells=size // 6, contrast=scene.contrast, drift=scene.drift)
    video = np.repeat(background[None].astype(np.float32), scene.frames, axis=0)
    for _ in range(scene.clutter):
        _paste(video, _sprite(generator, scene), _still(_states(generator, 1)[0], scene.frames))
    speed = scene.speed * generator.uniform(0.7, 1.3)
    for state in _states(generator, scene.shapes):
        orbit = generator.uniform(0, 2 * np.pi)
        sprite = _sprite(generator, scene)
        _paste(video, sprite, moved(state, motion, speed / size, orbit, scene.frames))
    if scene.light:
        video += scene.light * _light(generator, size)
    return np.clip(np.rint(video), 0, 255).astype(np.uint8)


def _states(generator: np.random.Generator, count: int) -> np.ndarray:
    """x, y, angle, phase of `count` shapes; sizes are spread, so one is always in full view."""
    states = generator.random((count, 4))
    states[:, 3] = (states[0, 3] + np.arange(count) / count) % 1.0
    states[:, 2] *= 2 * np.pi
    return states


def _still(state: np.ndarray, frames: int) -> np.ndarray:
    return np.repeat(state[None], frames, axis=0)


def moved(state: np.ndarray, motion: str, speed: float, orbit: float, frames: int) -> np.ndarray:
    """The state in every frame [t 4]; `speed` in picture sides a frame."""
    steps = np.arange(frames, dtype=np.float64)
    path = _still(state, frames)
    kind, _, way = motion.partition("_")
    sign = -1.0 if way in ("left", "up", "out") else 1.0
    if kind == "translate":
        path[:, 0 if way in ("left", "right") else 1] += sign * speed * steps
    elif kind == "rotate":
        path[:, 2] += sign * speed / _TYPICAL * steps
    elif kind == "zoom":
        path[:, 3] += sign * speed / _TYPICAL / np.log(_LARGEST / _SMALLEST) * steps
    else:
        angle = orbit + sign * speed / _ORBIT * steps
        path[:, 0] += _ORBIT * (np.cos(angle) - np.cos(orbit))
        path[:, 1] += _ORBIT * (np.sin(angle) - np.sin(orbit))
    path[:, [0, 1, 3]] %= 1.0
    return path


def _paste(video: np.ndarray, sprite: np.ndarray, path: np.ndarray) -> None:
    """Blends the sprite [s s 4] into video [t h w 3] along path [t 4]; edges of the picture meet."""
    size = video.shape[1]
    phase = path[:, 3]
    radius = (size * _SMALLEST * (_LARGEST / _SMALLEST) ** phase).astype(np.float32)
    fade = np.clip(np.minimum(phase, 1 - phase) / _FADE, 0, 1).astype(np.float32)
    grid = np.arange(size, dtype=np.float32) + 0.5
    dx = (grid - (path[:, 0:1] * size).astype(np.float32) + size / 2) % size - size / 2  # [t w]
    dy = (grid - (path[:, 1:2] * size).astype(np.float32) + size / 2) % size - size / 2  # [t h]
    reach = np.where(fade > 0, radius * radius, 0)[:, None, None]
    flat = np.flatnonzero((dx * dx)[:, None, :] + (dy * dy)[:, :, None] < reach)
    t, place = np.divmod(flat, size * size)
    row, column = np.divmod(place, size)
    scale = _SPRITE / 2 / radius
    cos, sin = np.cos(path[:, 2]).astype(np.float32) * scale, np.sin(path[:, 2]).astype(np.float32) * scale
    across, down = dx[t, column], dy[t, row]
    u = (across * cos[t] + down * sin[t] + _SPRITE / 2).astype(np.int32)
    v = (down * cos[t] - across * sin[t] + _SPRITE / 2).astype(np.int32)
    texel = sprite.reshape(-1, 4)[np.clip(v, 0, _SPRITE - 1) * _SPRITE + np.clip(u, 0, _SPRITE - 1)]
    pixels = video.reshape(-1, 3)  # a view
    under = pixels[flat]
    pixels[flat] = under + texel[:, 3:] * fade[t, None] * (texel[:, :3] - under)


def _sprite(generator: np.random.Generator, scene: Scene) -> np.ndarray:
    """A shape with a texture and a soft edge, float32 [s s 4]: colour 0 to 255, cover 0 to 1."""
    axis = (np.arange(_SPRITE) + 0.5) / (_SPRITE / 2) - 1
    x, y = axis[None], axis[:, None]
    angle, distance = np.arctan2(y, x), np.sqrt(x * x + y * y)
    corners = int(generator.integers(2, 7))  # 2 to 6 lobes: never the same after a small turn
    depth, twist = generator.uniform(0.15, 0.45), generator.uniform(0, 2 * np.pi)
    lobes = np.cos(corners * angle + twist) + 0.5 * np.cos(angle)
    edge = 0.92 * (1 - depth * (0.5 - lobes / 3))
    cover = np.clip((edge - distance) / 0.06, 0, 1)
    colour = _texture(generator, _SPRITE, cells=9, contrast=scene.contrast, drift=scene.drift)
    return np.concatenate([colour, np.rint(cover * 255)[..., None] / 255], axis=-1).astype(np.float32)


def _texture(generator: np.random.Generator, size: int, *, cells: int, contrast: float, drift: int) -> np.ndarray:
    """A random colour that drifts smoothly, and finer grain on it; whole numbers, float64 [size size 3]."""
    colour = generator.uniform(70, 186, size=3)
    colours = _stretch(generator.uniform(-1, 1, size=(drift, drift, 3)), size)
    grain = _stretch(generator.uniform(-1, 1, size=(cells, cells, 1)), size)
    return np.clip(np.rint(colour + 70 * colours + 100 * contrast * grain), 0, 255)


def _light(generator: np.random.Generator, size: int) -> np.ndarray:
    """Coloured light that grows evenly across the picture, in a direction of its own, float32 [size size 3]."""
    slope = generator.uniform(-70, 70, size=(2, 3)).astype(np.float32)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    return axis[:, None, None] * slope[0] + axis[None, :, None] * slope[1]


def _stretch(grid: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation of grid [n n c], whose edges meet, to [size size c]."""
    n = len(grid)
    place = np.arange(size) * (n / size)
    low = place.astype(np.int64)
    part = (place - low)[:, None, None]
    part = part * part * (3 - 2 * part)
    rows = grid[low] * (1 - part) + grid[(low + 1) % n] * part
    columns = rows.transpose(1, 0, 2)
    columns = columns[low] * (1 - part) + columns[(low + 1) % n] * part
    return columns.transpose(1, 0, 2)
