"""VideoMAE pre-training (every hidden cube is decoded): `configs/videomae.py:B,k400`.

Sizes S, B, L, H and the data k400, ssv2, ucf101, of the official scripts. Name your own videos:
`--config.data.source.path=FOLDER`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", "S", "L", "H"), data=("k400", "ssv2", "ucf101"), smoke=False)
    recipe = recipes.recipe(f"videomae:{args.size},{args.data}")
    method = call(
        "methods.masked.build",
        model=call(
            "models.variants.vit",
            size=args.size,
            # Those of V2 but for the depth, and for H, whose decoder is 640 wide.
            decoder_depth=recipe.decoder_depth,
            decoder_width=recipe.decoder_width if args.size == "H" else None,
            decoder_heads=recipe.decoder_heads if args.size == "H" else None,
            remat="full" if args.size == "H" else "none",
        ),
        encoder_mask=recipes.mask(recipe.encoder_mask),
        objectives={"pixels": call("targets.core.objective", target=call("targets.pixels", normalize=True))},
    )
    config = pretrain(method, recipe)
    return common.smoke(config) if args.smoke else config


def pretrain(method: ConfigDict, recipe: Any) -> ConfigDict:
    """The official pre-training of a method: its data, schedule and length.

    Args:
      method: the section `method`.
      recipe: the figures.
    """
    return common.sections(
        method=method,
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.folder"),
            sampler=call("data.clips.dense", frames=16, stride=recipe.stride),
            transforms=[call("data.transforms.multi_scale_crop", size=224)],
            global_batch=recipe.batch,
        ),
        optimizer=recipes.adamw(recipe),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
    )
