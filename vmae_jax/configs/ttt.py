"""Joint training for test-time training (Wang et al. 2025), with a ViT: `configs/ttt.py:B,data=FOLDER,classes=400`.

    vmae train --config=configs/ttt.py:B,data=FOLDER,test=HELD_OUT,classes=400,weights=WORKDIR --workdir=runs/ttt
    vmae ttt --checkpoint=runs/ttt --videos VIDEO.mp4 --out=runs/ttt/predictions

Single frames of labelled videos are classified, and reconstructed by a masked autoencoder with the same encoder.
Sizes: B, L.

    data=FOLDER            labelled videos: one subfolder per class; or a list, data=LIST.csv (`path label` per line)
    test=FOLDER            held-out videos, likewise
    classes=400            number of classes
    weights=WORKDIR        an autoencoder of `configs/mae.py` to begin from, or, with `encoder`, its encoder alone
    everywhere             the loss of all patches, as in the official code, not of hidden ones alone (the paper)

The figures, with their origin, are in `recipes.csv`.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, mae, probe, recipes
from vmae_jax.models.variants import IMAGENET_MEAN, IMAGENET_STD
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments,
        size=("B", "L"),
        data=None,
        test=None,
        classes=400,
        weights=None,
        encoder=False,
        everywhere=False,
        smoke=False,
    )
    recipe = recipes.recipe(f"ttt:{args.size}")
    places = ["encoder"] if args.encoder else ["encoder", "decoder"]
    config = common.sections(
        method=method(args, recipe),
        data=loader(args.data, "data.clips.dense", mae.crops(recipe), recipe.batch),
        optimizer=call(
            "train.optim.adamw",
            schedule=call(
                "train.schedule.warmup_cosine",
                peak=recipe.rate,
                final=recipe.final,
                warmup=recipe.warmup,
                batch_unit=None,
            ),
            b2=recipe.betas[1],
            weight_decay=recipe.weight_decay,
            clip_norm=recipe.clip,
            rate_shares={"encoder": 0.1},  # [code]
        ),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
        eval={
            "data": loader(args.test, "data.clips.multiview", [call("data.transforms.center_crop", size=224)], 32),
            "evaluators": {"test": call("eval.multiview")},
        },
        init_from={f"params/{one}": common.begin(args.weights, select=f"params/{one}") for one in places},
    )
    return common.smoke(config) if args.smoke else config


def method(args: Any, recipe: Any) -> ConfigDict:
    """A ViT of MAE with two heads; the decoder predicts pixels that are normalised as the input is."""
    size = recipes.decoder(recipe)
    statistics = {"mean": list(IMAGENET_MEAN), "deviation": list(IMAGENET_STD)}
    target = call("targets.pixels", normalize=False, **statistics)
    return call(
        "methods.ttt.build",
        model=mae.model(args, decoder_prefix="kept", project_bias=True, **size),
        classes=args.classes,
        mask=recipes.mask(recipe.encoder_mask),
        objectives={"pixels": call("targets.core.objective", target=target)},
        everywhere=args.everywhere,
        init_scale=recipe.init_scale,
    )


def loader(path: str | None, sampler: str, transforms: list[ConfigDict], batch: int) -> ConfigDict:
    """Return the loader of one frame of each labelled video."""
    kind, labels = ("csv", {}) if probe.listed(path or "") else ("folder", {"labels": "folders"})
    views = {"views": 1} if sampler.endswith("multiview") else {}
    return call(
        "data.pipeline.loader",
        source=call(f"data.sources.{kind}", **({} if path is None else {"path": path}), **labels),
        sampler=call(sampler, **mae.ONE_FRAME, **views),
        transforms=transforms,
        global_batch=batch,
        labels=True,
    )
