"""Files beside videos, of every kind that a stream reads: broken, crafted, or no files at all."""

import os
import pathlib
import resource
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.attacks.beside_files import KINDS, NPY, damaged, files_of
from benchmarks.attacks.files import clips
from benchmarks.attacks.room import Found, Room

__all__ = ["SPECIAL", "goes_on", "sides", "special"]

FILES = 40  # of one case
SIZE, FRAMES = 16, 4
SECONDS = 15.0  # of processor time that a small file may take; more is no finding of a stream
MEMORY = 2 << 30  # that a decoding process may use
SUFFIX = {"text": ".txt", "series": ".csv", "boxes": ".csv", "embeddings": ".npz", "planes": ".zip", "audio": ".wav"}


def stream_of(kind: str) -> Any:
    """A small stream of each kind."""
    from vmae_jax.data.streams import audio, boxes, embeddings, planes, series, text, tokenizers

    return {
        "text": lambda: text.text(tokenizers.utf8(), 16),
        "series": lambda: series.series(["x"], 6),
        "boxes": lambda: boxes.boxes(2, least=0.0),
        "embeddings": lambda: embeddings.embeddings(2, 4),
        "planes": lambda: planes.planes(1),
        "audio": lambda: audio.audio(0.25),
    }[kind]()


def _streams(stream: Any) -> Any:
    from vmae_jax.data.streams.core import ClipShape, Streams

    return Streams({"x": stream}, ClipShape(FRAMES, SIZE, 3))


def _read(room: Room, stream: Any, found: list[Any]) -> list[str]:
    """Read each side with a video through a decoding process of a training: arrays as declared, or a finding."""
    video = clips(1)["made_0.mp4"]

    def act() -> int:
        from vmae_jax.data import crops, transforms
        from vmae_jax.data.clips import dense
        from vmae_jax.data.video import BadVideo, Encoded
        from vmae_jax.data.workers import Workers

        streams = _streams(stream)
        crop = crops.leading([transforms.resize(SIZE)])
        workers = Workers(1, sampler=dense(FRAMES, 2), crop=crop, streams=streams, timeout=SECONDS)
        try:
            for number, side in enumerate(found):
                try:
                    arrays = workers.decode(
                        Encoded(data=video, key="x", sides={"x": side}), np.array([1, 2], np.uint32)
                    ).arrays
                    for name, spec in streams.specs().items():
                        assert (arrays[name].shape, arrays[name].dtype) == ((1, *spec.shape), spec.dtype), name
                        assert spec.dtype != np.float32 or np.isfinite(arrays[name]).all(), name
                except BadVideo as error:
                    if not str(error).isprintable() or not str(error).startswith("x: "):
                        raise RuntimeError(f"file {number}: no finding in one line: {error!r}") from error
        finally:
            workers.close()
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
        if used > MEMORY:
            raise RuntimeError(f"a decoding process used {used >> 20} MiB")
        return 0

    return room.problems(room.call(act), {0})


def sides(number: int, room: Room) -> Found:
    """Mutated and crafted files beside a video: what a stream reads is whole, or the video is one finding."""
    from vmae_jax.data.video import Side

    name = KINDS[number % len(KINDS)]
    good, crafted = files_of(name)
    again = number // len(KINDS)
    contents = crafted[again * FILES :][:FILES]  # all of them first, in order
    contents += [damaged(room.random, room.random.choice(good)) for _ in range(FILES - len(contents))]
    problems = _read(room, stream_of(name), [Side(data=content) for content in contents])
    return Found(name, tuple(problems), tried=len(contents))


def _hole(path: pathlib.Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


SPECIAL: dict[str, Callable[[pathlib.Path], Any]] = {
    "a FIFO": os.mkfifo,
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "/dev/stdin": lambda path: path.symlink_to("/dev/stdin"),
    "/proc/self/mem": lambda path: path.symlink_to("/proc/self/mem"),
    "a folder": pathlib.Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "empty": pathlib.Path.touch,
    "a hole of 1 TiB": _hole,
    "not readable": lambda path: (path.write_bytes(b"x"), path.chmod(0)),
}


def special(number: int, room: Room) -> Found:
    """Pipes, devices, folders and holes where a file beside a video is expected."""
    from vmae_jax.data.video import Side

    name = KINDS[number % len(KINDS)]
    for index, make in enumerate(SPECIAL.values()):
        make(room.work / str(index))
    found = [Side(path=str(room.work / str(index))) for index in range(len(SPECIAL))]
    return Found(name, tuple(_read(room, stream_of(name), found)), tried=len(found))


def goes_on(number: int, room: Room) -> Found:
    """A loader of eight videos, two of them with broken files beside them: both are counted, and batches come on."""
    name = KINDS[number % len(KINDS)]
    good, crafted = files_of(name)
    folder = room.work / "videos"
    folder.mkdir()
    broken = set(room.random.sample(range(8), 2))
    bad = [NPY[0], b"\xff\xfe\x00\xd8"] if name != "audio" else [crafted[0], crafted[2]]
    for index in range(8):
        (folder / f"{index}.mp4").write_bytes(clips(1)["made_0.mp4"])
        (folder / f"{index}{SUFFIX[name]}").write_bytes(bad.pop() if index in broken else good[0])

    def act() -> int:
        from vmae_jax.data import clips as samplers
        from vmae_jax.data import sides, sources, transforms
        from vmae_jax.data.opened import open_loader
        from vmae_jax.data.pipeline import loader

        source = sides.beside(sources.folder(str(folder)), {"x": sides.sidecar(SUFFIX[name])})
        made = loader(source, samplers.dense(FRAMES, 2), [transforms.resize(SIZE)], global_batch=4, workers=1,
                      streams={"x": stream_of(name)})  # fmt: skip
        keys = set()
        with open_loader(made).batches(rows=range(4), seed=number) as batches:
            for _ in range(6):
                batch = next(batches)
                assert batch["valid"].all(), "a row is missing"
                assert batch["x_valid"].all(), "a row lost what is beside it"
                assert not set(batch["index"].tolist()) & broken, "a row is of a broken file"
            keys = {fault.key for fault in batches.faults()}
        assert keys == {f"{index}.mp4" for index in broken}, keys
        return 0

    problems = room.problems(room.call(act), {0})
    shutil.rmtree(folder)
    return Found(name, tuple(problems), tried=8)
