"""Supervised fine-tuning of a classifier: `configs/finetune.py:B,k400,weights=WORKDIR`.

Arguments: the size (S, B, L, H, g), the data (k400, k600, k700, ssv2, ucf101, hmdb51, ava), the
paper (v2, v1, tiktok), what it begins from: `from=pretraining`, `from=k710`, a classifier of
Kinetics-710, or `from=distilled`, a student of one; their heads' rows are taken over by name where both know
the classes (k400, k600, k700): `labels_from=FILE,labels_to=FILE`. Which of these have a recipe is in RECIPES; the
tag of every figure is in `recipes.csv`. The videos are `records=FOLDER`, as `vmae data prepare --dataset=…` made it,
or lists (`path label` a line), `--config.data.source.path=` and `--config.eval.data.source.path=`; AVA's
clips with all their actions are otherwise the records of the builder `ava`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vmae_jax.configs import common
from vmae_jax.spec import ConfigError, call

CLASSES = {"k400": 400, "k600": 600, "k700": 700, "k710": 710, "ssv2": 174, "ucf101": 101, "hmdb51": 51, "ava": 60}
SHARED = ("k400", "k600", "k700")  # data whose classes a classifier of Kinetics-710 knows


class Recipe(NamedTuple):
    """A row of the official scripts: GPUs and clips' videos on each, rate at a batch of 256, …"""

    gpus: int
    each: int
    rate: float
    epochs: int
    layer_decay: float
    drop_path: float
    head_dropout: float = 0.0
    weight_decay: float = 0.05
    clip: float | None = None
    warmup: int = 5
    stride: int = 4
    final: float = 1e-6


