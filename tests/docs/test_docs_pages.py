"""The documentation: links have targets, commands exist, every command is run by a test or marked with a reason."""

import pathlib
import re
import shlex

import pytest
import yaml

from tests.docs.pages import PAGES, REPOSITORY, ROOT, blocks, commands, name

LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(path: pathlib.Path) -> set[str]:
    """Return the anchors that GitHub and MkDocs both give to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    slugs = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in HEADING.findall(text))
    return {re.sub(r"\s+", "-", slug) for slug in slugs} | set(re.findall(r'<a id="([^"]+)">', text))


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_have_targets(path):
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for inline, attribute in LINK.findall(prose):
        target, _, anchor = (inline or attribute).partition("#")
        if target.startswith(REPOSITORY):
            assert (ROOT / target.removeprefix(REPOSITORY)).exists(), f"{name(path)}: {target}"
        elif "://" not in target:
            found = path.parent / target if target else path
            assert found.exists(), f"{name(path)}: {target}"
            if anchor:
                assert anchor in anchors(found), f"{name(path)}: {target}#{anchor}"


def test_pages_of_the_site_link_to_nothing_outside_of_it():
    """A relative link out of docs/ works on GitHub and is broken on the site."""
    docs = ROOT / "docs"
    for path in PAGES:
        if path.is_relative_to(docs):
            for inline, _ in LINK.findall(path.read_text()):
                target = inline.partition("#")[0]
                if target and "://" not in target:
                    assert (path.parent / target).resolve().is_relative_to(docs), f"{name(path)}: {target}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def nav(entry) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [page for one in (entry.values() if isinstance(entry, dict) else entry) for page in nav(one)]


def test_every_page_is_in_the_navigation():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = nav(config["nav"])
    docs = ROOT / "docs"
    there = {path.relative_to(docs).as_posix() for kind in ("*.md", "*.ipynb") for path in docs.rglob(kind)}
    assert sorted(listed) == sorted(there)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_titles_of_commands_are_reasons_or_files(path):
    for block in blocks(path):
        if block.language == "bash":
            assert not block.title or block.marked, f"{name(path)}: {block.title!r} begins with neither Needs nor Takes"
        elif block.language == "python" and block.title:
            assert re.fullmatch(r"\w+\.py", block.title), f"{name(path)}: {block.title!r}"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_commands_exist_and_name_configs_that_exist(path):
    """Every `vmae …` line parses as the command does, and its config and overrides are accepted."""
    from vmae_jax import cli
    from vmae_jax.commands.config import load_config, overrides

    parser = cli.command_line()
    files = {block.title for block in blocks(path) if block.language == "python"}
    for line in commands(path):
        if line.startswith("vmae "):
            args, rest = parser.parse_known_args(shlex.split(line.replace("=…", "=x"))[1:])
            assert not rest or hasattr(args, "config"), line
            changes = overrides(rest)
            config = getattr(args, "config", None)
            if config and not config.startswith("configs/"):
                assert config.split(":")[0] in files | {"my_config.py"}, f"{name(path)} does not show {config}"
            elif config:
                load_config(config, changes)
        elif line.startswith(("bash ", "python benchmarks/")):
            assert (ROOT / line.split()[1]).exists(), line
        elif line.startswith("python -m benchmarks."):
            module = line.split()[2].replace(".", "/")
            assert (ROOT / f"{module}.py").exists(), line
