"""Standard output and error that cannot stop a run: a full disk under a log file, a terminal that is gone."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["forgiving"]


@contextlib.contextmanager
def forgiving() -> Iterator[None]:
    """Inside, text that `sys.stdout` and `sys.stderr` cannot take is dropped instead of raising OSError."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (None if stream is None else _Stream(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in before:
            if stream is not None:
                _drain(stream)


def _drain(stream: Any) -> None:
    """Leave nothing that the interpreter would try to write at its end, for then its exit status would be 120."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


class _Stream:
    """A text stream whose `write` and `flush` do not fail for want of a place to write to."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:  # there is no other place to report it to
            return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
