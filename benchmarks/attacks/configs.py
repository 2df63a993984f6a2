"""A stranger's config, plugin or request: nothing of it may run, write or import."""

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.attacks.room import Found, Room

__all__ = ["components", "config", "plugin", "service"]

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMANDS = {
    "eval": ["eval", "--workdir=run"],
    "reconstruct": ["reconstruct", "--workdir=run", "--videos=run/a.mp4", "--out=out"],
    "features": ["features", "--workdir=run", "--videos", "run/a.mp4", "--out=out"],
    "export": ["export", "--workdir=run", "--format=hf", "--out=out"],
    "train": ["train", "--workdir=run", "--quiet"],
}
PLUGINS = (
    "subprocess",
    "os",
    "evil",
    "../evil",
    "evil.x",
    "vmae_jax",
    "data",
    "train",
    "sys",
    "builtins",
    ".",
    "evil,os",
)
TOKENS = ("pyfunc_0", "pyfunc_1", "vmae_decode", "vmae_", "vmae_" + "0" * 64)


def exploits(marker: pathlib.Path) -> list[dict[str, Any]]:
    """Calls that would run, write or read something."""
    shell = ["sh", "-c", f"id > {marker}"]
    run = {"call": "runtime.supervisor.supervise", "command": shell, "processes": 1, "restarts": 0, "grace": 1.0,
           "wait": 1.0}  # fmt: skip
    text = str(marker)
    return [
        run,
        {"call": "runtime.supervisor.main", "arguments": ["--processes=1", "--", *shell]},
        {"call": "commands.config.load_config", "target": str(marker.parent / "evil.py")},
        {"call": "plugins.allow_plugins", "packages": ["subprocess"]},
        {"call": "subprocess.getoutput", "cmd": shell[-1]},
        {"call": "os.system", "command": shell[-1]},
        {"call": "evil.run"},
        {"call": "io.paths.write_text", "path": text, "text": "x"},
        {"call": "io.paths.read_lines", "path": "/etc/passwd"},
        {"call": "data.process.main", "arguments": ["0", "1"]},
        {"call": "masking.tube", "ratio": run},
        {"call": "data.sources.folder", "path": run},
        {"call": run},
    ]


def config(number: int, room: Room) -> Found:
    """One exploit at one place of a workdir's config.json, opened by one command."""
    base = room.shared("workdir", _workdir)
    chance, name = room.random, list(COMMANDS)[number % len(COMMANDS)]
    run = room.work / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(base / "checkpoints")
    (run / "a.mp4").write_bytes(b"no video")
    _evil(room)
    whole = json.loads((base / "config.json").read_text())
    exploit = chance.choice(exploits(room.marker))
    places = [place for place in _places(whole) if name != "export" or place[0] == "method"]
    place = ("seed",) if number < len(COMMANDS) and name != "export" else chance.choice(places)
    node: Any = whole
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = chance.choice([exploit, exploit, [exploit], {"x": exploit}, {"x": {"y": [exploit]}}])
    (run / "config.json").write_text(json.dumps(whole))
    outcome = room.vmae(*COMMANDS[name])
    problems = room.problems(outcome, {2})
    # The exploit must be what was refused, and not a file that this folder lacks.
    if "no checkpoint" in str(outcome.answer.get("error")) or "a.mp4" in str(outcome.answer.get("error")):
        problems.append(f"refused for another reason: {outcome.answer['error']}")
    return Found(f"{name}: {exploit['call']} as {'.'.join(map(str, place))}", tuple(problems))


