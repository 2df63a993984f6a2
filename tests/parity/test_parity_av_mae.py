"""AV-MAE against Scenic: tokens, predictions, loss and gradients of tiny networks with random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from recorded import FOLDER, rows, same_gradients
from scenic_weights import Given, below, blocks, embed, layer

from vmae_jax.inputs.readers import video
from vmae_jax.masking.core import Masker
from vmae_jax.methods.joint import Joint, modality
from vmae_jax.methods.parts.reconstruct import reconstruct
from vmae_jax.models.fusion import joint
from vmae_jax.models.spectrogram import spectrogram
from vmae_jax.models.variants import vit
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.targets.spectrogram import spectrogram as values
from vmae_jax.types import Context

pytestmark = pytest.mark.slow

OFFICIAL = {"video": "rgb", "audio": "spectrogram"}
OBJECTIVES = {"video": "pixels", "audio": "log_mel"}
CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)


def method(fused):
    dims = {"size": "micro", "width": 16, "depth": 2 if fused else 3, "heads": 2, "patch": 8, "dtype": "float32"}
    dims |= {"decoder_width": 8, "decoder_depth": 2, "decoder_heads": 2, "project_bias": True}
    raw = objective(pixels(normalize=False, mean=0.5, deviation=0.5), weight=0.5)
    models = {
        "video": vit(frames=4, resolution=16, mean=[0.5] * 3, std=[0.5] * 3, **dims),
        "audio": spectrogram(frames=32, bins=16, **dims),
    }
    modalities = {
        "video": modality(models["video"], recorded("rgb", 2), video(), {"pixels": raw}),
        "audio": modality(
            models["audio"], recorded("spectrogram", 4), Given(), {"log_mel": objective(values(), weight=0.5)}
        ),
    }
    return Joint(modalities, {"reconstruct": reconstruct(shared=True)}, joint(1) if fused else None)


def recorded(name, kept):
    """The mask that the official code drew."""
    return Masker(keep=lambda grid: kept, score=lambda keys, batch, grid: 1.0 - jnp.asarray(batch[f"hidden_{name}"]))


def ours(arrays, template):
    """Weights, or gradients, under our names."""
    found, decoders = {}, {"shared": {"blocks": blocks(below(arrays, "Decoder/"))}}
    decoders["shared"]["norm"] = layer(arrays, "Decoder/encoder_norm")
    for name, theirs in OFFICIAL.items():
        inside = below(arrays, f"Transformer_{theirs}/")
        found[name] = {"embed": embed(arrays, f"embedding_{theirs}"), "blocks": blocks(inside)}
        found[name]["norm"] = layer(inside, "encoder_norm")
        decoders[name] = {
            "project": layer(arrays, f"decoder_projection_{theirs}"),
            "mask_token": arrays[f"mask_token_{theirs}"],
            f"head_{OBJECTIVES[name]}": layer(arrays, f"output_projection_{theirs}"),
        }
    concat = below(arrays, "Transformer_concat/")
    if concat:
        found["fusion"] = {"blocks": blocks(concat), "norm": layer(concat, "encoder_norm")}
    return jax.tree.map(lambda like, array: array.reshape(like.shape), template, found | {"reconstruct": decoders})


@functools.cache
def outcome(name):
    """The numbers of a set, and ours."""
    golden = dict(np.load(FOLDER / "av_mae" / f"{name}.npz"))
    one = method(name == "joint")
    batch = {key: golden[key] for key in ("video", "spectrogram")} | rows(4)
    batch |= {key: golden[key].astype(np.float32) for key in golden if key.startswith("hidden_")}
    template = meta.unbox(jax.eval_shape(lambda: one.init(jax.random.key(0), batch)[0]))
    params = jax.tree.map(jnp.asarray, ours(below(golden, "params/"), template))

    def loss(params):
        terms = one.loss(params, batch, CONTEXT).terms
        means = {key: term.total / term.count for key, term in terms.items()}
        return sum(terms[key].weight * value for key, value in means.items()), means

    @jax.jit
    def run(params):
        whole = {key: found.fused for key, found in one.seen(params, batch, train=False, whole=True).items()}
        seen = one.seen(params, batch, train=False)
        made = one.parts["reconstruct"].predictions(params["reconstruct"], one.networks, seen)
        places = {key: found.masks.decode for key, found in seen.items()}
        return whole, made, places, jax.value_and_grad(loss, has_aux=True)(params)

    return golden, run(params), ours(below(golden, "grads/"), template)


@pytest.mark.parametrize("name", ["joint", "separate"])
def test_tokens_and_predictions_are_those_of_scenic(name):
    golden, (whole, made, places, _), _ = outcome(name)
    for key, theirs in OFFICIAL.items():
        np.testing.assert_allclose(whole[key], golden[f"encoded_{theirs}"], rtol=0, atol=1e-5)
        index = np.asarray(places[key])
        assert golden[f"hidden_{theirs}"].sum() == index.size
        wanted = np.take_along_axis(golden[f"pred_{theirs}"], index[..., None], axis=1)
        np.testing.assert_allclose(made[key][OBJECTIVES[key]], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["joint", "separate"])
def test_loss_and_gradients_are_those_of_scenic(name):
    golden, (*_, ((value, means), grads)), wanted = outcome(name)
    assert float(value) == pytest.approx(float(golden["loss"]), abs=1e-5)
    for key, theirs in OFFICIAL.items():
        assert float(means[f"{key}_{OBJECTIVES[key]}"]) == pytest.approx(float(golden[f"loss_{theirs}"]), abs=1e-5)
    same_gradients(grads, wanted)
