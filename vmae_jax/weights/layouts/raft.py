"""The layouts of RAFT-small: the names of its own code and those of torchvision, for our parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vmae_jax.weights.layouts import rules
from vmae_jax.weights.layouts.rules import Conversion, MismatchError, Rule, Tower, nested

__all__ = ["from_raft", "is_raft", "layout_of", "stripped", "to_raft"]

PREFIX = "module."  # of files that several processes wrote
KERNEL = Conversion(lambda a, shape: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
# Of each layout: the names of the encoders, of their parts, of a block's convolutions, and of the update's.
NAMES: dict[str, dict[str, dict[str, str]]] = {
    "raft": {
        "towers": {"features": "fnet", "context": "cnet", "update": "update_block"},
        "encoder": {"stem": "conv1", "project": "conv2"},
        "block": {"reduce": "conv1", "spatial": "conv2", "expand": "conv3", "shortcut": "downsample.0"},
        "update": {
            "correlation": "encoder.convc1",
            "flow_first": "encoder.convf1",
            "flow_second": "encoder.convf2",
            "motion": "encoder.conv",
            "update": "gru.convz",
            "reset": "gru.convr",
            "candidate": "gru.convq",
            "head_first": "flow_head.conv1",
            "head_second": "flow_head.conv2",
        },
    },
    "torchvision": {
        "towers": {"features": "feature_encoder", "context": "context_encoder", "update": "update_block"},
        "encoder": {"stem": "convnormrelu.0", "project": "conv"},
        "block": {
            "reduce": "convnormrelu1.0",
            "spatial": "convnormrelu2.0",
            "expand": "convnormrelu3.0",
            "shortcut": "downsample.0",
        },
        "update": {
            "correlation": "motion_encoder.convcorr1.0",
            "flow_first": "motion_encoder.convflow1.0",
            "flow_second": "motion_encoder.convflow2.0",
            "motion": "motion_encoder.conv.0",
            "update": "recurrent_block.convgru1.convz",
            "reset": "recurrent_block.convgru1.convr",
            "candidate": "recurrent_block.convgru1.convq",
            "head_first": "flow_head.conv1",
            "head_second": "flow_head.conv2",
        },
    },
}
LAYERS = 3


def layout_of(state: Mapping[str, np.ndarray]) -> str | None:
    """Return the layout whose encoders' names these weights have, or None."""
    for layout, names in NAMES.items():
        if all(any(name.startswith(f"{tower}.") for name in state) for tower in names["towers"].values()):
            return layout
    return None


def is_raft(state: Mapping[str, np.ndarray]) -> bool:
    """Return whether these are weights of RAFT, of either size."""
    return layout_of(stripped(state)) is not None


def stripped(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights without the prefix of files that several processes wrote.

    Raises:
      MismatchError: if two tensors then have one name.
    """
    found = {name.removeprefix(PREFIX): array for name, array in state.items()}
    if len(found) < len(state):
        raise MismatchError(f"two tensors have one name once {PREFIX} is taken off")
    return found


def from_raft(state: Mapping[str, np.ndarray], template: Any) -> Any:
    """Return our parameters from a state dict in either layout, without prefixes.

    Args:
      state: the weights.
      template: our tree, for names and shapes.

    Raises:
      MismatchError: if the names are of neither layout, or a tensor is missing, left over or of another shape.
    """
    layout = layout_of(state)
    if layout is None:
        raise MismatchError("the weights have the names of neither layout of RAFT")
    try:
        return rules.from_state(state, _towers(layout), template)
    except MismatchError as error:
        raise MismatchError(f"{error}; of the published RAFTs, the small one has a place here") from None


def to_raft(params: Any, layout: str) -> dict[str, np.ndarray]:
    """Return the state dict of our parameters in a layout, a key of `NAMES`."""
    return rules.to_state(params, _towers(layout))


def _towers(layout: str) -> list[Tower]:
    names = NAMES[layout]
    block = _convolutions(names["block"])
    encoder = _convolutions(names["encoder"])
    for layer in range(LAYERS):
        for number, place in enumerate(("first", "second")):
            encoder += nested(f"layer{layer}_{place}", f"layer{layer + 1}.{number}", block)
    parts = {"features": encoder, "context": encoder, "update": _convolutions(names["update"])}
    return [Tower(tower, f"{theirs}.", parts[tower]) for tower, theirs in names["towers"].items()]


def _convolutions(names: Mapping[str, str]) -> list[Rule]:
    found = []
    for ours, theirs in names.items():
        found += [Rule(f"{ours}/kernel", f"{theirs}.weight", KERNEL), Rule(f"{ours}/bias", f"{theirs}.bias")]
    return found
