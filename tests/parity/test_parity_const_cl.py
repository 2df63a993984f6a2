"""ConST-CL against its official code: regions, their predictions, both losses, and all gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recorded import FOLDER

from vmae_jax.methods.parts.core import Seen
from vmae_jax.methods.parts.nce import nce
from vmae_jax.methods.parts.region_nce import region_nce
from vmae_jax.types import Context, Grid, MaskPlan

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0))
GRID, HEADS, LAYERS = Grid(7, 5, 6), 3, 2
PART = region_nce("video", boxes="boxes", context=3, width=8, heads=HEADS, depth=LAYERS)
# The official name of each parameter outside of the layers -> ours.
OUTER = {"dense": "output"} | {
    f"{official}_mlp_l{number}": f"{ours}_{number - 1}"
    for official, ours in (("temporal", "time"), ("spatial", "space"))
    for number in (1, 2)
}


@functools.cache
def numbers():
    return dict(np.load(FOLDER / "const_cl" / "regions.npz"))


def interleaved(x):
    """The clips of a video as consecutive rows, of all first clips followed by all second ones."""
    return np.stack(np.split(x, 2), axis=1).reshape(x.shape)


def decoder(kind):
    """The official parameters, or their gradients, in our layout: heads side by side."""
    given = {name.removeprefix(f"{kind}/"): x for name, x in numbers().items() if name.startswith(f"{kind}/")}
    tree = {ours: {leaf: given[f"{name}/{leaf}"] for leaf in ("kernel", "bias")} for name, ours in OUTER.items()}
    for layer in range(LAYERS):
        heads = [f"transformer_decoder/layer_{layer}/mha_{head}" for head in range(HEADS)]
        of = lambda path, heads=heads: [given[f"{head}/{path}"] for head in heads]  # noqa: E731
        own = {
            name: {leaf: np.concatenate(of(f"{name}/{leaf}"), -1) for leaf in ("kernel", "bias")}
            for name in ("query", "key", "value")
        }
        own["key"].pop("bias")  # cancels in the softmax; ours has none
        own |= {"norm_scale": np.stack(of("layer_norm/gamma")), "norm_bias": np.stack(of("layer_norm/beta"))}
        own |= {f"mlp_{n}_{leaf}": np.stack(of(f"ffn{n + 1}/{leaf}")) for n in (0, 1) for leaf in ("kernel", "bias")}
        tree[f"layer_{layer}"] = own
    return {"decoder": tree}


@jax.jit
def computed(params, features, boxes):
    def loss(params, features):
        rows = len(features)
        plan = MaskPlan(jnp.zeros((rows, GRID.size), int), jnp.zeros((rows, 0), int), jnp.zeros((rows, 0)))
        batch = {"boxes": boxes, "boxes_mask": jnp.ones(boxes.shape[:3], bool), "valid": jnp.ones(rows, bool)}
        tokens = features.reshape(rows, GRID.size, -1)
        found = PART.rows(params, {"video": Seen(batch, plan, tokens, tokens, GRID)}, dict)
        (term,) = PART.compare(params, found, None, CONTEXT).terms.values()
        return term.total / term.count, found

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, features)


@functools.cache
def ours():
    """Our boxes are half a token further: a token is a square here, and the point at its corner there."""
    given = numbers()
    low, high = np.split(interleaved(given["boxes"]), 2, axis=-1)
    half = 0.5 / np.array([GRID.h, GRID.w], np.float32)
    boxes = np.concatenate([(low + half)[..., ::-1], (high + half)[..., ::-1]], axis=-1)
    return jax.tree.map(np.asarray, computed(decoder("params"), interleaved(given["features"]), boxes))


def test_regions_predictions_and_loss():
    (loss, rows), _ = ours()
    for view, letter in enumerate("ab"):
        np.testing.assert_allclose(rows["instances"][view::2], numbers()[f"instances_{letter}"], atol=1e-6)
        other = "ba"[view]
        np.testing.assert_allclose(rows["predicted"][view::2], numbers()[f"{letter}2{other}"], atol=1e-5)
    assert loss == pytest.approx(numbers()["loss"], abs=1e-5)


def test_gradients():
    _, (params, features) = ours()
    wanted = interleaved(numbers()["grads/features"])
    np.testing.assert_allclose(features, wanted, atol=2e-5 * np.abs(wanted).max())
    wanted = decoder("grads")
    assert jax.tree.structure(params) == jax.tree.structure(wanted)
    for (path, own), official in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(wanted), strict=True):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(own, official, atol=2e-5 * np.abs(official).max(), err_msg=name)


def test_the_contrast_of_clips_is_half_the_official_sum():
    """The official loss is the sum of both directions, ours their mean: `weight=2` in the config."""

    def loss(x):
        rows = {"video": x, "": jnp.ones(len(x), bool)}
        (term,) = (
            nce("video", "video", temperature=0.1, views=2, weight=2.0).compare({}, rows, None, CONTEXT).terms.values()
        )
        return term.weight * term.total / term.count

    value, grads = jax.jit(jax.value_and_grad(loss))(interleaved(numbers()["global/inputs"]))
    wanted = interleaved(numbers()["global/grads"])
    assert float(value) == pytest.approx(numbers()["global/loss"], abs=1e-5)
    np.testing.assert_allclose(grads, wanted, atol=2e-5 * np.abs(wanted).max())
