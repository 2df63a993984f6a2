"""VideoMAE V2 pre-training with dual masking: `configs/videomae_v2.py:B` (S, B, L, H, g).

Recipes of the official scripts on UnlabeledHybrid, 1.35 million clips: `:B,hybrid,records=FOLDER` reads it from
prepared records (`docs/data.md` says how they are made); `own=LIST` adds videos of yours, and
`--config.data.source.parts.webvid.weight=0` leaves a part out. Without it, name your own videos:
`--config.data.source.path=FOLDER`.
"""

from ml_collections import ConfigDict

from vmae_jax.configs import common
from vmae_jax.spec import ConfigError, call

# size: (batch of videos, learning rate at a batch of 256, warm-up epochs, epochs, clip, remat)
RECIPES = {
    "S": (1024, 1e-3, 20, 200, None, "none"),  # [inferred] from B: there is no script for S
    "B": (1024, 1e-3, 20, 200, None, "none"),  # [code]
    "L": (1536, 1e-3, 30, 300, None, "none"),  # [code]
    "H": (2048, 1e-3, 30, 300, None, "full"),  # [code]
    "g": (2048, 6e-4, 30, 300, 0.02, "full"),  # [code]
}


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", "S", "L", "H", "g"), hybrid=False, records=None, own=None, smoke=False)
    if not args.hybrid and (args.own, args.records) != (None, None):
        raise ConfigError(
            "configs/videomae_v2.py: own= and records= belong to hybrid; without it, name data.source.path"
        )
    batch, rate, warmup, epochs, clip, remat = RECIPES[args.size]
    config = common.sections(
        method=call(
            "methods.masked.build",
            model=call("models.variants.vit", size=args.size, remat=remat),
            encoder_mask=call("masking.tube", ratio=0.9),
            decoder_mask=call("masking.running_cell", ratio=0.5),
            objectives={"pixels": call("targets.core.objective", target=call("targets.pixels", normalize=True))},
        ),
        data=call(
            "data.pipeline.loader",
            source=common.unlabeled_hybrid(args.records, args.own) if args.hybrid else call("data.sources.folder"),
            sampler=call("data.clips.dense", frames=16, stride=4),
            transforms=[call("data.transforms.multi_scale_crop", size=224)],
            global_batch=batch,
            repeat=4,
        ),
        optimizer=call(
            "train.optim.adamw",
            schedule=call("train.schedule.warmup_cosine", peak=rate, final=1e-5, warmup={"epochs": warmup}),
            b2=0.95,
            weight_decay=0.05,
            clip_norm=clip,
        ),
        train={"length": {"epochs": epochs}},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
    )
    return common.smoke(config) if args.smoke else config