# (paper, size, data, from)
RECIPES = {
    ("v2", "B", "k400", "pretraining"): Recipe(32, 16, 7e-4, 90, 0.75, 0.1),  # [code]
    ("v2", "B", "ssv2", "pretraining"): Recipe(16, 16, 2e-3, 25, 0.65, 0.1),  # [code]
    ("v2", "L", "k400", "pretraining"): Recipe(32, 6, 2e-3, 35, 0.75, 0.2),  # [code]
    ("v2", "L", "ssv2", "pretraining"): Recipe(32, 6, 5e-4, 20, 0.75, 0.2),  # [code]
    ("v2", "H", "k400", "pretraining"): Recipe(32, 4, 1e-3, 40, 0.8, 0.2, 0.5),  # [code]
    ("v2", "H", "k600", "pretraining"): Recipe(32, 4, 1e-3, 40, 0.8, 0.2, 0.5),  # [code]; 32 GPUs [inferred]
    ("v2", "H", "ssv2", "pretraining"): Recipe(32, 4, 5e-4, 20, 0.8, 0.2),  # [code]
    ("v2", "g", "k400", "pretraining"): Recipe(64, 3, 1e-3, 30, 0.9, 0.2, 0.0, 0.1),  # [code]
    ("v2", "g", "k400", "k710"): Recipe(32, 3, 1e-5, 3, 0.9, 0.25, 0.0, 0.1, warmup=1),  # [code]
    ("v2", "g", "k600", "k710"): Recipe(32, 3, 1e-5, 3, 0.9, 0.25, 0.0, 0.1, warmup=1),  # [code]
    ("v2", "g", "k700", "k710"): Recipe(32, 3, 1e-5, 3, 0.9, 0.25, 0.0, 0.1, warmup=1),  # [inferred] as k400
    # As g's: no script is published. The rest is that of the size on Kinetics-710; H on K400 is published at 88.6.
    ("v2", "H", "k400", "k710"): Recipe(32, 4, 1e-5, 3, 0.8, 0.2, 0.5, warmup=1),  # [inferred]
    ("v2", "H", "k600", "k710"): Recipe(32, 4, 1e-5, 3, 0.8, 0.2, 0.5, warmup=1),  # [inferred]
    ("v2", "H", "k700", "k710"): Recipe(32, 4, 1e-5, 3, 0.8, 0.2, 0.5, warmup=1),  # [inferred]
    ("v2", "B", "k400", "k710"): Recipe(32, 16, 1e-5, 3, 0.75, 0.1, warmup=1),  # [inferred]
    ("v2", "B", "k600", "k710"): Recipe(32, 16, 1e-5, 3, 0.75, 0.1, warmup=1),  # [inferred]
    ("v2", "B", "k700", "k710"): Recipe(32, 16, 1e-5, 3, 0.75, 0.1, warmup=1),  # [inferred]
    ("v2", "g", "ucf101", "k710"): Recipe(8, 3, 1e-3, 50, 0.9, 0.35, 0.5),  # [code]
    ("v2", "g", "hmdb51", "k710"): Recipe(8, 3, 5e-4, 15, 0.9, 0.35, 0.5, stride=2),  # [code]
    ("v2", "g", "ssv2", "pretraining"): Recipe(32, 3, 3e-4, 20, 0.9, 0.25),  # [code]
    # The distilled students, fine-tuned further; their test takes 7 clips of 3 crops [code].
    ("v2", "S", "k400", "distilled"): Recipe(32, 16, 1e-4, 10, 0.75, 0.1, warmup=1),  # [inferred]
    ("v2", "S", "k600", "distilled"): Recipe(32, 16, 1e-4, 10, 0.75, 0.1, warmup=1),  # [inferred]
    ("v2", "B", "k400", "distilled"): Recipe(32, 16, 1e-4, 10, 0.75, 0.1, warmup=1),  # [inferred]
    ("v2", "B", "k600", "distilled"): Recipe(32, 16, 1e-4, 10, 0.75, 0.1, warmup=1),  # [inferred]
    ("v1", "S", "k400", "pretraining"): Recipe(32, 12, 5e-4, 150, 0.75, 0.1),  # [code]
    ("v1", "B", "k400", "pretraining"): Recipe(64, 6, 5e-4, 75, 0.75, 0.1),  # [code]
    ("v1", "L", "k400", "pretraining"): Recipe(64, 2, 2e-3, 35, 0.75, 0.1),  # [code]
    ("v1", "H", "k400", "pretraining"): Recipe(64, 8, 1e-3, 50, 0.75, 0.2, 0.5),  # [code]
    ("v1", "S", "ssv2", "pretraining"): Recipe(32, 12, 1e-3, 40, 0.7, 0.1),  # [code]
    ("v1", "B", "ssv2", "pretraining"): Recipe(64, 6, 5e-4, 30, 0.75, 0.1),  # [code]
    ("v1", "L", "ssv2", "pretraining"): Recipe(64, 2, 5e-4, 30, 0.75, 0.1),  # [inferred] B's, with L's batch
    ("v1", "B", "ucf101", "pretraining"): Recipe(8, 16, 5e-4, 100, 0.7, 0.2, 0.5, final=1e-5),  # [code]
    # AVA's actions as classes of a clip, without boxes: the published scripts are of detection.
    ("v1", "B", "ava", "pretraining"): Recipe(8, 16, 5e-4, 30, 0.75, 0.2),  # [inferred]
    ("v1", "L", "ava", "pretraining"): Recipe(8, 16, 5e-4, 30, 0.8, 0.2),  # [inferred]
    ("v1", "H", "ava", "pretraining"): Recipe(8, 16, 5e-4, 30, 0.8, 0.2),  # [inferred]
    ("v2", "g", "ava", "pretraining"): Recipe(32, 4, 3e-4, 20, 0.9, 0.3, 0.0, 0.1),  # [inferred]
    # V2's, directly from the pre-training on TikTok (configs/tiktok.py).
    ("tiktok", "g", "k400", "pretraining"): Recipe(64, 3, 1e-3, 30, 0.9, 0.2, 0.0, 0.1),  # [inferred]
    ("tiktok", "g", "ssv2", "pretraining"): Recipe(32, 3, 3e-4, 20, 0.9, 0.25),  # [inferred]
    ("tiktok", "g", "ucf101", "pretraining"): Recipe(8, 3, 1e-3, 50, 0.9, 0.35, 0.5),  # [inferred]
    ("tiktok", "g", "hmdb51", "pretraining"): Recipe(8, 3, 5e-4, 15, 0.9, 0.35, 0.5, stride=2),  # [inferred]
    ("tiktok", "B", "ucf101", "pretraining"): Recipe(8, 16, 5e-4, 100, 0.7, 0.2, 0.5, final=1e-5),  # [inferred] V1's
    ("tiktok", "B", "hmdb51", "pretraining"): Recipe(
        8, 16, 5e-4, 50, 0.7, 0.2, 0.5, stride=2, final=1e-5
    ),  # [inferred]
}


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
    chosen = (args.paper, args.size, args.data, args["from"])
    if chosen not in RECIPES:
        known = "; ".join(",".join(key) for key in RECIPES)
        raise ConfigError(f"configs/finetune.py: there is no recipe for {','.join(chosen)}, only for {known}")
    if (args.labels_from or args.labels_to) and (args["from"] == "pretraining" or args.data not in SHARED):
        raise ConfigError(
            "configs/finetune.py: labels_from= and labels_to= take a head's rows over by name, from=k710 or "
            f"from=distilled to {', '.join(SHARED)}; from={args['from']} to {args.data} begins with a new head"
        )
    recipe = RECIPES[chosen]
    told = regularised(recipe)
    if args.data == "ava":  # several classes a clip: a sigmoid each, no blending [inferred]
        told = {"dropout": recipe.head_dropout, "erase": told["erase"]}
        heads = {"actions": call("methods.labels.many", classes=CLASSES["ava"])}
    method = call(
        "methods.classify.build",
        **network(args.size, recipe),
        **({"heads": heads} if args.data == "ava" else {"classes": CLASSES[args.data]}),
        **told,
    )
    labels = {"label": call("data.labels.many", classes=CLASSES["ava"])} if args.data == "ava" else True
    source = prepared(args.data, args.records) if args.records else ava if args.data == "ava" else listed
    config: Any = supervised(method, recipe, args.data, begin(args), source=source, labels=labels)
    if args["from"] == "distilled":
        config.eval.data.sampler.views = 7
    return common.smoke(config) if args.smoke else config


