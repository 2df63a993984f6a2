"""Unmasking Deepfakes (Das et al. 2023): forged faces, by a spatial and a temporal network: `configs/masdt.py`.

    configs/masdt.py:spatial                        a masked autoencoder of pictures of faces;
                                                    --config.data.source.path=FOLDER
    configs/masdt.py:temporal,flow=RAFT             one of the optical flow of videos of faces, likewise
    configs/masdt.py:finetune,faces=WORKDIR,motion=WORKDIR,flow=RAFT,real=FOLDER,forged=FOLDER
                                                    both networks learn which videos are forged

RAFT is a workdir, `vmae import --weights=raft-small.pth --out=RAFT`. For the last stage:

    faces=, motion=                the workdirs of the first two
    real=, forged=                 videos of faces, cropped to the face: folders or lists
    test_real=, test_forged=       the same, of other people

The figures are ours; `recipes.csv` has them.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, mae, probe, recipes
from vmae_jax.models.variants import IMAGENET_MEAN, IMAGENET_STD
from vmae_jax.spec import call

SIGNED = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}  # of flow, from -1 to 1


def get_config(arguments: str | None = None) -> ConfigDict:
    paths = dict.fromkeys(("flow", "faces", "motion", "real", "forged", "test_real", "test_forged"))
    args = common.parse(arguments, stage=("spatial", "temporal", "finetune"), **paths, smoke=False)
    args.size = "B"
    recipe = recipes.recipe(f"masdt:{args.stage}")
    config = (finetune if args.stage == "finetune" else pretrain)(args, recipe)
    return common.smoke(config) if args.smoke else config


def pretrain(args: Any, recipe: Any) -> ConfigDict:
    """MAE of frames or of flow."""
    size = recipes.decoder(recipe)
    spatial = args.stage == "spatial"
    if spatial:
        target = call(
            "targets.pixels", normalize=True, joint=True, mean=list(IMAGENET_MEAN), deviation=list(IMAGENET_STD)
        )
    else:  # normalising flat flow would amplify its noise
        target = call("targets.pixels", normalize=False, mean=0.5, deviation=0.5)
    network = mae.model(args, decoder_prefix="kept", project_bias=True, **({} if spatial else SIGNED), **size)
    objectives = {"pixels": call("targets.core.objective", target=target)}
    mask = recipes.mask(recipe.encoder_mask)
    if spatial:
        method = call("methods.masked.build", model=network, encoder_mask=mask, objectives=objectives)
    else:
        method = call("methods.deepfakes.pretrain", model=network, mask=mask, objectives=objectives)
    optimizer: Any = mae.optimizer(recipe)
    if not spatial:
        optimizer.freeze = ["flow"]
    return common.sections(
        method=method,
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.images" if spatial else "data.sources.folder"),
            sampler=call("data.clips.dense", frames=1 if spatial else 2, stride=1),
            transforms=mae.crops(recipe),
            global_batch=recipe.batch,
        ),
        optimizer=optimizer,
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
        init_from={} if spatial else {"params/flow": common.begin(args.flow)},
    )


def finetune(args: Any, recipe: Any) -> ConfigDict:
    """Both networks, half of the videos real."""
    networks = {
        "spatial": mae.model(args, drop_path=recipe.drop_path),
        "temporal": mae.model(args, drop_path=recipe.drop_path, **SIGNED),
    }
    labels = {"global_batch": recipe.batch, "labels": True}
    views = int(recipe.test.split("x")[0])
    return common.sections(
        method=call("methods.deepfakes.build", **networks, init_scale=recipe.init_scale),
        data=call(
            "data.pipeline.loader",
            source=videos(args.real, args.forged, "shares"),
            sampler=call("data.clips.dense", frames=2, stride=1),
            transforms=mae.crops(recipe),
            **labels,
        ),
        optimizer=call(
            "train.optim.adamw",
            schedule=call("train.schedule.warmup_cosine", peak=recipe.rate, final=recipe.final, warmup=recipe.warmup),
            b2=recipe.betas[1],
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
            freeze=[recipe.frozen],
        ),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
        eval={
            "data": call(
                "data.pipeline.loader",
                source=videos(args.test_real, args.test_forged, "passes"),
                sampler=call("data.clips.multiview", frames=2, stride=1, views=views),
                transforms=[call("data.transforms.center_crop", size=224)],
                **labels,
            ),
            "evaluators": {"test": call("eval.multiview")},
        },
        init_from={
            "params/spatial/encoder": common.begin(args.faces, select="params/encoder"),
            "params/temporal/encoder": common.begin(args.motion, select="params/encoder"),
            "params/flow": common.begin(args.flow),
        },
    )


def videos(real: str | None, forged: str | None, weigh: str) -> ConfigDict:
    """Return real videos, of class 0, and forged ones, of class 1; as shares, half of an epoch each."""
    parts = {}
    for label, (name, path) in enumerate({"real": real, "forged": forged}.items()):
        kind = "csv" if probe.listed(path or "") else "folder"
        source = call(f"data.sources.{kind}", **({} if path is None else {"path": path}))
        parts[name] = call("data.mixture.part", source=source, labels={"label": label})
    return call("data.mixture", parts=parts, weigh=weigh)
