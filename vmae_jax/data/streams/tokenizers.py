"""Tokenizers: text to numbers. Packages of users register others, as kind "tokenizer".

A tokenizer is a frozen value with `vocabulary`, how many numbers there are, and `encode`, text to a list of them;
0 is padding and never given. It runs in the decoding processes, so it imports neither TensorFlow nor JAX.
"""

import dataclasses
from typing import Protocol

from vmae_jax.registry import register

__all__ = ["Tokenizer", "Utf8", "utf8"]

_BEGIN, _END, _FIRST = 1, 2, 3


class Tokenizer(Protocol):
    """See the module."""

    @property
    def vocabulary(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...


@register("tokenizer")
def utf8(lowercase: bool = False) -> "Utf8":
    """The bytes of the text in UTF-8, each 3 more than its value, between a 1 (begin) and a 2 (end)."""
    return Utf8(lowercase)


@dataclasses.dataclass(frozen=True)
class Utf8:
    """See `utf8`."""

    lowercase: bool

    @property
    def vocabulary(self) -> int:
        """How many numbers there are."""
        return 256 + _FIRST

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text."""
        return [_BEGIN, *(byte + _FIRST for byte in (text.lower() if self.lowercase else text).encode()), _END]
