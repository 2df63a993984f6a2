"""V-JEPA 2.1 (Mur-Labadia et al. 2026), on video alone: `configs/vjepa2_1.py:L`, or B, g, G.

    configs/vjepa2_1.py:L                               pre-training; --config.data.source.path=FOLDER
    configs/vjepa2_1.py:L,cooldown,weights=WORKDIR      64 frames at falling learning rates, from a pre-training

The predictor reproduces visible tokens as well, at four depths. The published runs have images beside the videos; the
method takes them (`images`), and no loader of this package gives them yet. `configs/vjepa2.py` has what both share.
"""

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes, vjepa2
from vmae_jax.spec import call

LEVELS = {"B": (2, 5, 8, 11), "L": (5, 11, 17, 23), "g": (9, 19, 29, 39), "G": (11, 23, 37, 47)}  # [code]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("L", "B", "g", "G"), stage=("pretrain", "cooldown"), weights=None, smoke=False)
    recipe = recipes.recipe(f"vjepa2_1:{args.size}" + (",cooldown" if args.stage == "cooldown" else ""))
    places = call("models.rotary", side=16)
    model = vjepa2.network(args.size, recipe, places, levels=list(LEVELS[args.size]), modality=True)
    cooldown = {"context_begin": 0, "context_end": 0, "nearness": False} if args.stage == "cooldown" else {}
    masks = vjepa2.masks(recipe, 16)
    method = call("methods.latent_dense.build", model=model, masks=masks, **cooldown)
    config = vjepa2.pretraining(recipe, method, ema_decay=vjepa2.average(recipe))
    config.data.sampler.rate = vjepa2.RATE
    config.optimizer.also_decay = ["*mask_token", "*modality"]
    if args.stage == "cooldown":
        config.init_from = vjepa2.continued(args.weights)
    return common.smoke(config) if args.smoke else config
