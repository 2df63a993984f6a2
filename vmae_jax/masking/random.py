"""Random masking: tokens are hidden independently of place and time (MAE, MAE-ST)."""

from vmae_jax.masking.core import Masker, check_ratio, ranks
from vmae_jax.registry import register

__all__ = ["random"]

ROUNDED = ("hidden", "visible")


@register("mask")
def random(ratio: float = 0.9, rounded_down: str = "hidden") -> Masker:
    """Hide a share of a clip's tokens, drawn uniformly.

    Args:
      ratio: the share of hidden tokens.
      rounded_down: which of the two counts is rounded down if `ratio` gives no whole number: "hidden" (VideoMAE's
        `RandomMaskingGenerator`: 1,411 of 1,568 tokens are hidden at 0.9) or "visible" (MAE and MAE-ST: 1,412).

    Raises:
      ValueError: if the ratio is not in [0, 1), or `rounded_down` is neither.
    """
    check_ratio(ratio)
    if rounded_down not in ROUNDED:
        raise ValueError(f"rounded_down must be {' or '.join(map(repr, ROUNDED))}, got {rounded_down!r}")
    counts = {
        "hidden": lambda grid: grid.size - int(ratio * grid.size),
        "visible": lambda grid: int(grid.size * (1 - ratio)),
    }
    return Masker(keep=counts[rounded_down], score=lambda keys, batch, grid: ranks(keys, grid.size))
