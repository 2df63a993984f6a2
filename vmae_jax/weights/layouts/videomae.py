"""The official VideoMAE names for our parameters, in both directions, from one table.

Each rule names one of our leaves, the official ones it corresponds to, and how to convert. A
leaf under `blocks` stands for one official tensor a layer, stacked. Ours are float32 arrays in
nested dicts; theirs a flat dict of numpy arrays (a PyTorch state dict).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from vmae_jax.patches import Patch

__all__ = ["Layout", "MismatchError", "from_official", "paths", "to_official"]


# Learned tables of positions: our module, its leaves, and the names that the official fine-tuning
# code (a table) and MAE-ST (places plus times) have for them.
LEARNED = {
    "Learned_0": {"table": "pos_embed"},
    "Separable_0": {"space_table": "pos_embed_spatial", "time_table": "pos_embed_temporal"},
}


class MismatchError(ValueError):
    """Weights that are not those of this model: missing, unexpected, or of another shape."""


class Layout(NamedTuple):
    """What a conversion must know of the model.

    Attributes:
      patch: the size of a cube, for the patch embedding.
      channels: of the video.
      heads, decoder_heads: of the attention.
      depth, decoder_depth: blocks.
      cosine: cosine attention, which has a temperature.
      layer_scale: layer scale, which has two factors a block.
      head: the decoder's head that predicts pixels.
    """

    patch: Patch
    channels: int
    heads: int
    depth: int
    decoder_heads: int = 0
    decoder_depth: int = 0
    cosine: bool = False
    layer_scale: bool = False
    head: str = "head_pixels"


class Rule(NamedTuple):
    """One of our leaves, its official name, and both conversions of one layer's array."""

    ours: tuple[str, ...]
    theirs: str
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]
    layers: int = 0  # 0: no layer axis; else "{}" in `theirs` counts them


def from_official(state: Mapping[str, np.ndarray], layout: Layout, template: Any) -> Any:
    """Our parameters from an official state dict.

    Args:
      state: official names, as in the sheets: pre-training has `encoder.…`, `decoder.…`,
        `mask_token`, `encoder_to_decoder.weight`; a classifier `patch_embed.…`, `blocks.…`,
        `fc_norm.…`, `head.…`.
      layout: of the model.
      template: our tree (arrays or shapes), for names and shapes.

    Raises:
      MismatchError: a tensor that is missing, left over, or of another shape, with its name.
    """
    tree: dict[str, Any] = {}
    used = set()
    for rule in _rules(template, layout):
        names = [rule.theirs.format(i) for i in range(rule.layers)] if rule.layers else [rule.theirs]
        missing = [name for name in names if name not in state]
        if missing:
            raise MismatchError(f"{missing[0]} is missing from the weights ({len(missing)} of its kind)")
        used.update(names)
        arrays = [rule.to_ours(np.asarray(state[name], np.float32)) for name in names]
        value = np.stack(arrays) if rule.layers else arrays[0]
        shape = tuple(_leaf(template, rule.ours).shape)
        if value.shape != shape:
            raise MismatchError(f"{names[0]} gives {'/'.join(rule.ours)} of shape {value.shape}; the model has {shape}")
        _set(tree, rule.ours, value)
    left = sorted(set(state) - used)
    if left:
        raise MismatchError(f"the model has no place for {left[0]} ({len(left)} tensors are left over)")
    return tree


def to_official(params: Any, layout: Layout) -> dict[str, np.ndarray]:
    """The official state dict of our parameters (PyTorch's names, order of axes and shapes)."""
    state = {}
    for rule in _rules(params, layout):
        value = np.asarray(_leaf(params, rule.ours))
        if rule.layers:
            for i in range(rule.layers):
                state[rule.theirs.format(i)] = rule.to_theirs(value[i])
        else:
            state[rule.theirs] = rule.to_theirs(value)
    return state


def paths(params: Any, layout: Layout) -> set[str]:
    """The parameters that have an official name, "encoder/embed/kernel"."""
    return {"/".join(rule.ours) for rule in _rules(params, layout)}


def _rules(tree: Any, layout: Layout) -> Iterator[Rule]:
    """The rules for the parameters of a pre-training model, of its encoder alone, or of a classifier."""
    classifier = "head" in tree
    prefix = "" if classifier else "encoder."
    encoder = ("encoder",)
    yield Rule((*encoder, "embed", "kernel"), f"{prefix}patch_embed.proj.weight", *_embedding(layout))
    yield _same((*encoder, "embed", "bias"), f"{prefix}patch_embed.proj.bias")
    yield from _blocks((*encoder, "blocks"), f"{prefix}blocks", layout, layout.heads, layout.depth)
    yield from _positions(tree["encoder"], encoder, prefix)
    yield from _class_token(tree["encoder"], encoder, prefix)
    if classifier:
        yield from _norm(("fc_norm",), "fc_norm")
        yield from _linear(("head",), "head")
        return
    if "norm" in tree["encoder"]:
        yield from _norm((*encoder, "norm"), "encoder.norm")
    if "decoder" not in tree:
        return
    yield Rule(("decoder", "project", "kernel"), "encoder_to_decoder.weight", np.transpose, np.transpose)
    yield Rule(("decoder", "mask_token"), "mask_token", lambda a: a.reshape(-1), lambda a: a.reshape(1, 1, -1))
    yield from _blocks(("decoder", "blocks"), "decoder.blocks", layout, layout.decoder_heads, layout.decoder_depth)
    yield from _norm(("decoder", "norm"), "decoder.norm")
    yield from _positions(tree["decoder"], ("decoder",), "decoder.")
    yield from _class_token(tree["decoder"], ("decoder",), "decoder.")
    yield from _linear(("decoder", layout.head), "decoder.head")


