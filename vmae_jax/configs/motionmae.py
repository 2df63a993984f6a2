"""MotionMAE pre-training, which predicts what changes as well as what is there: `configs/motionmae.py:B,k400`.

The data are k400 or ssv2. One decoder has two heads, for pixels and for the difference of the two frames of a cube (the
paper's "Sharing" form). Its code is not public: most figures are `inferred` in `recipes.csv`. Name your own videos:
`--config.data.source.path=FOLDER`. Fine-tuning is VideoMAE's, `configs/finetune.py:B,k400,v1,weights=WORKDIR`.
"""

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes, videomae
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B",), data=("k400", "ssv2"), smoke=False)
    recipe = recipes.recipe(f"motionmae:{args.size},{args.data}")
    method = call(
        "methods.masked.build",
        model=call(
            "models.variants.vit",
            size=args.size,
            decoder_depth=recipe.decoder_depth,
            positions=call("models.positions.learned"),
        ),
        encoder_mask=recipes.mask(recipe.encoder_mask),
        objectives={
            "pixels": call("targets.core.objective", target=call("targets.pixels", normalize=True)),
            "motion": call("targets.core.objective", target=call("targets.motion.difference")),
        },
    )
    config = videomae.pretrain(method, recipe)
    return common.smoke(config) if args.smoke else config
