"""Golden texts: what a config resolves to, a line for each value, as a base and what differs from it.

The first variant of a family is written whole; of the others only the lines that are not the base's, so that a
changed default is one line to review. `golden/BASE.txt` has lines `path = value`. `golden/VARIANT.txt` begins with
`as BASE, but`, and has such lines in place of the base's, or in addition to them, and `without path` for what the base
alone has. A line takes the place of everything below its path and above it, too.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

FOLDER = pathlib.Path(__file__).parent / "golden"
REVIEW = "UPDATE_GOLDEN=1 pytest tests/configs rewrites it; review the diff"
Text = Mapping[str, str]  # path -> value


def of_config(text: str) -> dict[str, str]:
    """Return a config, from its JSON, as path -> value."""
    return dict(_leaves("", json.loads(text)))


def _leaves(path: str, value: Any):
    """Yield (path, value as JSON) of everything that is no list or dictionary, or an empty one."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _leaves(f"{path}.{key}" if path else key, one)
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        for index, one in enumerate(value):
            yield from _leaves(f"{path}[{index}]", one)
    else:
        yield path, json.dumps(value)


def read(name: str) -> dict[str, str]:
    """Return a stored text, its base's lines included."""
    file = FOLDER / f"{name}.txt"
    assert file.exists(), f"there is no {file.name}: UPDATE_GOLDEN=1 pytest tests/configs writes it"
    found: dict[str, str] = {}
    for line in file.read_text().splitlines():
        if line.startswith("as "):
            found = read(line.removeprefix("as ").removesuffix(", but"))
        elif line.startswith("without "):
            del found[line.removeprefix("without ")]
        else:
            path, _, value = line.partition(" = ")
            found = {other: one for other, one in found.items() if not _displaced(other, path)} | {path: value}
    return found


def _displaced(other: str, path: str) -> bool:
    """Whether a line is about a part of what another line is about, or the other way round."""
    return other.startswith((f"{path}.", f"{path}[")) or path.startswith((f"{other}.", f"{other}["))


def write(name: str, text: Text, base: str | None = None, whole: Text | None = None) -> None:
    """Store a text: whole, or as what differs from that of `base`."""
    lines = [] if base is None else [f"as {base}, but"]
    known = whole or {}
    changed = {path: value for path, value in text.items() if known.get(path) != value}
    gone = [path for path in known if path not in text and not any(_displaced(path, one) for one in changed)]
    lines += [f"without {path}" for path in gone] + [f"{path} = {value}" for path, value in changed.items()]
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.txt").write_text("\n".join(lines) + "\n")


def compare(name: str, text: Text) -> None:
    """Assert that a text is the stored one, naming the lines that are not."""
    stored = read(name)
    apart = [
        f"{path}: {stored.get(path, 'nothing')} is now {text.get(path, 'nothing')}"
        for path in [*stored, *(path for path in text if path not in stored)]
        if stored.get(path) != text.get(path)
    ]
    assert not apart, "\n".join([f"golden/{name}.txt: {REVIEW}", *apart])
