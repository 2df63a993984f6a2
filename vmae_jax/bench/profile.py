"""The time of a step, by the parts of the program, from the operations of a trace."""

import collections
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from vmae_jax import scopes

__all__ = ["Op", "by_part", "trace"]

# Parts outside of towers, by the scopes of their operations.
BESIDE = (
    ("loss backward", re.compile(r"transpose\(")),
    ("masks, patches and gather", re.compile(r"[/(](masks|cubes)[/)]|jit\(take_along_axis\)")),
    ("targets and loss", re.compile(r"[/(](targets|loss)[/)]|jvp\(")),
)
_OPTIMIZER = re.compile(r"/optimizer(/|$)")
NAMED = re.compile(r'%?([\w.\-]+) = .*?metadata=\{[^}]*?op_name="([^"]*)"')


class Op(NamedTuple):
    """An operation of the compiled program.

    Attributes:
      name: in the compiled program.
      scope: its place in the source.
      seconds: per step, over all devices and threads that report it.
      count: executions per step.
    """

    name: str
    scope: str
    seconds: float
    count: float


def trace(run: Callable[[], Any], program: str, *, folder: pathlib.Path, steps: int = 2) -> list[Op]:
    """Call `run` under the profiler; return the operations, the most expensive first.

    Args:
      run: takes one step and waits for it; it was called before.
      program: the text of the compiled program, which names the source of each operation.
      folder: of the trace, for the viewers of TensorBoard or XProf.

    Raises:
      ValueError: if the trace has no operation of the program.
    """
    with jax.profiler.trace(str(folder)):
        for _ in range(steps):
            run()
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    scopes = dict(NAMED.findall(program))
    seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
    counts: collections.Counter[str] = collections.Counter()
    for plane in jax.profiler.ProfileData.from_file(str(newest)).planes:
        for line in plane.lines:
            for name, own in own_times(line.events):
                if name in scopes:
                    seconds[name] += own
                    counts[name] += 1
    if not seconds:
        raise ValueError(f"{newest}: no event of this trace names an operation of the compiled program")
    return [
        Op(name, scopes[name], own / steps, counts[name] / steps)
        for name, own in sorted(seconds.items(), key=lambda one: -one[1])
    ]


def by_part(ops: Iterable[Op]) -> dict[str, float]:
    """Return the seconds per step by part of the program: optimizer, towers (`scopes.tower`), and the rest."""
    towers: dict[str, float] = {}
    beside = {name: 0.0 for name, _ in BESIDE} | {"other": 0.0}
    optimizer = 0.0
    for op in ops:
        tower, _ = scopes.names(op.scope)
        if _OPTIMIZER.search(op.scope):
            optimizer += op.seconds
        elif tower is not None:
            name = f"{tower} backward" if "transpose(" in op.scope else tower
            towers[name] = towers.get(name, 0.0) + op.seconds
        else:
            beside[next((name for name, pattern in BESIDE if pattern.search(op.scope)), "other")] += op.seconds
    return {"optimizer": optimizer, **dict(sorted(towers.items())), **beside}


def own_times(events: Iterable[Any]) -> Iterable[tuple[str, float]]:
    """Yield (operation, its seconds without those of events inside it) for the events of a thread or stream."""
    spans = sorted(((e.start_ns, -e.duration_ns, _operation(e)) for e in events), key=lambda span: span[:2])
    open_spans: list[tuple[float, str]] = []  # (end, operation) of the enclosing events
    own: list[float] = []
    for start, minus, name in spans:
        while open_spans and open_spans[-1][0] <= start:
            yield open_spans.pop()[1], own.pop() / 1e9
        if own:
            own[-1] += minus
        open_spans.append((start - minus, name))
        own.append(-minus)
    while open_spans:
        yield open_spans.pop()[1], own.pop() / 1e9


def _operation(event: Any) -> str:
    """Return the name of the compiled operation, which GPU kernels have in addition to their own."""
    return next((str(value) for key, value in event.stats if key == "hlo_op"), event.name)
