"""Batches that a method checks on the host before it trains on them."""

from collections.abc import Callable, Iterator
from typing import Any

from vmae_jax.types import Batch

__all__ = ["Checked", "checked"]


def checked(batches: Any, check: Callable[[Batch], None] | None) -> Any:
    """Return an iterator that passes each batch to `check` first, or `batches` itself without a check."""
    return batches if check is None else Checked(batches, check)


class Checked(Iterator[Batch]):
    """An iterator that checks the batches of another; all other attributes are those of the other."""

    def __init__(self, batches: Any, check: Callable[[Batch], None]) -> None:
        self._batches = batches
        self._check = check

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self._check(batch)
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)
