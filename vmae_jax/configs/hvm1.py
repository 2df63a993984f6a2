"""HVM-1 (Orhan 2024): MAE-ST on hours of human-like video, at 224 or 448 pixels.

    configs/hvm1.py:448                                   pre-training, at a constant rate of 1e-4
    configs/hvm1.py:448,last,weights=WORKDIR              its last phase, at 1e-5
    configs/hvm1.py:448,ssv2,weights=WORKDIR              fine-tuning on 10 or 50 videos a class (k700, ssv2)

ViT-H/14 with a class token, learned separable positions and raw pixels as targets. Name your own
videos: `--config.data.source.path=FOLDER`, or a list for fine-tuning. How long to train is not published.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common
from vmae_jax.spec import call

MEAN, STD = 0.45, 0.225  # [inferred] of the code it is a fork of
# resolution: (visible tokens of all, repeats, batch of videos)
PRETRAIN = {
    "224": (204, 2048, 16, 16),  # [code]; the batch is the last phase's
    "448": (409, 8192, 4, 32),  # [code]; the batch is the last phase's
}
EPOCHS = 200  # [inferred]: the published training ran in jobs that were resumed
# resolution: (batch, accumulation, rate at a batch of 256)
FINETUNE = {"224": (128, 2, 1.2e-3), "448": (64, 4, 6e-4)}  # [code] on 4 GPUs (224: [inferred])
CLASSES = {"ssv2": 174, "k700": 700}
FINETUNE_EPOCHS = 50  # [inferred]: the logs' best epoch is reported


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments,
        resolution=("224", "448"),
        stage=("pretrain", "last", "ssv2", "k700"),
        weights=None,
        smoke=False,
    )
    config = pretrain(args) if args.stage in ("pretrain", "last") else finetune(args)
    return common.smoke(config) if args.smoke else config


def model(args: Any, **more: Any) -> ConfigDict:
    """ViT-H/14 as MAE-ST has it."""
    return call(
        "models.variants.vit",
        size="H",
        patch=14,
        resolution=int(args.resolution),
        prefix=1,
        positions=call("models.positions.separable"),
        mean=[MEAN] * 3,
        std=[STD] * 3,
        remat="full",
        **more,
    )


def begin(args: ConfigDict, select: str) -> ConfigDict:
    path = {} if args.weights is None else {"path": args.weights}
    return call("train.init_from.weights", select=select, **path)


def pretrain(args: Any) -> ConfigDict:
    visible, tokens, repeat, batch = PRETRAIN[args.resolution]
    target = call("targets.pixels", normalize=False, mean=MEAN, deviation=STD)
    rate = 1e-4 if args.stage == "pretrain" else 1e-5  # [code]
    return common.sections(
        method=call(
            "methods.masked.build",
            model=model(args, decoder_width=512, decoder_depth=4, decoder_heads=16),
            # 90% (95%) of the tokens, counted as the official code does: int(tokens * (1 - ratio)) are seen.
            encoder_mask=call("masking.random", ratio=1 - visible / tokens),
            objectives={"pixels": call("targets.core.objective", target=target)},
        ),
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.folder"),
            sampler=call("data.clips.dense", frames=16, stride=8),
            # [inferred] of the code it is a fork of
            transforms=[
                call("data.transforms.random_resized_crop", size=int(args.resolution), area=[0.5, 1.0]),
                call("data.transforms.flip"),
            ],
            global_batch=batch,
            repeat=repeat,
        ),
        optimizer=call(
            "train.optim.adamw",
            schedule=call("train.schedule.constant", value=rate),
            b2=0.95,
            weight_decay=0.05,
            clip_norm=0.1,
        ),
        train={"length": {"epochs": EPOCHS}},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
        init_from={"params": begin(args, "params")} if args.stage == "last" else None,
    )


def finetune(args: Any) -> ConfigDict:
    """A few videos a class; no mixing of clips, no warm-up, the last rate absolute, PyTorch's betas [code]."""
    batch, accumulate, rate = FINETUNE[args.resolution]
    size = int(args.resolution)
    crop = call("data.transforms.random_resized_crop", size=size)
    mirrored = [] if args.stage == "ssv2" else [call("data.transforms.flip")]  # the side tells classes apart
    loader = {"source": call("data.sources.csv"), "labels": True}
    return common.sections(
        method=call(
            "methods.classify.build",
            model=model(args, drop_path=0.1),
            classes=CLASSES[args.stage],
            dropout=0.3,
            smoothing=0.1,
        ),
        data=call(
            "data.pipeline.loader",
            **loader,
            sampler=call("data.clips.dense", frames=16, stride=8),
            transforms=[crop, *mirrored],
            global_batch=batch,
        ),
        optimizer=call(
            "train.optim.adamw",
            schedule=call("train.schedule.warmup_cosine", peak=rate, min_rate=1e-5, warmup={"epochs": 0}),
            b2=0.999,
            weight_decay=1e-4,
            clip_norm=5.0,
            layer_decay=0.8,
        ),
        train={"length": {"epochs": FINETUNE_EPOCHS}, "accumulate": accumulate},
        checkpoint={"every": {"epochs": 5}, "keep_last": 3},
        eval={
            "data": call(
                "data.pipeline.loader",
                **loader,
                sampler=call("data.clips.multiview", views=1, stride=8),
                transforms=[call("data.transforms.view_crop", size=size, crops=1)],
                global_batch=32,
            ),
            "evaluators": {"test": call("eval.multiview")},
        },
        init_from={"params/encoder": begin(args, "params/encoder")},
    )
