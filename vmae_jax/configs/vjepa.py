"""V-JEPA (Bardes et al. 2024), which predicts features of hidden blocks: `configs/vjepa.py:L`, or H.

    configs/vjepa.py:L                                  pre-training; --config.data.source.path=FOLDER

The target is the moving average of the encoder, which `--ema` evaluates and exports. The figures, with their origin,
are in `recipes.csv`; `configs/vjepa2.py` has what both share.
"""

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes, vjepa2
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("L", "H"), smoke=False)
    recipe = recipes.recipe(f"vjepa:{args.size}")
    places = call("models.positions.sincos_3d", cut=True)
    method = vjepa2.latent(recipe, vjepa2.network(args.size, recipe, places, mask_tokens=2))
    config = vjepa2.pretraining(recipe, method, ema_decay=vjepa2.average(recipe))
    config.data.sampler.stride = recipe.stride
    return common.smoke(config) if args.smoke else config
