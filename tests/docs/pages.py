"""The pages of the documentation, and the blocks of code on them."""

import pathlib
import re
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
REPOSITORY = "https://github.com/vmae-jax/vmae_jax/blob/main/"
_FENCE = re.compile(r'^```(\w+)(?: title="([^"\n]*)")?\n(.*?)^```', re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: its language, its title ("" without one) and its text."""

    language: str
    title: str
    text: str

    @property
    def marked(self) -> bool:
        """Whether the title gives a reason why no test runs these commands."""
        return self.title.startswith(("Needs ", "Takes "))


def blocks(path: pathlib.Path) -> list[Block]:
    """Return the blocks of a page in order."""
    return [Block(*found) for found in _FENCE.findall(path.read_text())]


def commands(path: pathlib.Path) -> list[str]:
    """Return the lines of all bash blocks of a page, without comments."""
    text = "\n".join(block.text for block in blocks(path) if block.language == "bash").replace("\\\n", " ")
    return [line for line in (line.split("  #")[0].strip() for line in text.splitlines()) if line]


def trained() -> set[str]:
    """Return the configs of the package that pages train with commands that a test runs."""
    text = "\n".join(
        block.text for path in PAGES for block in blocks(path) if block.language == "bash" and not block.marked
    )
    return set(re.findall(r"vmae train --config=configs/(\w+)\.py", text))


def name(path: pathlib.Path) -> str:
    """Return the path of a page relative to the project."""
    return path.relative_to(ROOT).as_posix()
