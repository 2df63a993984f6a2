"""Files that are damaged, half written or a stranger's: weights, checkpoints, and the metadata of prepared folders."""

import json
import os
import pathlib
import shutil
import signal
import time
from typing import Any

from benchmarks.attacks.room import Found, Outcome, Room

__all__ = ["damaged", "forged", "killed", "prepared", "strays", "weights"]

FILES = 100  # of weights, in one case
STEPS = (4, 8)
EVIL = "evil_features.Feature"


def weights(number: int, room: Room) -> Found:
    """Mutated files of weights (`benchmarks/fuzz_weights.py`)."""
    from benchmarks import fuzz_weights

    results = list(fuzz_weights.tried(room.random.randrange(1 << 30), FILES))
    crashes = [f"{one['family']}, {one['mutation']}: {one['message']}" for one in results if one["result"] == "crash"]
    return Found(f"files {number * FILES} to {(number + 1) * FILES - 1}", tuple(crashes), tried=FILES)


def damaged(number: int, room: Room) -> Found:
    """A file of the newest step, that reading needs, is changed, cut off or deleted; sometimes of both steps."""
    base = room.shared("checkpoints", _two_steps)
    needed = json.loads((base / "needed.json").read_text())  # by step
    folder = room.work / "checkpoints"
    shutil.copytree(base / "checkpoints", folder)
    steps = STEPS if number % 10 == 9 else STEPS[1:]
    done = []
    for step in steps:
        name = room.random.choice(needed[str(step)])
        file, how = folder / str(step) / name, room.random.choice(["flip", "truncate", "delete", "zero", "swap"])
        _damage(room, file, how)
        done.append(f"{how} {step}/{name}")
    outcome = room.call(lambda: _print_newest(folder))
    return Found(", ".join(done), tuple(_read_problems(room, outcome, set(STEPS))))


def _two_steps(folder: pathlib.Path) -> None:
    """Two steps, and which of a step's files reading needs."""
    _save(folder / "checkpoints", STEPS)
    needed: dict[int, list[str]] = {step: [] for step in STEPS}
    for step in STEPS:
        whole, alone = folder / "checkpoints" / str(step), folder / "alone" / str(step)
        shutil.copytree(whole, alone)
        for file in sorted(one for one in alone.rglob("*") if one.is_file()):
            content = file.read_bytes()
            file.unlink()
            if _newest(alone.parent) != f"step {step}":
                needed[step].append(str(file.relative_to(alone)))
            file.write_bytes(content)
        shutil.rmtree(alone.parent)
    assert all(needed.values()), "reading needs no file"
    (folder / "needed.json").write_text(json.dumps(needed))


def _tree(step: int) -> dict[str, Any]:
    """The values of a step."""
    import numpy as np

    rng = np.random.default_rng(step)
    return {
        "params": {"a": rng.normal(size=(64, 32)).astype(np.float32), "b": rng.integers(0, 99, 7, np.int32)},
        "extra": {"ema": {"a": rng.normal(size=(64, 32)).astype(np.float32)}, "flag": np.array(True)},
        "step": np.array(step, np.int64),
    }


def _save(folder: pathlib.Path, steps: Any, *, asynchronous: bool = False) -> None:
    from vmae_jax.io.checkpoint import Checkpoints

    saver = Checkpoints(folder, asynchronous=asynchronous)
    for step in steps:
        saver.save(step, _tree(step), {"step": step})
    saver.close()


def _newest(folder: pathlib.Path) -> str:
    """The step that is read, if it has the values that were saved; or the error that a user sees."""
    from vmae_jax.commands.errors import describe, expected
    from vmae_jax.io import layout
    from vmae_jax.io.checkpoint import read_newest

    try:
        step, tree = read_newest(folder, select="")
    except Exception as error:
        return f"{'refused' if expected(error) else 'fault'}: {describe(error)}"
    found, wanted = layout.flat(tree), layout.flat(_tree(step))
    same = found.keys() == wanted.keys() and all(
        found[name].dtype == wanted[name].dtype and found[name].tobytes() == wanted[name].tobytes() for name in wanted
    )
    return f"step {step}" if same else f"WRONG VALUES in step {step}"


