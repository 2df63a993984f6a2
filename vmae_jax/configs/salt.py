"""SALT (Li et al. 2025), latent prediction from a frozen teacher: `configs/salt.py:L,teacher=WORKDIR`, or H, g.

    configs/salt.py:L,pixels                            the teacher, a masked autoencoder with block masks
    configs/salt.py:L,teacher=WORKDIR                   the student; --config.data.source.path=FOLDER

Any pre-training of this package can be the teacher, whatever its size: the student sees the teacher's clips as the same
tokens, so take one with cubes of 2 x 16 x 16. There is no code of the authors; what the paper leaves open is that of
V-JEPA 2, and tagged as inferred in `recipes.csv`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes, vjepa2
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("L", "H", "g"), stage=("student", "pixels"), teacher=None, smoke=False)
    recipe = recipes.recipe(f"salt:{args.size}" + (",pixels" if args.stage == "pixels" else ""))
    model = vjepa2.network(args.size, recipe, call("models.rotary"))
    if args.stage == "pixels":
        config = vjepa2.pretraining(recipe, pixels(recipe, model))
    else:
        teacher = common.saved_model(args.teacher) or vjepa2.network("L", recipe, call("models.rotary"))
        config = vjepa2.pretraining(recipe, vjepa2.latent(recipe, model, teacher=teacher))
        config.init_from = {"frozen/teacher": common.begin(args.teacher, select="params/encoder")}
    config.data.sampler.stride = recipe.stride
    return common.smoke(config) if args.smoke else config


def pixels(recipe: Any, model: ConfigDict) -> ConfigDict:
    """The teacher's method: hidden pixels, normalised by cube, with the absolute error [inferred]."""
    name, ratio, count, share = recipe.encoder_mask
    mask = call(f"masking.{name}", ratio=ratio, count=int(count), share=share, full_time=True)
    target = call("targets.core.objective", target=call("targets.pixels"), penalty=call("targets.core.l1"))
    return call("methods.masked.build", model=model, encoder_mask=mask, objectives={"pixels": target})
