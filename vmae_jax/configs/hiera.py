"""Hiera's masked autoencoder (Ryali et al. 2023): `configs/hiera.py:B`, of the sizes B, B+, L and H.

    configs/hiera.py:B                                  pre-training; --config.data.source.path=FOLDER
    configs/hiera.py:B,k400,weights=WORKDIR             fine-tuning on lists (`path label` a line),
                                                        --config.data.source.path= and --config.eval.data.source.path=,
                                                        or records=FOLDER of `vmae data prepare --dataset=kinetics`

Whole mask units are hidden, and the first frame of each tubelet is predicted. The authors published networks and
weights, but no training code: `recipes.csv` marks what is ours.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, mae_st, recipes
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments, size=("B", "B+", "L", "H"), stage=("pretrain", "k400"), weights=None, records=None, smoke=False
    )
    recipe = recipes.recipe(f"hiera:{args.size}" + ("" if args.stage == "pretrain" else f",{args.stage}"))
    config = pretrain(args, recipe) if args.stage == "pretrain" else finetune(args, recipe)
    return common.smoke(config) if args.smoke else config


def model(size: str, pixels: list[float], **more: Any) -> ConfigDict:
    """A Hiera whose pixels are scaled by one mean and deviation."""
    mean, std = pixels
    remat = "full" if size == "H" else "none"
    return call("models.hiera_sizes.hiera", size=size, mean=[mean] * 3, std=[std] * 3, remat=remat, **more)


def pretrain(args: Any, recipe: Any) -> ConfigDict:
    decoder = recipes.decoder(recipe)
    mean, deviation = recipe.pixels
    target = call("targets.pixels", mean=mean, deviation=deviation, joint=True, first=True)
    return common.sections(
        method=call(
            "methods.masked.build",
            model=model(args.size, recipe.pixels, **decoder),
            encoder_mask=recipes.mask(recipe.encoder_mask),
            objectives={"pixels": call("targets.core.objective", target=target)},
        ),
        data=mae_st.loader(recipe),
        optimizer=recipes.adamw(recipe, batch_unit=recipe.per, open_ended=True),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
    )


def finetune(args: Any, recipe: Any) -> ConfigDict:
    """The same parameters with a third pooling, and a linear layer on the mean of the normalised tokens."""
    network = model(args.size, recipe.pixels, pools=3, drop_path=recipe.drop_path)
    begin = common.begin(args.weights, select="params/encoder", skip=["norm", "fuse_*"])
    return mae_st.finetuned(args, recipe, network, begin)
