"""Suppress tracebacks that Orbax and TensorStore print about failures that are raised and reported anyway.

When a read or save fails in one of several threads, the others log a traceback of their own (Orbax), or find
the event loop closed and print one (TensorStore), above the one line that matters.
"""

import functools
import logging
import sys
import types
from collections.abc import Callable
from typing import Any

__all__ = ["in_one_line"]


@functools.cache
def in_one_line() -> None:
    """Install both filters, once per process."""
    logging.getLogger("absl").addFilter(_without_traceback)
    sys.unraisablehook = functools.partial(_unless_late, sys.unraisablehook)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Drop the traceback of an error that Orbax logs; its message names the error."""
    if record.exc_info and "orbax" in record.pathname:
        record.exc_info = record.exc_text = None
    return True


def _unless_late(hook: Callable[[Any], object], found: Any) -> None:
    """Print an exception that nothing can catch, but for a result that arrives after its read has failed."""
    late = found.exc_type is RuntimeError and str(found.exc_value) == "Event loop is closed"
    if not (late and _raised_by(found.exc_traceback) == "asyncio"):
        hook(found)


def _raised_by(where: types.TracebackType | None) -> str:
    """Return the package whose code raised, "" where there is none."""
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    return "" if where is None else str(where.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
