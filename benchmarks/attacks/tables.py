"""Tables, lists of videos and of classes, and the annotations of datasets: mutated, crafted, or no files at all."""

import json
import os
import pathlib
import random
import resource
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.attacks.annotations import DATASETS, Content
from benchmarks.attacks.beside import SPECIAL
from benchmarks.attacks.beside_files import GIANTS, damaged
from benchmarks.attacks.files import clips
from benchmarks.attacks.room import Found, Room

__all__ = ["annotations", "tables"]

FILES = 40  # of one case
SETS = 12  # mutated folders of one case
MEMORY = 1 << 30  # that a command may need beyond what it had
CAPTIONS = 'path,by,caption\na.mp4,x,"one, two"\ncafé,y,Zwölf 👋\n'
LINES = '{"path": "a.mp4", "caption": "one"}\n{"path": "b", "caption": "two", "more": [1, {"x": null}]}\n'
PICTURES = "frames 1 8 0\nframes 2 7 1\n"
LIST = "path,verb,score\na.mp4,run,0.5;1\nb.mp4,fall over,-1\nsub/c.mp4,-,2e3\n"
GOOD = {
    "t.csv": CAPTIONS,
    "t.tsv": CAPTIONS.replace(",", "\t"),
    "t.jsonl": LINES,
    "list.csv": LIST,
    "pictures.csv": PICTURES,
    "names.txt": "a\nb\nc\n",
}
HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0.5, 2**63, 10**30, 1e308, float("nan"), float("inf"), "", "\0", "\ud83d", "a\nb", "../../outside",
    "/etc/passwd", "\x1b[2J", "x" * 200_000, [], {}, [[]], ["a"], {"a": 1}, "http://127.0.0.1/x", "NaN", "1e999",
    "9" * 5000, "٣", "\u2028", "..", ".",
)  # fmt: skip
CRAFTED: tuple[Callable[[str], str], ...] = (
    lambda text: "[" * 200_000, lambda text: "{" * 200_000, lambda text: text + '"' + "x" * 300_000, lambda text: "",
    lambda text: "\n" * 200_000, lambda text: "," * 500_000, lambda text: text * 2, lambda text: text.upper(),
    lambda text: text.replace("\n", "\u2028"), lambda text: "\ufeff" * 3 + text, lambda text: text.replace(",", ";"),
    lambda text: text + "\0", lambda text: text[: len(text) // 2], lambda text: text + "x," * 100 + "\n",
    lambda text: text.replace("\n", "\r"), lambda text: "\t" * 500_000 + ".mp4", lambda text: "1 " * 500_000,
    lambda text: '"' * 200_001, lambda text: " " * 3_000_000, lambda text: text.splitlines()[0],
    lambda text: "-" * 300_000, lambda text: "1;" * 300_000, lambda text: text + "9" * 200_000 + "x\n",
)  # fmt: skip


def mutated(chance: random.Random, text: str) -> bytes:
    """A file of text: a crafted one, one with a hostile field, with damaged bytes, or in another encoding."""
    how = chance.randrange(6)
    if how == 0:
        return chance.choice(CRAFTED)(text).encode(errors="surrogatepass")
    if how == 1:
        return text.encode(chance.choice(["utf-16", "utf-16-le", "latin-1", "utf-8-sig"]), errors="replace")
    if how == 2:
        lines = text.splitlines()
        row = chance.randrange(len(lines))
        mark = chance.choice([",", "\t", ";", " ", ":", '"'])
        fields = lines[row].split(mark)
        fields[chance.randrange(len(fields))] = str(chance.choice([*GIANTS, *HOSTILE]))
        lines[row] = mark.join(fields)
        return ("\n".join(lines) + "\n").encode(errors="surrogatepass")
    if how == 3 and text[:1] in "[{":
        return _hostile_json(chance, text)
    return damaged(chance, text.encode())


def _hostile_json(chance: random.Random, text: str) -> bytes:
    """JSON, or lines of it, with another value somewhere."""
    try:
        whole, lines = json.loads(text), [text]
    except ValueError:
        lines = text.splitlines()
        whole = json.loads(lines[0])
    value = chance.choice(HOSTILE)
    node: Any = {"": whole}
    key: Any = ""
    while isinstance(node[key], dict | list) and node[key] and chance.random() < 0.8:
        node = node[key]
        key = chance.choice(list(node)) if isinstance(node, dict) else chance.randrange(len(node))
    node[key] = value
    first = json.dumps(whole if key else value)
    return "\n".join([first, *lines[1:]]).encode(errors="surrogatepass")


def _measured(act: Callable[[], None]) -> Callable[[], int]:
    """A function for `Room.call`, which ends with 1 where much memory was needed."""

    def measured() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        act()
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before << 10
        if used > MEMORY:
            raise RuntimeError(f"{used >> 20} MiB were needed")
        return 0

    return measured


def _one_line(what: str, act: Callable[[], Any]) -> None:
    """Call a function, which may end with a `ConfigError` of one printable line alone."""
    from vmae_jax.commands.errors import describe
    from vmae_jax.spec import ConfigError

    try:
        act()
    except ConfigError as error:
        if not describe(error).isprintable() or not str(error).strip():
            raise RuntimeError(f"{what}: no error in one line: {error!r}") from error


def _read_table(path: str) -> None:
    from vmae_jax.data import sides
    from vmae_jax.data.video import Encoded

    rows = sides.table(path, "caption").open()
    rows.digest()
    for key in ("a.mp4", "b.mp4", "café.mp4"):
        side = rows.find(Encoded(data=b"v", key=key))
        assert side is None or side.data is None or side.data.decode() is not None


def _read_list(path: str) -> None:
    from vmae_jax.data import sources

    for columns in (None, "path,verb,score" if path.endswith("list.csv") else "path,start,count,label"):
        source: Any = sources.csv(path, columns=columns).open()
        for index in range(min(len(source), 50)):
            assert source.fetch(index).key.isprintable(), source.fetch(index).key
            source.labels(index)


def _read_names(path: str) -> None:
    from vmae_jax.data.labels import read_names

    assert all(read_names(path))


def tables(number: int, room: Room) -> Found:
    """Tables of texts, lists of videos with columns, lists of classes: read, or refused in one line."""
    name = list(GOOD)[number % len(GOOD)]
    read = _read_list if name in ("list.csv", "pictures.csv") else _read_names if name == "names.txt" else _read_table
    for inside in ("a.mp4", "b.mp4", "sub/c.mp4", "frames/img_00001.jpg"):
        (room.work / inside).parent.mkdir(exist_ok=True)
        (room.work / inside).write_bytes(clips(1)["made_0.mp4"])
    path = room.work / name
    if number // len(GOOD) % 3 == 1 and read is _read_list:
        path.write_bytes(mutated(room.random, GOOD[name]))
        outcome = room.vmae("data", "validate", path, "--workers=1", "--quiet", "--timeout=20")
        return Found(f"validate {name}", tuple(room.problems(outcome, {0, 1, 2})))

    def act() -> None:
        for index in range(FILES):
            path.write_bytes(mutated(room.random, GOOD[name]))
            _one_line(f"{name} {index}", lambda: read(str(path)))
        for what, make in SPECIAL.items():
            path.unlink(missing_ok=True) if not path.is_dir() or path.is_symlink() else path.rmdir()
            make(path)
            _one_line(what, lambda: read(str(path)))

    problems = room.problems(room.call(_measured(act), limit=120), {0})
    return Found(name, tuple(problems), tried=FILES + len(SPECIAL))


def _write(folder: pathlib.Path, files: Mapping[str, Content]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(clips(1)["made_0.mp4"] if content is None else content.encode())


def _read_catalog(dataset: str, folder: pathlib.Path) -> None:
    from vmae_jax.data.catalog import catalog_named, open_catalog

    found = catalog_named(dataset, str(folder))
    for split in ("train", "validation", "test"):
        _one_line(f"{dataset} {split}", lambda split=split: _fetch(open_catalog(found, split)))


def _fetch(opened: Any) -> None:
    rows, absent = opened
    assert all(key.isprintable() for key, _ in absent)
    for index in range(min(len(rows), 50)):
        encoded = rows.fetch(index)
        assert encoded.key.isprintable(), encoded.key
        for path in encoded.frames or (encoded.path,):
            assert os.path.realpath(path).startswith(os.path.realpath(os.curdir)), path
    for names in rows.label_names.values():
        assert all(name.isprintable() for name in names), names


def annotations(number: int, room: Room) -> Found:
    """Folders of every dataset with a mutated annotation file, or something else in its place."""
    dataset = list(DATASETS)[number % len(DATASETS)]
    files = DATASETS[dataset]
    texts = [name for name, content in files.items() if isinstance(content, str)]
    again = number // len(DATASETS)
    if again % 4 == 3:
        _write(room.work / "0", files)
        broken = room.random.choice(texts)
        (room.work / "0" / broken).write_bytes(mutated(room.random, str(files[broken])))
        outcome = room.vmae("data", "prepare", "0", f"--dataset={dataset}", "--out=out", "--workers=1", "--quiet")
        return Found(f"prepare {dataset}: {broken}", tuple(room.problems(outcome, {0, 1, 2})))

    def act() -> None:
        for index in range(SETS):
            folder = room.work / str(index)
            _write(folder, files)
            broken = room.random.choice(texts)
            if index % 6 == 5:
                (folder / broken).unlink()
                room.random.choice(list(SPECIAL.values()))(folder / broken)
            else:
                (folder / broken).write_bytes(mutated(room.random, str(files[broken])))
            _read_catalog(dataset, folder)

    problems = room.problems(room.call(_measured(act), limit=120), {0})
    return Found(dataset, tuple(problems), tried=SETS)
