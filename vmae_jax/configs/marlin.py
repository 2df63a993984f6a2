"""MARLIN (Cai et al. 2023), pre-training on videos of faces: `configs/marlin.py:B`, of the sizes S, B and L.

    configs/marlin.py:B,weights=WORKDIR                 --config.data.source.source.path=FOLDER

A face's parts are hidden first, by a segmentation beside each video: NAME_parts.zip, one PNG a frame. `weights=` names
a pre-trained VideoMAE of the same size, from which the authors begin; without it, weights are random. The figures,
with their origin, are in `recipes.csv`.
"""

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes
from vmae_jax.spec import call

BEGUN = ("params/encoder", "params/decoder")  # not the critic


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", "S", "L"), weights=None, smoke=False)
    recipe = recipes.recipe(f"marlin:{args.size}")
    dims = recipes.decoder(recipe)
    sides = {"parts": call("data.sides.sidecar", suffix="_parts.zip")}
    config = common.sections(
        method=call(
            "methods.marlin.build",
            model=call("models.variants.vit", size=args.size, mean=[0.0] * 3, std=[1.0] * 3, **dims),
            encoder_mask=recipes.mask(recipe.encoder_mask),
            objectives={"pixels": call("targets.core.objective", target=call("targets.pixels", normalize=False))},
        ),
        data=call(
            "data.pipeline.loader",
            source=call("data.sides.beside", source=call("data.sources.folder"), sides=sides),
            sampler=call("data.clips.dense", frames=16, stride=recipe.stride),
            transforms=[call("data.transforms.resize", size=224)],
            streams={"parts": call("data.streams.planes", channels=1, interpolation="nearest")},
            global_batch=recipe.batch,
        ),
        optimizer=recipes.adamw(recipe, start=recipe.start, batch_unit=None, recipe_batch=recipe.batch),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
        init_from=None if args.weights is None else {at: common.begin(args.weights, select=at) for at in BEGUN},
    )
    return common.smoke(config) if args.smoke else config
