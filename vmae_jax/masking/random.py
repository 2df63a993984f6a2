"""Random masking: any token may be hidden, wherever and whenever it is (MAE, MAE-ST)."""

from vmae_jax.masking.core import Masker, check_ratio, ranks
from vmae_jax.registry import register

__all__ = ["random"]


@register("mask")
def random(ratio: float = 0.9) -> Masker:
    """Hides int(ratio * n) of a clip's n tokens, drawn without structure.

    Source: the official `RandomMaskingGenerator` of VideoMAE.
    """
    check_ratio(ratio)
    return Masker(
        keep=lambda grid: grid.size - int(ratio * grid.size),
        score=lambda keys, batch, grid: ranks(keys, grid.size),
    )
