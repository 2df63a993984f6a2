"""Distillation of ViT-g into a small student: `configs/distill.py:B,weights=WORKDIR,teacher=WORKDIR`.

The student (S, B) begins from its own post-pre-training, the teacher is the giant after
post-pre-training on Kinetics-710 [paper]. The loss is the KL divergence of their logits [paper];
the paper's code, temperature and learning rate are not published, so the figures below are ours. No label is
looked at while training: a list of paths will do, of any videos. The test has labels.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, finetune
from vmae_jax.spec import call

RECIPES = {
    "B": finetune.Recipe(32, 16, 7e-4, 100, 0.75, 0.1),  # [inferred] post-pre-training of B, about 100 epochs
    "S": finetune.Recipe(32, 16, 7e-4, 100, 0.75, 0.1),  # [inferred] as B
}


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("B", "S"), weights=None, teacher=None, smoke=False)
    recipe = RECIPES[args.size]
    regular = finetune.regularised(recipe)
    del regular["smoothing"]  # of labels, and there are none
    method = call(
        "methods.distill.build",
        **finetune.network(args.size, recipe),
        teacher=call("models.variants.vit", size="g"),
        classes=710,
        temperature=1.0,  # [inferred]
        **regular,
    )
    paths = {"params": args.weights, "frozen/teacher": args.teacher}
    init_from = {
        at: call("train.init_from.weights", **({} if path is None else {"path": path})) for at, path in paths.items()
    }
    config: Any = finetune.supervised(method, recipe, "k710", init_from)
    config.data.labels = False  # the teacher tells; the test alone has labels
    return common.smoke(config) if args.smoke else config
