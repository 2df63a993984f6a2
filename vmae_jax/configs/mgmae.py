"""MGMAE pre-training, whose mask follows the optical flow: `configs/mgmae.py:B,k400,flow=WORKDIR`.

    vmae import --weights=raft-small.pth --out=WORKDIR      the frozen RAFT-small that computes the flow

The data are k400 or ssv2, of the official scripts. Name your own videos: `--config.data.source.path=FOLDER`. Maps of
frames before the middle one move against the motion, as they do in the official code; `method.guides.flow.fix_backward`
moves them along with it. Fine-tuning is VideoMAE V2's, `configs/finetune.py:B,k400,weights=WORKDIR`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes, videomae
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B",), data=("k400", "ssv2"), flow=None, smoke=False)
    recipe = recipes.recipe(f"mgmae:{args.size},{args.data}")
    method = call(
        "methods.masked.build",
        model=call("models.variants.vit", size=args.size, decoder_depth=recipe.decoder_depth),
        encoder_mask=recipes.mask(recipe.encoder_mask),
        objectives={"pixels": call("targets.core.objective", target=call("targets.pixels", normalize=True))},
        guides={"flow": call("methods.flow.raft", iterations=6, base="middle", fix_backward=False)},
    )
    config: Any = videomae.pretrain(method, recipe)
    config.data.repeat = recipe.repeat
    config.init_from = {"frozen/flow": common.begin(args.flow)}
    return common.smoke(config) if args.smoke else config
