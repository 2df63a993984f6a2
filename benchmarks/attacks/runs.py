"""What happens around a run: pages of a stranger's records, full disks, killed workers, a second run."""

import contextlib
import html.parser
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.attacks.files import clips
from benchmarks.attacks.room import Found, Room

__all__ = ["full_disk", "page", "two_runs", "workers"]

INJECTIONS = (
    "</script><script>alert(1)</script>", "\"'><img src=x onerror=alert(2)>", "<iframe src=http://127.0.0.1:{port}/>",
    "javascript:alert(1)", "]]></style><script src=//127.0.0.1:{port}/x.js></script>", "<svg onload=alert(1)>",
    "\ud800", "&lt;script&gt;", "\u2028</title><script>1</script>", "<!--", "url(http://127.0.0.1:{port}/)",
    "\0", "a" * 100_000,
)  # fmt: skip
WRITERS = ("prepare", "validate --json", "report", "train", "quarantine", "metrics", "checkpoint")


def page(number: int, room: Room) -> Found:
    """Markup in every record of a run: the page has no script, no event handler and no address but its own."""
    run, chance = room.work / "run", room.random
    (run / "media").mkdir(parents=True)
    evil = lambda: chance.choice(INJECTIONS).replace("{port}", str(room.port))  # noqa: E731
    rows: list[dict[str, Any]] = [
        {"kind": "train", "step": step, "loss": 1 / step, evil(): step} for step in range(1, 9)
    ]
    rows += [{"kind": "event", "step": 3, "event": evil(), evil(): evil()}, {"kind": "eval", "step": 4, evil(): 0.5}]
    rows += [{"kind": "event", "step": 2, "event": "time spent", "trained": evil()}, {"kind": evil(), "step": evil()}]
    _lines(run / "metrics.jsonl", rows)
    _lines(run / "quarantine.jsonl", [{"path": evil(), "reason": evil(), "kind": evil(), "index": evil()}])
    _lines(run / "skipped.jsonl", [{"first": 1, "last": 2, "back_to": 0, "reason": evil()}])
    _lines(run / "environment.jsonl", [{"command": evil(), "commit": evil(), "jax": evil(), evil(): evil(), "time": 1}])
    (run / "config.json").write_text(json.dumps({evil(): [evil()], "method": {"call": evil()}}))
    (run / "media" / "a'\"<b onload=1>_3.png").write_bytes(b"\x89PNG no")
    several = number % 3 == 2
    if several:
        shutil.copytree(
            run, room.work / evil()[:40].replace("/", "_").replace("\0", "_").replace("\ud800", "_"), dirs_exist_ok=True
        )
    others = [f"--workdir={one}" for one in room.work.iterdir() if several and one != run]
    outcome = room.vmae("report", "--workdir=run", *others, "--out=page.html")
    problems = room.problems(outcome, {0})
    if outcome.status == 0:
        problems += _page_problems((room.work / "page.html").read_text())
    return Found("several runs" if others else "one run", tuple(problems))


def _lines(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class _Page(html.parser.HTMLParser):
    """The tags of a page and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def _page_problems(text: str) -> list[str]:
    tags = _Page(text).tags
    found = [f"a tag {tag}" for tag, _ in tags if tag in ("iframe", "object", "embed", "base", "form")]
    scripts = sum(tag == "script" for tag, _ in tags)
    found += [f"{scripts} scripts"] if scripts > 1 else []
    for tag, attributes in tags:
        found += [f"{tag} has {name}" for name in attributes if name.startswith("on")]
        found += [f"{tag} leads to {value[:80]}" for name, value in attributes.items()
                  if name in ("src", "href") and value and not re.match(r"data:|#", value)]  # fmt: skip
    policies = [one["content"] or "" for _, one in tags if one.get("http-equiv") == "Content-Security-Policy"]
    return found + ([] if policies and policies[0].startswith("default-src 'none'") else ["no policy"])


@contextlib.contextmanager
def _disk(folder: pathlib.Path, room_for: int) -> Iterator[None]:
    """A disk with so many bytes of room."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room_for}", "attack", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(number: int, room: Room) -> Found:
    """A disk that is full at once or soon: status 75, or 2 before anything began, or the run goes on; never 1."""
    what, size = WRITERS[number % len(WRITERS)], room.random.choice([4096, 8192, 40960, 131072])
    if os.geteuid():
        return Found("not run: mounting a small disk needs root", tried=0)
    videos, disk = room.work / "videos", room.work / "disk"
    videos.mkdir()
    for name, content in clips(3).items():
        (videos / name).write_bytes(content)
    (videos / "broken.mp4").write_bytes(b"no video")
    (room.work / "run").mkdir()
    _lines(room.work / "run" / "metrics.jsonl", [{"kind": "train", "step": n, "loss": 1.0} for n in range(1, 9)])
    with _disk(disk, size):
        _fill(disk, room.random.choice([0, 4096]))
        commands = {
            "prepare": ["data", "prepare", videos, "--out=disk/out", "--workers=1", "--quiet"],
            "validate --json": ["data", "validate", videos, "--json=disk/found.json", "--workers=1", "--quiet"],
            "report": ["report", "--workdir=run", "--out=disk/page.html"],
            "train": ["train", "--config=configs/quickstart.py:smoke", "--workdir=disk/run", "--quiet"],
        }
        if what in commands:
            outcome = room.vmae(*commands[what])
            # Small outputs may still fit; validate ends with 1 for the broken video.
            expected = {"validate --json": {1, 75}, "train": {2, 75}}.get(what, {0, 75})
            return Found(f"{what}, {size}", tuple(room.problems(outcome, expected)))
        outcome = room.call(lambda: _write_much(what, disk))
        return Found(f"{what}, {size}", tuple(room.problems(outcome, {0})))


def _fill(disk: pathlib.Path, left: int) -> None:
    """Write to a disk until so many bytes are left."""
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(max(0, free - left)))


