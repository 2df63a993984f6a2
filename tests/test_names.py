"""Any name of a file as text, and back."""

import json
import os

import pytest

from vmae_jax.names import as_text, from_text, json_text, message, plain

NAMES = {
    b"plain.mp4": "plain.mp4",
    "café ünï 視頻.mp4".encode(): "café ünï 視頻.mp4",
    b"caf\xe9.mp4": r"caf\xe9.mp4",
    rb"caf\xe9.mp4": r"caf\\xe9.mp4",
    b"two\nlines.mp4": r"two\nlines.mp4",
    rb"two\nlines.mp4": r"two\\nlines.mp4",
    b"tab\tand\rreturn.mp4": r"tab\tand\rreturn.mp4",
    b"a,b;'c'\"d\".mp4": "a,b;'c'\"d\".mp4",
    b"bell\x07\x1b[31m.mp4": r"bell\x07\x1b[31m.mp4",
    "right\u202eleft\u2028line\x85next.mp4".encode(): r"right\u202eleft\u2028line\u0085next.mp4",
    b"\xed\xa0\x80.mp4": r"\xed\xa0\x80.mp4",  # how a lone surrogate looks in bytes
    "\U000e0001tag.mp4".encode(): r"\U000e0001tag.mp4",
    b" ends with spaces /  inside  a .mp4": r"\x20ends with spaces\x20/\x20\x20inside  a .mp4",
    rb"..\..\up.mp4": r"..\\..\\up.mp4",
    b" ": r"\x20",
    b"": "",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_printable_text_and_comes_back(name):
    text = as_text(name)
    assert text == NAMES[name] == as_text(os.fsdecode(name))
    assert text.isprintable()
    assert text.encode().decode() == text
    assert os.fsencode(from_text(text)) == name


def test_every_byte_and_many_characters_come_back_and_no_two_are_the_same():
    names = [bytes([first, second]) for first in range(1, 256) for second in (0x2F, 0x5C, 0x6E, 0xA9)]
    texts = [as_text(name) for name in names]
    assert len(set(texts)) == len(names)
    assert [os.fsencode(from_text(text)) for text in texts] == names
    characters = [chr(code) for code in range(1, 0x30000, 7)]
    assert [from_text(as_text(character)) for character in characters] == characters


def test_the_text_of_a_path_is_that_of_its_parts():
    assert as_text(" a\n/b ") == as_text(" a\n") + "/" + as_text("b ")


@pytest.mark.parametrize("text", ["a\\", r"\xE9", r"\q", r"\x1"])
def test_what_as_text_never_writes_is_refused(text):
    with pytest.raises(ValueError, match="begins no escape"):
        from_text(text)


def test_text_of_others_stays_where_it_is_printable():
    assert plain(r"a\b é") == r"a\b é"
    assert plain("a\nb\udce9") == r"a\nb\xe9"


def test_a_message_is_one_printable_line_and_backslashes_stay():
    assert message("a\\b  c\n\td\udce9\x1b\ue000 é") == r"a\b c d\xe9\x1b\ue000 é"
    assert message(ValueError("")) == ""


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9/\n.mp4"), "a\x85b\u2028c\u2029d\x1ce\r"])
def test_json_can_be_written_and_read_whatever_is_in_it(name):
    value = {"path": name, "é": ["視"]}
    text = json_text(value)
    assert json.loads(text.encode().decode()) == value
    assert text.splitlines() == [text]
    assert json_text({"é": 1}) == '{"é": 1}'
    assert json_text({"é": 1}, encoding="ascii") == '{"\\u00e9": 1}'
