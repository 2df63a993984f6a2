"""InternVideo-Next's second stage (Wang et al. 2025): `configs/internvideo_next.py:B,teacher=WORKDIR`, or L.

    configs/internvideo_next.py:B,teacher=WORKDIR       the student; --config.data.source.path=FOLDER

The teacher is any pre-training of this package. The student has the teacher's network, begins with its weights, and
predicts its features of hidden blocks; the teacher stays as it is. The paper's teacher comes from a first stage with a
diffusion decoder beside an image-text model, which is not here. The figures, with their origin, are in `recipes.csv`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes, umt, vjepa2
from vmae_jax.spec import call

CONTEXT = 50  # positions of a slot that the encoder sees at most: 400 tokens for 8 frames [code]
PATCH, REGISTERS, LAYER_SCALE = 14, 4, 1e-5  # [code]
EPSILON = 1e-6  # [code]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", "L"), teacher=None, smoke=False)
    recipe = recipes.recipe(f"internvideo_next:{args.size}")
    teacher: Any = common.saved_model(args.teacher) or network(args.size, recipe)
    method = call(
        "methods.latent.build",
        model=student(teacher, recipe),
        teacher=teacher,
        masks=masks(recipe, teacher.resolution // (teacher.get("patch") or 16)),
        penalty=call("targets.core.cosine"),
        normalize=False,
    )
    config = umt.pretraining(method, recipe)
    config.optimizer.schedule.update({"batch_unit": None, "recipe_batch": recipe.batch})
    config.optimizer.update({"clip_norm": recipe.clip, "eps": EPSILON})
    places = {at: common.begin(args.teacher, select="params/encoder") for at in ("params/encoder", "frozen/teacher")}
    config.init_from = ConfigDict(places, sort_keys=False)
    return common.smoke(config) if args.smoke else config


def network(size: str, recipe: Any) -> ConfigDict:
    """Return the encoder of the first stage."""
    frames, resolution = (int(number) for number in recipe.clips.split("x"))
    return call(
        "models.variants.vit",
        size=size,
        frames=frames,
        resolution=resolution,
        tubelet=1,
        patch=PATCH,
        prefix=REGISTERS,
        positions=call("models.positions.sincos_3d"),
        layer_scale=LAYER_SCALE,
        qkv_bias=False,
    )


def student(teacher: Any, recipe: Any) -> ConfigDict:
    """Return the teacher's encoder, and as its decoder the predictor."""
    predictor = {f"decoder_{name}": getattr(recipe, f"decoder_{name}") for name in ("width", "depth", "heads")}
    own = {name: value for name, value in teacher.items() if name != "call"}
    return call(teacher.call, **{**own, **predictor, "project_bias": True, "drop_path": recipe.drop_path})


def masks(recipe: Any, side: int) -> dict[str, Any]:
    """Return V-JEPA 2's blocks, with a context of no more than `CONTEXT` positions of a slot."""
    found: dict[str, Any] = vjepa2.masks(recipe, side)
    for mask in found.values():
        mask.context = min(mask.context, CONTEXT / vjepa2.slots(side))
    return found
