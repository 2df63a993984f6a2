"""HVM-1 (Orhan 2024): MAE-ST on hours of human-like video, at 224 or 448 pixels.

    configs/hvm1.py:448                                   pre-training, at a constant rate of 1e-4
    configs/hvm1.py:448,last,weights=WORKDIR              its last phase, at 1e-5
    configs/hvm1.py:448,ssv2,weights=WORKDIR              fine-tuning on 10 or 50 videos per class (k700, ssv2)

ViT-H/14 with a class token, learned separable positions and raw pixels as targets. Name your own
videos: `--config.data.source.path=FOLDER`, or a list for fine-tuning. How long to train is not published.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, mae_st, recipes
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments,
        resolution=("224", "448"),
        stage=("pretrain", "last", "ssv2", "k700"),
        weights=None,
        smoke=False,
    )
    recipe = recipes.recipe(f"hvm1:{args.resolution}" + ("" if args.stage == "pretrain" else f",{args.stage}"))
    config = (pretrain if args.stage in ("pretrain", "last") else finetune)(args, recipe)
    return common.smoke(config) if args.smoke else config


def model(args: Any, recipe: Any, **more: Any) -> ConfigDict:
    """Return the ViT-H/14 of MAE-ST."""
    return mae_st.model("H", recipe.pixels, patch=14, resolution=int(args.resolution), **more)


def pretrain(args: Any, recipe: Any) -> ConfigDict:
    return common.sections(
        method=mae_st.masked(recipe, model(args, recipe, **mae_st.decoder(recipe)), normalize=False),
        data=mae_st.loader(recipe, int(args.resolution)),
        optimizer=mae_st.optimizer(recipe, call("train.schedule.constant", value=recipe.rate)),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
        init_from={"params": common.begin(args.weights, select="params")} if args.stage == "last" else None,
    )


def finetune(args: Any, recipe: Any) -> ConfigDict:
    """Return fine-tuning on few videos per class: no mixing, no warm-up, an absolute last rate, PyTorch's betas."""
    size = int(args.resolution)
    crop = call("data.transforms.random_resized_crop", size=size, area=recipe.area)
    # Not where the side distinguishes classes.
    mirrored = [] if recipe.flip is None else [call("data.transforms.flip", probability=recipe.flip)]
    views, crops = map(int, recipe.test.split("x"))
    loader = {"source": call("data.sources.csv"), "labels": True}
    return common.sections(
        method=call(
            "methods.classify.build",
            model=model(args, recipe, drop_path=recipe.drop_path),
            classes=recipe.classes,
            dropout=recipe.head_dropout,
            smoothing=recipe.smoothing,
        ),
        data=call(
            "data.pipeline.loader",
            **loader,
            sampler=call("data.clips.dense", frames=16, stride=recipe.stride),
            transforms=[crop, *mirrored],
            global_batch=recipe.batch,
        ),
        optimizer=call(
            "train.optim.adamw",
            schedule=call(
                "train.schedule.warmup_cosine", peak=recipe.rate, min_rate=recipe.final[0], warmup=recipe.warmup
            ),
            b2=recipe.betas[1],
            weight_decay=recipe.weight_decay,
            clip_norm=recipe.clip,
            layer_decay=recipe.layer_decay,
        ),
        train={"length": recipe.length, "accumulate": recipe.accumulate},
        checkpoint={"every": {"epochs": 5}, "keep_last": 3},
        eval={
            "data": call(
                "data.pipeline.loader",
                **loader,
                sampler=call("data.clips.multiview", views=views, stride=recipe.stride),
                transforms=[call("data.transforms.view_crop", size=size, crops=crops)],
                global_batch=32,
            ),
            "evaluators": {"test": call("eval.multiview")},
        },
        init_from={"params/encoder": common.begin(args.weights, select="params/encoder")},
    )
