"""Weights of optical flow, RAFT-small, for a guide: files in the layouts of its code and of torchvision."""

from typing import Any

import jax
from flax.core import meta
from ml_collections import ConfigDict

from vmae_jax.models.raft import Raft
from vmae_jax.spec import call
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.layouts import raft
from vmae_jax.weights.published import floats

__all__ = ["config", "facts", "is_flow", "params_of"]


def is_flow(file: tensors.File) -> bool:
    """Return whether a file has weights of RAFT."""
    return raft.is_raft(file.state)


def facts(file: tensors.File) -> dict[str, Any]:
    """Return what the report of an import has of a guide."""
    return {
        "kind": "guide",
        "config": "none: a guide's weights, for init_from",
        "used": len(file.state),
        "not_checked": "outputs: neither RAFT's code nor torchvision is a package that this one needs",
    }


def config() -> ConfigDict:
    """Return the config of a workdir that has the network alone, which no method belongs to."""
    return ConfigDict({"guide": call("methods.flow.raft")}, sort_keys=False, convert_dict=False)


def params_of(file: tensors.File) -> Any:
    """Return our parameters from a file.

    Raises:
      MismatchError: if the weights are not those of RAFT-small or not finite.
    """
    state = floats(raft.stripped(file.state))
    template = meta.unbox(jax.eval_shape(Raft().init, jax.random.key(0)))
    return raft.from_raft(state, template)
