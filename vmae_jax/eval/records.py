"""The records in the folder of a run: metrics, events, pictures, unreadable videos."""

import dataclasses
import io
import json
import math
import os
import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath
from PIL import Image

from vmae_jax.eval.reconstruction import KEY
from vmae_jax.spec import ConfigError

__all__ = ["Picture", "Run", "read"]

_PICTURE_BYTES = 8 * 2**20


class Picture(NamedTuple):
    """A PNG of `media/`: its bytes, size in pixels, step (if its name has one), rows, and their videos."""

    name: str
    content: bytes
    size: tuple[int, int]
    step: int | None
    rows: tuple[str, ...]
    borrowed: tuple[str, ...]
    videos: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's records; any of them may be missing.

    Attributes:
      path: its folder.
      config: as plain data; None if there is none, or it cannot be read.
      train, evals, events: rows in the order of their steps.
      quarantine: the rows of `quarantine.jsonl`.
      environment: the rows of `environment.jsonl`, one per start.
      problems: files that could not be read, for the report.
    """

    path: epath.Path
    config: dict[str, Any] | None
    train: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    events: list[dict[str, Any]]
    quarantine: list[dict[str, Any]]
    problems: list[str]
    environment: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name or os.fspath(self.path)

    @property
    def step(self) -> int:
        """The last step with a row, or the one at which the run was asked to stop."""
        stopped = (event for event in self.events if event.get("event") == "preempted")
        return max((row["step"] for row in (*self.train, *stopped)), default=0)

    @property
    def length(self) -> int | None:
        """The length of the run in steps, from its events or its config."""
        for event in reversed(self.events):
            if isinstance(event.get("steps"), int):
                return event["steps"]
        length = self.setting("train", "length")
        if not isinstance(length, Mapping):
            return None
        if isinstance(length.get("steps"), int):
            return length["steps"]
        batch = self.setting("data", "global_batch")
        if isinstance(length.get("examples"), int) and isinstance(batch, int) and batch > 0:
            return math.ceil(length["examples"] / batch)
        return None

    def setting(self, *names: str) -> Any:
        """Return a value of the config by its path, or None."""
        node: Any = self.config
        for name in names:
            node = node.get(name) if isinstance(node, Mapping) else None
        return node

    def status(self) -> tuple[str, str, str]:
        """The state of the run: a colour, a word, and a sentence if one is needed."""
        if self.events and self.events[-1].get("event") == "too many videos cannot be read":
            return "bad", "stopped", str(self.events[-1].get("message", ""))
        if not self.train:
            where = (
                "config.json exists, so the run was started"
                if self.config is not None
                else "and there is no config.json"
            )
            return (
                "",
                "no metrics yet",
                f"There is no row of metrics in this folder ({where}). Write the report again later.",
            )
        after = [str(event.get("event", "")) for event in self.events if event["step"] >= self.step]
        if "not finite" in after:
            return "bad", "stopped", "The loss or its gradient was not finite in the last steps; see the events below."
        if "spike" in after:
            return "bad", "stopped", "The loss or its gradient was far above those before it; see the events below."
        newest = self.events[-1] if self.events else {}
        if newest.get("event") == "collapse" and newest.get("action") == "stop":
            return "bad", "stopped", f"The features collapsed ({newest.get('reason', '')}); see the section Features."
        if self.length is not None and self.step >= self.length:
            return "good", "done", ""
        if "preempted" in after:
            return "", "preempted", "The run was asked to stop and saved its state: the same command resumes it."
        return "", "not finished", ""

    def warnings(self) -> list[str]:
        """The warnings of the run, each once."""
        found = (event.get("message") for event in self.events if event.get("event") == "warning")
        return list(dict.fromkeys(str(message) for message in found if message))

    def recorded(self, key: str) -> Any:
        """Return the newest value of `key` in any event, or None."""
        return next((event[key] for event in reversed(self.events) if key in event), None)

    def series(self, key: str, *, kind: str = "train") -> list[tuple[int, float]]:
        """Return (step, value) of a metric, ascending; "NaN" and "Infinity" become floats."""
        rows = self.train if kind == "train" else self.evals
        points = {row["step"]: _float(row[key]) for row in rows if key in row}
        return sorted((step, value) for step, value in points.items() if value is not None)

    def names(self, *, kind: str = "train") -> list[str]:
        """Return the metrics of all rows, in the order of their first appearance."""
        rows = self.train if kind == "train" else self.evals
        names = dict.fromkeys(name for row in rows for name in row if name not in ("kind", "step", "time"))
        return [name for name in names if self.series(name, kind=kind)]

    def pictures(self, most: int) -> tuple[list[Picture], list[str]]:
        """Return the first and the newest pictures, at most `most`, newest first, and the names of the rest."""
        folder = self.path / "media"
        files = [entry for entry in folder.iterdir() if entry.suffix.lower() == ".png"] if folder.is_dir() else []
        files.sort(key=lambda file: (_step_of(file.name) or 0, file.name), reverse=True)
        chosen = files if len(files) <= most else [*files[: most - 1], files[-1]]
        read_, rest = [], [file.name for file in files if file not in chosen]
        for file in chosen:
            picture = _picture(file)
            if picture is None:
                rest.append(file.name)
            else:
                read_.append(picture)
        return read_, rest

    def judgement(self) -> tuple[str, list[Picture], list[str]]:
        """Return the newest evaluation with files: the name of its folder, its pictures, and names of its tables."""
        folder = self.path / "eval"
        found = [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
        if not found:
            return "", [], []
        newest = max(found, key=lambda entry: entry.name)
        files = sorted(newest.iterdir(), key=lambda file: file.name)
        pictures = [_picture(file) for file in files if file.suffix.lower() == ".png"]
        return newest.name, [p for p in pictures if p is not None], [f.name for f in files if f.suffix != ".png"]


def read(workdir: epath.PathLike) -> Run:
    """Read the records in `workdir`; nothing in it is executed.

    Raises:
      ConfigError: if there is no such folder.
    """
    path = epath.Path(workdir)
    if not path.is_dir():
        raise ConfigError(f"{os.fspath(path)}: there is no such folder; --workdir names the folder of a run")
    problems: list[str] = []
    rows = _rows(path / "metrics.jsonl", problems)
    rows = [row for row in rows if isinstance(row.get("step"), int) and not isinstance(row["step"], bool)]
    rows.sort(key=lambda row: row["step"])
    kinds = {kind: [row for row in rows if row.get("kind") == kind] for kind in ("train", "eval", "event")}
    quarantine = _rows(path / "quarantine.jsonl", problems)
    environment = _rows(path / "environment.jsonl", problems)
    config = _config(path / "config.json", problems)
    return Run(path, config, kinds["train"], kinds["eval"], kinds["event"], quarantine, problems, environment)


def _config(path: epath.Path, problems: list[str]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        problems.append(f"{path.name} is not a config: expected a JSON object")
        return None
    return config


def _rows(path: epath.Path, problems: list[str]) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines, or of its parts (`PATH/part-*`) in a bucket."""
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.exists() else []
    rows, bad = [], 0
    for file in files:
        text = file.read_bytes().decode("utf-8", errors="replace")
        for line in text[: text.rfind("\n") + 1].split("\n"):  # a line that is being written has no end
            try:
                row = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError):
                row = 0
            if isinstance(row, dict):
                rows.append(row)
            elif row is not None:
                bad += 1
    if bad:
        problems.append(f"{path.name}: {bad} lines could not be read")
    return rows


def _picture(file: epath.Path) -> Picture | None:
    """Return the PNG, or None if it is not one or too large for a page."""
    content = file.read_bytes()
    if len(content) > _PICTURE_BYTES:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                size = image.size
                image.load()
                about = json.loads(getattr(image, "text", {}).get(KEY, "{}"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    about = about if isinstance(about, dict) else {}
    rows, borrowed, videos = (
        tuple(str(name) for name in about.get(key, ()) or ()) for key in ("rows", "borrowed", "videos")
    )
    return Picture(file.name, content, size, _step_of(file.name), rows, borrowed, videos)


def _step_of(name: str) -> int | None:
    numbers = re.findall(r"\d+", name.rpartition(".")[0])
    return int(numbers[-1]) if numbers and len(numbers[-1]) < 16 else None


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
