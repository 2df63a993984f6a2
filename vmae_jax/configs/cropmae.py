"""CropMAE (Eymaël et al. 2024), which predicts a crop of a picture from a larger one: `configs/cropmae.py:S16`, or B16.

    configs/cropmae.py:S16                              images; --config.data.source.path=FOLDER
    configs/cropmae.py:S16,videos                       a frame of each video

Both views are of one picture, so no video is needed. The figures, with their origin, are in `recipes.csv`.
"""

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes
from vmae_jax.configs.siammae import siamese
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("S16", "B16"), data=("images", "videos"), smoke=False)
    recipe = recipes.recipe(f"cropmae:{args.size}" + (",videos" if args.data == "videos" else ""))
    outer, inner = recipe.area[:2], recipe.area[2:]
    config = siamese(
        recipe,
        args.size,
        source=call("data.sources.images" if args.data == "images" else "data.sources.folder"),
        sampler=call("data.clips.pair", gap=[0, 0]),
        transforms=[
            call("data.crops.nested", size=224, outer=outer, inner=inner, interpolation="exact_bilinear"),
            call("data.transforms.flip", probability=recipe.flip),
        ],
    )
    return common.smoke(config) if args.smoke else config
