"""Supervised fine-tuning of a classifier: `configs/finetune.py:B,k400,weights=WORKDIR`.

Arguments: the size (S, B, L, H, g), the data (k400, k600, k700, ssv2, ucf101, hmdb51, ava), the
paper (v2, v1, tiktok), and what it begins from: `from=pretraining`, `from=k710`, a classifier of
Kinetics-710, or `from=distilled`, a student of one. The rows of their heads are matched by class name for k400, k600
and k700: `labels_from=FILE,labels_to=FILE`. `recipes.csv` has the figures, and which combinations have a recipe.
The videos are `records=FOLDER`, made by `vmae data prepare --dataset=…`,
or lists (`path label` per line), `--config.data.source.path=` and `--config.eval.data.source.path=`. AVA's
clips with all their actions are otherwise read from the distributed files, `--config.data.source.catalog.directory=`.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes
from vmae_jax.spec import ConfigError, call

SHARED = ("k400", "k600", "k700")  # data whose classes are among those of Kinetics-710


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments,
        size=("B", "S", "L", "H", "g"),
        data=("k400", "k600", "k700", "ssv2", "ucf101", "hmdb51", "ava"),
        paper=("v2", "v1", "tiktok"),
        weights=None,
        labels_from=None,
        labels_to=None,
        records=None,
        smoke=False,
        **{"from": ("pretraining", "k710", "distilled")},
    )
    begins = "" if args["from"] == "pretraining" else f",from={args['from']}"
    recipe = recipes.recipe(f"finetune:{args.size},{args.data},{args.paper}{begins}")
    if (args.labels_from or args.labels_to) and (args["from"] == "pretraining" or args.data not in SHARED):
        raise ConfigError(
            "configs/finetune.py: labels_from= and labels_to= match the rows of a head by name, from=k710 or "
            f"from=distilled to {', '.join(SHARED)}; from={args['from']} to {args.data} has a new head"
        )
    several = args.data == "ava"  # several classes per clip: a sigmoid each, no mixing
    head = {"classes": recipe.classes}
    if several:
        head = {"heads": {"actions": call("methods.labels.many", classes=recipe.classes)}}
    method = call("methods.classify.build", **network(args.size, recipe), **head, **regularised(recipe))
    labels = {"label": call("data.labels.many", classes=recipe.classes)} if several else True
    owners = common.splits("ava", label="labels") if several else listed  # annotated moments, with all their actions
    source = prepared(args.data, args.records) if args.records else owners
    config = supervised(method, recipe, begin(args), source=source, labels=labels)
    return common.smoke(config) if args.smoke else config


def network(size: str, recipe: Any) -> dict[str, ConfigDict]:
    """Return the model of a size."""
    remat = "full" if size in ("H", "g") else "none"
    return {"model": call("models.variants.vit", size=size, drop_path=recipe.drop_path, remat=remat)}


def regularised(recipe: Any) -> dict[str, object]:
    """Return the regularization of a classifier; official scripts mix the clips of a GPU, its videos × num_sample."""
    found: dict[str, object] = {"dropout": recipe.head_dropout, "init_scale": recipe.init_scale}
    if recipe.smoothing is not None:
        found["smoothing"] = recipe.smoothing
    if recipe.erase is not None:
        found["erase"] = call("augment.erasing.random_erasing", probability=recipe.erase)
    if recipe.mix is not None:
        mixup, cutmix, switch = recipe.mix
        found["mix"] = call(
            "augment.mixing.mixup_cutmix", mixup=mixup, cutmix=cutmix, switch=switch, group=recipe.group
        )
    return found


def begin(args: Any) -> dict[str, ConfigDict]:
    """Return `init_from` of a fine-tuning."""
    if args["from"] == "pretraining":
        return {"params/encoder": common.begin(args.weights, select="params/encoder")}
    if args.data not in SHARED:
        return {"params": common.begin(args.weights, skip=["head"])}
    names = {"old_labels": args.labels_from, "new_labels": args.labels_to}
    return {"params": common.begin(args.weights, **names)}


def listed(split: str) -> ConfigDict:
    """Return a list of videos, named by the user."""
    del split
    return call("data.sources.csv")


def prepared(data: str, records: str) -> Callable[[str], ConfigDict]:
    """Return the splits of a folder made by `vmae data prepare --dataset`."""
    splits = {"train": "train", "validation": "test" if data in ("ucf101", "hmdb51") else "validation"}
    label = "labels" if data == "ava" else "label"
    return lambda split: call("data.sources.tfds", directory=records, split=splits[split], label=label)


def supervised(
    method: ConfigDict,
    recipe: Any,
    init_from: dict[str, ConfigDict],
    *,
    source: Callable[[str], ConfigDict] = listed,
    labels: Any = True,
) -> ConfigDict:
    """Return a supervised stage: the data, schedule and test of a recipe.

    Args:
      source: returns the source of "train" and of "validation".
      labels: of the loaders.
    """
    sparse = recipe.sampler == "uniform"
    stride = {} if sparse else {"stride": recipe.stride}
    transforms = [call("data.transforms.random_resized_crop", area=recipe.area)]
    if recipe.rand_augment is not None:
        layers, magnitude, deviation = recipe.rand_augment
        augment = call("data.rand_augment", layers=int(layers), magnitude=magnitude, deviation=deviation)
        transforms.insert(0, augment)
    if recipe.flip is not None:  # not where left and right distinguish classes
        transforms.append(call("data.transforms.flip", probability=recipe.flip))
    views, crops = map(int, recipe.test.split("x"))
    return common.sections(
        method=method,
        data=call(
            "data.pipeline.loader",
            source=source("train"),
            sampler=call(f"data.clips.{recipe.sampler}", **stride),
            transforms=transforms,
            global_batch=recipe.batch,
            repeat=recipe.repeat,
            labels=labels,
        ),
        optimizer=call(
            "train.optim.adamw",
            schedule=call("train.schedule.warmup_cosine", peak=recipe.rate, final=recipe.final, warmup=recipe.warmup),
            b2=recipe.betas[1],
            weight_decay=recipe.weight_decay,
            clip_norm=recipe.clip,
            layer_decay=recipe.layer_decay,
            freeze=[recipe.frozen] if recipe.frozen else [],
        ),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
        eval={
            "data": call(
                "data.pipeline.loader",
                source=source("validation"),
                sampler=call("data.clips.multiview", views=views, sparse=sparse, **stride),
                transforms=[call("data.transforms.view_crop", crops=crops)],
                global_batch=32,
                repeat=crops,
                labels=labels,
            ),
            "evaluators": {"test": call("eval.multiview")},
        },
        init_from=init_from,
    )
