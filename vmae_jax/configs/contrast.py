"""Contrast of clips of a video: `configs/contrast.py:simclr,B`, or another method, or size S.

    configs/contrast.py:simclr,B        contrast of two clips of a video with all other clips of the batch
    configs/contrast.py:byol,B          prediction of the average encoder's features; views=4 for four clips of a video
    configs/contrast.py:moco,B          contrast with a queue of the average encoder's keys
    configs/contrast.py:moco_v3,B       contrast with its keys of the same batch
    configs/contrast.py:teg,B           contrast of a long and a short clip, and of their moments
    configs/contrast.py:ascnet,B        prediction of appearance and of speed, of two clips at two speeds
    configs/contrast.py:const_cl,B      contrast of clips, and of their regions, predicted from the other clip
    configs/contrast.py:controlled,B    contrast of clips, and of cells by their overlap with those of the whole video

Name your own videos: `--config.data.source.path=FOLDER`. Temperatures, momentum, crops and colours are those of the
study of Feichtenhofer et al. (2021) and of MoCo v3, which use other networks; `recipes.csv` has the figures
with their origin.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes
from vmae_jax.spec import ConfigError, call

METHODS = ("simclr", "byol", "moco", "moco_v3", "teg", "ascnet", "const_cl", "controlled")
QUEUE = 65_536  # keys [code]
PAIRS = ("teg", "ascnet")
COLORS, STRONG = (0.6, 0.15), (0.8, 0.2)  # of the study, of ConST-CL: changes of colours and of the hue [code]
STREAMS = {"teg": {"seconds": "data.streams.times.seconds"}, "controlled": {"place": "data.streams.place"}}
LONG, SHORT = 4, 1  # strides of TeG's clips [inferred]
SPEEDS, GAP = [1, 2], [0, 64]  # of ASCNet's clips; frames from one's start to the other's [inferred]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, method=METHODS, size=("B", "S"), views=2, smoke=False)
    recipe = recipes.recipe(f"contrast:{args.method},{args.size}")
    change, hue = STRONG if args.method == "const_cl" else COLORS
    jitter = call("augment.colors.jitter", brightness=change, contrast=change, saturation=change, hue=hue, blur=0.5)
    video = call(
        "methods.joint.modality",
        model=call("models.variants.vit", size=args.size),
        mask=None,
        read=call("inputs.readers.video", colors=jitter),
    )
    momentum = recipe.momentum
    average = momentum and call("train.schedule.ramp", start=momentum[0], final=momentum[1], shape="cosine")
    optimizer = recipes.adamw(recipe)
    if recipe.frozen:
        optimizer.freeze = [recipe.frozen]
    config = common.sections(
        method=call("methods.joint.build", modalities={"video": video}, parts=parts(args.method, recipe, args.views)),
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.folder"),
            sampler=sampler(args.method, recipe, args.views),
            transforms=[
                call("data.transforms.random_resized_crop", size=224, area=recipe.area),
                call("data.transforms.flip", probability=recipe.flip),
            ],
            streams=STREAMS.get(args.method) and {name: call(one) for name, one in STREAMS[args.method].items()},
            global_batch=recipe.batch,
        ),
        optimizer=optimizer,
        train={"length": recipe.length, "ema_decay": average},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
    )
    return common.smoke(config) if args.smoke else config


def sampler(method: str, recipe: Any, views: int) -> ConfigDict:
    """Return the clips of a video; TeG's second one is within the first, ASCNet's are of two speeds."""
    if method == "const_cl" and views != 2:
        raise ConfigError(f"views={views}: const_cl compares two clips of each video")
    if method == "controlled":
        if views != 2:
            raise ConfigError(f"views={views}: controlled has two clips of each video, beside one of the whole video")
        return call("data.clips.whole_and_parts", frames=16, stride=recipe.stride, parts=views)
    if method not in PAIRS:
        return call("data.clips.several", frames=16, stride=recipe.stride, views=views)
    if views != 2:
        raise ConfigError(f"views={views}: {method} has two different clips of each video")
    if method == "ascnet":
        return call("data.clips.pair", frames=16, strides=SPEEDS, gap=GAP)
    return call("data.clips.pair", frames=16, strides=[LONG, SHORT], gap=[0, 15 * (LONG - SHORT)])


def parts(method: str, recipe: Any, views: int) -> dict[str, ConfigDict]:
    """Return the terms of the loss; the widths are those of the official code, and TeG's those of CVRL's."""
    if method == "simclr":
        heads = {"widths": [2048, 2048, 128], "temperature": recipe.temperature, "views": views}
        return {"simclr": call("methods.parts.nce", first="video", second="video", **heads)}
    if method == "teg":  # half of the loss each [inferred]
        heads = {"widths": [2048, 2048, 128], "temperature": recipe.temperature, "weight": 0.5}
        return {
            "clips": call("methods.parts.nce", first="video", second="video", **heads),
            "moments": call("methods.parts.time_nce", modality="video", **heads),
        }
    if method == "ascnet":
        return {"ascnet": call("methods.parts.speed", modality="video")}
    if method == "const_cl":  # the contrast of clips is the sum of both directions, and 0.1 its temperature [code]
        heads = {"widths": [2048, 2048, 2048, 128], "temperature": 0.1, "weight": 2.0, "views": views}
        regions = {"regions": call("augment.regions.random_boxes"), "temperature": recipe.temperature, "weight": 0.001}
        return {
            "clips": call("methods.parts.nce", first="video", second="video", **heads),
            "regions": call("methods.parts.region_nce", modality="video", **regions),
        }
    if method == "controlled":  # the paper has the four terms; weights, heads and what is estimated are ours [inferred]
        heads = {"widths": [2048, 2048, 128], "temperature": recipe.temperature, "views": 1 + views}
        return {
            "clips": call("methods.parts.nce", first="video", second="video", **heads),
            "order": call("methods.parts.order", modality="video", weight=0.5),
            "colours": call("methods.parts.forget", modality="video", weight=0.1),
            "cells": call("methods.parts.overlap_nce", modality="video", **heads),
        }
    if method == "byol":
        return {"byol": call("methods.parts.pull", modality="video", widths=[4096, 256], views=views)}
    heads: dict[str, Any] = {"widths": [2048, 2048, 128], "predictor": [], "queue": QUEUE}
    if method == "moco_v3":
        weight = 4 * recipe.temperature  # each of both directions counts 2 τ times [code]
        heads = {"widths": [4096, 4096, 256], "predictor": [4096, 256], "weight": weight}
    return {"moco": call("methods.parts.moco", modality="video", temperature=recipe.temperature, views=views, **heads)}
