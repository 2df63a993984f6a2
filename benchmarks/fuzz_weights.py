"""Reads mutated weight files, and counts what becomes of them.

    python -m benchmarks.fuzz_weights --count=10000 --seed=0 --out=fuzz.jsonl

Case i is a function of the seed and i: a valid `.pth`, `.safetensors`, index of shards, or folder with a
`config.json`, with bits flipped, cut off, or changed in its opcodes, sizes, headers or JSON. Children with
limits of memory and time read them as `vmae import` does. What is read must be refused in one line, or have
no value that is not in the file; reading may write, run, connect or import nothing. With --out the same
command goes on where it was stopped. Ends with 1 if a case is a crash.
"""

import argparse
import collections
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.fuzz_weights_files import FAMILIES, mutated, originals
from vmae_jax.spec import ConfigError
from vmae_jax.weights.formats import tensors, torch_file
from vmae_jax.weights.infer import config_of
from vmae_jax.weights.layouts import names
from vmae_jax.weights.layouts.rules import MismatchError

__all__ = ["main", "table", "tried"]

REFUSALS = (tensors.UnreadableFileError, MismatchError, ConfigError)
RESULTS = ("refused", "equal", "changed", "crash")
MEMORY = 512 << 20  # beyond what a child has before its first case
SECONDS = 20  # for one case
READY = "ready\n"
EVENTS = ("exec", "compile", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pickle.find_class", "tempfile.")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="cases (default 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="JSON lines, one a case; those in it are not tried again")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child is not None:
        child(args.seed, args.child, args.count)
        return 0
    results = list(tried(args.seed, args.count, args.out))
    print(table(results))
    crashes = [one for one in results if one["result"] == "crash"]
    for one in crashes[:20]:
        print(f"case {one['case']} ({one['family']}, {one['mutation']}): {one['message']}", file=sys.stderr)
    return 1 if crashes else 0


def tried(seed: int, count: int, out: pathlib.Path | None = None) -> Iterator[dict[str, Any]]:
    """What became of each case, in order.

    Raises:
      RuntimeError: if a child cannot read the valid files.
    """
    done = []
    if out is not None and out.exists():
        whole = out.read_text().rpartition("\n")[0]  # a line that was cut off is tried again
        done = [json.loads(line) for line in whole.splitlines()][:count]
        out.write_text("".join(json.dumps(one) + "\n" for one in done))
    yield from done
    first = len(done)
    while first < count:
        for one in _until_it_ends(seed, first, count):
            if out is not None:
                with out.open("a") as file:
                    file.write(json.dumps(one) + "\n")
            first = one["case"] + 1
            yield one


def _until_it_ends(seed: int, first: int, count: int) -> Iterator[dict[str, Any]]:
    """The cases of one child; the one that ends it early is a crash."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.fuzz_weights",
        f"--child={first}",
        f"--seed={seed}",
        f"--count={count}",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != READY:
            raise RuntimeError("a child could not read the valid files")
        for line in process.stdout:
            one = json.loads(line)
            first = one["case"] + 1
            yield one
    if first < count:
        family, mutation, _ = case(seed, first, originals())
        message = f"the child ended with {process.returncode}"
        yield {"case": first, "family": family, "mutation": mutation, "result": "crash", "message": message}


def case(seed: int, number: int, valid: dict[str, dict[str, bytes]]) -> tuple[str, str, dict[str, bytes]]:
    """The family, the mutation and the files of a case."""
    rng = np.random.default_rng((seed, number))
    family = FAMILIES[number % len(FAMILIES)]
    return family, *mutated(family, valid[family], rng)


def child(seed: int, first: int, count: int) -> None:
    """Try the cases from `first` on, one line of JSON each."""
    valid = originals()
    with tempfile.TemporaryDirectory() as folder:
        original = {family: _read(pathlib.Path(folder) / family, files)[0] for family, files in valid.items()}
        _limit_memory()
        watch = Watch()
        print(READY, end="", flush=True)
        for number in range(first, count):
            family, mutation, files = case(seed, number, valid)
            signal.alarm(SECONDS)
            result, message = _outcome(pathlib.Path(folder) / "case", files, original[family], watch)
            signal.alarm(0)
            answer = {"case": number, "family": family, "mutation": mutation, "result": result, "message": message}
            print(json.dumps(answer), flush=True)


class Watch:
    """Notes what happens between `begin` and `end` that reading a file has no need of."""

    def __init__(self) -> None:
        self.active, self.seen = False, []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: Any) -> None:
        if not self.active:
            return
        write = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        new = event == "import" and not str(arguments[0]).startswith("encodings")
        if write or new or event.startswith(EVENTS):
            self.seen.append(f"{event} {arguments!r}"[:200])


def _outcome(
    folder: pathlib.Path, files: dict[str, bytes], original: dict[str, np.ndarray], watch: Watch
) -> tuple[str, str]:
    """What became of one case, and the message."""
    path = _write(folder, files)
    watch.seen.clear()
    try:
        watch.active = True
        state = _convert(path)
    except REFUSALS as error:
        message = str(error).replace(f"{folder}{os.sep}", "")
        bad = "\n" in message or not message.isprintable() or len(message) > 2000
        result = "crash" if bad else "refused"
    except Exception as error:
        result, message = "crash", f"{type(error).__name__}: {error}"[:300]
    else:
        equal = state.keys() == original.keys() and all(_same(state[name], original[name]) for name in state)
        foreign = [name for name, array in state.items() if not _inside(array, b"".join(files.values()))]
        result, message = "equal" if equal else "changed", ""
        if foreign:
            result, message = "crash", f"{foreign[0]} has values that are not in the file"
    finally:
        watch.active = False
    if watch.seen or any(np.dtype(kind).itemsize > 8 for kind in torch_file.STORAGES.values()):
        return "crash", f"reading did {watch.seen[0] if watch.seen else 'change a dtype'}"
    return result, message[:300]


def _read(folder: pathlib.Path, files: dict[str, bytes]) -> tuple[dict[str, np.ndarray], pathlib.Path]:
    path = _write(folder, files)
    return _convert(path), path


def _write(folder: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    """The files in a folder that has no others; the path to read."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, content in files.items():
        if name != ".":
            (folder / name).write_bytes(content)
    return folder / next(iter(files))


def _convert(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors as the file has them, once they were understood as `vmae import` understands them."""
    file = tensors.read_file(path)
    config_of(names.official(file))
    return file.state


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _inside(array: np.ndarray, data: bytes) -> bool:
    """Whether every item of an array is somewhere in the files, bytes for bytes."""
    if array.dtype == np.bool_ or array.tobytes() in data:
        return True
    items = np.unique(np.frombuffer(array.tobytes(), f"V{array.itemsize}"))
    return all(item.tobytes() in data for item in items)


def _limit_memory() -> None:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def table(results: list[dict[str, Any]]) -> str:
    """The results by family and mutation, as Markdown."""
    counts: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for one in results:
        counts[one["family"], one["mutation"]][one["result"]] += 1
    total = sum(counts.values(), collections.Counter())
    rows = ["| file | mutation | tried | refused in one line | read, equal | read, changed as the file was | crashes |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    for (family, mutation), found in [*sorted(counts.items()), (("all", ""), total)]:
        cells = [family, mutation, str(found.total()), *(str(found[result]) for result in RESULTS)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
