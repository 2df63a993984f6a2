"""The documentation as a site: it builds without a warning, and its pages load nothing from other hosts."""

import pathlib
import re
import subprocess
import sys

import pytest

from tests.docs.pages import ROOT

pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?(https?:)?//"
    r"|<link\b[^>]*\brel=[\"']?(?:stylesheet|preload|preconnect|icon)[^>]*\bhref=[\"']?(https?:)?//"
)
STYLES = re.compile(r"(?:@import|url\()\s*[\"']?(?:https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.slow
def test_pages_load_nothing_from_other_hosts(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text()
        found = LOADED.search(text) or STYLES.search(text)
        assert found is None, f"{page.relative_to(site)}: {text[found.start() : found.end() + 80]}"


@pytest.mark.slow
def test_styles_load_nothing_from_other_hosts(site):
    for style in site.rglob("*.css"):
        found = STYLES.search(style.read_text())
        assert found is None, f"{style.name}: {found}"


@pytest.mark.slow
def test_the_reference_has_signatures_and_the_notebook_its_pictures(site):
    assert "checkerboard" in (site / "add_a_mask" / "index.html").read_text()
    tube = (site / "api" / "masking" / "index.html").read_text()
    assert 'id="vmae_jax.masking.tube.tube"' in tube
    assert "data:image/png;base64" in (site / "notebooks" / "first_steps" / "index.html").read_text()
