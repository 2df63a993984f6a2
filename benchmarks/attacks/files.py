"""Videos that are broken, and files that are none."""

import io
import json
import os
import pathlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.attacks.room import Found, Room

__all__ = ["ODD_FILES", "clips", "counted", "decoded", "fuzzed", "odd_file", "write_whole"]

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = 6  # mutated videos of one case
TABLES = (b"stts", b"ctts", b"stsz", b"stco", b"tkhd", b"mdhd", b"elst", b"avcC", b"strh", b"idx1")
CODECS = ("h264", "keep", "jpeg")


def clips(count: int) -> dict[str, bytes]:
    """Small whole videos in several containers: those of tests/clips, and generated ones."""
    from vmae_jax.data.encode import encode_h264

    found = {}
    for number in range(count):
        rng = np.random.default_rng(number)
        frames = np.kron(rng.integers(0, 256, (24, 4, 6, 3), np.uint8), np.ones((1, 8, 8, 1), np.uint8))
        found[f"made_{number}.mp4"] = encode_h264(frames)
    return found


def _whole() -> dict[str, bytes]:
    shipped = {
        file.name: file.read_bytes() for file in (ROOT / "tests" / "clips").iterdir() if file.suffix in (".mp4", ".avi")
    }
    return shipped | clips(2) | {"made.mkv": _matroska()}


