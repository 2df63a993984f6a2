"""V-JEPA 2.1 (Mur-Labadia et al. 2026): `configs/vjepa2_1.py:L`, or B, g, G.

    configs/vjepa2_1.py:L,images=IMAGES                 pre-training; --config.data.source.path=FOLDER
    configs/vjepa2_1.py:L                               the same on videos alone
    configs/vjepa2_1.py:L,cooldown,weights=WORKDIR      64 frames at falling learning rates, from a pre-training

The predictor reproduces visible tokens as well, at four depths. The published runs have images beside the videos, 18
for each clip [paper], which are half of the loss. The cooldown has images where the pre-training had them. Here they
are of one size with the videos, as in the published code; the paper's cooldown has images of 512 pixels.
`configs/vjepa2.py` has what both share.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes, vjepa2
from vmae_jax.spec import call

IMAGES = 18  # for each clip: 2,304 beside 128 [paper]
# Ten blocks of 15%, and the mean positions of 16 x 16 that are seen and predicted after the official cut [code].
BLOCKS = {"count": 10, "scale": 0.15, "context": 43 / 256, "targets": 128 / 256}
LEVELS = {"B": (2, 5, 8, 11), "L": (5, 11, 17, 23), "g": (9, 19, 29, 39), "G": (11, 23, 37, 47)}  # [code]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments, size=("L", "B", "g", "G"), stage=("pretrain", "cooldown"), images=None, weights=None, smoke=False
    )
    recipe = recipes.recipe(f"vjepa2_1:{args.size}" + (",cooldown" if args.stage == "cooldown" else ""))
    places = call("models.rotary", side=16)
    model: Any = vjepa2.network(args.size, recipe, places, levels=list(LEVELS[args.size]), modality=True)
    options: dict[str, Any] = {"masks": vjepa2.masks(recipe, 16)}
    if args.images is not None:
        options["images"] = {"blocks": call("masking.multiblock", **BLOCKS)}
    if args.stage == "cooldown":
        options |= {"context_begin": 0, "context_end": 0, "nearness": False}
    method = call("methods.latent_dense.build", model=model, **options)
    config = vjepa2.pretraining(recipe, method, ema_decay=vjepa2.average(recipe))
    config.data.sampler.rate = vjepa2.RATE
    if args.images is not None:
        config.data.images = ConfigDict({"image": images(recipe, args.images, model.resolution)}, convert_dict=False)
    config.optimizer.also_decay = ["*mask_token", "*modality"]
    if args.stage == "cooldown":
        config.init_from = vjepa2.continued(args.weights)
    return common.smoke(config) if args.smoke else config


def images(recipe: Any, path: str, size: int) -> ConfigDict:
    """The loader of the images beside the clips: crops and flips as of the videos."""
    return call(
        "data.pipeline.loader",
        source=call("data.sources.images", path=path),
        sampler=call("data.clips.dense", frames=1, stride=1),
        transforms=[
            call("data.transforms.random_resized_crop", size=size, area=recipe.area),
            call("data.transforms.flip", probability=recipe.flip),
        ],
        global_batch=IMAGES * recipe.batch,
    )
