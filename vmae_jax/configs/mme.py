"""MME pre-training, which predicts how points move and how a cube looks: `configs/mme.py:B,k400,flow=WORKDIR`.

    vmae import --weights=raft-small.pth --out=WORKDIR      the frozen RAFT-small that computes the flow

The data are k400 or ssv2. Name your own videos: `--config.data.source.path=FOLDER`. The weights of the two objectives
make their errors, which are averages here, half of the official sums over 108 and 32 values. Fine-tuning is VideoMAE's,
`configs/finetune.py:B,k400,v1,weights=WORKDIR`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes, videomae
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B",), data=("k400", "ssv2"), flow=None, smoke=False)
    recipe = recipes.recipe(f"mme:{args.size},{args.data}")
    method = call(
        "methods.masked.build",
        model=call(
            "models.variants.vit",
            size=args.size,
            decoder_width=recipe.decoder_width,
            decoder_depth=recipe.decoder_depth,
            decoder_heads=recipe.decoder_heads,
        ),
        encoder_mask=recipes.mask(recipe.encoder_mask),
        objectives={
            "hog": call("targets.core.objective", target=call("targets.hog"), weight=54.0),
            "trajectory": call("targets.core.objective", target=call("targets.trajectory", steps=4), weight=16.0),
        },
        guides={"flow": call("methods.flow.onward", iterations=6)},
    )
    config: Any = videomae.pretrain(method, recipe)
    config.optimizer.schedule.start = recipe.start
    config.init_from = {"frozen/flow": common.begin(args.flow)}
    return common.smoke(config) if args.smoke else config