def _print_newest(folder: pathlib.Path) -> int:
    print(_newest(folder))
    return 0


def _read_problems(room: Room, outcome: Outcome, steps: set[int]) -> list[str]:
    answer = (outcome.out.strip() or "?").splitlines()[-1]
    problems = room.problems(outcome, {0})
    if not answer.startswith("refused: ") and answer not in {f"step {step}" for step in steps}:
        problems.append(f"read: {answer[:300]}")
    return problems


def _damage(room: Room, file: pathlib.Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "delete" or not content:
        file.unlink()
        return
    at, length = room.random.randrange(len(content)), room.random.randrange(1, 32)
    if how == "flip":
        content[at] ^= room.random.randrange(1, 256)
    elif how == "truncate":
        del content[at:]
    elif how == "zero":
        content[at : at + length] = bytes(len(content[at : at + length]))
    else:
        content[at : at + length] = reversed(content[at : at + length])
    file.write_bytes(content)


def killed(number: int, room: Room) -> Found:
    """SIGKILL at a random moment of a series of saves: every listed step is whole, and the next save works."""
    del number
    folder = room.work / "checkpoints"
    pid = room.start(lambda: _save(folder, range(1, 500), asynchronous=True))
    end = time.monotonic() + 120
    while (not folder.exists() or len(list(folder.iterdir())) < 2) and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(room.random.uniform(0.0, 0.5))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    outcome = room.call(lambda: _check_listed(folder))
    problems = room.problems(outcome, {0})
    if "listed " not in outcome.out:
        problems.append("no step was listed")
    return Found((outcome.out.strip() or "?").splitlines()[-1][:100], tuple(problems))


def _check_listed(folder: pathlib.Path) -> int:
    """Read every step that is listed, save another, and read that one."""
    from etils import epath

    from vmae_jax.io import layout
    from vmae_jax.io.checkpoint import read_newest
    from vmae_jax.io.steps import whole_steps

    steps = whole_steps(epath.Path(folder))
    for step in steps:
        found, wanted = layout.flat(read_newest(folder, select="", step=step)[1]), layout.flat(_tree(step))
        assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted), f"wrong values in {step}"
    after = max(steps, default=0) + 1
    _save(folder, [after])
    assert _newest(folder) == f"step {after}", _newest(folder)
    print(f"listed {len(steps)}, then saved {after}")
    return 0


STRAYS = ("²", "007", "+5", " 9", "1٣", "3_000", "-1", "9" * 30, "12", "99", "aside", "8.orbax-checkpoint-tmp-7",
          "step\n12", os.fsdecode(b"1\xff2"), "12\u202e")  # fmt: skip


def strays(number: int, room: Room) -> Found:
    """Folders, files, pipes and links among the steps, of any name: the newest step is read, and the next is saved."""
    base = room.shared("checkpoints", _two_steps)
    folder = room.work / "checkpoints"
    shutil.copytree(base / "checkpoints", folder)
    kinds: dict[str, Any] = {
        "an empty folder": pathlib.Path.mkdir, "a file": pathlib.Path.touch, "a FIFO": os.mkfifo,
        "a link to itself": lambda path: path.symlink_to(path), "a link to nothing": lambda path: path.symlink_to("no"),
        "a link outside": lambda path: path.symlink_to(room.outside),
        "a copy of a step": lambda path: shutil.copytree(folder / "8", path),
        "a step without its arrays": lambda path: shutil.copytree(folder / "8" / "meta", path / "meta"),
    }  # fmt: skip
    kind = list(kinds)[number % len(kinds)]
    for name in room.random.sample(STRAYS, 5):
        kinds[kind](folder / name)
    outcome = room.call(lambda: _print_newest(folder))
    problems = _read_problems(room, outcome, {8})
    outcome = room.call(lambda: _save_and_print(folder))
    problems += [f"after a save: {one}" for one in _read_problems(room, outcome, {100})]
    return Found(kind, tuple(problems), tried=2)


def _save_and_print(folder: pathlib.Path) -> int:
    _save(folder, [100])
    return _print_newest(folder)


