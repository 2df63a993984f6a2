"""SIGMA (Salehi et al. 2024), masked prediction of clusters: `configs/sigma.py:B,k400`; also B,ssv2 and S,ssv2.

    configs/sigma.py:B,k400                             pre-training; --config.data.source.path=FOLDER
    configs/sigma.py:B,k400,teacher=WORKDIR             with the features of a frozen encoder in place of embeddings

The teacher is any pre-training of images (`configs/mae.py`) with 14 x 14 patches, or of clips of the same tokens; the
paper's is DINO. Fine-tuning is VideoMAE's (`configs/finetune.py`). The figures, with their origin, are in
`recipes.csv`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, mvd, recipes, videomae
from vmae_jax.spec import call

EPSILON = {"B,k400": 0.05, "B,ssv2": 0.03, "S,ssv2": 0.05}  # of the transport [code]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", "S"), data=("k400", "ssv2"), teacher=None, smoke=False)
    name = f"{args.size},{args.data}"
    recipe = recipes.recipe(f"sigma:{name}")
    teacher = None if args.teacher is None else common.saved_model(args.teacher) or mvd.image_teacher(args.size)
    method = call(
        "methods.sigma.build",
        model=call("models.variants.vit", size=args.size, decoder_depth=recipe.decoder_depth),
        encoder_mask=recipes.mask(recipe.encoder_mask),
        **({} if teacher is None else {"teacher": teacher}),
        epsilon=EPSILON[name],
    )
    config: Any = videomae.pretrain(method, recipe)
    config.optimizer.schedule.start = recipe.start
    if args.teacher is not None:
        places = {"frozen/teacher": common.begin(args.teacher, select="params/encoder")}
        config.init_from = ConfigDict(places, sort_keys=False)
    return common.smoke(config) if args.smoke else config
