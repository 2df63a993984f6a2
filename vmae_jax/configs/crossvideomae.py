"""CrossVideoMAE (Aaqil Ahamed et al. 2025), a masked video and frames of it: `configs/crossvideomae.py`.

    configs/crossvideomae.py:image=WORKDIR              ViT-B; --config.data.source.path=FOLDER

The network of the frames is a pre-trained MAE (a run of `configs/mae.py:B`, or an import of its weights), and stays as
it is. Views are two copies of a clip with crops and colours of their own, and a frame of each. There is no public code;
the figures, with their origin, are in `recipes.csv`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, mae, recipes
from vmae_jax.models.variants import IMAGENET_MEAN, IMAGENET_STD
from vmae_jax.spec import call

STRIDE = 4  # [inferred]
HIDDEN = 0.75  # of a frame; 75 to 90% [paper]
PAIRS = {"clips": ("video", "video"), "frames": ("image", "image"), "cross": ("video", "image")}  # [paper]
TEMPERATURE, WIDTHS = 0.1, [768, 128]  # [inferred]
IMAGE_DECODER = {"decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16}  # MAE's [inferred]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B",), image=None, smoke=False)
    recipe = recipes.recipe("crossvideomae")
    contrasts = {
        name: call(
            "methods.parts.nce",
            first=first,
            second=second,
            temperature=TEMPERATURE,
            widths=WIDTHS,
            merged=name == "cross",
        )
        for name, (first, second) in PAIRS.items()
    }
    optimizer = recipes.adamw(recipe)
    optimizer.freeze = [recipe.frozen]
    config = common.sections(
        method=call(
            "methods.joint.build",
            modalities={"video": clip(args, recipe), "image": frame(args)},
            parts={"reconstruct": call("methods.parts.reconstruct"), **contrasts},
        ),
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.folder"),
            sampler=call("data.clips.pair", frames=16, strides=[STRIDE, STRIDE], gap=[0, 0]),
            transforms=[
                call("data.transforms.random_resized_crop", size=224, area=recipe.area),
                call("data.transforms.flip", probability=recipe.flip),
            ],
            global_batch=recipe.batch,
        ),
        optimizer=optimizer,
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
        init_from={"params/image": common.begin(args.image, select="params/encoder")},
    )
    return common.smoke(config) if args.smoke else config


def objectives() -> dict[str, ConfigDict]:
    """Return MAE's target, the pixels of a cube normalised together."""
    target = call("targets.pixels", joint=True, mean=list(IMAGENET_MEAN), deviation=list(IMAGENET_STD))
    return {"pixels": call("targets.core.objective", target=target)}


def clip(args: Any, recipe: Any) -> ConfigDict:
    """Return the clips as a modality."""
    dims = recipes.decoder(recipe)
    return call(
        "methods.joint.modality",
        model=call("models.variants.vit", size=args.size, **dims),
        mask=recipes.mask(recipe.encoder_mask),
        read=call("inputs.readers.video", colors=call("augment.colors.jitter")),
        objectives=objectives(),
    )


def frame(args: Any) -> ConfigDict:
    """Return a frame of each clip as a modality."""
    return call(
        "methods.joint.modality",
        model=mae.model(args, decoder_prefix="kept", project_bias=True, **IMAGE_DECODER),
        mask=call("masking.random", ratio=HIDDEN, rounded_down="visible"),
        read=call("inputs.readers.frame", colors=call("augment.colors.jitter")),
        objectives=objectives(),
    )
