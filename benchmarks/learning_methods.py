"""Arms of the learning experiment that are other methods, at the model FLOPs of the masked autoencoder.

Each is pre-trained on the same clips with the same encoder, for as many steps as make its model FLOPs those of
`frame`, and is then measured like every other arm. Their learning rate is that of `frame`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from benchmarks.learning_arms import MAIN, Setting, masked
from vmae_jax.spec import call

__all__ = ["COMPARED", "DOUBLE", "METHODS", "SALT", "pretraining"]

DOUBLE, SALT = "frame-double", "salt"

# The steps of an arm for each step of `frame`: the inverse of its model FLOPs a step (a test counts them).
METHODS: Mapping[str, float] = MappingProxyType(
    {SALT: 0.739, "vjepa": 0.739, "adamae": 0.689, "motion": 0.971, "diffmae": 1.103, "one-frame": 1.03, DOUBLE: 2.0}
)
COMPARED = (MAIN, SALT, "vjepa", "random-50", "adamae", "motion", "diffmae", "one-frame", DOUBLE)
MOMENTUM = 0.99  # of the average that V-JEPA predicts


def pretraining(setting: Setting, arm: str, seed: int, *, cache: str, teacher: str) -> ConfigDict:
    """Return the config of an arm of `METHODS`.

    Args:
      teacher: the workdir of the frozen teacher, which `salt` alone has.
    """
    config: Any = masked(setting, MAIN, seed, cache=cache)
    steps = round(METHODS[arm] * setting.steps)
    config.train.length.steps = steps
    config.optimizer.schedule.warmup.steps = max(1, steps // 10)
    model, objectives = config.method.model, config.method.objectives
    blocks = {"blocks": call("masking.multiblock", count=2, scale=0.25, context=0.5, targets=0.5)}
    if arm == "adamae":
        heads = setting.model["heads"]
        config.method = call("methods.adamae.build", model=model, objectives=objectives, ratio=0.5, heads=heads)
    elif arm == "motion":
        objectives.motion = call("targets.core.objective", target=call("targets.motion.difference"))
    elif arm == "diffmae":
        mask = config.method.encoder_mask
        config.method = call("methods.diffmae.build", model=model, encoder_mask=mask, objectives=objectives)
    elif arm == "one-frame":
        objectives.pixels.target.frames = setting.model["frames"] // setting.model["tubelet"]
    elif arm == "vjepa":
        config.method = call("methods.latent.build", model=model, masks=blocks)
        config.train.ema_decay = MOMENTUM
    elif arm == SALT:
        config.method = call("methods.latent.build", model=model, masks=blocks, teacher=model)
        config.init_from = {"frozen/teacher": call("train.init_from.weights", path=teacher, select="params/encoder")}
    return config
