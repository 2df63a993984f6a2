"""Tests that may read the names of operations in compiled programs."""

import pytest


@pytest.fixture(autouse=True)
def _compiled_now(compiled_now: None) -> None:
    """Take no program from the cache; see `compiled_now`."""
