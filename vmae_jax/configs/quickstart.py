"""A VideoMAE V2 small enough to train on two cores in minutes: `configs/quickstart.py`.

The method is that of `videomae_v2.py` (tube mask, running-cell decoder mask, normalized targets);
the clips are small and drawn by the program: textured shapes in motion. For your own videos, set
`--config.data.source.path=FOLDER`; a tenth of them is held out for the evaluation.
It is evaluated before training and every 250 steps. Arguments: clips=N (number of drawn clips), steps=N, smoke.
"""

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes
from vmae_jax.spec import call

SIZE, FRAMES = 48, 8


def get_config(arguments: str | None = None) -> ConfigDict:
    recipe = recipes.recipe("quickstart")
    args = common.parse(arguments, clips=2000, steps=recipe.length["steps"], smoke=False)
    warmup = {"steps": min(recipe.warmup["steps"], args.steps // 10)}  # fits a shorter training, too

    def shapes(split: str) -> ConfigDict:
        settings = call(
            "data.synthetic.moving_shapes.settings",
            train=args.clips,
            validation=64,
            size=SIZE,
            contrast=0.05,
            clutter=0,
            drift=2,
            light=1.0,
        )
        return call("data.synthetic.moving_shapes", settings=settings, split=split)

    train = call("data.sources.folder_or", otherwise=shapes("train"), part="train")
    held_out = call("data.sources.folder_or", otherwise=shapes("validation"), part="held_out")
    held_out.path = train.get_ref("path")  # one override names the folder of both
    config = common.sections(
        method=call(
            "methods.masked.build",
            model=call(
                "models.variants.vit", size="tiny", frames=FRAMES, resolution=SIZE, decoder_depth=recipe.decoder_depth
            ),
            encoder_mask=recipes.mask(recipe.encoder_mask),
            decoder_mask=recipes.mask(recipe.decoder_mask),
            objectives={"pixels": call("targets.core.objective", target=call("targets.pixels", normalize=True))},
        ),
        data=call(
            "data.pipeline.loader",
            source=train,
            sampler=call("data.clips.dense", frames=FRAMES, stride=1),
            transforms=[call("data.transforms.multi_scale_crop", size=SIZE)],
            global_batch=recipe.batch,
            repeat=recipe.repeat,
        ),
        optimizer=call(
            "train.optim.adamw",
            schedule=call("train.schedule.warmup_cosine", peak=recipe.rate, warmup=warmup, batch_unit=None),
            b2=recipe.betas[1],
            weight_decay=recipe.weight_decay,
            clip_norm=recipe.clip,
        ),
        train={"length": {"steps": args.steps}, "log_every": {"steps": 10}, "pictures_every": {"steps": 500}},
        checkpoint={"every": {"steps": 500}},
        eval={
            "data": call(
                "data.pipeline.loader",
                source=held_out,
                sampler=call("data.clips.dense", frames=FRAMES, stride=1),
                transforms=[call("data.transforms.center_crop", size=SIZE)],
                global_batch=32,
            ),
            "every": {"steps": 250},
            "at_start": True,
            "evaluators": {"held_out": call("eval.held_out")},
        },
    )
    return common.smoke(config) if args.smoke else config
