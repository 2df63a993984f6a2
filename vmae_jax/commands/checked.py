"""Batches that a method looks at on the host before it trains on them."""

from collections.abc import Callable, Iterator
from typing import Any

from vmae_jax.types import Batch

__all__ = ["Checked", "checked"]


def checked(batches: Any, check: Callable[[Batch], None] | None) -> Any:
    """`batches`, each of which `check` has let through; a method without a check takes all."""
    return batches if check is None else Checked(batches, check)


class Checked(Iterator[Batch]):
    """An iterator in front of another, whose other attributes are its own."""

    def __init__(self, batches: Any, check: Callable[[Batch], None]) -> None:
        self._batches = batches
        self._check = check

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self._check(batch)
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)
