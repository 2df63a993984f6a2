"""Exports of ours (`--format=params`) that somebody changed, handed to `vmae import` and to what reads weights."""

import json
import pathlib
import shutil
from typing import Any

import numpy as np

from benchmarks import fuzz_weights_files
from benchmarks.attacks.room import Found, Room

__all__ = ["own_params"]

FILES = 10  # of one case
MUTATIONS = ("header", "bytes", "values", "values", "config")
VALUES = (float("nan"), float("inf"), -float("inf"), 1e300)


def _exported(folder: pathlib.Path) -> None:
    """A small model under its own names, with the method that it belongs to."""
    from ml_collections import ConfigDict

    from vmae_jax.spec import call
    from vmae_jax.weights import own
    from vmae_jax.weights.subject import fresh_params, subject

    model = call("models.variants.vit", size="micro", frames=4, resolution=16, patch=8, width=24, heads=2,
                 decoder_width=16, decoder_heads=2, decoder_depth=1, dtype="float32")  # fmt: skip
    objective = call("targets.core.objective", target=call("targets.pixels"))
    method = call("methods.masked.build", model=model, encoder_mask=call("masking.random", ratio=0.5),
                  objectives={"pixels": objective})  # fmt: skip
    config = ConfigDict({"method": method, "seed": 0}, sort_keys=False, convert_dict=False)
    own.write(folder / "x.safetensors", fresh_params(subject(config), 0), config, np.float32)


def _mutated(content: bytes, how: str, rng: np.random.Generator) -> bytes:
    table = fuzz_weights_files.MUTATIONS["safetensors"]
    if how == "header":
        return table[list(table)[rng.integers(len(table))]](content, rng)
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    if how == "values":
        at = int(rng.integers(len(data) // 4)) * 4
        with np.errstate(over="ignore"):
            data[at : at + 4] = np.float32(VALUES[rng.integers(len(VALUES))]).tobytes()
    elif how == "bytes":
        for _ in range(20):
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    else:
        about = header["__metadata__"]
        key = next(name for name in about if name != "format")
        about[key] = json.dumps(_hostile(json.loads(about[key]), fuzz_weights_files.HOSTILE, rng))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def _hostile(whole: Any, values: Any, rng: np.random.Generator) -> Any:
    """Another value somewhere in the config that a file keeps."""
    node: Any = {"": whole}
    key: Any = ""
    while isinstance(node[key], dict | list) and node[key] and rng.random() < 0.9:
        node = node[key]
        key = list(node)[rng.integers(len(node))] if isinstance(node, dict) else int(rng.integers(len(node)))
    node[key] = values[rng.integers(len(values))]
    return whole if key else node[key]


def own_params(number: int, room: Room) -> Found:
    """A refusal in one line, or a workdir whose parameters are finite; what `init_from` and `load` read is no other."""
    base = room.shared("own params", _exported)
    content = (base / "x.safetensors").read_bytes()
    rng = np.random.default_rng(room.random.randrange(1 << 30))
    if number % 5 == 4:
        path = room.work / "x.safetensors"
        path.write_bytes(_mutated(content, MUTATIONS[number // 5 % len(MUTATIONS)], rng))
        outcome = room.vmae("import", f"--weights={path}", "--out=imported")
        return Found("vmae import", tuple(room.problems(outcome, {0, 2})))

    def act() -> int:
        from vmae_jax.commands.errors import describe
        from vmae_jax.io.checkpoint import read_newest
        from vmae_jax.io.layout import flat
        from vmae_jax.spec import ConfigError
        from vmae_jax.weights import import_weights, load

        for index in range(FILES):
            path, out = room.work / f"{index}.safetensors", room.work / str(index)
            path.write_bytes(_mutated(content, MUTATIONS[index % len(MUTATIONS)], rng))
            ends = []
            for read in (lambda path=path, out=out: import_weights(path, out=out), lambda path=path: load(path)):
                try:
                    read()
                    ends.append("read")
                except ConfigError as error:
                    if not describe(error).isprintable():
                        raise RuntimeError(f"file {index}: no error in one line: {error!r}") from error
                    ends.append("refused")
            if ends[0] == "read":
                tree = read_newest(out / "checkpoints", select="params")[1]  # as init_from reads it
                assert all(np.isfinite(array).all() for array in flat(tree).values()), f"file {index}"
                shutil.rmtree(out)
            assert not out.exists(), f"file {index}: a workdir was left"
        return 0

    return Found("read", tuple(room.problems(room.call(act), {0})), tried=FILES)
