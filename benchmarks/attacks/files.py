"""Videos that are broken, files that are none, names that no one expects, and archives of a stranger."""

import io
import json
import os
import pathlib
import random
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.attacks.room import Found, Room

__all__ = ["ARCHIVES", "NAME_COMMANDS", "ODD_FILES", "archive", "clips", "decoded", "fuzzed", "odd_file", "odd_names"]

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = 6  # mutated videos of one case
CODECS = ("h264", "keep", "jpeg")
NAMES = (
    b"caf\xe9.mp4", rb"caf\xe9.mp4", b"two\nlines.mp4", b"tab\there.mp4", b"comma, and; more.mp4", b"quote\"s 'n `t.mp4",
    b"bell\x07\x1b[31mred.mp4", b"\xed\xa0\x80.mp4", "right\u202eleft\u2028.mp4".encode(), b"up\\..\\..\\up.mp4",
    b" space .mp4", b"<img src=x onerror=alert(1)>.mp4", b"=cmd|' !A0.mp4", b"-rf.mp4", b"%s%n{0}.mp4",
    b"\xd0\xe5\xec" * 50 + b".mp4",
)  # fmt: skip


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
    with av.open(io.BytesIO(source)) as read, av.open(file, "w", format="matroska") as out:
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
        marks = [place for name in (b"stts", b"ctts", b"stsz", b"stco", b"tkhd", b"mdhd", b"elst", b"avcC", b"strh", b"idx1")
                 if (place := data.find(name)) >= 0]  # fmt: skip
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
    base, chance = room.shared("whole", _write_whole), room.random
    folder, names = room.work / "videos", sorted(os.listdir(base))
    folder.mkdir()
    (folder / "whole.mp4").write_bytes((base / "made_0.mp4").read_bytes())
    for index in range(FILES):
        name = chance.choice(names)
        (folder / f"{index}_{name}").write_bytes(mutated(chance, (base / name).read_bytes()))
    if number % 4 == 3:
        outcome = room.vmae("data", "validate", folder, "--workers=1", "--quiet", "--timeout=20")
        problems = room.problems(outcome, {0, 1}, "videos cannot be read")
        counted = outcome.answer.get("videos")
        return Found("validate", (*problems, *_counted(counted, FILES + 1)), tried=FILES)
    codec = CODECS[number % 4 % len(CODECS)]
    return Found(f"prepare {codec}", tuple(_prepare(room, folder, FILES + 1, f"--codec={codec}")), tried=FILES)


def _counted(counted: Any, files: int) -> list[str]:
    return [] if counted == files else [f"{counted} videos of {files}"]


def _prepare(room: Room, folder: pathlib.Path | str, files: int | None, *more: str) -> list[str]:
    """Prepare a folder that has a whole video: status 0, and every file in the manifest."""
    outcome = room.vmae("data", "prepare", folder, "--out=out", "--workers=1", "--quiet", "--timeout=20", *more)
    problems = room.problems(outcome, {0})
    if outcome.status == 0 and files is not None:
        answer = outcome.answer
        problems += _counted(answer["videos"] + answer["rejected"], files)
        if not any(key.rpartition("/")[2] == "whole.mp4" for key in _keys(room)) and answer["examples"] < 1:
            problems.append("the whole video has no record")
    return problems


def _keys(room: Room) -> list[str]:
    """The rejected videos of a preparation."""
    manifest = json.loads((room.work / "out" / "prepared" / "train.json").read_text())
    return [key for key, _, _ in manifest["rejected"]]


def _write_whole(folder: pathlib.Path) -> None:
    for name, content in _whole().items():
        (folder / name).write_bytes(content)


def decoded(number: int, room: Room) -> Found:
    """Mutated videos through the decoding workers of a training: clips, or a finding in one line."""
    del number
    base, chance = room.shared("whole", _write_whole), room.random
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
                    found = workers.decode(Encoded(data=content, key="x"), np.array([1, 2], np.uint32)).clips
                    assert found.shape[:2] == (1, 8), found.shape
                    assert found.dtype == np.uint8, found.dtype
                except BadVideo as error:
                    assert str(error), "a reason of several lines, or none"
                    assert "\n" not in str(error), "a reason of several lines, or none"
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
    return lambda path, room: path.write_text(
        text.format(url=f"http://127.0.0.1:{room.port}/x", file=room.outside / "secret.txt")
    ) and None  # fmt: skip


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
    base = room.shared("whole", _write_whole)
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


NAME_COMMANDS = {
    "validate": ["data", "validate", "videos", "--json=found.json", "--workers=1", "--quiet"],
    "prepare": ["data", "prepare", "videos", "--out=out", "--labels=folders", "--workers=1", "--quiet"],
    "prepare a list": ["data", "prepare", "list.csv", "--out=out", "--workers=1", "--quiet"],
    "prepare an archive": ["data", "prepare", "odd.tar", "--out=out", "--workers=1", "--quiet"],
    "report": ["report", "--workdir=run"],
    "features": ["features", "--workdir=run", "--videos", "videos", "--out=out"],
}


