"""MAE (He et al. 2021) on images: `configs/mae.py:B`, of the sizes B, L and H.

    configs/mae.py:B                                    pre-training; --config.data.source.path=FOLDER
    configs/mae.py:B,finetune,weights=WORKDIR           fine-tuning; --config.data.source.path=TRAIN and
                                                        --config.eval.data.source.path=VALIDATION, a subfolder a class
    configs/mae.py:B,linear,weights=WORKDIR             the linear probe, on the same data

An image is a clip of one frame. Folders are the default; lists and image datasets of TFDS are other sources
(docs/images_and_sound.md). The figures, with their origin, are in `recipes.csv`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes
from vmae_jax.configs.finetune import regularised
from vmae_jax.models.variants import IMAGENET_MEAN, IMAGENET_STD
from vmae_jax.spec import call

ONE_FRAME = {"frames": 1, "stride": 1}


def get_config(arguments: str | None = None) -> ConfigDict:
    stages = {"pretrain": pretrain, "finetune": finetune, "linear": linear}
    args = common.parse(arguments, size=("B", "L", "H"), stage=tuple(stages), weights=None, labels=1000, smoke=False)
    recipe = recipes.recipe(f"mae:{args.size}" + ("" if args.stage == "pretrain" else f",{args.stage}"))
    config = stages[args.stage](args, recipe)
    return common.smoke(config) if args.smoke else config


def model(args: Any, **more: Any) -> ConfigDict:
    """A ViT of images with a class token, fixed 2-D positions and MAE's initial values."""
    return call(
        "models.variants.vit",
        size=args.size,
        frames=1,
        tubelet=1,
        patch=14 if args.size == "H" else 16,
        prefix=1,
        positions=call("models.positions.sincos_2d"),
        initial="mae",
        remat="full" if args.size == "H" else "none",
        **more,
    )


def pretrain(args: Any, recipe: Any) -> ConfigDict:
    size = recipes.decoder(recipe)
    statistics = {"mean": list(IMAGENET_MEAN), "deviation": list(IMAGENET_STD)}
    target = call("targets.pixels", normalize=True, joint=True, **statistics)
    return common.sections(
        method=call(
            "methods.masked.build",
            model=model(args, decoder_prefix="kept", project_bias=True, **size),
            encoder_mask=recipes.mask(recipe.encoder_mask),
            objectives={"pixels": call("targets.core.objective", target=target)},
        ),
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.images"),
            sampler=call("data.clips.dense", **ONE_FRAME),
            transforms=crops(recipe),
            global_batch=recipe.batch,
        ),
        optimizer=optimizer(recipe),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
    )


def optimizer(recipe: Any) -> ConfigDict:
    """AdamW of the pre-training, as the official code has it."""
    schedule = call(
        "train.schedule.warmup_cosine", peak=recipe.rate, final=recipe.final, warmup=recipe.warmup, open_ended=True
    )
    return call(
        "train.optim.adamw",
        schedule=schedule,
        b2=recipe.betas[1],
        weight_decay=recipe.weight_decay,
        also_decay=["*_token"],  # all that is not one-dimensional in the official code
    )


def finetune(args: Any, recipe: Any) -> ConfigDict:
    """The mean of the tokens after a norm of its own, mixed and erased images, rates by layer."""
    layers, magnitude, deviation = recipe.rand_augment
    augment = call("data.rand_augment", layers=int(layers), magnitude=magnitude, deviation=deviation)
    schedule = call(
        "train.schedule.warmup_cosine",
        peak=recipe.rate,
        min_rate=recipe.final[0],
        warmup=recipe.warmup,
        open_ended=True,
    )
    method = call(
        "methods.classify.build",
        model=model(args, drop_path=recipe.drop_path),
        classes=args.labels,
        **regularised(recipe),
    )
    optimizer = call(
        "train.optim.adamw",
        schedule=schedule,
        b2=recipe.betas[1],
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
    )
    return classified(args, recipe, method, optimizer, [augment, *crops(recipe)])


def linear(args: Any, recipe: Any) -> ConfigDict:
    """LARS on a linear layer over the class token of the frozen encoder, after batch norm; crops and flips alone."""
    method = call("methods.linear.build", model=model(args), classes=args.labels, init_scale=recipe.init_scale)
    optimizer = call(
        "train.sgd",
        schedule=call(
            "train.schedule.warmup_cosine", peak=recipe.rate, final=recipe.final, warmup=recipe.warmup, open_ended=True
        ),
        momentum=recipe.betas,
        weight_decay=recipe.weight_decay,
        trust=0.001,
        freeze=recipe.frozen,
    )
    return classified(args, recipe, method, optimizer, crops(recipe))


def classified(
    args: Any, recipe: Any, method: ConfigDict, optimizer: ConfigDict, transforms: list[ConfigDict]
) -> ConfigDict:
    """A stage on images with one class each, which begins with an encoder and is tested on whole images."""
    return common.sections(
        method=method,
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.images", labels="folders"),
            sampler=call("data.clips.dense", **ONE_FRAME),
            transforms=transforms,
            global_batch=recipe.batch,
            labels=True,
        ),
        optimizer=optimizer,
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
        eval={
            "data": call(
                "data.pipeline.loader",
                source=call("data.sources.images", labels="folders"),
                sampler=call("data.clips.multiview", **ONE_FRAME, views=1),
                transforms=[call("data.transforms.center_crop", size=224, short_side=256, interpolation="bicubic")],
                global_batch=256,
                labels=True,
            ),
            "evaluators": {"test": call("eval.multiview")},
        },
        init_from={"params/encoder": common.begin(args.weights, select="params/encoder")},
    )


def crops(recipe: Any) -> list[ConfigDict]:
    """A random part of the image, mirrored half of the time."""
    return [
        call("data.transforms.random_resized_crop", size=224, area=recipe.area, interpolation="bicubic"),
        call("data.transforms.flip", probability=recipe.flip),
    ]
