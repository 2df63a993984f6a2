"""vmae_jax: large-scale self-supervised pre-training of video transformers, in JAX."""

import os
import typing

from vmae_jax.version import VERSION

if typing.TYPE_CHECKING:
    from vmae_jax.types import Method

__version__ = VERSION


def load(path: "str | os.PathLike[str]", *, ema: bool = False) -> "tuple[Method, typing.Any]":
    """The model of a run or of weights in any layout that is known, as (method, params).

        method, params = vmae_jax.load("runs/mine")
        features = method.features(params, {"video": video})  # uint8 [b t h w c] -> [b d]

    Args:
      path: a workdir or one of its checkpoints, a folder that transformers opens, or a `.pth` or
        `.safetensors` file of VideoMAE, VideoMAE V2, MAE or MAE-ST.
      ema: of a run: the average of the parameters.

    Raises:
      vmae_jax.spec.ConfigError: if nothing can be read there.
    """
    from vmae_jax import weights  # only now: a config or a method can be imported without it

    return weights.load(path, ema=ema)
