"""CDFSL-V (Samarasinghe et al. 2023), for videos of classes and kinds that were never labelled: `configs/cdfslv.py`.

    configs/cdfslv.py:source=A,target=B                    VideoMAE on all videos of both
    configs/cdfslv.py:adapt,source=A,target=B,weights=WORKDIR
                                                           labels of A, and agreement with a teacher on B
    configs/few_shot.py:data=C,logits                      `vmae eval` on the labelled videos C of the target

A and B are folders of videos or lists (`path label` per line); A needs labels to adapt, its subfolders' names or the
list's. classes=400 is their number. No video of C may be in B. The figures, with their origin, are in `recipes.csv`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, probe, recipes, videomae
from vmae_jax.spec import call

DEPTH, MLP_RATIO = 8, 2358 / 768  # [code]
STRIDE = 4  # of both views [inferred]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments, stage=("pretrain", "adapt"), source=None, target=None, weights=None, classes=400, smoke=False
    )
    recipe = recipes.recipe("cdfslv" if args.stage == "pretrain" else "cdfslv:adapt")
    config = (pretrain if args.stage == "pretrain" else adapt)(args, recipe)
    return common.smoke(config) if args.smoke else config


def model(**more: Any) -> ConfigDict:
    """A ViT-B of eight blocks with narrower MLPs."""
    return call("models.variants.vit", size="B", depth=DEPTH, mlp_ratio=MLP_RATIO, **more)


def videos(args: Any, *, labelled: bool) -> ConfigDict:
    """Both kinds of video, half of each epoch each; those of the target have no class."""
    shares = {}
    for name in ("source", "target"):
        path = {} if args[name] is None else {"path": args[name]}
        if probe.listed(args[name] or ""):
            videos = call("data.sources.csv", **path)
        else:
            videos = call("data.sources.folder", **path, labels="folders" if labelled and name == "source" else "none")
        labels = {"labels": {"label": -1}} if labelled and name == "target" else {}
        shares[name] = call("data.mixture.part", source=videos, **labels)
    return call("data.mixture", parts=shares, weigh="shares" if labelled else "passes")


def pretrain(args: Any, recipe: Any) -> ConfigDict:
    method = call(
        "methods.masked.build",
        model=model(decoder_depth=recipe.decoder_depth),
        encoder_mask=recipes.mask(recipe.encoder_mask),
        objectives={"pixels": call("targets.core.objective", target=call("targets.pixels", normalize=True))},
    )
    config: Any = videomae.pretrain(method, recipe)
    config.data.source = videos(args, labelled=False)
    return config


def adapt(args: Any, recipe: Any) -> ConfigDict:
    return common.sections(
        method=call(
            "methods.cdfslv.build",
            model=model(),
            classes=args.classes,
            strong=call("augment.colors.jitter"),
            temperature=recipe.temperature,
            init_scale=recipe.init_scale,
        ),
        data=call(
            "data.pipeline.loader",
            source=videos(args, labelled=True),
            sampler=call("data.clips.pair", frames=16, strides=[STRIDE, STRIDE], gap=[0, 0]),
            transforms=[
                call("data.transforms.random_resized_crop", size=224, area=recipe.area),
                call("data.transforms.flip", probability=recipe.flip),
            ],
            global_batch=recipe.batch,
            labels=True,
        ),
        optimizer=call(
            "train.sgd",
            schedule=call("train.schedule.constant", value=recipe.rate),
            momentum=recipe.betas,
            nesterov=True,
            weight_decay=recipe.weight_decay,
            clip_norm=recipe.clip,
            rates={"head": call("train.schedule.arctangent", value=0.005, slope=-100.0, turn=0.05)},
        ),
        train={"length": recipe.length, "ema_decay": recipe.momentum},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
        init_from={"params/encoder": common.begin(args.weights, select="params/encoder")},
    )