def _positions(tree: Any, ours: tuple[str, ...], prefix: str) -> Iterator[Rule]:
    """Learned positions; the fixed ones are computed and are no weights."""
    for module, names in LEARNED.items():
        for leaf, name in names.items() if module in tree else ():
            yield Rule((*ours, module, leaf), f"{prefix}{name}", lambda a: a.reshape(a.shape[-2:]), lambda a: a[None])


def _class_token(tree: Any, ours: tuple[str, ...], prefix: str) -> Iterator[Rule]:
    """MAE-ST's class token with its position in it; VideoMAE has none."""
    if "prefix_token" in tree:
        rule = Rule((*ours, "prefix_token"), f"{prefix}cls_token", lambda a: a.reshape(a.shape[-2:]), lambda a: a[None])
        yield rule


def _blocks(ours: tuple[str, ...], theirs: str, layout: Layout, heads: int, depth: int) -> Iterator[Rule]:
    for rule in _block(heads, layout):
        yield rule._replace(ours=(*ours, *rule.ours), theirs=f"{theirs}.{{}}.{rule.theirs}", layers=depth)


def _block(heads: int, layout: Layout) -> Iterator[Rule]:
    yield from _norm(("norm1",), "norm1")
    yield from _norm(("norm2",), "norm2")
    # [3 * width, width], outputs ordered (q k v, head, dim)  <->  [width, 3, heads, dim]
    yield Rule(
        ("attention", "qkv", "kernel"),
        "attn.qkv.weight",
        lambda a: a.T.reshape(a.shape[1], 3, heads, -1),
        lambda a: a.reshape(a.shape[0], -1).T,
    )
    for name in ("q_bias", "v_bias"):
        rule = Rule(("attention", "qkv", name), f"attn.{name}", lambda a: a.reshape(heads, -1), lambda a: a.reshape(-1))
        yield rule
    yield Rule(
        ("attention", "proj", "kernel"),
        "attn.proj.weight",
        lambda a: a.T.reshape(heads, -1, a.shape[0]),
        lambda a: a.reshape(-1, a.shape[-1]).T,
    )
    yield _same(("attention", "proj", "bias"), "attn.proj.bias")
    yield from _linear(("mlp", "fc1"), "mlp.fc1")
    yield from _linear(("mlp", "fc2"), "mlp.fc2")
    if layout.cosine:
        yield Rule(("attention", "logit_scale"), "attn.scale", lambda a: a.reshape(-1), lambda a: a.reshape(-1, 1, 1))
    if layout.layer_scale:
        yield _same(("scale1", "gamma"), "gamma_1")
        yield _same(("scale2", "gamma"), "gamma_2")


def _same(ours: tuple[str, ...], theirs: str) -> Rule:
    return Rule(ours, theirs, lambda a: a, lambda a: a)


def _norm(ours: tuple[str, ...], theirs: str) -> Iterator[Rule]:
    yield _same((*ours, "scale"), f"{theirs}.weight")
    yield _same((*ours, "bias"), f"{theirs}.bias")


def _linear(ours: tuple[str, ...], theirs: str) -> Iterator[Rule]:
    yield Rule((*ours, "kernel"), f"{theirs}.weight", np.transpose, np.transpose)
    yield _same((*ours, "bias"), f"{theirs}.bias")


def _embedding(layout: Layout) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """A 3-D convolution [d c t y x] <-> a matrix whose rows are pixels in (t y x c) order."""
    t, h, w = layout.patch

    def to_ours(a: np.ndarray) -> np.ndarray:
        return a.transpose(2, 3, 4, 1, 0).reshape(-1, a.shape[0])

    def to_theirs(a: np.ndarray) -> np.ndarray:
        return a.reshape(t, h, w, layout.channels, -1).transpose(4, 3, 0, 1, 2)

    return to_ours, to_theirs


def _leaf(tree: Any, path: tuple[str, ...]) -> Any:
    for depth, key in enumerate(path):
        if key not in tree:
            raise MismatchError(f"the model has no parameter {'/'.join(path[: depth + 1])}")
        tree = tree[key]
    return tree


def _set(tree: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
