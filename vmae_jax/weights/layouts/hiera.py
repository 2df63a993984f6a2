"""The layout of Hiera's code: names of the parameters of its masked autoencoder and its classifier for ours.

Blocks are numbered over all stages there. The first block of a stage has a projection of its own, by which the stages
of a file are found.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vmae_jax.weights.layouts.dims import depth_of
from vmae_jax.weights.layouts.rules import (
    FUSED,
    MATRIX,
    TABLE,
    TOKEN,
    Conversion,
    MismatchError,
    Rule,
    Tower,
    from_state,
    linear,
    nested,
    norm,
)

__all__ = ["HEAD", "IMAGE", "SPACE", "TIME", "is_hiera", "read", "stages_of"]

SPACE, TIME, IMAGE = "pos_embed_spatial", "pos_embed_temporal", "pos_embed"
TABLES = (SPACE, TIME, IMAGE)
HEAD = "head.projection.weight"  # of a classifier
FIRST = re.compile(r"blocks\.(\d+)\.proj\.weight")
POOLS = 2  # of the masked autoencoder, each with a convolution of the outputs before it


def _kernel(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A convolution [d c t y x] as [t y x c d]; that of images has no axis t."""
    array = array[:, :, None] if array.ndim == 4 else array
    return array.transpose(2, 3, 4, 1, 0).reshape(shape)


def _fusion(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A convolution [e d 1 y x] whose kernel is its stride, as a matrix of (y x d) and e."""
    array = array[:, :, 0] if array.ndim == 5 else array
    return array.transpose(2, 3, 1, 0).reshape(shape)


def _refused(array: np.ndarray) -> np.ndarray:
    raise MismatchError("nothing is written in Hiera's layout")


KERNEL, FUSION = Conversion(_kernel, _refused), Conversion(_fusion, _refused)


def is_hiera(names: Any) -> bool:
    """Return whether these are the names of a Hiera: blocks whose first one of a stage has a projection."""
    return "patch_embed.proj.weight" in names and any(map(FIRST.fullmatch, names)) and any(n in names for n in TABLES)


def stages_of(state: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Return the number of blocks of each stage."""
    first = sorted(int(found[1]) for name in state if (found := FIRST.fullmatch(name)))
    edges = [0, *first, depth_of(state, "blocks")]
    return tuple(after - before for before, after in itertools.pairwise(edges))


def read(state: Mapping[str, np.ndarray], template: Any) -> Any:
    """Return our parameters from a state dict of Hiera's code.

    Args:
      state: under its names, without prefixes of several processes.
      template: our tree, {"encoder", "decoder"} or {"encoder", "fc_norm", "head"}, for names and shapes.

    Raises:
      MismatchError: if the weights do not fit the model.
    """
    stages, image = stages_of(state), IMAGE in state
    towers = [
        Tower("encoder", "", _encoder(len(stages))),
        Tower("decoder", "", _decoder(image)),
        Tower("", "", CLASSES),
    ]
    return from_state(_staged(state, stages), towers, template)


def _block(attention: str) -> list[Rule]:
    return [
        *norm("norm1", "norm1"),
        *norm("norm2", "norm2"),
        Rule(f"{attention}qkv/kernel", "attn.qkv.weight", FUSED),
        *(Rule(f"{attention}qkv/{letter}_bias", f"attn.qkv.bias.{letter}") for letter in "qkv"),
        *linear(f"{attention}proj", "attn.proj"),
        *linear("mlp/fc1", "mlp.fc1"),
        *linear("mlp/fc2", "mlp.fc2"),
    ]


def _encoder(stages: int) -> list[Rule]:
    """Names with blocks numbered within their stage (`_staged`)."""
    first = [*_block(""), *linear("skip", "proj")]
    return [
        Rule("embed_kernel", "patch_embed.proj.weight", KERNEL),
        Rule("embed_bias", "patch_embed.proj.bias"),
        Rule("Separable_0/space_table", SPACE, TABLE),
        Rule("Separable_0/time_table", TIME, TABLE),
        Rule("Learned_0/table", IMAGE, TABLE),
        *(rule for n in range(stages) for rule in nested(f"stage_{n}", f"stage.{n}.{{}}", _block("attention/"))),
        *(rule for n in range(1, stages) for rule in nested(f"widen_{n}", f"widen.{n}", first)),
        *norm("norm", "encoder_norm"),
        *(Rule(f"fuse_{n}/kernel", f"multi_scale_fusion_heads.{n}.weight", FUSION) for n in range(POOLS)),
        *(Rule(f"fuse_{n}/bias", f"multi_scale_fusion_heads.{n}.bias") for n in range(POOLS)),
    ]


def _decoder(image: bool) -> list[Rule]:
    head = [Rule("head_pixels/kernel", "decoder_pred.weight", MATRIX), Rule("head_pixels/bias", "decoder_pred.bias")]
    if image:  # colours come first there
        colours = lambda a: np.moveaxis(a.reshape(3, -1, *a.shape[1:]), 0, 1).reshape(a.shape)  # noqa: E731
        head = [
            Rule("head_pixels/kernel", "decoder_pred.weight", Conversion(lambda a, shape: colours(a).T, _refused)),
            Rule("head_pixels/bias", "decoder_pred.bias", Conversion(lambda a, shape: colours(a), _refused)),
        ]
    return [
        Rule("mask_token", "mask_token", TOKEN),
        Rule("Learned_0/table", "decoder_pos_embed", TABLE),
        *linear("project", "decoder_embed"),
        *nested("blocks", "decoder_blocks.{}", _block("attention/")),
        *norm("norm", "decoder_norm"),
        *head,
    ]


CLASSES = [*norm("fc_norm", "norm"), *linear("head", "head.projection")]


def _staged(state: Mapping[str, np.ndarray], stages: Sequence[int]) -> dict[str, np.ndarray]:
    """The weights with blocks numbered within each stage, and the biases of q, k and v apart."""
    first = [sum(stages[:n]) for n in range(len(stages))]

    def rename(match: re.Match[str]) -> str:
        number = int(match[1])
        stage = max(n for n, begin in enumerate(first) if begin <= number)
        inside = number - first[stage] - (stage > 0)
        return f"widen.{stage}." if inside < 0 else f"stage.{stage}.{inside}."

    found: dict[str, np.ndarray] = {}
    for name, array in state.items():
        renamed = re.sub(r"^blocks\.(\d+)\.", rename, name)
        if name.endswith("attn.qkv.bias"):
            parts = np.array_split(array, 3)
            found |= {f"{renamed}.{letter}": part for letter, part in zip("qkv", parts, strict=True)}
        else:
            found[renamed] = array
    return found