def forged(number: int, room: Room) -> Found:
    """The signed table of the newest step has other rows, signed again: that step or the one before, or a refusal."""
    from vmae_jax.io import layout

    base = room.shared("checkpoints", _two_steps)
    folder = room.work / "checkpoints"
    shutil.copytree(base / "checkpoints", folder)
    document = folder / "8" / "meta" / "metadata"
    body = json.loads(document.read_text())
    del body["digest"]
    whole, value = body, room.random.choice(ROWS)
    if number % 3:
        whole = body["leaves"]
        key = room.random.choice(["more/x", "params/a/inside", "../x", "", "a" * 100_000, *whole])
    else:
        key = room.random.choice(list(whole))
    if number % 3 == 2 and isinstance(whole.get(key), list):
        whole, key = whole[key], room.random.randrange(3)
        value = room.random.choice(
            ["object", "V8", [1 << 62], [-1], [0, 1 << 62], [True], "0", None, 7, ["f4"], "<M8[s]"]
        )
    whole[key] = value
    document.write_text(json.dumps(body | {"digest": layout._digest(body)}))
    outcome = room.call(lambda: _print_newest(folder))
    return Found(f"{str(key)[:20]} = {str(value)[:30]}", tuple(_read_problems(room, outcome, set(STEPS))))


ROWS: tuple[Any, ...] = (
    ["object", [3], "00000000"], ["object", [0, 3], "00000000"], ["float32", [1 << 40, 1 << 40], "00000000"],
    ["float32", [-1], "00000000"], ["float32", [1] * 100, "00000000"], ["float32", ["3"], "00000000"],
    ["float32", [], 5], ["float32"], 7, None, [], {}, "x", [[[]]], 10**30, -1, True,
)  # fmt: skip


def prepared(number: int, room: Room) -> Found:
    """Metadata of a prepared folder that a stranger wrote."""
    base = room.shared("prepared", _prepared)
    folder = room.work / "folder"
    shutil.copytree(base / "out", folder)
    (room.work / "evil_features.py").write_text(f"open({str(room.marker)!r}, 'w')\n")
    os.environ["PYTHONPATH"] = f"{room.work}{os.pathsep}{os.environ['PYTHONPATH']}"
    name = ("features.json", "dataset_info.json")[number % 2]
    file = folder / name
    whole = json.loads(file.read_text())
    place = room.random.choice(list(_leaves(whole)))
    value: Any = room.random.choice(
        [EVIL, "../../outside/secret.txt", str(room.marker), f"http://127.0.0.1:{room.port}/x", "\0", "x" * 10**6,
         10**30, -1, None, [], {}, [[[]]], {"pythonClassName": EVIL}, {"python_class_name": EVIL}, "os.system", True]
    )  # fmt: skip
    if number % 8 < 2:
        place, value = ("pythonClassName",), EVIL
    node = whole
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    text = json.dumps(whole)
    if number % 5 == 4:
        at = room.random.randrange(len(text))
        text = room.random.choice([text[:at], "[" * 200_000, text[:at] + "\ud800\0" + text[at:], ""])
    file.write_bytes(text.encode(errors="surrogatepass"))
    command = ("info", "validate", "prepare")[number // 2 % 3]
    more = {"info": [], "validate": ["--workers=1", "--quiet"], "prepare": ["--out=again", "--workers=1", "--quiet"]}
    outcome = room.vmae("data", command, folder, *more[command])
    label = f"{command}: {name} {'.'.join(map(str, place))} = {str(value)[:40]!r}"
    return Found(label, tuple(room.problems(outcome, {0, 1, 2})))


def _prepared(folder: pathlib.Path) -> int:
    from benchmarks.attacks.files import clips
    from vmae_jax.cli import main

    (folder / "videos" / "a").mkdir(parents=True)
    for name, content in clips(3).items():
        (folder / "videos" / "a" / name).write_bytes(content)
    return main(["data", "prepare", str(folder / "videos"), f"--out={folder / 'out'}", "--labels=folders",
                 "--workers=1", "--quiet"])  # fmt: skip


def _leaves(value: Any, place: tuple[Any, ...] = ()) -> Any:
    if place:
        yield place
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(one, (*place, key))
