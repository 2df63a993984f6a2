"""DiffMAE (Wei et al. 2023), which denoises hidden patches: `configs/diffmae.py:L`, of the sizes B, L and H.

    configs/diffmae.py:L                                images; --config.data.source.path=FOLDER
    configs/diffmae.py:L,video                          clips of 16 frames
    configs/diffmae.py:L,raw                            raw pixels, for samples that need no true statistics
    configs/diffmae.py:L,clip,teacher=WORKDIR           features of a frozen CLIP (`vmae import --weights=CLIP`)

The networks of the encoder are those of MAE (`configs/mae.py`) and of MAE-ST (`configs/mae_st.py`), and so is
fine-tuning: `configs/mae.py:L,finetune,weights=WORKDIR` and `configs/mae_st.py:L,k400,weights=WORKDIR`. There is no
public code; the figures, most of them `inferred`, are in `recipes.csv`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, mae, mae_st, recipes
from vmae_jax.models.variants import IMAGENET_MEAN, IMAGENET_STD
from vmae_jax.spec import ConfigError, call
from vmae_jax.weights.clip import tower

EXPONENT = 0.8  # of the noise rates [paper, at second hand; that they and not their products are raised: inferred]
HALF = {"mean": 0.5, "deviation": 0.5}  # raw pixels in [-1, 1], like the noise [inferred]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments,
        size=("L", "B", "H"),
        data=("images", "video"),
        target=("normalized", "raw", "clip"),
        teacher=None,
        smoke=False,
    )
    if args.teacher and args.target != "clip":
        raise ConfigError("configs/diffmae.py: teacher= is of the target clip: L,clip,teacher=WORKDIR")
    recipe = recipes.recipe(f"diffmae:{args.size}" + (",video" if args.data == "video" else ""))
    config = images(args, recipe) if args.data == "images" else video(args, recipe)
    if args.target == "clip":
        place = common.begin(args.teacher, select="params/encoder")
        config.init_from = ConfigDict({"frozen/teacher": place}, sort_keys=False)
    return common.smoke(config) if args.smoke else config


def images(args: Any, recipe: Any) -> ConfigDict:
    network = mae.model(args, decoder_prefix="kept", project_bias=True, **dims(recipe))
    statistics = {"mean": list(IMAGENET_MEAN), "deviation": list(IMAGENET_STD)}
    return common.sections(
        method=method(args, recipe, network, statistics),
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.images"),
            sampler=call("data.clips.dense", **mae.ONE_FRAME),
            transforms=mae.crops(recipe),
            global_batch=recipe.batch,
        ),
        optimizer=mae.optimizer(recipe),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
    )


def video(args: Any, recipe: Any) -> ConfigDict:
    network = mae_st.model(args.size, recipe.pixels, project_bias=True, **dims(recipe))
    mean, deviation = recipe.pixels
    return common.sections(
        method=method(args, recipe, network, {"mean": mean, "deviation": deviation}),
        data=mae_st.loader(recipe),
        optimizer=mae.optimizer(recipe),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
    )


def dims(recipe: Any) -> dict[str, Any]:
    """The decoder's dimensions."""
    return recipes.decoder(recipe)


def method(args: Any, recipe: Any, network: ConfigDict, statistics: dict[str, Any]) -> ConfigDict:
    """The method, whose targets are patches normalised by themselves [paper], raw pixels, or features of CLIP."""
    target, more = call("targets.pixels", joint=True, **statistics), {}
    if args.target == "raw":
        target = call("targets.pixels", normalize=False, **HALF)
    elif args.target == "clip":
        target, more = call("targets.features"), {"teacher": teacher(args, network)}
    return call(
        "methods.diffmae.build",
        model=network,
        encoder_mask=recipes.mask(recipe.encoder_mask),
        objectives={"features" if more else "pixels": call("targets.core.objective", target=target)},
        kind="cross_self",
        exponent=EXPONENT,
        **more,
    )


def teacher(args: Any, network: Any) -> ConfigDict:
    """The encoder of a workdir, or CLIP's image tower with patches as large as the student's [inferred]."""
    saved = common.saved_model(args.teacher)
    size = "L" if network.patch == 14 else "B"
    return saved or tower(size=size, patch=14 if size == "L" else 16, resolution=224)
