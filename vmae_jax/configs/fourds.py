"""4DS (Carreira et al. 2024), a masked autoencoder that decodes with its own last layers: `configs/fourds.py:B`.

The sizes are S, B, L, H, g, G and e. Name your own videos: `--config.data.source.path=FOLDER`. The authors published
code for inference only: the networks' sizes are theirs, and `recipes.csv` marks what is ours.
"""

import math
from types import MappingProxyType
from typing import NamedTuple

from ml_collections import ConfigDict

from vmae_jax.configs import common, mae_st, recipes
from vmae_jax.spec import call


class Size(NamedTuple):
    """The whole network, encoder and decoder."""

    width: int
    depth: int
    hidden: int
    heads: int

    @property
    def late(self) -> int:
        """The number of last layers, which see mask tokens: 5% of all, rounded up, and one more."""
        return math.ceil(0.05 * self.depth) + 1


SIZES = MappingProxyType({
    "S": Size(384, 12, 1536, 6),
    "B": Size(768, 12, 3072, 12),
    "L": Size(1024, 24, 4096, 16),
    "H": Size(1280, 32, 5120, 16),
    "g": Size(1408, 40, 6144, 16),
    "G": Size(1664, 48, 8192, 16),
    "e": Size(1792, 56, 15360, 16),
})  # fmt: skip


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", *(size for size in SIZES if size != "B")), smoke=False)
    recipe = recipes.recipe(f"fourds:{args.size}")
    target = call("targets.pixels", normalize=False)
    method = call(
        "methods.masked.build",
        model=model(args.size, recipe.pixels),
        encoder_mask=recipes.mask(recipe.encoder_mask),
        objectives={"pixels": call("targets.core.objective", target=target)},
    )
    config = common.sections(
        method=method,
        data=mae_st.loader(recipe),
        optimizer=recipes.adamw(recipe),
        train={"length": recipe.length},
        checkpoint={"every": {"steps": 5000}, "keep_last": 3},
    )
    return common.smoke(config) if args.smoke else config


def model(size: str, pixels: list[float]) -> ConfigDict:
    """The first layers as the encoder, and the late ones, of the same width, as the decoder."""
    one, (mean, deviation) = SIZES[size], pixels
    return call(
        "models.variants.vit",
        size="B",
        width=one.width,
        depth=one.depth - one.late,
        heads=one.heads,
        mlp_ratio=one.hidden / one.width,
        decoder_width=one.width,
        decoder_depth=one.late,
        decoder_heads=one.heads,
        positions=call("models.positions.learned"),
        mean=[mean] * 3,
        std=[deviation] * 3,
        remat="none" if size in ("S", "B") else "full",
    )
