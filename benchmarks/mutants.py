"""Change the code in one place at a time and see whether its tests notice.

    python benchmarks/mutants.py --out=mutants.jsonl --seconds=1500 [--seed=0] [vmae_jax/masking …]

A mutant is the package with one small change: another comparison or arithmetic operator, a constant off by one, a
negated condition, a removed statement, two swapped arguments, `return None`. Each runs the tests that mirror its file
(`tests/io/test_paths.py` for `vmae_jax/io/paths.py`; where there is no such file, the tests of that folder which name
the module), in a copy of the tree in a temporary folder. A survivor is a mutant that no test noticed: either it
computes the same thing, or a test is missing.

One process imports JAX and pytest once and forks for every mutant. Of those files only the tests run that call the
mutant's function, the quick ones first; all of them where it has none or no test calls it (`mutants_run.py`). The
mutants are drawn file by file from a seed, and `--out` keeps one line of JSON for each: the same command goes on where
it stopped. The last line of standard output is one JSON object.
"""

import argparse
import ast
import collections
import contextlib
import copy
import dataclasses
import importlib
import json
import pathlib
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.mutants_run import Tree  # noqa: E402

PLACES = ("vmae_jax/masking", "vmae_jax/targets", "vmae_jax/methods", "vmae_jax/train/step.py", "vmae_jax/io")
PRELOADED = (
    "jax", "jax.numpy", "flax.linen", "optax", "orbax.checkpoint", "hypothesis", "numpy.testing", "clu.metric_writers",
    "etils.epath", "ml_collections", "einops", "safetensors.numpy", "PIL.Image",
)  # fmt: skip
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
ALSO = {  # tests that are about a file, beside those of its folder that bear its name
    "vmae_jax/io/layout.py": "tests/io/test_checkpoint.py",
    "vmae_jax/io/run_config.py": "tests/test_plugins.py",
    "vmae_jax/io/stored.py": "tests/io/test_checkpoint.py",
    "vmae_jax/masking": "tests/parity/test_parity_masks.py",
    "vmae_jax/methods/classify.py": "tests/methods/test_labels.py",
    "vmae_jax/methods/labels.py": "tests/methods/test_distill.py",
}
STARTS = 60.0  # seconds that a fork may take to collect its tests, on a busy machine
LOGGING = re.compile(r"(log|logging|warnings)\.")


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of one file: the bytes from `start` to `end` become `text`."""

    path: str
    line: int
    kind: str
    start: int
    end: int
    text: str
    before: str

    @property
    def key(self) -> str:
        """A name that another run finds again."""
        return f"{self.path}:{self.line}:{self.start}-{self.end}:{self.kind}:{self.text}"

    def applied(self, source: bytes) -> bytes:
        """Return the source with the change made."""
        return source[: self.start] + self.text.encode() + source[self.end :]


def mutants(path: str, source: bytes) -> list[Mutant]:
    """Return every mutant of a file that compiles, in the order of the source."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, kind, changed in _changes(ast.parse(source)):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        text = ast.unparse(changed) if isinstance(changed, ast.stmt) else f"({ast.unparse(changed)})"
        mutant = Mutant(path, node.lineno, kind, start, end, text, source[start:end].decode())
        with contextlib.suppress(SyntaxError):
            compile(mutant.applied(source), path, "exec")
            found.append(mutant)
    return found


def _changes(tree: ast.Module) -> Iterator[tuple[Any, str, ast.AST]]:
    """Yield (node, kind of change, what it becomes), leaving out annotations, messages and documentation."""
    waiting: list[ast.AST] = list(reversed(tree.body))
    while waiting:
        node = waiting.pop()
        if _for_readers(node):
            continue
        yield from _of_node(node)
        if isinstance(node, ast.AnnAssign):
            children = [node.value] if node.value else []
        elif isinstance(node, ast.FunctionDef):
            children = [*node.args.defaults, *(one for one in node.args.kw_defaults if one), *node.body]
        else:
            children = [] if isinstance(node, ast.Raise) else list(ast.iter_child_nodes(node))
        waiting.extend(reversed(children))


def _for_readers(node: ast.AST) -> bool:
    """Whether a node is text for people: documentation, `__all__`, a log line, a formatted string."""
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or bool(LOGGING.match(ast.unparse(node.value)))
    return isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom)


def _of_node(node: ast.AST) -> Iterator[tuple[Any, str, ast.AST]]:
    """Yield what one node, or its condition, may become."""
    changed: Any = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        changed.ops[0] = COMPARISONS[type(node.ops[0])]()
        yield node, "comparison", changed
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        changed.op = ARITHMETIC[type(node.op)]()
        yield node, "arithmetic", changed
    elif isinstance(node, ast.BoolOp):
        changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield node, "and/or", changed
    elif isinstance(node, ast.UnaryOp):
        yield node, "dropped operator", changed.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield node, "constant", ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield node, "constant", ast.Constant(node.value + 1)
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield node.test, "negated condition", ast.UnaryOp(ast.Not(), changed.test)
    elif isinstance(node, ast.Call) and len({ast.unparse(one) for one in node.args[:2]}) == 2:
        if not any(isinstance(one, ast.Starred) for one in node.args[:2]):
            changed.args[:2] = changed.args[1::-1]
            yield node, "swapped arguments", changed
    elif isinstance(node, ast.Return) and node.value is not None:
        yield node, "returned None", ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Expr | ast.AugAssign | ast.Raise | ast.Delete | ast.Break | ast.Continue) or (
        isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Name | ast.Tuple)
    ):
        yield node, "removed statement", ast.Pass()


