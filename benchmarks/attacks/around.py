"""Hosts whose data differ, clocks that are set, limits on the size of files, and signals at any moment."""

import json
import os
import pathlib
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

from benchmarks.attacks.files import clips
from benchmarks.attacks.room import Found, Room

__all__ = ["DIFFERENCES", "clocks", "hosts", "limits", "signals"]

LIMITED = ("prepare", "prepare, tfrecord", "validate --json", "train")
TRAIN = ("train", "--config=configs/quickstart.py:smoke", "--workdir=run", "--quiet",
         "--config.train.pictures_every=none")  # fmt: skip
YEARS = 3 * 365 * 86400.0


def _other_byte(path: pathlib.Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def _reversed_classes(folder: pathlib.Path) -> None:
    (folder / "a").rename(folder / "c")
    (folder / "b").rename(folder / "a")
    (folder / "c").rename(folder / "b")


# What one host's copy of the videos lacks or has otherwise, and whether they may train together then.
DIFFERENCES: dict[str, tuple[Callable[[pathlib.Path], Any], bool]] = {
    "nothing": (lambda folder: None, True),
    "times of the files": (lambda folder: os.utime(folder / "a" / "0.mp4", (1, 1)), True),
    "the first byte": (lambda folder: _other_byte(folder / "a" / "0.mp4", 0), False),
    "the last byte": (lambda folder: _other_byte(folder / "b" / "1.mp4", -1), False),
    "a size": (lambda folder: os.truncate(folder / "b" / "1.mp4", 1000), False),
    "an empty video": (lambda folder: os.truncate(folder / "a" / "0.mp4", 0), False),
    "a name": (lambda folder: (folder / "a" / "0.mp4").rename(folder / "a" / os.fsdecode(b"\xff.mp4")), False),
    "a video less": (lambda folder: (folder / "b" / "1.mp4").unlink(), False),
    "a video more": (lambda folder: shutil.copy(folder / "b" / "1.mp4", folder / "b" / "9.mp4"), False),
    "the classes": (_reversed_classes, False),
    "a caption": (lambda folder: (folder / "texts.csv").write_text("path,caption\na/0.mp4,two\nb/1.mp4,one\n"), False),
    "a file beside": (lambda folder: (folder / "a" / "0_imu.csv").write_text("seconds,x\n0,1\n0.5,2\n"), False),
    "no file beside": (lambda folder: (folder / "a" / "0_imu.csv").unlink(), False),
}


def hosts(number: int, room: Room) -> Found:
    """Two hosts whose videos differ in one thing, alone or in a mixture: they are refused in one line."""
    made = clips(2)
    first, second = room.work / "first", room.work / "second"
    for name, content in (("a/0.mp4", made["made_0.mp4"]), ("b/1.mp4", made["made_1.mp4"])):
        (first / name).parent.mkdir(parents=True)
        (first / name).write_bytes(content)
        (first / name).with_name(f"{name[2]}_imu.csv").write_text("seconds,x\n0,1\n")
    (first / "texts.csv").write_text("path,caption\na/0.mp4,one\nb/1.mp4,one\nb/0.mp4,one\n")
    mixed = bool(number % 2)
    problems = []
    for name, (change, same) in DIFFERENCES.items():
        shutil.copytree(first, second)
        change(second)
        outcome = room.call(lambda: _compared([first, second], mixed))
        problems += [f"{name}: {one}" for one in room.problems(outcome, {0})]
        if outcome.status == 0 and ("refused: " not in outcome.out) != same:
            problems.append(f"{name}: {outcome.out[-200:]!r}")
        shutil.rmtree(second)
    return Found("in a mixture" if mixed else "alone", tuple(problems), tried=len(DIFFERENCES))


def _compared(folders: list[pathlib.Path], mixed: bool) -> int:
    """What hosts compare at their start; each of these folders is on a host of its own."""
    from vmae_jax.commands.errors import describe
    from vmae_jax.data import mixture, sides, sources
    from vmae_jax.data.source import facts_of
    from vmae_jax.runtime import distributed
    from vmae_jax.spec import ConfigError

    notes = {}
    for rank, folder in enumerate(folders):
        beside = {"text": sides.table(str(folder / "texts.csv"), "caption"), "imu": sides.sidecar("_imu.csv")}
        source: Any = sides.beside(sources.folder(str(folder), labels="folders"), beside)
        if mixed:
            source = mixture.mixture({"one": mixture.part(source), "two": mixture.part(source)})
        notes[rank] = {"host": f"h{rank}", "facts": facts_of(source.open())}
    distributed.jax.process_count = lambda: len(folders)
    try:
        distributed._compare("start", notes, timeout=1.0)
    except ConfigError as error:
        print("refused: " if describe(error).isprintable() else "not printable: ", describe(error))
    return 0


def clocks(number: int, room: Room) -> Found:
    """The time of day set years back and forth while a run is killed and resumed: no second is lost or made up."""
    chance, runs = random.Random(room.random.randrange(1 << 30)), 20

    def act() -> int:
        for index in range(runs):
            found, wall = _timed(chance, room.work / f"{index}.jsonl")
            assert all(seconds >= 0 for seconds in found.values()), found
            assert abs(sum(found.values()) - wall) < 1e-2, (index, found, wall)
        return 0

    return Found(f"runs {number * runs} on", tuple(room.problems(room.call(act), {0})), tried=runs)


def _timed(chance: random.Random, path: pathlib.Path) -> tuple[dict[str, float], float]:
    """A run of several attempts on clocks of our own: its account, and the seconds that went by on the machine."""
    from vmae_jax.io import clock
    from vmae_jax.io.writers import JsonlWriter, read_rows
    from vmae_jax.runtime.goodput import EVENT, Account, Moment, carried

    up, day = [1000.0], [1.7e9]
    clock.steady = lambda: up[0]
    clock.boot = lambda: "one"
    real, time.time = time.time, lambda: day[0]

    def goes_on() -> float:
        seconds = chance.uniform(0.1, 50.0)
        up[0] += seconds
        day[0] += seconds + (chance.uniform(-YEARS, YEARS) if chance.random() < 0.3 else 0.0)
        return seconds

    saved, account = 0, Account(dict)
    try:
        for _ in range(chance.randrange(2, 6)):
            began = clock.now()
            spent = {"": 0.0, "step": 0.0}
            account = Account(lambda spent=spent: spent)
            account.carry(carried(read_rows(path) if path.exists() else [], saved, Moment(**began)))
            writer = JsonlWriter(path)
            writer.truncate_after(saved or -1)
            earlier = account.seconds()
            if not saved and (earlier["lost"] or earlier["down"]):  # as `commands/course.py` does it at a fresh start
                writer.event(0, EVENT, **earlier)
            writer.event(saved, "resumed" if saved else "started", boot=began["boot"], uptime=began["uptime"])
            for step in range(saved + 1, saved + chance.randrange(2, 9)):
                spent["step"] += goes_on()
                writer.scalars(step, {"loss": 1.0})
                if chance.random() < 0.5:
                    writer.event(step, EVENT, **account.seconds())
                    saved = step
            writer.close()
            result, wall = account.seconds(), up[0] - 1000.0
            goes_on()
    finally:
        time.time = real
    return result, wall


def limits(number: int, room: Room) -> Found:
    """A limit on the size of files (`ulimit -f`): 75, or all is done; no video is called broken, and it resumes."""
    what, size = LIMITED[number % len(LIMITED)], room.random.choice([500, 3000, 12_000, 60_000, 400_000])
    videos = room.work / "videos"
    videos.mkdir()
    for name, content in clips(3).items():
        (videos / name).write_bytes(content)
    command: list[Any] = {
        "prepare": ["data", "prepare", videos, "--out=out", "--workers=1", "--quiet"],
        "prepare, tfrecord": ["data", "prepare", videos, "--out=out", "--format=tfrecord", "--workers=1", "--quiet"],
        "validate --json": ["data", "validate", videos, "--json=found.json", "--workers=1", "--quiet"],
        "train": [*TRAIN, f"--config.data.source.path={videos}"],
    }[what]  # fmt: skip

    def limited() -> int:
        from vmae_jax.cli import main

        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return main([os.fspath(one) for one in command])

    outcome = room.call(limited)
    problems = [*room.problems(outcome, {0, 75}), *_good_called_broken(room)]
    outcome = room.vmae(*command)
    problems += [f"without the limit: {one}" for one in [*room.problems(outcome, {0}), *_good_called_broken(room)]]
    return Found(f"{what}, {size}", tuple(problems))


def _good_called_broken(room: Room) -> list[str]:
    found = []
    manifest, report = room.work / "out" / "prepared" / "train.json", room.work / "found.json"
    if manifest.exists() and json.loads(manifest.read_text())["rejected"]:
        found.append("a good video was rejected")
    if report.exists() and report.read_bytes() and json.loads(report.read_text())["found"]:
        found.append("a good video was reported")
    if (room.work / "run" / "quarantine.jsonl").exists():
        found.append("a good video was listed")
    return found


def signals(number: int, room: Room) -> Found:
    """SIGTERM or SIGINT, once or twice, at any moment from a training's start on; then the same command ends it."""
    which, twice = (signal.SIGTERM, signal.SIGINT)[number % 2], bool(number // 2 % 2)

    def train() -> int:
        from vmae_jax.cli import main

        return main(list(TRAIN))

    def disturbed() -> int:
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(train())
            except KeyboardInterrupt:
                os._exit(128 + signal.SIGINT)
        time.sleep(delay)
        for _ in range(1 + twice):
            os.kill(pid, which)
            time.sleep(pause)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status if status >= 0 else 128 - status

    delay, pause = room.random.uniform(0.5, 12.0), room.random.uniform(0.0, 1.0)
    outcome = room.call(disturbed)
    ended = 128 + which
    problems = [] if outcome.status == ended else room.problems(outcome, {0, 75})
    outcome = room.vmae(*TRAIN)
    problems += [f"the same command: {one}" for one in room.problems(outcome, {0})]
    return Found(f"{which.name}{', twice' * twice} after {delay:.1f} s", tuple(problems))