def _write_much(what: str, disk: pathlib.Path) -> int:
    """The writers of a training that go on, and the save that ends it with 75."""
    from vmae_jax.commands.errors import exit_status, expected
    from vmae_jax.io.checkpoint import Checkpoints
    from vmae_jax.io.quarantine import Quarantine
    from vmae_jax.io.writers import JsonlWriter, TensorBoardWriter, Writers

    if what == "quarantine":
        listed = Quarantine(disk / "quarantine.jsonl")
        for index in range(500):
            listed.add([(f"{index}.mp4", "is empty " * 20, index, "broken")])
        (disk / "filler").unlink()
        listed.flush()
        rows = [json.loads(line) for line in (disk / "quarantine.jsonl").read_text().splitlines()]
        assert all(row["index"] == index for index, row in enumerate(rows)), "rows are missing or double"
    elif what == "metrics":
        writers = Writers([JsonlWriter(disk / "metrics.jsonl"), TensorBoardWriter(disk / "tensorboard")])
        for step in range(300):
            writers.scalars(step, {"loss": 1.0, "x" * 200: 2.0})
            writers.flush()
        writers.close()
    else:
        saver = Checkpoints(disk / "checkpoints", asynchronous=False)
        try:
            saver.save(1, {"a": np.random.default_rng(0).normal(size=100_000)}, {})
        except Exception as error:
            if exit_status(error) == 75 and expected(error):
                return 0
            raise
        raise AssertionError("800 kB were saved on a full disk")
    return 0


def workers(number: int, room: Room) -> Found:
    """Decoding workers killed or stopped at random moments: every video has the clips of an undisturbed reading."""
    how = (signal.SIGKILL, signal.SIGSTOP)[number % 2]
    delays = [room.random.uniform(0.0, 0.4) for _ in range(3)]

    def act() -> int:
        from vmae_jax.data import process
        from vmae_jax.data.clips import dense
        from vmae_jax.data.decode import read_clips
        from vmae_jax.data.video import Encoded
        from vmae_jax.data.workers import Workers

        process.STILL = 1.5  # times the timeout: when a worker that stands still is replaced
        process.START_SECONDS = 30.0  # one that is stopped while it starts
        pool, seed = Workers(2, sampler=dense(8, 2), timeout=4.0), np.array([1, 2], np.uint32)
        videos = [Encoded(data=content, key=name) for name, content in clips(4).items()]
        wanted = [read_clips(one, dense(8, 2), seed).arrays["video"] for one in videos]
        over = threading.Event()

        def disturb() -> None:
            for delay in delays:
                over.wait(delay)
                for pid in _children()[:1]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, how)

        thread = threading.Thread(target=disturb)
        thread.start()
        end = time.monotonic() + 1.5
        try:
            while time.monotonic() < end or thread.is_alive():
                for one, clip in zip(videos, wanted, strict=True):
                    np.testing.assert_array_equal(pool.decode(one, seed).arrays["video"], clip)
        finally:
            over.set()
            thread.join()
            pool.close()
        return 0

    return Found(how.name, tuple(room.problems(room.call(act), {0})), tried=len(delays))


def _children() -> list[int]:
    """The children of all threads of this process."""
    files = pathlib.Path("/proc/self/task").glob("*/children")
    return sorted(int(pid) for file in files for pid in file.read_text().split())


def two_runs(number: int, room: Room) -> Found:
    """A second run in a workdir is refused in one line; after SIGKILL of the first it need not wait."""
    run = room.work / "run"

    def hold() -> int:
        from vmae_jax.io.lock import Lock

        with Lock(run) as lock:
            lock.acquire()
            (room.work / "held").touch()
            time.sleep(600)
        return 0

    first = room.start(hold)
    end = time.monotonic() + 120
    while not (room.work / "held").exists() and time.monotonic() < end:
        time.sleep(0.01)
    if number % 2:
        os.kill(first, signal.SIGSTOP)
    arguments = ["train", "--config=configs/quickstart.py:smoke", "--workdir=run", "--quiet"]
    outcome = room.vmae(*arguments)
    problems = room.problems(outcome, {2}, f"process {first}")
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)

    def take() -> int:
        from vmae_jax.io.lock import Lock

        with Lock(run) as lock:
            lock.acquire()
        return 0

    outcome = room.call(take, limit=30)
    problems += [f"after the kill: {one}" for one in room.problems(outcome, {0})]
    return Found("stopped" if number % 2 else "alive", tuple(problems), tried=2)
