"""Names that no one expects, and archives of a stranger."""

import io
import json
import os
import pathlib
import tarfile
from typing import Any

from benchmarks.attacks.files import counted, write_whole
from benchmarks.attacks.room import Found, Room

__all__ = ["ARCHIVES", "NAME_COMMANDS", "archive", "odd_names"]

NAMES = (
    b"caf\xe9.mp4", rb"caf\xe9.mp4", b"two\nlines.mp4", b"tab\there.mp4", b"comma, and; more.mp4",
    b"quote\"s 'n `t.mp4", b"bell\x07\x1b[31mred.mp4", b"\xed\xa0\x80.mp4", "right\u202eleft\u2028.mp4".encode(),
    b"up\\..\\..\\up.mp4", b" space .mp4", b"<img src=x onerror=alert(1)>.mp4", b"=cmd|' !A0.mp4", b"-rf.mp4",
    b"%s%n{0}.mp4", b"\xd0\xe5\xec" * 50 + b".mp4",
)  # fmt: skip
NAME_COMMANDS = {
    "validate": ["data", "validate", "videos", "--json=found.json", "--workers=1", "--quiet"],
    "prepare": ["data", "prepare", "videos", "--out=out", "--labels=folders", "--workers=1", "--quiet"],
    "prepare a list": ["data", "prepare", "list.csv", "--out=out", "--workers=1", "--quiet"],
    "prepare an archive": ["data", "prepare", "odd.tar", "--out=out", "--workers=1", "--quiet"],
    "report": ["report", "--workdir=run"],
    "train": ["train", "--config=configs/quickstart.py:smoke", "--workdir=trained", "--quiet",
              "--config.data.source.path=videos", "--config.data.max_bad_fraction=1", "--config.eval.data=none",
              "--config.train.length.steps=2", "--config.train.pictures_every=none"],
}  # fmt: skip


def odd_names(number: int, room: Room) -> Found:
    """Names that are not UTF-8, hold newlines or markup, through one command: each name comes back, in one line."""
    from vmae_jax.names import from_text

    what, broken = list(NAME_COMMANDS)[number % len(NAME_COMMANDS)], bool(number // len(NAME_COMMANDS) % 2)
    base = room.shared("whole", write_whole)
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
    problems += room.problems(outcome, {0, 1} if what == "validate" else {0})
    if what == "validate" and broken:
        found = json.loads((room.work / "found.json").read_text())["found"]
        keys = {from_text(one["key"]) for one in found if one["kind"] == "broken"}
        wanted = {str(path.relative_to(room.work / "videos")) for path in paths}
        problems += [] if keys == wanted else [f"{len(keys & wanted)} names of {len(wanted)} come back"]
    if what.startswith("prepare") and outcome.status == 0:
        count = len(lines) if what == "prepare a list" else len(paths)
        problems += counted(outcome.answer["videos"] + outcome.answer["rejected"], count + 1)
    return Found(f"{what}{', broken' * broken}", tuple(problems), tried=len(NAMES))


def _quarantine(work: pathlib.Path, paths: list[pathlib.Path]) -> int:
    """The list of unreadable videos of a run: one line each, written once."""
    from vmae_jax.io.quarantine import Quarantine

    for _ in range(2):
        Quarantine(work / "run" / "quarantine.jsonl").add(
            [(str(path), "is empty", n, "broken") for n, path in enumerate(paths)]
        )
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
    "1,000 empty files": [_member(f"{index}.mp4", size=0) for index in range(1000)],
    "declares 1 TiB": [_member("a.mp4", size=1 << 40)],
    "a bomb of gzip": "gz",
    "a bomb of xz": "xz",
    "cut off": "cut",
    "no archive": "none",
}


def archive(number: int, room: Room) -> Found:
    """An archive of a stranger beside a whole one: nothing outside is written, and what is refused is a finding."""
    base = room.shared("whole", write_whole)
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
