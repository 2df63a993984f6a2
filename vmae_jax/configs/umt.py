"""UMT (Li et al. 2023), alignment of visible tokens with a frozen teacher: `configs/umt.py:B`, or L.

    configs/umt.py:B,teacher=WORKDIR                    the student; --config.data.source.path=FOLDER

The teacher is an import of CLIP's image tower (`vmae import --weights=CLIP --out=WORKDIR`), which sees every frame by
itself, or any pre-training of this package, whose clips and tokens the student then has. Without a workdir it is
CLIP's B of 16 pixels (of the student L: L of 14 pixels at 196), whose weights have yet to be named. The figures, with
their origin, are in `recipes.csv`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes
from vmae_jax.spec import call
from vmae_jax.weights.clip import tower


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", "L"), teacher=None, smoke=False)
    recipe = recipes.recipe(f"umt:{args.size}")
    saved: Any = common.saved_method(args.teacher)
    teacher: Any = (saved and saved.get("model")) or clip(args.size)
    projection = saved.get("projection") if saved else {"B": 512, "L": 768}[args.size]
    clips: dict[str, Any] = {"frames": int(recipe.clips.partition("x")[0]), "tubelet": 1}
    if teacher.frames > 1:  # a teacher of video, whose tokens the student has
        clips = {"frames": teacher.frames, "tubelet": teacher.tubelet, "resolution": teacher.resolution}
    model: Any = call("models.variants.vit", size=args.size, drop_path=recipe.drop_path, **clips)
    method = call(
        "methods.umt.build",
        model=model,
        teacher=teacher,
        encoder_mask=recipes.mask(recipe.encoder_mask),
        projection=projection,
    )
    config = pretraining(method, recipe)
    places = {"frozen/teacher": common.begin(args.teacher, select="params/encoder")}
    if projection:
        places["frozen/projector"] = common.begin(args.teacher, select="params/projection")
    config.init_from = ConfigDict(places, sort_keys=False)
    return common.smoke(config) if args.smoke else config


def clip(size: str) -> ConfigDict:
    """CLIP's image tower: B has patches of 16 pixels; L of 14, and sees 196 pixels, which are as many patches."""
    large = size == "L"
    return tower(size=size, patch=14 if large else 16, resolution=196 if large else 224)


def pretraining(method: Any, recipe: Any) -> Any:
    """A config with the data, the schedule and the length of a recipe."""
    return common.sections(
        method=method,
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.folder"),
            sampler=call(f"data.clips.{recipe.sampler}", frames=method.model.frames),
            transforms=[
                call("data.transforms.multi_scale_crop", size=method.model.resolution),
                call("data.transforms.flip", probability=recipe.flip),
            ],
            global_batch=recipe.batch,
        ),
        optimizer=recipes.adamw(recipe, start=recipe.start),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
    )
