"""Tokenizers: text to numbers. Packages of users register others, as kind "tokenizer".

A tokenizer of a config has touched no disk; `opened` returns it with its files read. The opened one is a value with
`vocabulary`, how many numbers there are, and `encode`, text to a list of them, the last of which ends every text. It
runs in the decoding processes, so it imports neither TensorFlow nor JAX.
"""

import dataclasses
import functools
from typing import Protocol

from vmae_jax.data.streams import bpe
from vmae_jax.registry import register
from vmae_jax.spec import call

__all__ = ["ClipFiles", "Openable", "Tokenizer", "Utf8", "clip", "utf8"]

_BEGIN, _END, _FIRST = 1, 2, 3


class Tokenizer(Protocol):
    """See the module."""

    @property
    def vocabulary(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...


class Openable(Protocol):
    """What a config holds: a tokenizer that is not open yet."""

    def opened(self) -> Tokenizer:
        """Return the tokenizer. Raises ConfigError: if its files cannot be read."""
        ...


@register("tokenizer")
def utf8(lowercase: bool = False) -> "Utf8":
    """The bytes of the text in UTF-8, each 3 more than its value, between a 1 (begin) and a 2 (end)."""
    return Utf8(lowercase)


@register("tokenizer", smoke=lambda given: {} if given.get("path") else call("data.streams.tokenizers.utf8"))
def clip(path: str) -> "ClipFiles":
    """CLIP's pairs of bytes, between its marks of begin and end; texts are in lower case.

    Args:
      path: the folder of a CLIP in the layout of transformers, with tokenizer.json, or with vocab.json and merges.txt.
    """
    return ClipFiles(path)


@dataclasses.dataclass(frozen=True)
class Utf8:
    """See `utf8`."""

    lowercase: bool

    @property
    def vocabulary(self) -> int:
        """How many numbers there are."""
        return 256 + _FIRST

    def opened(self) -> "Utf8":
        """Return itself: there is nothing to open."""
        return self

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text."""
        return [_BEGIN, *(byte + _FIRST for byte in (text.lower() if self.lowercase else text).encode()), _END]


@dataclasses.dataclass(frozen=True)
class ClipFiles:
    """See `clip`."""

    path: str

    def opened(self) -> bpe.Pairs:
        """Return the tokenizer of the files. Raises ConfigError: if they cannot be read."""
        return self._pairs

    @functools.cached_property
    def _pairs(self) -> bpe.Pairs:
        return bpe.read(self.path)  # which a loader needs to be checked, and again for each pass
