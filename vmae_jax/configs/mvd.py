"""MVD (Wang et al. 2023), masked distillation from frozen teachers: `configs/mvd.py:B`, of the sizes S, B, L, H.

    configs/mvd.py:B,video=WORKDIR                      a video teacher, such as a run of videomae or videomae_v2
    configs/mvd.py:B,image=WORKDIR                      an image teacher, such as a run of mae
    configs/mvd.py:B,video=WORKDIR,image=WORKDIR        both, as in the paper; --config.data.source.path=FOLDER

Any pre-training of this package can be the video teacher, whatever its size, if it sees 16 frames as cubes of
2 x 16 x 16; an image teacher has 14 x 14 patches of any size. Without a workdir the teachers are the paper's: MAE and
VideoMAE of the same size (B for S), whose weights have yet to be named. The figures, with their origin, are in
`recipes.csv`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes, videomae
from vmae_jax.spec import call

PLACES = ("image", "video")


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", "S", "L", "H"), image=None, video=None, smoke=False)
    recipe = recipes.recipe(f"mvd:{args.size}")
    given = {name: args[name] for name in PLACES if args[name]} or dict.fromkeys(PLACES)
    default = {"image": image_teacher, "video": video_teacher}
    method = call(
        "methods.mvd.build",
        model=call(
            "models.variants.vit",
            size=args.size,
            positions=call("models.positions.sincos_time_space"),
            drop_path=recipe.drop_path,
            decoder_width=recipe.decoder_width,
            decoder_depth=recipe.decoder_depth,
            decoder_heads=recipe.decoder_heads,
            remat="full" if args.size == "H" else "none",
        ),
        encoder_mask=recipes.mask(recipe.encoder_mask),
        **{f"{name}_teacher": common.saved_model(path) or default[name](args.size) for name, path in given.items()},
    )
    config: Any = videomae.pretrain(method, recipe)
    config.optimizer.schedule.start = recipe.start
    config.init_from = ConfigDict(
        {f"frozen/{name}_teacher": common.begin(path, select="params/encoder") for name, path in given.items()},
        sort_keys=False,
    )
    return common.smoke(config) if args.smoke else config


def image_teacher(size: str) -> ConfigDict:
    """MAE's encoder; that of H has patches of 14 pixels, and sees 196 pixels, which are as many patches."""
    huge = size == "H"
    return call(
        "models.variants.vit",
        size="B" if size == "S" else size,
        frames=1,
        tubelet=1,
        patch=14 if huge else 16,
        resolution=196 if huge else 224,
        prefix=1,
        positions=call("models.positions.sincos_2d"),
        initial="mae",
    )


def video_teacher(size: str) -> ConfigDict:
    """VideoMAE's encoder."""
    return call("models.variants.vit", size="B" if size == "S" else size)
