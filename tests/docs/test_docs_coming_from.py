"""The options on the page for users of other codebases exist here."""

import re

import pytest

from tests.docs.pages import ROOT
from vmae_jax.commands.config import load_config
from vmae_jax.spec import call

PAGE = (ROOT / "docs" / "coming_from.md").read_text()
TABLES = [found.group() for found in re.finditer(r"(?:^\|.*\n)+", PAGE, re.MULTILINE)]
CONFIGS = {
    0: "configs/videomae.py:B,k400",
    1: "configs/videomae_v2.py:B",
    2: "configs/finetune.py:B,k400",
    3: "configs/mae_st.py:L",
    4: "configs/videomae_v2.py:B",
    5: "configs/vjepa2.py:g",
}


def test_every_table_has_a_config():
    assert len(TABLES) == len(CONFIGS)


@pytest.mark.parametrize("number", CONFIGS)
def test_options_of_a_table_exist(number):
    config = load_config(CONFIGS[number], {})
    names = re.findall(r"`--config\.([\w.]+)=", TABLES[number])
    assert names or number == 4  # that of transformers is about Python
    for name in names:
        *parents, last = name.split(".")
        section = config
        for part in parents:
            assert part in section, f"{CONFIGS[number]} has no {name}"
            section = section[part]
        assert last in section or last in ("epochs", "steps"), f"{CONFIGS[number]} has no {name}"


@pytest.mark.parametrize("name", sorted(set(re.findall(r'call\("([\w.]+)"', PAGE))))
def test_components_of_the_page_are_registered(name):
    assert call(name).call == name
