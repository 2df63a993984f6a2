"""Plain English: words that make text read as translated stay out of what a reader sees.

Documentation and launch scripts contain none of them. In Python, `language_allowed.txt` counts those that remain in the
comments, strings and names of each file, and these counts only shrink: after removing some, or after moving files,
`UPDATE_LANGUAGE=1 pytest tests/test_language.py` writes the file again, and refuses a larger sum.
"""

import io
import os
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
ALLOWED = pathlib.Path(__file__).with_name("language_allowed.txt")
HERE = pathlib.Path(__file__)
WORDS = re.compile(
    r"\b(?:tells?|told|telling|says?|said|saying|(?:ask(?:s|ed)?|kn[eo]ws?) of|lies?|mend(?:s|ed|ing)?|anew|whoever"
    r"|of one's own|all the same|stands in for)\b|\bat the most(?=[.,;:)]|$)",
    re.IGNORECASE,
)
SPEECH = {"tell", "tells", "told", "telling", "say", "says", "said", "saying"}  # as parts of names
TEXTS = [
    *sorted(path for kind in ("*.md", "*.cff", "*.yml", "*.toml") for path in ROOT.glob(kind)),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "docs").rglob("*.ipynb")),
    *sorted(path for path in (ROOT / "launch").rglob("*") if path.is_file()),
    *sorted((ROOT / "tests").rglob("*.md")),
]
PYTHON = sorted(path for top in ("vmae_jax", "benchmarks", "tests") for path in (ROOT / top).rglob("*.py"))


def name(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def in_python(source: str) -> list[tuple[int, str]]:
    """Return the words found in comments, strings and names, with their lines."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "NAME":
            found += [(token.start[0], part) for part in token.string.lower().split("_") if part in SPEECH]
        elif kind in ("COMMENT", "STRING", "FSTRING_MIDDLE"):
            found += [
                (token.start[0] + token.string[: match.start()].count("\n"), match.group())
                for match in WORDS.finditer(token.string)
            ]
    return found


def in_text(text: str) -> list[tuple[int, str]]:
    return [(text[: match.start()].count("\n") + 1, match.group()) for match in WORDS.finditer(text)]


def found(path: pathlib.Path) -> list[tuple[int, str]]:
    return in_python(path.read_text()) if path.suffix == ".py" else in_text(path.read_text())


def allowed() -> dict[str, int]:
    rows = (line.split() for line in ALLOWED.read_text().splitlines() if line and not line.startswith("#"))
    return {path: int(count) for count, path in rows}


@pytest.fixture(scope="module")
def counts() -> dict[str, int]:
    """The words that remain, by file; this file, which lists them, is not counted."""
    return {name(path): len(found(path)) for path in [*TEXTS, *PYTHON] if path != HERE and found(path)}


def test_the_words_are_found():
    source = '# it lies here\ndef told(x):\n    """Says what\n    it knows of."""\n    return f"asked of {x}", "anew"\n'
    words = [(1, "lies"), (2, "told"), (3, "Says"), (4, "knows of"), (5, "asked of"), (5, "anew")]
    assert in_python(source) == words
    assert in_python("essays = belies = 'multitold, unsaid, amended, relies, a tale told_of'\n") == []
    assert in_text("# A page\n\nIt is told anew.\n") == [(3, "told"), (3, "anew")]
    assert in_text("A cup stands in for two at the most.") == [(1, "stands in for"), (1, "at the most")]
    assert in_text("It stands in the corner, at the most distant place.") == []


def test_no_file_has_more_of_the_words_than_before(counts):
    if os.environ.get("UPDATE_LANGUAGE") == "1":
        before = sum(allowed().values())
        assert sum(counts.values()) <= before, f"{sum(counts.values())} words, {before} before: the sum only shrinks"
        head = [line for line in ALLOWED.read_text().splitlines() if line.startswith("#")]
        rows = [f"{count} {path}" for path, count in sorted(counts.items())]
        ALLOWED.write_text("\n".join([*head, *rows]) + "\n")
    limits = allowed()
    for path, count in counts.items():
        if count > limits.get(path, 0):
            lines = ", ".join(f"line {line}: {word!r}" for line, word in found(ROOT / path))
            pytest.fail(f"{path} has {count} of the words, {limits.get(path, 0)} are allowed; rewrite one of: {lines}")


def test_the_counts_shrink_with_the_words(counts):
    limits = allowed()
    stale = {path: limit for path, limit in limits.items() if counts.get(path, 0) < limit}
    assert not stale, f"fewer words than {ALLOWED.name} allows: run this file with UPDATE_LANGUAGE=1 ({stale})"


def test_documentation_has_none_of_the_words(counts):
    texts = {name(path) for path in TEXTS}
    assert {path: found(ROOT / path) for path in texts & counts.keys()} == {}
