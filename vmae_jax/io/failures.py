"""Suppress tracebacks that Orbax and TensorStore print about failures that are raised and reported anyway.

When a read or save fails in one of several threads, the others log a traceback of their own (Orbax), find the
event loop closed and print one (TensorStore), or fail as tasks that nobody awaits any more, which asyncio logs
whenever they are collected. All of these would stand above the one line that matters.
"""

import functools
import logging
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["in_one_line"]


@functools.cache
def in_one_line() -> None:
    """Install the filters, once per process."""
    logging.getLogger("absl").addFilter(_without_traceback)
    logging.getLogger("asyncio").addFilter(_unless_abandoned)
    sys.unraisablehook = functools.partial(_unless_late, sys.unraisablehook)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Drop the traceback of an error that Orbax logs; its message names the error."""
    if record.exc_info and "orbax" in record.pathname:
        record.exc_info = record.exc_text = None
    return True


def _unless_abandoned(record: logging.LogRecord) -> bool:
    """Drop the failure of a read that nobody awaits, of Orbax or TensorStore: another one's has been raised.

    TensorStore's have no code in Python: asyncio alone awaits them.
    """
    never = "exception was never retrieved" in record.getMessage()
    where = record.exc_info[2] if record.exc_info else None
    reading = _raised_by(where) in ("", "asyncio") or any(name.startswith("orbax.") for name in _modules(where))
    return not (never and reading)


def _unless_late(hook: Callable[[Any], object], found: Any) -> None:
    """Print an exception that nothing can catch, but for a result that arrives after its read has failed."""
    late = found.exc_type is RuntimeError and str(found.exc_value) == "Event loop is closed"
    if not (late and _raised_by(found.exc_traceback) == "asyncio"):
        hook(found)


def _raised_by(where: types.TracebackType | None) -> str:
    """Return the package whose code raised, "" where there is none."""
    names = list(_modules(where))
    return names[-1].partition(".")[0] if names else ""


def _modules(where: types.TracebackType | None) -> Iterator[str]:
    """The module of each frame of a traceback, the outermost first."""
    while where is not None:
        yield str(where.tb_frame.f_globals.get("__name__", ""))
        where = where.tb_next