def _workdir(folder: pathlib.Path) -> None:
    """A workdir with the config of the quick start, and a checkpoint of one array."""
    import numpy as np

    from vmae_jax.configs import quickstart
    from vmae_jax.io.checkpoint import Checkpoints
    from vmae_jax.spec import to_json

    (folder / "config.json").write_text(to_json(quickstart.get_config("smoke")))
    saver = Checkpoints(folder / "checkpoints", asynchronous=False)
    saver.save(0, {"params": {"x": np.zeros(1)}}, {})
    saver.close()


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a config, those that hold other places as well."""
    if place:
        yield place
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(one, (*place, key))


def _evil(room: Room) -> None:
    """A module in the working folder, and one outside, that show that they were imported."""
    code = f"import pathlib\npathlib.Path({str(room.marker)!r}).touch()\ndef run():\n    return 0\n"
    (room.work / "evil.py").write_text(code)
    (room.work / "evil_features.py").write_text(code)


def components(number: int, room: Room) -> Found:
    """Every registered component with hostile arguments (`benchmarks/audit_components.py`)."""
    del room
    command = [sys.executable, str(ROOT / "benchmarks" / "audit_components.py"), f"--seed={number}"]
    sample = os.environ.get("ATTACK_BUILDS")  # of the tests: some of the builds
    done = subprocess.run(
        [*command, f"--count={sample}"] if sample else command, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return Found("all", (done.stderr.strip()[-500:] or str(done.returncode),))
    found = json.loads(done.stdout.splitlines()[-1])
    problems = (*found["events"], *(f"{key}: {value}" for key, value in found["odd"].items()))
    return Found("all", problems, tried=found["builds"])


def plugin(number: int, room: Room) -> Found:
    """A workdir that records a plugin, or names a package: imported only if --plugins names it and it registers."""
    base = room.shared("workdir", _workdir)
    _evil(room)
    run, name = room.work / "run", PLUGINS[number % len(PLUGINS)]
    run.mkdir()
    (run / "checkpoints").symlink_to(base / "checkpoints")
    whole = json.loads((base / "config.json").read_text())
    whole["method"]["objectives"]["x"] = {"call": f"{name.split(',')[0]}.{room.random.choice(['run', 'getoutput'])}"}
    (run / "config.json").write_text(json.dumps(whole))
    recorded = number % 3 == 1
    if recorded:
        (run / "plugins.json").write_text(json.dumps({name: "0" * 64}))
    given = not recorded and number % 2 == 1 and not name.startswith("evil")
    outcome = room.vmae("features", "--workdir=run", "--videos", "a.mp4", "--out=out", *[f"--plugins={name}"] * given)
    label = f"{name}, {'recorded' if recorded else 'given' if given else 'named'}"
    return Found(label, tuple(room.problems(outcome, {2})))


def service(number: int, room: Room) -> Found:
    """Requests to a data service by someone who does not have its secret."""
    from vmae_jax.data import service

    os.environ[service.SECRET] = f"the secret of case {number}, for nobody else"
    started: list[subprocess.Popen[str]] = []
    try:
        dispatcher = _serve(room, started)
        address = f"localhost:{dispatcher.split('port ')[1].split(';')[0]}"
        line = _serve(room, started, f"--dispatcher={address}", "--workers=1")
        if "decoding for" not in line:
            raise RuntimeError(line)
        tokens = [*TOKENS, service.function_name(service.read_secret())]
        problems = [found for token in tokens for found in _asked(room, address, token)]
        problems += [f"a process ended with {one.returncode}" for one in started if one.poll() is not None]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    return Found("tokens", tuple(problems), tried=len(tokens))


def _serve(room: Room, started: list[subprocess.Popen[str]], *arguments: str) -> str:
    """Start a process of the service; return its first line."""
    command = [sys.executable, "-m", "vmae_jax", "data", "serve", "--open", *arguments]
    process = subprocess.Popen(command, cwd=room.work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started.append(process)
    assert process.stderr is not None
    return process.stderr.readline()


def _asked(room: Room, address: str, token: str) -> list[str]:
    """Have the worker call a function with a config that runs a command: refused, and nothing runs."""
    attack = json.dumps(exploits(room.marker)[0])

    def act() -> int:
        import tensorflow as tf

        from vmae_jax.data.service import PROTOCOL

        service = tf.data.experimental.service
        inputs = [tf.constant("0" * 64), tf.constant(attack), *(tf.constant(n, tf.int64) for n in (0, 1, 0, 0)),
                  tf.constant([0], tf.int64)]  # fmt: skip
        dataset = tf.data.Dataset.range(1).map(lambda _: tf.raw_ops.PyFunc(input=inputs, token=token, Tout=[tf.uint8]))
        part = service.distribute(service.ShardingPolicy.OFF, f"{PROTOCOL}://{address}", compression=None)
        try:
            list(dataset.apply(part).as_numpy_iterator())
        except tf.errors.OpError as error:
            print(error)
            return 2
        return 0

    outcome = room.call(act, limit=60)
    time.sleep(0.2)
    refused = "Could not find callback" in outcome.out or "not signed with this worker's secret" in outcome.out
    if outcome.status == 2 and refused:
        return []
    return [f"token {token[:12]!r}: status {outcome.status}: {(outcome.out + outcome.err)[-300:]}"]
