"""RVM against the code of its authors: states, predictions, loss and gradients of a tiny network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from recorded import FOLDER, rows, same_gradients
from scenic_weights import below, embed, layer

from vmae_jax.masking.core import select
from vmae_jax.masking.random import random
from vmae_jax.methods.rvm import Recurrent
from vmae_jax.models.positions import sinusoid_1d
from vmae_jax.models.variants import vit
from vmae_jax.patches import Patch, patchify
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Context

CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
MODEL = vit(
    "micro", frames=1, tubelet=1, resolution=32, patch=8, width=16, depth=2, heads=2, mlp_ratio=2.0,
    decoder_width=16, decoder_depth=2, decoder_heads=2, decoder_mlp_ratio=4.0, positions=sinusoid_1d([4, 4]), prefix=1,
    decoder_prefix="kept", project_bias=True, style="tanh", initial="mae", dtype="float32", mean=[0.0] * 3,
    std=[1.0] * 3,
)  # fmt: skip
SOURCES = 3


@dataclasses.dataclass(frozen=True)
class Recorded(Recurrent):
    """With the official mask."""

    scores: bytes = b""

    def plan(self, batch, *, decode_all=False):
        return select(jnp.asarray(np.frombuffer(self.scores, np.float32).reshape(4, 16)), 4)


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(FOLDER / "rvm" / "tiny.npz"))


def attention(arrays, name):
    """Matrices and biases of an attention by our names, with those of the queries, keys and values apart."""
    width = arrays[f"{name}/out/bias"].shape[0]
    found = {f"{one}/kernel": arrays[f"{name}/{one}/kernel"].reshape(width, width) for one in ("query", "key", "value")}
    found |= {f"{one}/bias": arrays[f"{name}/{one}/bias"].reshape(width) for one in ("query", "value")}
    return found | {
        "proj/kernel": arrays[f"{name}/out/kernel"].reshape(width, width),
        "proj/bias": arrays[f"{name}/out/bias"],
    }


def encoder_block(arrays):
    given = attention(arrays, "attention")
    found = {
        "attention/qkv/kernel": np.stack([given[f"{one}/kernel"] for one in ("query", "key", "value")]),
        "attention/qkv/q_bias": given["query/bias"],
        "attention/qkv/v_bias": given["value/bias"],
    }
    found |= {f"attention/proj/{leaf}": given[f"proj/{leaf}"] for leaf in ("kernel", "bias")}
    for ours, theirs in (
        ("norm1", "attention_norm"),
        ("norm2", "mlp_norm"),
        ("mlp/fc1", "mlp/dense_in"),
        ("mlp/fc2", "mlp/dense_out"),
    ):
        found |= {f"{ours}/{leaf}": array for leaf, array in layer(arrays, theirs).items()}
    return found


def cross_block(arrays):
    names = (("attention", "attention"), ("cross_attention", "ca_attention"))
    found = {f"{ours}/{leaf}": array for ours, theirs in names for leaf, array in attention(arrays, theirs).items()}
    parts = (("norm_own", "attention_norm"), ("norm_cross", "ca_attention_norm"), ("norm_mlp", "mlp_norm"))
    for ours, theirs in (*parts, ("fc1", "mlp/dense_in"), ("fc2", "mlp/dense_out")):
        found |= {f"{ours}/{leaf}": array for leaf, array in layer(arrays, theirs).items()}
    return found


def stacked(arrays, prefix, block):
    both = [block(below(arrays, f"{prefix}_{number}/")) for number in range(2)]
    return unflatten_dict({name: np.stack([one[name] for one in both]) for name in both[0]}, sep="/")


def ours(arrays):
    """Official weights, or gradients, under our names."""
    core, encoder, decoder = (below(arrays, f"{name}/") for name in ("rnn_core", "encoder", "decoder"))
    gates = {f"{b}_{a}": layer(core, f"{a}_{b}") for a in ("input", "state") for b in ("update", "reset")}
    return {
        "encoder": {
            "prefix_token": arrays["cls_token"],
            "embed": embed(arrays, "tokenizer/patch_embedding/Conv_0"),
            "blocks": stacked(encoder, "layers", encoder_block),
            "norm": layer(encoder, "LayerNorm_0"),
        },
        "core": {
            **gates,
            "state_scale": core["state_layer_norm/scale"],
            "blocks": stacked(below(core, "transformer/"), "xa_blocks", cross_block),
            "norm": layer(core, "transformer/output_norm"),
        },
        "decoder": {
            "project": layer(arrays, "decoder_embedder"),
            "gap": layer(arrays, "delta_embedder"),
            "mask_token": arrays["mask_token"][0],
            "blocks": stacked(decoder, "xa_blocks", cross_block),
            "norm": layer(decoder, "output_norm"),
            "head_pixels": layer(arrays, "detokenizer/Dense_0"),
        },
    }


def test_states_predictions_loss_and_gradients_are_the_official_ones(golden):
    scores = (~golden["hidden"]).reshape(4, 16).astype(np.float32)
    target = {"pixels": objective(pixels(normalize=False))}
    one = Recorded(MODEL, random(0.75, "visible"), None, target, {}, SOURCES, 2, scores=scores.tobytes())
    video = np.concatenate([golden["sources"], golden["targets"]], axis=1)
    begin = np.tile(np.arange(SOURCES), (2, 1))
    batch = {
        "video": video,
        "frames": np.concatenate([begin, 2 + golden["deltas"]], axis=1).astype(np.int32),
        **rows(2),
    }
    params = jax.tree.map(jnp.asarray, ours(below(golden, "params/")))

    @jax.jit
    def run(params, larger):
        def loss(params):
            term = one.loss(params, batch, CONTEXT).terms["pixels"]
            return term.total / term.count

        done, found = one.predicted(params, batch, CONTEXT)
        carried = one.frame_states(params, larger)[1]
        return done.masks.decode, done.predictions["pixels"], found.states, carried, jax.value_and_grad(loss)(params)

    places, prediction, states, carried, (value, grads) = run(params, golden["larger"][0])
    np.testing.assert_allclose(states, golden["features"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(carried[:, 0], golden["larger_features"][0], rtol=0, atol=1e-5)
    cubes = patchify(golden["reconstructed"].reshape(4, 1, 32, 32, 3), Patch(1, 8, 8))
    wanted = np.take_along_axis(np.asarray(cubes), np.asarray(places)[..., None], axis=1)
    np.testing.assert_allclose(prediction, wanted, rtol=0, atol=1e-5)
    assert float(value) == pytest.approx(float(golden["loss"]), abs=1e-5)
    wanted = ours(below(golden, "grads/"))
    assert jax.tree.structure(wanted) == jax.tree.structure(jax.device_get(grads))
    same_gradients(grads, wanted)
