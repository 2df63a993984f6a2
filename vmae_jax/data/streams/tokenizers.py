"""Tokenizers: text to numbers. Packages of users register others, as kind "tokenizer".

A tokenizer of a config has touched no disk; `opened` returns it with its files read. The opened one is a value with
`vocabulary`, how many numbers there are, and `encode`, text to a list of them, the last of which ends every text. It
runs in the decoding processes, so it imports neither TensorFlow nor JAX.

CLIP's tokenizer, words as pairs of bytes that were merged most often, is written from the description of the algorithm.
Texts are composed (NFC), spaces are made one, and letters lower case.
"""

import dataclasses
import functools
import itertools
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from vmae_jax.data.texts import read_text
from vmae_jax.registry import register
from vmae_jax.spec import ConfigError, call

__all__ = ["Pairs", "Tokenizer", "Utf8", "clip", "utf8", "words"]

_BEGIN, _END, _FIRST = 1, 2, 3  # of UTF-8: marks, and the number of byte 0
_START, _STOP, _LAST = "<|startoftext|>", "<|endoftext|>", "</w>"  # of CLIP
_CONTRACTION = re.compile(r"'(?:s|t|re|ve|m|ll|d)")
_WORDS = 10_000  # whose numbers are kept
_LETTERS = 256  # of a word; a longer one is divided, since its pairs are searched again after each merge


class Tokenizer(Protocol):
    """See the module."""

    @property
    def vocabulary(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...


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

    def opened(self) -> "Pairs":
        """Return the tokenizer of the files. Raises ConfigError: if they cannot be read."""
        return _read(self.path)


def _printable() -> tuple[str, ...]:
    """A character for each byte: itself where it can be seen, otherwise one after the first 256."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return tuple(chr(byte if byte in seen else 256 + hidden.index(byte)) for byte in range(256))


_BYTES = _printable()


@dataclasses.dataclass(frozen=True)
class Pairs:
    """A tokenizer of merged pairs (see `Tokenizer`).

    Attributes:
      numbers: of each symbol; the last one of a word ends with a mark.
      ranks: of the pairs that are merged, the earliest first.
    """

    numbers: Mapping[str, int]
    ranks: Mapping[tuple[str, str], int]
    known: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @property
    def vocabulary(self) -> int:
        """How many numbers there are."""
        return max(self.numbers.values()) + 1

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text."""
        found = [self.numbers[_START]]
        for word in words(text):
            found += self._numbers(word)
        return [*found, self.numbers[_STOP]]

    def _numbers(self, word: str) -> tuple[int, ...]:
        numbers = self.known.get(word)
        if numbers is None:
            numbers = tuple(self.numbers[symbol] for symbol in self._merged(word))
            if len(self.known) < _WORDS:
                self.known[word] = numbers
        return numbers

    def _merged(self, word: str) -> list[str]:
        """The symbols of a word after all merges."""
        symbols = [_BYTES[byte] for byte in word.encode(errors="replace")]
        symbols[-1] += _LAST
        while len(symbols) > 1:
            best = min(itertools.pairwise(symbols), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            merged, place = [], 0
            while place < len(symbols):
                both = tuple(symbols[place : place + 2]) == best
                merged.append("".join(best) if both else symbols[place])
                place += 1 + both
            symbols = merged
        return symbols


def words(text: str) -> Iterator[str]:
    """Yield the words of a text: letters, single digits, endings such as 's, or other signs."""
    text = "".join(letter.lower() for letter in unicodedata.normalize("NFC", text))
    kinds = "".join(_kind(letter) for letter in text)
    place = 0
    while place < len(text):
        end, kind, ending = place + 1, kinds[place], _CONTRACTION.match(text, place)
        if ending:
            end = ending.end()
        elif kind in "LO":
            while end < len(text) and kinds[end] == kind and end - place < _LETTERS:
                end += 1
        if kind != " ":
            yield text[place:end]
        place = end


def _kind(letter: str) -> str:
    """The kind of a character: L, a letter; N, a digit or number; a space; O, any other."""
    category = unicodedata.category(letter)[0]
    return category if category in "LN" else " " if letter.isspace() else "O"


@functools.lru_cache(maxsize=4)  # a loader needs it to be checked, and again for each pass
def _read(path: str) -> Pairs:
    """Return the tokenizer of a folder with tokenizer.json, or with vocab.json and merges.txt.

    Raises:
      ConfigError: if these cannot be read, or are those of another tokenizer.
    """
    folder = path.rstrip("/")
    try:
        try:
            model = json.loads(read_text(f"{folder}/tokenizer.json"))["model"]
            numbers, merges = model["vocab"], model["merges"]
        except FileNotFoundError:
            numbers = json.loads(read_text(f"{folder}/vocab.json"))
            lines = read_text(f"{folder}/merges.txt").split("\n")
            merges = [line.strip() for line in lines if line.strip() and not line.startswith("#version")]
        ranks = {_pair(merge): rank for rank, merge in enumerate(merges)}
        whole = all(isinstance(number, int) and 0 <= number < 1 << 31 for number in numbers.values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        detail = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise ConfigError(
            f"data.streams.tokenizers.clip: {path} has no tokenizer.json, or vocab.json and merges.txt, that can be "
            f"read ({detail})"
        ) from error
    needed = [_START, _STOP, *_BYTES, *(f"{one}{_LAST}" for one in _BYTES), *("".join(pair) for pair in ranks)]
    lacking = next((one for one in needed if one not in numbers), None)
    if lacking is not None or not whole:
        why = f"it has no number of {lacking!r}" if lacking is not None else "some symbols have no whole number"
        raise ConfigError(f"data.streams.tokenizers.clip: the files in {path} are another tokenizer's: {why}")
    return Pairs(numbers, ranks)


def _pair(merge: Any) -> tuple[str, str]:
    """A pair of symbols, which files hold as a list or with a space between them."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second
