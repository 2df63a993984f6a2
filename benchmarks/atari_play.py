"""Games of Atari played at random, as videos and as what the console's memory held in each frame.

The agent and its environment are those of "Unsupervised State Representation Learning in Atari" (Anand et al. 2019):
actions that are drawn uniformly from all but the first, each held for four frames, of whose last two the brighter
pixels are seen; up to 30 idle frames at the start of a game; an episode for each life. The environments of that
protocol ("NoFrameskip-v4") have no sticky actions; `sticky` adds them. The emulator is ale-py, which brings the games.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from benchmarks.atari_variables import ROMS
from vmae_jax import cli
from vmae_jax.data.encode import encode_h264
from vmae_jax.spec import ConfigError

__all__ = [
    "SPLITS",
    "Emulator",
    "Episode",
    "Play",
    "Table",
    "emulator",
    "episodes",
    "gray",
    "prepared",
    "record",
    "split",
]

SPLITS = ("train", "validation", "test")
HEIGHT, WIDTH = 210, 160
SKIP, IDLE, RATE = 4, 30, 15.0  # frames an action; idle frames at most; frames a second that are seen
WEIGHTS = (4899, 9617, 1868)  # of red, green and blue in 2^-14, as OpenCV converts to gray


class Emulator(Protocol):
    """What an episode needs of a console; `emulator` has ale-py's."""

    @property
    def actions(self) -> Sequence[str]: ...
    def reset(self) -> None: ...
    def act(self, action: int) -> None: ...
    def over(self) -> bool: ...
    def lives(self) -> int: ...
    def screen(self) -> np.ndarray: ...
    def memory(self) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Play:
    """How much is played.

    Attributes:
      frames: that are seen, of all players together.
      players: games side by side, which begin with seeds of their own.
      shortest: frames of the shortest episode that is kept.
      sticky: the probability that the console repeats the action before.
      quality: of the videos, x264's constant rate factor.
    """

    frames: int = 50_000
    players: int = 8
    shortest: int = 65
    sticky: float = 0.0
    quality: int = 4


@dataclasses.dataclass
class Episode:
    """One life: uint8 RGB frames [t h w 3] and the memory [t 128] in each."""

    frames: list[np.ndarray] = dataclasses.field(default_factory=list)
    memory: list[np.ndarray] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Table:
    """The frames of a game in the order of the episodes.

    Attributes:
      memory: uint8 [n 128].
      episode: int32 [n], the number of the episode of each frame.
      digest: uint64 [n], equal for equal gray pictures.
      names: of the episodes' videos.
      part: the number of the split of each episode.
    """

    memory: np.ndarray
    episode: np.ndarray
    digest: np.ndarray
    names: tuple[str, ...]
    part: np.ndarray

    def rows(self, name: str) -> np.ndarray:
        """Return the numbers of the frames of a split; of the test, those that no other split has."""
        own = self.part[self.episode] == SPLITS.index(name)
        if name == "test":
            own &= ~np.isin(self.digest, self.digest[~own])
        return np.flatnonzero(own)


def emulator(game: str, seed: int, sticky: float) -> Emulator:
    """Return ale-py's console with a game in it.

    Raises:
      ConfigError: if ale-py is not installed.
    """
    try:
        import ale_py  # pyright: ignore[reportMissingImports]
        import ale_py.roms  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError("playing needs ale-py: pip install 'vmae-jax[atari]'") from None
    return _Ale(ale_py, game, seed, sticky)


class _Ale:
    def __init__(self, ale_py: Any, game: str, seed: int, sticky: float):
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._ale = ale_py.ALEInterface()
        self._ale.setInt("random_seed", seed)
        self._ale.setFloat("repeat_action_probability", sticky)
        self._ale.loadROM(ale_py.roms.get_rom_path(ROMS[game]))
        self._set = self._ale.getMinimalActionSet()
        self.actions = tuple(action.name for action in self._set)
        self.reset, self.over, self.lives = self._ale.reset_game, self._ale.game_over, self._ale.lives
        self.screen, self.memory = self._ale.getScreenRGB, self._ale.getRAM

    def act(self, action: int) -> None:
        self._ale.act(self._set[action])


def episodes(console: Emulator, frames: int, seed: int) -> Iterator[Episode]:
    """Play so many frames at random and yield the lives in them; the last one ends where the frames do."""
    generator, episode = np.random.Generator(np.random.Philox(seed)), Episode()
    _start(console, generator)
    for _ in range(frames):
        before = console.lives()
        picture = _step(console, int(generator.integers(1, len(console.actions))))
        if console.over() or console.lives() < before:
            if episode.frames:
                yield episode
            episode = Episode()
            picture = _start(console, generator, lost=not console.over())
        episode.frames.append(picture)
        episode.memory.append(np.array(console.memory(), np.uint8))
    if episode.frames:
        yield episode


