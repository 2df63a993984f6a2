"""V-JEPA 2 (Assran et al. 2025), which predicts features of hidden blocks: `configs/vjepa2.py:g`, or L, H.

    configs/vjepa2.py:L                                 pre-training; --config.data.source.path=FOLDER
    configs/vjepa2.py:L,cooldown,weights=WORKDIR        64 frames at falling learning rates, from a pre-training

The target is the moving average of the encoder, which `--ema` evaluates and exports. The figures, with their origin,
are in `recipes.csv`. The official code cuts the lists of a batch to its shortest; here each clip has the mean number of
tokens that is left there, and what is cut are whole tubes, not the end of the clip.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes
from vmae_jax.spec import call

# The mean positions of a slot that the encoder sees, and that are predicted, after the official cut, as measured with
# the official generator for batches of 24: of 14 x 14 and of 16 x 16 positions [code].
COUNTS = {14: {"short": (46, 94), "long": (13, 137)}, 16: {"short": (64, 119), "long": (17, 180)}}
# The encoders beyond the sizes of `models.variants`; ViT-g has cubes of 16 pixels and heads of 64 channels [code].
CLIP_AFTER = {"steps": 41 * 300}
RATE = 4  # frames a second [code]
SIZES = {
    "g": {"patch": 16, "heads": 22},
    "G": {"size": "L", "width": 1664, "depth": 48, "heads": 26, "mlp_ratio": 64 / 13},
}


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("g", "L", "H"), stage=("pretrain", "cooldown"), weights=None, smoke=False)
    recipe = recipes.recipe(f"vjepa2:{args.size}" + (",cooldown" if args.stage == "cooldown" else ""))
    places = call("models.rotary", pairing="tiled")
    method = latent(recipe, network(args.size, recipe, places))
    config = pretraining(recipe, method, ema_decay=average(recipe))
    config.data.sampler.rate = RATE
    if args.stage == "cooldown":
        config.init_from = continued(args.weights)
    return common.smoke(config) if args.smoke else config


def network(size: str, recipe: Any, positions: ConfigDict, **more: Any) -> ConfigDict:
    """The encoder, and as its decoder the predictor."""
    frames, resolution = (int(number) for number in recipe.clips.split("x"))
    return call(
        "models.variants.vit",
        frames=frames,
        resolution=resolution,
        positions=positions,
        project_bias=True,
        initial="vjepa",
        decoder_width=recipe.decoder_width,
        decoder_depth=recipe.decoder_depth,
        decoder_heads=recipe.decoder_heads,
        decoder_mlp_ratio=4.0,
        **{"size": size, **SIZES.get(size, {}), **more},
    )


def continued(path: str | None) -> ConfigDict:
    """The parameters of a run and their average, with which another one begins."""
    places = {"params": common.begin(path), "average": common.begin(path, ema=True)}
    return ConfigDict(places, sort_keys=False)


def masks(recipe: Any, side: int) -> dict[str, ConfigDict]:
    """The short-range and the long-range blocks of a grid with `side` tokens a side."""
    name, *figures = recipe.encoder_mask
    counts = COUNTS.get(side, COUNTS[16])
    found = {}
    for kind, count, scale in (("short", *figures[:2]), ("long", *figures[2:])):
        context, targets = (tokens / slots(side) for tokens in counts[kind])
        found[kind] = call(f"masking.{name}", count=int(count), scale=scale, context=context, targets=targets)
    return found


def slots(side: int) -> int:
    """Return the positions of a slot of which `COUNTS` has the numbers for a grid with `side` tokens a side."""
    return (side if side in COUNTS else 16) ** 2


def latent(recipe: Any, model: Any, **more: Any) -> ConfigDict:
    """The method.

    Args:
      recipe: the figures.
      model: encoder and predictor.
      more: further arguments of the method: a teacher.
    """
    side = model.resolution // (model.patch or 16)
    return call("methods.latent.build", model=model, masks=masks(recipe, side), **more)


def pretraining(recipe: Any, method: Any, **train: Any) -> Any:
    """A config with the data and the schedules of a recipe."""
    model = method.model
    return common.sections(
        method=method,
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.folder"),
            sampler=call(f"data.clips.{recipe.sampler}", frames=model.frames),
            transforms=[
                call("data.transforms.random_resized_crop", size=model.resolution, area=recipe.area),
                call("data.transforms.flip", probability=recipe.flip),
            ],
            global_batch=recipe.batch,
        ),
        optimizer=optimizer(recipe),
        train={"length": recipe.length, **train},
        checkpoint={"every": {"steps": 300}, "keep_last": 3},
    )


def optimizer(recipe: Any) -> ConfigDict:
    """AdamW, its schedules a quarter longer than the run and moved before each update [code]."""
    stretched = {"stretch": recipe.stretch, "ahead": 1}
    decay = recipe.weight_decay
    # V-JEPA clips each network by itself, from the 42nd of its epochs of 300 steps on [code].
    clipping = {} if recipe.clip is None else {"clip_norm": recipe.clip, "clip_each": True, "clip_after": CLIP_AFTER}
    schedule = call(
        "train.schedule.warmup_cosine",
        peak=recipe.rate,
        start=recipe.start,
        final=recipe.final,
        warmup=recipe.warmup,
        batch_unit=None,
        recipe_batch=recipe.batch,
        open_ended=True,
        shape="cosine" if recipe.warmup["steps"] else "linear",
        **stretched,
    )
    return call(
        "train.optim.adamw",
        schedule=schedule,
        b2=recipe.betas[1],
        weight_decay=call("train.schedule.ramp", start=decay[0], final=decay[1], shape="cosine", **stretched)
        if isinstance(decay, list)
        else decay,
        also_decay=["*mask_token"],  # all that is not one-dimensional in the official code
        **clipping,
    )


def average(recipe: Any) -> Any:
    """The share that the target keeps at each step: a number, or one that rises."""
    ends = recipe.momentum
    if not isinstance(ends, list):
        return ends
    return call("train.schedule.ramp", start=ends[0], final=ends[1], stretch=recipe.stretch)
