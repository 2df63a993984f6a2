"""AdaMAE pre-training, which learns which 5% of the tokens to look at: `configs/adamae.py:B,k400`.

The data are k400 or ssv2, of the official scripts. Name your own videos: `--config.data.source.path=FOLDER`.
Fine-tuning is VideoMAE's, `configs/finetune.py:B,k400,v1,weights=WORKDIR`; the sampler is left behind.
"""

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes, videomae
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B",), data=("k400", "ssv2"), smoke=False)
    recipe = recipes.recipe(f"adamae:{args.size},{args.data}")
    method = call(
        "methods.adamae.build",
        model=call("models.variants.vit", size=args.size, decoder_depth=recipe.decoder_depth),
        objectives={"pixels": call("targets.core.objective", target=call("targets.pixels", normalize=True))},
        ratio=recipe.encoder_mask[1],
    )
    config = videomae.pretrain(method, recipe)
    return common.smoke(config) if args.smoke else config
