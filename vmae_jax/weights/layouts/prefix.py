"""Class tokens, their positions, and the bias before the decoder: parameters of their own, or part of others."""

from collections.abc import Mapping, Sequence

import numpy as np

from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.layouts.videomae import Facts

__all__ = ["prefixes", "projection"]

UNUSED = "a class token, which the model does not have"


def prefixes(
    state: dict[str, np.ndarray],
    target: Mapping[str, np.ndarray],
    facts: Facts,
    fresh: Sequence[str],
    dropped: dict[str, str],
    changed: dict[str, str],
) -> None:
    """Make class tokens and their positions what the model has: apart, in one, or neither.

    Args:
      state: official names; it is changed.
      target: those of the model.
      facts: of the model.
      fresh: parts that begin with new values.
      dropped, changed: accounts to add to.

    Raises:
      MismatchError: if a position is not 0 where the model adds none.
    """
    for prefix in ("", "encoder.", "decoder."):
        token, position = f"{prefix}cls_token", f"{prefix}pos_embed_class"
        if position in state and position not in target:
            first = state.pop(position)
            if token in target and "prefix" not in fresh:
                state[token] = _sum(token, state[token], first)
                if first.any():
                    changed[token] = f"with {position} in it, for which the model has no parameter of its own"
            elif prefix == "decoder." and facts.keeps_prefix and first.any():
                raise MismatchError(f"{position} is not 0: this model's decoder adds no position to the class token")
        elif position in target and position not in state and token in state:
            state[position] = np.zeros_like(target[position])  # it is in the token
            changed[position] = "zeros: the weights have it in their class token, or none"
        if token in state and token not in target:
            del state[token]
            dropped[token] = UNUSED


def projection(state: dict[str, np.ndarray], target: Mapping[str, np.ndarray], changed: dict[str, str]) -> None:
    """Make the bias of the projection to the decoder what the model has; without one, it goes into its positions.

    Args:
      state: official names; it is changed.
      target: those of the model.
      changed: an account to add to.

    Raises:
      MismatchError: if the model has no such bias and computes its positions.
    """
    name, times = "encoder_to_decoder.bias", "decoder.pos_embed_temporal"
    if name in state and name not in target and "encoder_to_decoder.weight" in target:
        bias = state.pop(name)[None, None]
        if not bias.any():
            return
        if times not in state:
            raise MismatchError(f"{name} is not 0, and the model has none: use project_bias=True")
        state[times] = _sum(times, state[times], bias)
        state["mask_token"] = _sum("mask_token", state["mask_token"], -bias)
        changed[name] = "in the decoder's positions, and taken from its mask token: the model has no such bias"
    elif name in target and name not in state and "encoder_to_decoder.weight" in state:
        state[name] = np.zeros_like(target[name])
        changed[name] = "zeros: the weights have no such bias"


def _sum(name: str, array: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`array` plus what goes into it, which has the same width and one row."""
    if other.shape != (1, 1, array.shape[-1]):
        raise MismatchError(f"{name} has shape {list(array.shape)}, what is added to it {list(other.shape)}")
    return array + other
