"""MGM pre-training, whose mask follows what moves: `configs/mgm.py:B,k400`.

The data are k400 or ssv2. The codec's motion vectors guide the mask, so the videos are H.264 or another codec that
has them; AV1, VP9 and HEVC give none. The code of the paper is not public: most figures are `inferred` in
`recipes.csv`. Name your own videos: `--config.data.source.path=FOLDER`. Fine-tuning is VideoMAE's,
`configs/finetune.py:B,k400,v1,weights=WORKDIR`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes, videomae
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B",), data=("k400", "ssv2"), smoke=False)
    recipe = recipes.recipe(f"mgm:{args.size},{args.data}")
    method = call(
        "methods.masked.build",
        model=call("models.variants.vit", size=args.size, decoder_depth=recipe.decoder_depth),
        encoder_mask=recipes.mask(recipe.encoder_mask),
        objectives={"pixels": call("targets.core.objective", target=call("targets.pixels", normalize=True))},
    )
    config: Any = videomae.pretrain(method, recipe)
    config.data.streams = {"motion": call("data.streams.motion", cell=8)}
    return common.smoke(config) if args.smoke else config
