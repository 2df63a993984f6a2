"""SiamMAE (Gupta et al. 2023), which predicts a frame from an earlier one: `configs/siammae.py:S16`, or S8, B16.

    configs/siammae.py:S16                              pre-training; --config.data.source.path=FOLDER

Two frames of a video, 4 to 47 frames apart, with one crop and one flip for both; where a video is shorter, the gap is.
The authors published no code: the networks are those of CropMAE's code, which has SiamMAE too, and the figures of the
recipe are the paper's (`recipes.csv`).
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, mae, recipes
from vmae_jax.models.variants import IMAGENET_MEAN, IMAGENET_STD
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("S16", "S8", "B16"), smoke=False)
    recipe = recipes.recipe(f"siammae:{args.size}")
    crop = call("data.transforms.random_resized_crop", size=224, area=recipe.area, interpolation="exact_bilinear")
    flip = call("data.transforms.flip", probability=recipe.flip)
    config = siamese(
        recipe,
        args.size,
        source=call("data.sources.folder"),
        sampler=call("data.clips.pair"),
        transforms=[call("data.crops.together", transforms=[crop, flip])],
    )
    return common.smoke(config) if args.smoke else config


def siamese(recipe: Any, size: str, *, source: ConfigDict, sampler: ConfigDict, transforms: list[Any]) -> ConfigDict:
    """The method, and the data that give it two views of each video.

    Args:
      recipe: the figures.
      size: of the encoder, and its patch: "S16".
      source: of the videos or images.
      sampler, transforms: of the two views.
    """
    target = call("targets.pixels", joint=True, mean=list(IMAGENET_MEAN), deviation=list(IMAGENET_STD))
    return common.sections(
        method=call(
            "methods.siamese.build",
            model=network(recipe, size),
            encoder_mask=recipes.mask(recipe.encoder_mask),
            objectives={"pixels": call("targets.core.objective", target=target)},
        ),
        data=call(
            "data.pipeline.loader",
            source=source,
            sampler=sampler,
            transforms=transforms,
            global_batch=recipe.batch,
            repeat=recipe.repeat,
        ),
        optimizer=mae.optimizer(recipe),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
    )


def network(recipe: Any, size: str) -> ConfigDict:
    """The encoder of single frames with a class token, and the decoder's dimensions.

    Args:
      recipe: the figures.
      size: of the encoder, and its patch: "S16".
    """
    dims = recipes.decoder(recipe)
    return call(
        "models.variants.vit",
        size=size[0],
        patch=int(size[1:]),
        frames=1,
        tubelet=1,
        prefix=1,
        decoder_prefix="kept",
        project_bias=True,
        positions=call("models.positions.sincos_2d"),
        initial="mae",
        **dims,
    )
