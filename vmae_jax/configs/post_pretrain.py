"""Supervised post-pre-training on Kinetics-710: `configs/post_pretrain.py:g,weights=WORKDIR`.

VideoMAE V2's second stage, for sizes B, H and g, and for S, from which `configs/distill.py:S` begins. A pre-trained
encoder learns 710 classes. It is then fine-tuned (`configs/finetune.py:…,from=k710`) or used as a teacher
(`configs/distill.py`). `:g,hybrid,records=FOLDER` reads LabeledHybrid, which is Kinetics-710, from prepared
records (`docs/datasets.md`). Otherwise give lists of videos: `--config.data.source.path=` and
`--config.eval.data.source.path=`.
"""

from ml_collections import ConfigDict

from vmae_jax.configs import common, finetune, recipes
from vmae_jax.spec import ConfigError, call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", "S", "H", "g"), hybrid=False, records=None, weights=None, smoke=False)
    recipe = recipes.recipe(f"post_pretrain:{args.size}")
    method = call(
        "methods.classify.build",
        **finetune.network(args.size, recipe),
        classes=recipe.classes,
        **finetune.regularised(recipe),
    )
    init_from = {"params/encoder": common.begin(args.weights, select="params/encoder")}
    if args.records is not None and not args.hybrid:
        raise ConfigError("configs/post_pretrain.py: records= belongs to hybrid; without it, name data.source.path")
    source = common.labeled_hybrid(args.records) if args.hybrid else finetune.listed
    config = finetune.supervised(method, recipe, init_from, source=source)
    return common.smoke(config) if args.smoke else config
