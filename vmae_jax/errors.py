"""The error that is the user's mistake, and what its messages share."""

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = ["ConfigError", "did_you_mean", "short"]


class ConfigError(ValueError):
    """A config that cannot be carried out; its message is one line for the user."""


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return the closest of the words as a hint, or nothing where none is close."""
    close = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def short(value: Any) -> str:
    """Return a value as one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:100]}…"
