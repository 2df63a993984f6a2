"""Ego-Only (Wang et al. 2023): egocentric video alone, in three stages; `configs/ego_only.py:L`, or B.

    configs/ego_only.py:L                               1. pre-training as MAE-ST; --config.data.source.path=FOLDER
    configs/ego_only.py:L,mq,weights=WORKDIR            2. temporal segmentation, of epic and charades, too:
                                                        --config.data.source.source.path=TRAIN
                                                        --config.eval.data.source.source.path=VALIDATION
    configs/moments.py:data=TRAIN,test=VALIDATION       3. moments from features, by `vmae eval`, or a detector of yours

Beside each video of the second stage is NAME_segments.csv: `begin`, `end` (seconds) and class numbers in the column
`label`, or, of epic, `verb` and `noun`. The code of the paper is not public, and the paper's page names the stages
alone: most figures are `inferred` in `recipes.csv` (docs/ego_only.md).
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, mae_st, recipes
from vmae_jax.spec import call

# The heads of each dataset: the column of the classes, and how many there are.
HEADS = {"mq": ("label",), "epic": ("verb", "noun"), "charades": ("label",)}
WINDOWS = 16  # of a video, in validation [inferred]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("L", "B"), stage=("pretrain", *HEADS), weights=None, smoke=False)
    recipe = recipes.recipe(f"ego_only:{args.size}" + ("" if args.stage == "pretrain" else f",{args.stage}"))
    config: Any = mae_st.pretrain(args, recipe) if args.stage == "pretrain" else segment(args, recipe)
    if not args.smoke:
        return config
    config = common.smoke(config)
    if args.stage != "pretrain":
        settings = call("data.synthetic.world.settings", train=16, validation=8, test=8, size=48, frames=16)
        for loader, split in ((config.data, "train"), (config.eval.data, "validation")):
            loader.source = call(
                "data.synthetic.world", settings=settings, split=split
            )  # other drawn clips lack moments
    return config


def segment(args: Any, recipe: Any) -> ConfigDict:
    """Every frame's classes, learned from clips of which half show a moment [inferred]."""
    counts = recipe.classes if isinstance(recipe.classes, list) else [recipe.classes]
    columns = dict(zip(HEADS[args.stage], counts, strict=True))
    names = {column: "actions" if column == "label" else column for column in columns}
    clips = {"frames": 16, "stride": recipe.stride}
    validation = call("data.clips.multiview", **clips, views=WINDOWS)
    return common.sections(
        method=call(
            "methods.segmentation.build",
            model=mae_st.model(args.size, recipe.pixels, drop_path=recipe.drop_path),
            heads={
                names[column]: call("methods.segmentation.actions", classes=count, label=names[column])
                for column, count in columns.items()
            },
            init_scale=recipe.init_scale,
        ),
        data=loader(
            columns,
            names,
            sampler=call("data.foreground", **clips),
            transforms=[
                call("data.transforms.random_resized_crop", area=recipe.area),
                call("data.transforms.flip", probability=recipe.flip),
            ],
            global_batch=recipe.batch,
        ),
        optimizer=call(
            "train.optim.adamw",
            schedule=call(
                "train.schedule.warmup_cosine",
                peak=recipe.rate,
                batch_unit=int(recipe.per),
                min_rate=recipe.final[0],
                warmup=recipe.warmup,
                open_ended=True,
            ),
            b2=recipe.betas[1],
            weight_decay=recipe.weight_decay,
            clip_norm=recipe.clip,
            layer_decay=recipe.layer_decay,
        ),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
        eval={
            "data": loader(
                columns,
                names,
                sampler=validation,
                transforms=[call("data.transforms.center_crop")],
                global_batch=4,
                shuffle=False,
            ),
            "evaluators": {"frames": call("eval.frames")},
        },
        init_from={"params/encoder": common.begin(args.weights, select="params/encoder")},
    )


def loader(columns: dict[str, int], names: dict[str, str], **options: Any) -> ConfigDict:
    """A loader of videos with moments beside them, whose frames are labelled by the columns."""
    sides = {"segments": call("data.sides.sidecar", suffix="_segments.csv")}
    return call(
        "data.pipeline.loader",
        source=call("data.sides.beside", source=call("data.sources.folder"), sides=sides),
        streams={
            names[column]: call("data.streams.segments.frame_labels", classes=count, label=column)
            for column, count in columns.items()
        },
        **options,
    )
