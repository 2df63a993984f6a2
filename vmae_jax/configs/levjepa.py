"""LeVJEPA (Kuhn et al. 2026), which makes views of a clip agree: `configs/levjepa.py:B`, of the sizes S, B and L.

    configs/levjepa.py:B                                pre-training; --config.data.source.path=FOLDER

The recipe's videos are stored at 15 frames a second, of which it takes every second one: for others, set
`--config.data.sampler.stride`. The learning rate is constant after its warm-up, so the length is free. The average of
the parameters is for evaluation (`--ema`). The figures, with their origin, are in `recipes.csv`.
"""

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", "S", "L"), smoke=False)
    recipe = recipes.recipe(f"levjepa:{args.size}")
    method = call(
        "methods.levjepa.build",
        model=call(
            "models.variants.vit",
            size=args.size,
            tubelet=1,
            prefix=1,
            causal=True,
            positions=call("models.rotary", pairing="tiled"),
            initial="vjepa",
        ),
        mask=recipes.mask(recipe.encoder_mask),
        local=call("augment.views", colors=call("augment.colors.jitter", saturation=0.2)),
    )
    config = common.sections(
        method=method,
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.folder"),
            sampler=call("data.clips.dense", frames=16, stride=recipe.stride),
            transforms=[call("data.transforms.random_resized_crop", size=224, area=recipe.area)],
            global_batch=recipe.batch,
        ),
        optimizer=recipes.adamw(recipe, start=recipe.start, batch_unit=None, recipe_batch=recipe.batch),
        train={"length": recipe.length, "ema_decay": recipe.momentum},
        checkpoint={"every": {"steps": 500}, "keep_last": 3},
    )
    return common.smoke(config) if args.smoke else config