def odd_names(number: int, room: Room) -> Found:
    """Names that are not UTF-8, hold newlines or markup, through one command: each name comes back, in one line."""
    from vmae_jax.names import from_text

    what, broken = list(NAME_COMMANDS)[number % len(NAME_COMMANDS)], bool(number // len(NAME_COMMANDS) % 2)
    base = room.shared("whole", _write_whole)
    content = b"no video" if broken else (base / "made_0.mp4").read_bytes()
    paths = []
    for index, name in enumerate(NAMES):
        inside = room.work / "videos" / os.fsdecode(b"cl\xe4ss" if index % 2 else b"a\nb")
        inside.mkdir(parents=True, exist_ok=True)
        paths.append(inside / os.fsdecode(name))
        paths[-1].write_bytes(content)
    (room.work / "videos" / "b").mkdir()
    (room.work / "videos" / "b" / "whole.mp4").write_bytes((base / "made_0.mp4").read_bytes())
    lines = [os.fsencode(path) for path in paths if "\n" not in str(path)]
    (room.work / "list.csv").write_bytes(b"\n".join([*lines, os.fsencode(room.work / "videos/b/whole.mp4")]) + b"\n")
    with tarfile.open(room.work / "odd.tar", "w") as file:
        file.add(room.work / "videos", ".")
    (room.work / "run").mkdir()
    outcome = room.call(lambda: _quarantine(room.work, paths))
    problems = room.problems(outcome, {0})
    outcome = room.vmae(*NAME_COMMANDS[what])
    problems += room.problems(outcome, {"features": {2}, "validate": {0, 1}}.get(what, {0}))
    if what == "validate" and broken:
        found = json.loads((room.work / "found.json").read_text())["found"]
        keys = {from_text(one["key"]) for one in found if one["kind"] == "broken"}
        wanted = {str(path.relative_to(room.work / "videos")) for path in paths}
        problems += [] if keys == wanted else [f"{len(keys & wanted)} names of {len(wanted)} come back"]
    if what.startswith("prepare") and outcome.status == 0:
        count = len(lines) if what == "prepare a list" else len(paths)
        problems += _counted(outcome.answer["videos"] + outcome.answer["rejected"], count + 1)
    return Found(f"{what}{', broken' * broken}", tuple(problems), tried=len(NAMES))


def _quarantine(work: pathlib.Path, paths: list[pathlib.Path]) -> int:
    """The list of unreadable videos of a run: one line each, written once."""
    from vmae_jax.io.quarantine import Quarantine

    for _ in range(2):
        Quarantine(work / "run" / "quarantine.jsonl").add([(str(path), "is empty", n) for n, path in enumerate(paths)])
    lines = (work / "run" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(len(paths))), lines
    return 0


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int | None = None) -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, size


ARCHIVES: dict[str, Any] = {
    "leaves the folder": [_member("../../outside/marker.mp4")],
    "absolute": [_member("/tmp/attack_marker.mp4")],
    "symbolic link": [_member("a.mp4", tarfile.SYMTYPE, "/etc/passwd")],
    "hard link": [_member("a.mp4", tarfile.LNKTYPE, "/etc/passwd")],
    "a link and a file through it": [_member("up", tarfile.SYMTYPE, "../../outside"), _member("up/marker.mp4")],
    "a device": [_member("a.mp4", tarfile.CHRTYPE)],
    "a FIFO": [_member("a.mp4", tarfile.FIFOTYPE)],
    "the same name twice": [_member("whole.mp4"), _member("./whole.mp4")],
    "10,000 empty files": [_member(f"{index}.mp4", size=0) for index in range(10_000)],
    "declares 1 TiB": [_member("a.mp4", size=1 << 40)],
    "a bomb of gzip": "gz",
    "a bomb of xz": "xz",
    "cut off": "cut",
    "no archive": "none",
}


def archive(number: int, room: Room) -> Found:
    """An archive of a stranger beside a whole one: nothing outside is written, and what is refused is a finding."""
    base = room.shared("whole", _write_whole)
    content, name = (base / "made_0.mp4").read_bytes(), list(ARCHIVES)[number % len(ARCHIVES)]
    how, path = ARCHIVES[name], room.work / "odd.tar"
    if how in ("gz", "xz"):
        import gzip
        import lzma

        with (gzip if how == "gz" else lzma).open(path, "wb") as packed:
            packed.write(_tar([(tarfile.TarInfo("whole.mp4"), None)], content)[:-1024])
            for _ in range(256):
                packed.write(bytes(1 << 20))
    else:
        whole = _tar([(tarfile.TarInfo("whole.mp4"), None), *(how if isinstance(how, list) else [])], content)
        path.write_bytes({"cut": whole[: len(whole) // 3], "none": b"no archive"}.get(str(how), whole))
    outcome = room.vmae("data", "prepare", "odd.tar", "--out=out", "--workers=1", "--quiet", "--timeout=20")
    problems = room.problems(outcome, {2} if name in ("cut off", "no archive", "declares 1 TiB") else {0})
    if pathlib.Path("/tmp/attack_marker.mp4").exists():
        problems.append("/tmp/attack_marker.mp4 was written")
    return Found(name, tuple(problems))


def _tar(members: list[Any], content: bytes) -> bytes:
    """A tar file; the header of a member may declare another size than it has."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as out:
        for info, size in members:
            info.size = len(content) if info.isreg() and size is None else size or 0
            data = content if info.isreg() and size is None else b""
            if size and size > len(data):
                out.fileobj.write(info.tobuf())
                break
            out.addfile(info, io.BytesIO(data))
    return file.getvalue()