def _start(console: Emulator, generator: np.random.Generator, *, lost: bool = False) -> np.ndarray:
    """Begin a game, or after a lost life go on with it; either presses fire where there is such a button."""
    if not lost:
        console.reset()
        for _ in range(int(generator.integers(1, IDLE + 1))):
            console.act(0)
            if console.over():
                console.reset()
    picture = _step(console, 0) if lost else console.screen()
    if "FIRE" in console.actions:
        for action in (1, 2):
            picture = _step(console, action)
            if console.over():
                console.reset()
    return picture


def _step(console: Emulator, action: int) -> np.ndarray:
    """Hold an action, and return the brighter of the last two pictures, pixel by pixel."""
    seen = []
    for number in range(SKIP):
        console.act(action)
        if number >= SKIP - 2 or console.over():
            seen = [*seen[-1:], console.screen()]
        if console.over():
            break
    return seen[0] if len(seen) == 1 else np.maximum(*seen)


def gray(frames: np.ndarray) -> np.ndarray:
    """Return the luma of RGB pictures, uint8 [… h w], rounded as OpenCV does."""
    red, green, blue = (frames[..., i].astype(np.int32) * weight for i, weight in enumerate(WEIGHTS))
    return ((red + green + blue + (1 << 13)) >> 14).astype(np.uint8)


def split(count: int) -> np.ndarray:
    """Return the number of the split of each of `count` episodes: the first 70%, the next 10%, the rest.

    Raises:
      ValueError: if a split has no episode.
    """
    bounds = int(0.7 * count), int(0.8 * count)
    if not 0 < bounds[0] < bounds[1] < count:
        raise ValueError(f"{count} episodes are too few for three splits; play more frames")
    return np.searchsorted(bounds, np.arange(count), side="right").astype(np.int32)


def record(game: str, play: Play, seed: int, out: pathlib.Path, *, console: Any = emulator) -> Table:
    """Play a game, write its videos to OUT/videos/SPLIT and its memory to OUT/table.npz, and return the table.

    What an earlier call has finished is read.
    """
    path = out / "table.npz"
    if not path.exists():
        shutil.rmtree(out, ignore_errors=True)
        found = _recorded(game, play, seed, out, console)
        part = split(len(found["names"]))
        for name, number in zip(found["names"], part, strict=True):
            place = out / "videos" / SPLITS[number]
            place.mkdir(parents=True, exist_ok=True)
            (out / f"{name}.mp4").rename(place / f"{name}.mp4")
        whole = out / ".table.npz"
        np.savez_compressed(whole, **found, part=part)
        whole.rename(path)
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return Table(**{**arrays, "names": tuple(map(str, arrays["names"]))})


def _recorded(game: str, play: Play, seed: int, out: pathlib.Path, console: Any) -> dict[str, Any]:
    out.mkdir(parents=True)
    names: list[str] = []
    memory, episode, digest = [], [], []
    for player in range(play.players):
        own = 1000 * seed + player
        for one in episodes(console(game, own, play.sticky), play.frames // play.players, own):
            if len(one.frames) < play.shortest:
                continue
            frames = np.stack(one.frames)
            memory.append(np.stack(one.memory))
            episode.append(np.full(len(frames), len(names), np.int32))
            digest.append(_digests(frames))
            names.append(f"e{len(names):05d}")
            (out / f"{names[-1]}.mp4").write_bytes(encode_h264(frames, rate=RATE, quality=play.quality))
    columns = {"memory": memory, "episode": episode, "digest": digest}
    return {"names": np.array(names), **{name: np.concatenate(parts) for name, parts in columns.items()}}


def _digests(frames: np.ndarray) -> np.ndarray:
    hashes = [hashlib.blake2b(picture.tobytes(), digest_size=8).digest() for picture in gray(frames)]
    return np.frombuffer(b"".join(hashes), np.uint64)


def prepared(out: pathlib.Path) -> Mapping[str, str]:
    """Return the folder of the records of each split, which `vmae data prepare` makes of the videos.

    Raises:
      ConfigError: if the preparation failed.
    """
    folders = {name: out / "records" / name for name in SPLITS}
    for name, folder in folders.items():
        done = folder.with_suffix(".json")
        if not done.exists():
            arguments = [str(out / "videos" / name), f"--out={folder}", "--workers=1", "--shards=1", "--quiet"]
            if status := cli.main(["data", "prepare", *arguments]):
                raise ConfigError(f"vmae data prepare {' '.join(arguments)} ended with status {status}")
            done.write_text(json.dumps({"frames_from": str(out / "videos" / name)}))
    return {name: str(folder) for name, folder in folders.items()}
