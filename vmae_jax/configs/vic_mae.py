"""ViC-MAE (Hernandez et al. 2023), MAE and contrast of two frames of a video: `configs/vic_mae.py:B`, or L.

    configs/vic_mae.py:B,images=FOLDER,videos=FOLDER    pre-training on both
    configs/mae.py:B,finetune                           fine-tuning on images (docs/vic_mae.md)

Two views are two frames of one video, or twice the same image, each with a crop and colours of its own. The figures,
with their origin, are in `recipes.csv`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, mae, recipes
from vmae_jax.models.variants import IMAGENET_MEAN, IMAGENET_STD
from vmae_jax.spec import call

WEIGHTS = {"pixels": 0.97, "contrast": 0.03}  # [code]
TEMPERATURE, WIDTHS = 0.1, [4096, 4096, 128]  # [code]
GAP = [1.0, 8.0]  # seconds between both frames, of videos of ten seconds [inferred]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", "L"), images=None, videos=None, smoke=False)
    recipe = recipes.recipe(f"vic_mae:{args.size}")
    config = common.sections(
        method=call(
            "methods.joint.build",
            modalities={"video": frames(args, recipe)},
            parts={
                "reconstruct": call("methods.parts.reconstruct"),
                "contrast": call(
                    "methods.parts.nce",
                    first="video",
                    second="video",
                    temperature=TEMPERATURE,
                    widths=WIDTHS,
                    weight=WEIGHTS["contrast"],
                ),
            },
        ),
        data=call(
            "data.pipeline.loader",
            source=sources(args),
            sampler=call("data.clips.pair", frames=1, gap=GAP, unit="seconds"),
            transforms=mae.crops(recipe),
            global_batch=recipe.batch,
        ),
        optimizer=mae.optimizer(recipe),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
    )
    return common.smoke(config) if args.smoke else config


def sources(args: Any) -> ConfigDict:
    """Return every image and every video, once per epoch each."""
    kinds = {"images": "data.sources.images", "videos": "data.sources.folder"}
    paths = {name: {} if args[name] is None else {"path": args[name]} for name in kinds}
    parts = {name: call("data.mixture.part", source=call(kind, **paths[name])) for name, kind in kinds.items()}
    return call("data.mixture", parts=parts)


def frames(args: Any, recipe: Any) -> ConfigDict:
    """Return single frames as a modality: MAE's networks and target, with other colours for each view."""
    size = recipes.decoder(recipe)
    target = call("targets.pixels", joint=True, mean=list(IMAGENET_MEAN), deviation=list(IMAGENET_STD))
    jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}  # [code]
    changes = [call("augment.colors.jitter", **jitter, **more) for more in ({"blur": 1.0}, {"solarise": 0.2})]  # [code]
    return call(
        "methods.joint.modality",
        model=mae.model(args, decoder_prefix="kept", project_bias=True, **size),
        mask=recipes.mask(recipe.encoder_mask),
        read=call("inputs.readers.video", colors=call("augment.colors.by_view", changes=changes)),
        objectives={"pixels": call("targets.core.objective", target=target, weight=WEIGHTS["pixels"])},
    )