def tests_of(path: str) -> list[str]:
    """Return the test files that mirror a file, or else those of its folder that name the module."""
    package, name = pathlib.PurePath(path).parent.relative_to("vmae_jax"), pathlib.PurePath(path).stem
    folder = ROOT / "tests" / package
    while not folder.is_dir():  # a package within another is tested in the other's folder
        folder = folder.parent
    files = sorted(folder.glob("test_*.py"))
    mirrored = [file for file in files if file.stem in (f"test_{name}", f"test_{folder.name}_{name}")]
    naming = [file for file in files if re.search(rf"\b{name}\b", file.read_text())]
    found = [str(file.relative_to(ROOT)) for file in mirrored or naming or files]
    return [*found, *(also for part, also in ALSO.items() if path.startswith(part) and also not in found)]


def drawn(found: dict[str, list[Mutant]], seed: int) -> Iterator[Mutant]:
    """Yield every mutant once, in turns from each file, in an order that the seed fixes."""
    chance = random.Random(seed)
    waiting = {path: chance.sample(some, len(some)) for path, some in sorted(found.items())}
    while any(waiting.values()):
        for some in waiting.values():
            if some:
                yield some.pop()


def chosen(mutant: Mutant, tests: list[str], source: bytes, calls: dict[str, Any]) -> list[str]:
    """Return the tests that call the function of a mutant, quick ones first; all where none is known to."""
    first = _function(source, mutant.line)
    place = [mutant.path, first]
    callers = {name for name, called in calls["functions"].items() if place in called}
    seconds = calls["seconds"]
    found = [test for test in seconds if test in callers or test.partition("::")[0] in callers]
    return sorted(found, key=seconds.__getitem__) if first and found else tests


def _function(source: bytes, line: int) -> int:
    """Return the first line, with decorators, of the innermost function that has a line; 0 outside of functions."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    begins = lambda node: min(one.lineno for one in (node, *node.decorator_list))  # noqa: E731
    return max((begins(node) for node in functions if begins(node) <= line <= (node.end_lineno or 0)), default=0)


def judge(tree: Tree, waiting: Iterator[Mutant], known: set[str], seconds: float, out: pathlib.Path) -> None:
    """Test mutants until the time is over, and append a line to `out` for each."""
    end, usual = time.monotonic() + seconds, dict[str, Any]()
    for mutant in waiting:
        if time.monotonic() > end:
            return
        if mutant.key in known:
            continue
        tests = tests_of(mutant.path)
        calls: dict[str, Any] = {"seconds": {}, "functions": {}}
        for test in tests:
            usual[test] = found = usual.get(test) or _usually(tree, test)
            calls = {name: calls[name] | found[name] for name in calls}
        source = (tree.root / mutant.path).read_bytes()  # ours may change meanwhile
        some = chosen(mutant, tests, source, calls)
        usually = sum(calls["seconds"].get(test, 0.0) for test in (calls["seconds"] if some is tests else some))
        how, took, _ = tree.run(some, STARTS + 3 * usually, mutant.path, mutant.applied(source))
        row = dataclasses.asdict(mutant) | {
            "key": mutant.key, "ended": how, "seconds": round(took, 2), "tests": len(some)
        }  # fmt: skip
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{how:8}{took:6.1f} s  {mutant.path}:{mutant.line} {mutant.kind}: {mutant.before!r} -> {mutant.text}",
              file=sys.stderr, flush=True)  # fmt: skip


def _usually(tree: Tree, test: str) -> dict[str, Any]:
    """Return what the tests of a file call and how long they take, without a mutant; noted once."""
    whole, calls = tree.noted([test], 1800.0)
    if whole.how != "passed":
        raise SystemExit(f"{test} does not pass without a mutant:\n{whole.output[-3000:]}")
    return calls


def summary(rows: list[dict[str, Any]], found: dict[str, list[Mutant]]) -> dict[str, Any]:
    """Count what was noticed, and list what was not."""
    ends = collections.Counter(row["ended"] for row in rows)
    survivors = [row for row in rows if row["ended"] == "passed"]
    return {
        "status": "ok",
        "mutants": sum(map(len, found.values())),
        "tried": len(rows),
        "noticed": ends["failed"] + ends["timeout"],
        "survivors": [f"{row['path']}:{row['line']} {row['before']!r} -> {row['text']}" for row in survivors],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Change the code in one place at a time; see whether tests notice.")
    parser.add_argument("places", nargs="*", default=PLACES, help=f"files or folders (default: {' '.join(PLACES)})")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a line for each mutant; what it has is kept")
    parser.add_argument("--seconds", type=float, default=1500.0, help="after which no mutant begins (default 1500)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the mutants (default 0)")
    args = parser.parse_args()
    files = [file for place in args.places for file in sorted((ROOT / place).rglob("*.py")) or [ROOT / place]]
    paths = [str(file.relative_to(ROOT)) for file in files]
    found = {path: mutants(path, (ROOT / path).read_bytes()) for path in paths}
    keys = {mutant.key for some in found.values() for mutant in some}
    for name in PRELOADED:
        importlib.import_module(name)
    read = lambda: [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        known = {row["key"] for row in read()}
        judge(Tree(pathlib.Path(folder)), drawn(found, args.seed), known, args.seconds, args.out)
    print(json.dumps(summary([row for row in read() if row["key"] in keys], found)))


if __name__ == "__main__":
    main()