def _matroska() -> bytes:
    import av

    file, source = io.BytesIO(), clips(1)["made_0.mp4"]
    with av.open(io.BytesIO(source), mode="r") as read, av.open(file, mode="w", format="matroska") as out:
        stream = out.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(read.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return file.getvalue()


def mutated(chance: random.Random, content: bytes) -> bytes:
    """Some bytes changed, anywhere or near the tables; a part cut off, doubled, removed or zeroed."""
    data = bytearray(content)
    how = chance.choice(["bytes", "bytes", "tables", "numbers", "cut", "double", "remove", "zero"])
    at, length = chance.randrange(len(data)), chance.randrange(1, 2000)
    if how == "bytes":
        for _ in range(chance.choice([1, 4, 20, 200])):
            data[chance.randrange(len(data))] = chance.randrange(256)
    elif how in ("tables", "numbers"):
        marks = [place for name in TABLES if (place := data.find(name)) >= 0]
        start = chance.choice(marks or [0])
        for _ in range(chance.randrange(1, 6)):
            place = min(len(data) - 4, start + chance.randrange(64))
            data[place : place + 4] = chance.choice([b"\xff" * 4, b"\x7f" + b"\xff" * 3, bytes(4), chance.randbytes(4)])
    elif how == "cut":
        del data[at:]
    elif how == "double":
        data[at:at] = data[at : at + length]
    elif how == "remove":
        del data[at : at + length]
    else:
        data[at : at + length] = bytes(len(data[at : at + length]))
    return bytes(data)


def fuzzed(number: int, room: Room) -> Found:
    """Mutated videos through `data prepare` or `data validate`: each becomes records or a finding."""
    base, chance = room.shared("whole", write_whole), room.random
    folder, names = room.work / "videos", sorted(os.listdir(base))
    folder.mkdir()
    (folder / "whole.mp4").write_bytes((base / "made_0.mp4").read_bytes())
    for index in range(FILES):
        name = chance.choice(names)
        (folder / f"{index}_{name}").write_bytes(mutated(chance, (base / name).read_bytes()))
    if number % 4 == 3:
        outcome = room.vmae("data", "validate", folder, "--workers=1", "--quiet", "--timeout=20")
        problems = room.problems(outcome, {0, 1}, "videos cannot be read")
        return Found("validate", (*problems, *counted(outcome.answer.get("videos"), FILES + 1)), tried=FILES)
    codec = CODECS[number % 4 % len(CODECS)]
    return Found(f"prepare {codec}", tuple(_prepare(room, folder, FILES + 1, f"--codec={codec}")), tried=FILES)


def counted(found: Any, files: int) -> list[str]:
    """What is wrong if not every file is counted."""
    return [] if found == files else [f"{found} videos of {files}"]


def _prepare(room: Room, folder: pathlib.Path | str, files: int | None, *more: str) -> list[str]:
    """Prepare a folder that has a whole video: status 0, and every file in the manifest."""
    outcome = room.vmae("data", "prepare", folder, "--out=out", "--workers=1", "--quiet", "--timeout=20", *more)
    problems = room.problems(outcome, {0})
    if outcome.status == 0 and files is not None:
        answer = outcome.answer
        problems += counted(answer["videos"] + answer["rejected"], files)
        if not any(key.rpartition("/")[2] == "whole.mp4" for key in _keys(room)) and answer["examples"] < 1:
            problems.append("the whole video has no record")
    return problems


def _keys(room: Room) -> list[str]:
    """The rejected videos of a preparation."""
    manifest = json.loads((room.work / "out" / "prepared" / "train.json").read_text())
    return [key for key, _, _ in manifest["rejected"]]


def write_whole(folder: pathlib.Path) -> None:
    """The whole videos, as files."""
    for name, content in _whole().items():
        (folder / name).write_bytes(content)


def decoded(number: int, room: Room) -> Found:
    """Mutated videos through the decoding workers of a training: clips, or a finding in one line."""
    del number
    base, chance = room.shared("whole", write_whole), room.random
    names = sorted(os.listdir(base))
    contents = [mutated(chance, (base / chance.choice(names)).read_bytes()) for _ in range(FILES)]

    def act() -> int:
        from vmae_jax.data.clips import dense
        from vmae_jax.data.video import BadVideo, Encoded
        from vmae_jax.data.workers import Workers

        workers = Workers(1, sampler=dense(8, 2), timeout=20.0)
        try:
            for content in contents:
                try:
                    found = workers.decode(Encoded(data=content, key="x"), np.array([1, 2], np.uint32)).arrays["video"]
                    assert found.shape[:2] == (1, 8), found.shape
                    assert found.dtype == np.uint8, found.dtype
                except BadVideo as error:
                    if not str(error) or "\n" in str(error):
                        raise RuntimeError(f"a finding that is not one line: {error!r}") from error
        finally:
            workers.close()
        return 0

    return Found("workers", tuple(room.problems(room.call(act), {0})), tried=FILES)


def _fifo(path: pathlib.Path, room: Room) -> None:
    del room
    os.mkfifo(path)


def _sized(path: pathlib.Path, room: Room) -> None:
    content = bytearray((room.base / "whole" / "made_0.mp4").read_bytes())
    at = content.index(b"avc1") + 28
    content[at : at + 4] = b"\xff" * 4
    path.write_bytes(content)


def _atom(path: pathlib.Path, room: Room) -> None:
    content = (room.base / "whole" / "made_0.mp4").read_bytes()
    path.write_bytes(content[:4] + content[4:].replace(b"stsz", b"stsz\0\0\0\0\0\0\0\0\x7f\xff\xff\xff", 1))


def _text(text: str) -> Callable[[pathlib.Path, Room], None]:
    def write(path: pathlib.Path, room: Room) -> None:
        path.write_text(text.format(url=f"http://127.0.0.1:{room.port}/x", file=room.outside / "secret.txt"))

    return write


def _link(target: str) -> Callable[[pathlib.Path, Room], None]:
    return lambda path, room: path.symlink_to(target.format(outside=room.outside, self=path.name))


ODD_FILES: dict[str, Callable[[pathlib.Path, Room], Any]] = {
    "a FIFO": _fifo,
    "a FIFO behind a link": lambda path, room: (
        _fifo(room.outside.parent / "pipe", room),
        path.symlink_to(room.path / "pipe"),
    ),
    "/dev/zero": _link("/dev/zero"),
    "/dev/tty": _link("/dev/tty"),
    "/dev/stdin": _link("/dev/stdin"),
    "/proc/self/mem": _link("/proc/self/mem"),
    "a folder": lambda path, room: path.mkdir(),
    "a link to itself": _link("{self}"),
    "a link to its folder": _link("."),
    "a link to nothing": _link("nowhere"),
    "a text file outside": _link("{outside}/secret.txt"),
    "empty": lambda path, room: path.write_bytes(b""),
    "a hole of 1 TiB": lambda path, room: (path.touch(), os.truncate(path, 1 << 40)),
    "HLS of a URL": _text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n"),
    "HLS of a file": _text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{file}\n#EXT-X-ENDLIST\n"),
    "concat of a URL": _text("ffconcat version 1.0\nfile {url}\n"),
    "concat of a file": _text("ffconcat version 1.0\nfile {file}\n"),
    "DASH of a URL": _text('<?xml version="1.0"?><MPD><Period><BaseURL>{url}</BaseURL></Period></MPD>'),
    "SDP": _text("v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
    "a picture of 65535 x 65535": _sized,
    "a table of 2 billion entries": _atom,
    "a page": _text("<html><body>404</body></html>"),
    "not readable": lambda path, room: (path.write_bytes(b"x"), path.chmod(0)),
}


def odd_file(number: int, room: Room) -> Found:
    """A file that is no video, beside a whole one: a finding, passed over, or refused in one line."""
    base = room.shared("whole", write_whole)
    folder, name = room.work / "videos", list(ODD_FILES)[number // 2 % len(ODD_FILES)]
    folder.mkdir()
    (folder / "whole.mp4").write_bytes((base / "made_0.mp4").read_bytes())
    ODD_FILES[name](folder / "odd.mp4", room)
    if number % 2:
        outcome = room.vmae("data", "validate", folder, "--workers=1", "--quiet", "--timeout=5", limit=120)
        problems = room.problems(outcome, {0, 1}, "videos cannot be read")
        found = outcome.answer.get("found")
        return Found(f"validate: {name}: {found}", tuple(problems))
    return Found(f"prepare: {name}", tuple(_prepare(room, folder, None, "--codec=h264")))
