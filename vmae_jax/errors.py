"""The error that is the user's mistake, and what its messages share."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["ConfigError", "MissingArgumentsError", "did_you_mean", "short"]


class ConfigError(ValueError):
    """A config that cannot be carried out; its message is one line for the user."""


class MissingArgumentsError(ConfigError):
    """A call without arguments that it needs.

    Attributes:
      call: the name of the function.
      arguments: that are missing.
    """

    def __init__(self, call: str, arguments: Sequence[str]) -> None:
        super().__init__(call, arguments)
        self.call, self.arguments = call, tuple(arguments)

    def __str__(self) -> str:
        return f"{self.call} needs {', '.join(self.arguments)}"


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return the closest of the words as a hint, or nothing where none is close."""
    close = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def short(value: Any) -> str:
    """Return a value as one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:100]}…"