def network(size: str, recipe: Recipe) -> dict[str, ConfigDict]:
    """The model of a size."""
    remat = "full" if size in ("H", "g") else "none"
    return {"model": call("models.variants.vit", size=size, drop_path=recipe.drop_path, remat=remat)}


def regularised(recipe: Recipe) -> dict[str, object]:
    """What the official scripts share [code]; they mix clips on each GPU, its videos times num_sample."""
    return {
        "dropout": recipe.head_dropout,
        "init_scale": 0.001,
        "smoothing": 0.1,
        "erase": call("augment.erasing.random_erasing", probability=0.25),
        "mix": call("augment.mixing.mixup_cutmix", mixup=0.8, cutmix=1.0, switch=0.5, group=2 * recipe.each),
    }


def begin(args: ConfigDict) -> dict[str, ConfigDict]:
    """`init_from` of a fine-tuning."""
    path = {} if args.weights is None else {"path": args.weights}
    if args["from"] == "pretraining":
        return {"params/encoder": call("train.init_from.weights", select="params/encoder", **path)}
    if args.data not in SHARED:
        return {"params": call("train.init_from.weights", skip=["head"], **path)}
    names = {"old_labels": args.labels_from, "new_labels": args.labels_to}
    return {"params": call("train.init_from.weights", **names, **path)}


def listed(split: str) -> ConfigDict:
    """A list of videos that the user names."""
    del split
    return call("data.sources.csv")


def ava(split: str) -> ConfigDict:
    """AVA's annotated moments, with the actions of all their people."""
    settings = call("data.builders.ava.config")
    return call("data.sources.tfds", name="ava", config=settings, split=split, label="labels")


def prepared(data: str, records: str) -> Callable[[str], ConfigDict]:
    """The splits of a folder that `vmae data prepare --dataset` made."""
    splits = {"train": "train", "validation": "test" if data in ("ucf101", "hmdb51") else "validation"}
    label = "labels" if data == "ava" else "label"
    return lambda split: call("data.sources.tfds", directory=records, split=splits[split], label=label)


def supervised(
    method: ConfigDict,
    recipe: Recipe,
    data: str,
    init_from: dict[str, ConfigDict],
    *,
    source: Callable[[str], ConfigDict] = listed,
    labels: Any = True,
) -> ConfigDict:
    """A supervised stage: the official data, schedule and test.

    Args:
      source: gives the videos of "train" and of "validation".
      labels: of the loaders.
    """
    still = data == "ssv2"  # the side tells classes apart: nothing is mirrored
    sparse = data == "ssv2"
    sampler = call("data.clips.uniform") if sparse else call("data.clips.dense_finetune", stride=recipe.stride)
    transforms = [call("data.rand_augment"), call("data.transforms.random_resized_crop")]
    views = 2 if sparse else 5
    return common.sections(
        method=method,
        data=call(
            "data.pipeline.loader",
            source=source("train"),
            sampler=sampler,
            transforms=transforms if still else [*transforms, call("data.transforms.flip")],
            global_batch=recipe.gpus * recipe.each,
            repeat=2,
            labels=labels,
        ),
        optimizer=call(
            "train.optim.adamw",
            schedule=call(
                "train.schedule.warmup_cosine", peak=recipe.rate, final=recipe.final, warmup={"epochs": recipe.warmup}
            ),
            b2=0.999,
            weight_decay=recipe.weight_decay,
            clip_norm=recipe.clip,
            layer_decay=recipe.layer_decay,
        ),
        train={"length": {"epochs": recipe.epochs}},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
        eval={
            "data": call(
                "data.pipeline.loader",
                source=source("validation"),
                sampler=call("data.clips.multiview", views=views, stride=recipe.stride, sparse=sparse),
                transforms=[call("data.transforms.view_crop", crops=3)],
                global_batch=32,
                repeat=3,
                labels=labels,
            ),
            "evaluators": {"test": call("eval.multiview")},
        },
        init_from=init_from,
    )
