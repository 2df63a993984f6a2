"""MBT (Nagrani et al. 2021), a classifier of what is seen and heard: `configs/mbt.py:audioset,weights=WORKDIR`.

Arguments: the data (audioset_mini, the balanced 20 thousand clips; audioset, 500 thousand; vggsound; epic), what is
read (`both`, `video`, `audio`), and `weights=`, a workdir with an image model that has learned positions, with
whose encoder both encoders begin; `weights=none` begins with random values.

The lists are `--config.data.source.path=train.csv --config.eval.data.source.path=test.csv`, with a column of labels
(`a.mp4,3;17` of AudioSet, `a.mp4,drum` of VGGSound, `a.mp4,take,cup` of Epic-Kitchens); the videos have sound.
The figures, with their origin, are in `recipes.csv`; only the script of audioset_mini is public.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes
from vmae_jax.spec import call

MEAN, DEVIATION = 1.102, 2.762  # of the spectrograms [code]
FUSED, COUNT = 8, 4  # the first block with bottlenecks, and how many tokens they are [code]
SECONDS = 8  # of sound [code]
VERBS, NOUNS = 97, 300


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments,
        data=("audioset_mini", "audioset", "vggsound", "epic"),
        modalities=("both", "video", "audio"),
        weights=None,
        smoke=False,
    )
    recipe = recipes.recipe(f"mbt:{args.data}")
    begins = {}
    if args.weights != "none":
        begins = {f"params/{name}": common.begin(args.weights, select="params/encoder") for name in read(args)}
        begins["params/norm"] = common.begin(args.weights, select="params/encoder/norm")
    network = {"size": "B", "drop_path": recipe.drop_path, "positions": call("models.positions.learned")}
    config: Any = classifier(
        args,
        recipe,
        video={**network, "initial": "scenic"},
        audio={**network, "initial": "scenic", "frames": SECONDS * 100},
        fuse=call("models.fusion.bottleneck", start=FUSED, count=COUNT),
        sound={"seconds": float(SECONDS), "mean": MEAN, "deviation": DEVIATION},
        augment={},
        pool="tokens",
    )
    config.init_from = ConfigDict(begins, sort_keys=False)
    return smoke(config) if args.smoke else config


def read(args: Any) -> tuple[str, ...]:
    """Return the modalities that a classifier reads."""
    return ("video", "audio") if args.modalities == "both" else (args.modalities,)


def predicted(args: Any, recipe: Any) -> tuple[dict[str, Any], Any, str | None]:
    """Return what is predicted, as arguments of the method; the labels of the loader; the columns of a list."""
    if args.data.startswith("audioset"):  # the official loss is a sum over classes, its smoothing 1 / classes [code]
        more = {"smoothing": recipe.smoothing, "smooth_to": 1 / recipe.classes, "weight": float(recipe.classes)}
        head = call("methods.labels.many", classes=recipe.classes, **more)
        return {"heads": {"classes": head}}, {"label": call("data.labels.many", classes=recipe.classes)}, None
    if args.data == "epic":
        sizes = {"verb": VERBS, "noun": NOUNS}
        heads = {
            name: call("methods.labels.one", classes=count, smoothing=recipe.smoothing, label=name, weight=0.5)
            for name, count in sizes.items()
        }
        return {"heads": heads}, {name: call("data.labels.one") for name in sizes}, "path,verb,noun"
    return {"classes": recipe.classes, "smoothing": recipe.smoothing}, True, None


def classifier(
    args: Any,
    recipe: Any,
    *,
    video: Mapping[str, Any],
    audio: Mapping[str, Any],
    fuse: ConfigDict | None,
    sound: Mapping[str, float],
    augment: Mapping[str, Any],
    pool: str,
) -> ConfigDict:
    """Return a supervised stage of one or both modalities, with the data, schedule and test of a recipe.

    Args:
      video, audio: arguments of the networks.
      fuse: how both exchange.
      sound: its "seconds", and the "mean" and "deviation" of its spectrograms.
      augment: arguments of SpecAugment.
      pool: as of `methods.mbt.build`; of one modality it makes no difference.
    """
    half = [0.5, 0.5, 0.5]
    branches = {
        "video": call(
            "methods.branches.branch",
            model=call("models.variants.vit", frames=32, mean=half, std=half, **video),
            read=call("inputs.readers.video", colors=call("augment.colors.jitter", grey=0.1)),
        ),
        "audio": call(
            "methods.branches.branch",
            model=call("models.spectrogram", **audio),
            read=call(
                "inputs.readers.sound",
                log_mel=call("inputs.log_mel.hamming", mean=sound["mean"], deviation=sound["deviation"]),
                augment=call("inputs.spec_augment", **augment),
            ),
        ),
    }
    names = read(args)
    several = isinstance(recipe.mix, list)
    share, separate = recipe.mix[0] if several else recipe.mix, several and len(names) > 1
    head, labels, columns = predicted(args, recipe)
    method = call(
        "methods.mbt.build",
        modalities={name: branches[name] for name in names},
        **head,
        fuse=fuse if len(names) > 1 else None,
        pool=pool,
        init_scale=recipe.init_scale,
        mix=call("augment.modalities.mixup", alpha=share, separate=separate, group=recipe.group),
    )
    streams = {"audio": call("data.streams.audio", seconds=sound["seconds"], rate=16000)} if "audio" in names else {}
    views, _ = map(int, recipe.test.split("x"))

    def loader(sampler: ConfigDict, transforms: list[ConfigDict], batch: int) -> ConfigDict:
        listed = {"columns": columns} if columns else {}
        return call(
            "data.pipeline.loader",
            source=call("data.sources.csv", **listed),
            sampler=sampler,
            transforms=transforms,
            streams=dict(streams),
            global_batch=batch,
            labels=labels,
        )

    crop = call("data.transforms.random_resized_crop", area=recipe.area, ratio=[1.0, 1.0])
    return common.sections(
        method=method,
        data=loader(call("data.clips.dense", frames=32, stride=recipe.stride), [crop], recipe.batch),
        optimizer=call(
            "train.sgd",
            schedule=call(
                "train.schedule.warmup_cosine",
                peak=recipe.rate,
                final=recipe.final,
                warmup=recipe.warmup,
                batch_unit=None,
            ),
            momentum=recipe.betas,
            weight_decay=recipe.weight_decay,
            clip_norm=recipe.clip,
            layer_decay=recipe.layer_decay,
        ),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
        eval={
            "data": loader(
                call("data.clips.multiview", frames=32, stride=recipe.stride, views=views),
                [call("data.transforms.center_crop", size=224, short_side=256)],
                32,
            ),
            "evaluators": {"test": call("eval.multiview")},
        },
    )


def smoke(config: Any) -> ConfigDict:
    """Return a config at `smoke` size, on drawn clips with sound."""
    config = common.smoke(config)
    settings = call("data.synthetic.world.settings", train=64, validation=8, test=8, size=48, frames=16, silent=0.0)
    for data in (config.data, config.eval.data):  # other drawn clips are silent
        data.source = call("data.synthetic.world", settings=settings)
    return config
