"""Distillation of ViT-g into a small student: `configs/distill.py:B,weights=WORKDIR,teacher=WORKDIR`.

The student (S, B) begins from its own post-pre-training; the teacher is the giant after
post-pre-training on Kinetics-710 [paper]. The loss is the KL divergence of their logits [paper].
Code, temperature and learning rate of the paper are not published, so most figures are ours. Training uses no
labels, so a list of paths of any videos is enough. The test needs labels.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, finetune, recipes
from vmae_jax.spec import call


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", "S"), weights=None, teacher=None, smoke=False)
    recipe = recipes.recipe(f"distill:{args.size}")
    regular = finetune.regularised(recipe)
    del regular["smoothing"]  # of labels, and there are none
    method = call(
        "methods.distill.build",
        **finetune.network(args.size, recipe),
        teacher=call("models.variants.vit", size="g"),
        classes=recipe.classes,
        temperature=recipe.temperature,
        **regular,
    )
    paths = {"params": args.weights, "frozen/teacher": args.teacher}
    init_from = {at: common.begin(path) for at, path in paths.items()}
    config: Any = finetune.supervised(method, recipe, init_from)
    config.data.labels = False  # the teacher provides the targets; only the test needs labels
    return common.smoke(config) if args.smoke else config
