"""LV-MAE (Naiman et al. 2025), on the features of long videos: `configs/lvmae.py`.

    configs/lvmae.py                                    --config.data.source.path=FOLDER of .npz files
    configs/lvmae.py:low                                with a semantic mask; or `:high`

The files are those of `vmae features`, one vector for every five seconds of a video;
`--config.data.streams.embeddings.width=` is the size of a vector. A semantic mask hides by similarity to the vector
before: `low` keeps the least similar, as the released code does, `high` the most similar, as the paper has it. The
figures, with their origin, are in `recipes.csv`.
"""

from ml_collections import ConfigDict

from vmae_jax.configs import common, mae, recipes
from vmae_jax.spec import call

LENGTH, WIDTH = 256, 1024  # vectors of a sequence, which are 21 min 20 s, and their size [code]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, mask=("random", "low", "high"), smoke=False)
    recipe = recipes.recipe("lvmae" if args.mask == "random" else f"lvmae:{args.mask}")
    dims = recipes.decoder(recipe)
    config = common.sections(
        method=call(
            "methods.lvmae.build",
            network=call("models.sequence.transformer", **dims),
            ratio=recipe.encoder_mask[1],
            semantic_keep=None if args.mask == "random" else args.mask,
        ),
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.embeddings"),
            sampler=call("data.clips.dense", **mae.ONE_FRAME),
            transforms=[call("data.transforms.resize", size=16)],  # of a black picture
            streams={"embeddings": call("data.streams.embeddings", width=WIDTH, length=LENGTH)},
            global_batch=recipe.batch,
        ),
        optimizer=mae.optimizer(recipe),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 10}, "keep_last": 3},
    )
    return common.smoke(config) if args.smoke else config
