r"""Names of files as text: one reversible rule for messages, records, tables, JSON and reports.

A file's name is bytes. Python holds it as a string in which bytes that are not UTF-8 stand as lone
surrogates (`os.fsdecode`), and it may hold line breaks and control characters. Paths stay that way
inside the program. Whatever leaves it (a video's key, a class named after a folder) is `as_text`:
printable, valid UTF-8, on one line, and different for different names.
"""

import json
import os
import re
from typing import Any

__all__ = ["as_text", "from_text", "json_text", "message", "plain"]

_SHORT = {"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
_LONG = {text: char for char, text in _SHORT.items()}
_ESCAPE = re.compile(r"\\(?:[\\nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
# What Unicode calls a line's end, and JSON leaves as it is.
_LINE_ENDS = str.maketrans({"\x85": r"\u0085", "\u2028": r"\u2028", "\u2029": r"\u2029"})
_BYTE = 0xDC00  # where Python puts a byte from 0x80 on that is not UTF-8


def as_text(name: str | bytes) -> str:
    r"""Return a name or path as printable text.

    Printable characters stay as they are. A backslash is doubled; a line break is `\n` (also `\r`, `\t`);
    a byte that is not UTF-8, or a control character of ASCII, is `\xNN`; every other character that is
    not printable is `\uNNNN` or `\UNNNNNNNN`; spaces at either end of a part of a path are `\x20`.
    """
    name = os.fsdecode(name)
    if name.isascii() and name.isprintable() and "\\" not in name and " " not in name:
        return name
    return "/".join(map(_part_as_text, name.split("/")))


def from_text(text: str) -> str:
    r"""Return the name that `as_text` made the text of, as Python opens it.

    Raises:
      ValueError: if a backslash in it begins no escape.
    """
    parts, at = [], 0
    for match in _ESCAPE.finditer(text):
        parts += [text[at : match.start()], _character(match[0])]
        at = match.end()
    parts.append(text[at:])
    if any("\\" in part for part in parts[::2]):
        raise ValueError(f"{text!r} has a backslash that begins no escape; as_text writes one as two")
    return "".join(parts)


def plain(text: str) -> str:
    """Return text that somebody else wrote (a class in a list, a key in a record): as it is where it is printable."""
    return text if text.isprintable() else as_text(text)


def message(text: object) -> str:
    """Return a message that may quote a stranger's file: one line, with everything that is not printable escaped."""
    return "".join(char if char.isprintable() else _shown(char) for char in " ".join(str(text).split()))


def json_text(value: Any, *, encoding: str = "utf-8", **options: Any) -> str:
    """Return JSON that `encoding` can hold: characters as they are where it can, else escaped (and equal when read).

    Without indentation it is one line for every reader: what Unicode calls a line's end is escaped.
    """
    text = json.dumps(value, ensure_ascii=False, **options)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=True, **options)
    return text.translate(_LINE_ENDS)


def _part_as_text(part: str) -> str:
    middle = part.strip(" ")
    before = len(part) - len(part.lstrip(" ")) if middle else 0
    after = len(part) - len(middle) - before
    return r"\x20" * before + "".join(map(_shown, middle)) + r"\x20" * after


def _shown(char: str) -> str:
    if char in _SHORT:
        return _SHORT[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80 or 0x80 <= code - _BYTE <= 0xFF:
        return f"\\x{code if code < 0x80 else code - _BYTE:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _character(escape: str) -> str:
    if escape in _LONG:
        return _LONG[escape]
    code = int(escape[2:], 16)
    return chr(code + _BYTE if escape[1] == "x" and code >= 0x80 else code)
