"""VideoMAE V2 pre-training with dual masking: `configs/videomae_v2.py:B` (S, B, L, H, g).

Recipes of the official scripts. Name your videos with `--config.data.source.path=FOLDER`, or train on UnlabeledHybrid,
1.35 million clips: `:B,hybrid,records=FOLDER` reads it from prepared records (`docs/datasets.md`), `own=LIST` adds
videos of yours, and `--config.data.source.parts.webvid.weight=0` leaves a part out.
"""

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes
from vmae_jax.spec import ConfigError, call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", "S", "L", "H", "g"), hybrid=False, records=None, own=None, smoke=False)
    if not args.hybrid and (args.own, args.records) != (None, None):
        raise ConfigError(
            "configs/videomae_v2.py: own= and records= belong to hybrid; without it, name data.source.path"
        )
    recipe = recipes.recipe(f"videomae_v2:{args.size}")
    config = common.sections(
        method=call(
            "methods.masked.build",
            model=call("models.variants.vit", size=args.size, remat="full" if args.size in ("H", "g") else "none"),
            encoder_mask=recipes.mask(recipe.encoder_mask),
            decoder_mask=recipes.mask(recipe.decoder_mask),
            objectives={"pixels": call("targets.core.objective", target=call("targets.pixels", normalize=True))},
        ),
        data=call(
            "data.pipeline.loader",
            source=common.unlabeled_hybrid(args.records, args.own) if args.hybrid else call("data.sources.folder"),
            sampler=call("data.clips.dense", frames=16, stride=recipe.stride),
            transforms=[call("data.transforms.multi_scale_crop", size=224)],
            global_batch=recipe.batch,
            repeat=recipe.repeat,
        ),
        optimizer=call(
            "train.optim.adamw",
            schedule=call("train.schedule.warmup_cosine", peak=recipe.rate, final=recipe.final, warmup=recipe.warmup),
            b2=recipe.betas[1],
            weight_decay=recipe.weight_decay,
            clip_norm=recipe.clip,
        ),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
    )
    return common.smoke(config) if args.smoke else config
