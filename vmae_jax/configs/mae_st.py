"""MAE-ST (Feichtenhofer et al. 2022), MAE on video: `configs/mae_st.py:L`, of the sizes B, L and H.

    configs/mae_st.py:L                                 pre-training; --config.data.source.path=FOLDER
    configs/mae_st.py:L,k400,weights=WORKDIR            fine-tuning on lists (`path label` a line),
                                                        --config.data.source.path= and --config.eval.data.source.path=,
                                                        or records=FOLDER of `vmae data prepare --dataset=kinetics`

Tokens are hidden wherever and whenever they are, positions are learned, and one frame of each tubelet is predicted. The
figures, with their origin, are in `recipes.csv`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes
from vmae_jax.configs.finetune import listed, prepared, regularised, supervised
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments, size=("L", "B", "H"), stage=("pretrain", "k400"), weights=None, records=None, smoke=False
    )
    recipe = recipes.recipe(f"mae_st:{args.size}" + ("" if args.stage == "pretrain" else f",{args.stage}"))
    config = pretrain(args, recipe) if args.stage == "pretrain" else finetune(args, recipe)
    return common.smoke(config) if args.smoke else config


def model(size: str, pixels: list[float], **more: Any) -> ConfigDict:
    """A ViT as MAE-ST has it: a class token, learned places and times, pixels scaled by one mean and deviation."""
    mean, std = pixels
    return call(
        "models.variants.vit",
        size=size,
        prefix=1,
        prefix_positions=True,
        positions=call("models.positions.separable"),
        initial="mae_st",
        mean=[mean] * 3,
        std=[std] * 3,
        remat="full" if size == "H" else "none",
        **more,
    )


def masked(recipe: Any, network: ConfigDict, **target: Any) -> ConfigDict:
    """The method, without the target's normalisation."""
    mean, deviation = recipe.pixels
    pixels = call("targets.pixels", mean=mean, deviation=deviation, **target)
    return call(
        "methods.masked.build",
        model=network,
        encoder_mask=recipes.mask(recipe.encoder_mask),
        objectives={"pixels": call("targets.core.objective", target=pixels)},
    )


def decoder(recipe: Any) -> dict[str, Any]:
    """The decoder's dimensions; it has a class token of its own."""
    return recipes.decoder(recipe) | {"project_bias": True}


def optimizer(recipe: Any, schedule: ConfigDict) -> ConfigDict:
    """AdamW of pre-training, whose weight decay is for all that is not one-dimensional in the official code."""
    return call(
        "train.optim.adamw",
        schedule=schedule,
        b2=recipe.betas[1],
        weight_decay=recipe.weight_decay,
        clip_norm=recipe.clip,
        also_decay=["*mask_token", "*_table", "*prefix_*"],
    )


def loader(recipe: Any, size: int = 224) -> ConfigDict:
    """Several clips of each video, each a random part of its pictures."""
    return call(
        "data.pipeline.loader",
        source=call("data.sources.folder"),
        sampler=call("data.clips.dense", frames=16, stride=recipe.stride),
        transforms=[
            call("data.transforms.random_resized_crop", size=size, area=recipe.area),
            call("data.transforms.flip", probability=recipe.flip),
        ],
        global_batch=recipe.batch,
        repeat=recipe.repeat,
    )


def pretrain(args: Any, recipe: Any) -> ConfigDict:
    schedule = call(
        "train.schedule.warmup_cosine", peak=recipe.rate, final=recipe.final, warmup=recipe.warmup, open_ended=True
    )
    frames = int(recipe.target[1])
    return common.sections(
        method=masked(recipe, model(args.size, recipe.pixels, **decoder(recipe)), joint=True, frames=frames),
        data=loader(recipe),
        optimizer=optimizer(recipe, schedule),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
    )


def finetune(args: Any, recipe: Any) -> ConfigDict:
    begin = common.begin(args.weights, select="params/encoder")
    return finetuned(args, recipe, model(args.size, recipe.pixels, drop_path=recipe.drop_path), begin)


def finetuned(args: Any, recipe: Any, network: ConfigDict, begin: ConfigDict) -> ConfigDict:
    """Fine-tuning of a network whose encoder begins from weights."""
    method = call("methods.classify.build", model=network, classes=recipe.classes, **regularised(recipe))
    source = prepared(args.stage, args.records) if args.records else listed
    config: Any = supervised(method, recipe, {"params/encoder": begin}, source=source)
    config.optimizer.schedule = call(
        "train.schedule.warmup_cosine",
        peak=recipe.rate,
        batch_unit=int(recipe.per),
        min_rate=recipe.final[0],
        warmup=recipe.warmup,
        open_ended=True,
    )
    return config
