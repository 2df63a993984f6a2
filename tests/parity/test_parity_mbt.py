"""MBT and the classifier of AV-MAE against Scenic: outputs, loss and gradients of tiny networks with random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recorded import FOLDER, rows, same_gradients
from scenic_weights import Given, below, blocks, embed, layer

from vmae_jax.inputs.readers import video
from vmae_jax.methods import labels, mbt
from vmae_jax.methods.branches import branch
from vmae_jax.models.fusion import bottleneck
from vmae_jax.models.positions import learned
from vmae_jax.models.spectrogram import spectrogram
from vmae_jax.models.variants import vit
from vmae_jax.types import Context

DIMS = {"size": "micro", "width": 16, "depth": 3, "heads": 2, "patch": 8, "dtype": "float32"}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
CLASSES = 5
# Of each set: the modalities, whether it is MBT's own model, and what is predicted.
SETS = {
    "both_tokens": (("audio", "video"), True),
    "both_modalities": (("video", "audio"), False),
    "sound": (("audio",), False),
}


@functools.cache
def numbers(name):
    return dict(np.load(FOLDER / "mbt" / f"{name}.npz"))


def method(name):
    names, own = SETS[name]
    more = {"positions": learned()} if own else {}
    made = {
        "video": lambda: branch(vit(frames=4, resolution=16, **DIMS, **HALF, **more), video()),
        "audio": lambda: branch(spectrogram(frames=32, bins=16, **DIMS, **more), Given()),
    }
    if own:
        head = labels.many(CLASSES, 0.3, smooth_to=1 / CLASSES, weight=float(CLASSES))
    else:
        head = labels.one(CLASSES, 0.0)
    fuse = bottleneck(1) if len(names) > 1 else None
    pool = "tokens" if own else "modalities"
    return mbt.build({one: made[one]() for one in names}, heads={"": head}, fuse=fuse, pool=pool)


def ours(name, arrays):
    """Weights, or gradients, under our names."""
    names, own = SETS[name]
    inside = below(arrays, "Transformer/")
    first = "video" if own else names[0]  # the one whose blocks have no suffix
    found = {}
    for one in names:
        long = {"video": "rgb", "audio": "spectrogram"}[one]
        suffix = "" if one == first else "_spectrogram" if own else "_spec"
        place = next(n for n in (f"embedding_{long}", f"embedding{suffix}", "embedding") if f"{n}/kernel" in arrays)
        found[one] = {"embed": embed(arrays, place), "blocks": blocks(inside, suffix)}
        if own:
            table = inside[f"posembed_input{suffix}/pos_embedding"][0]
            found[one]["Learned_0"] = {"table": table}
    if len(names) > 1:
        found["fusion"] = {"bottleneck": arrays["bottleneck"][0]}
    projection = "output_projection" if own else "ProjectionHeadAndClassifier_0/output_projection"
    return found | {"norm": layer(inside, "encoder_norm"), "head": layer(arrays, projection)}


@pytest.mark.parametrize("name", SETS)
def test_outputs_loss_and_gradients_are_those_of_scenic(name):
    golden = numbers(name)
    _, own = SETS[name]
    made, params = method(name), jax.tree.map(jnp.asarray, ours(name, below(golden, "params/")))
    label = golden["labels"] if own else golden["labels"] * 0.7 + 0.3 / CLASSES  # given as distributions
    batch = {"label": label, **rows(4)}
    batch |= {stream: golden[stream] for stream in ("video", "spectrogram") if stream in golden}

    def loss(params):
        term = made.loss(params, batch, CONTEXT).terms["binary_cross_entropy" if own else "cross_entropy"]
        return term.weight * term.total / term.count

    outputs, (value, grads) = jax.jit(lambda p: (made.predict(p, batch), jax.value_and_grad(loss)(p)))(params)
    np.testing.assert_allclose(outputs, golden["logits"], rtol=0, atol=1e-5)
    assert float(value) == pytest.approx(float(golden["loss"]), abs=1e-5)
    wanted = ours(name, below(golden, "grads/"))
    assert jax.tree.structure(wanted) == jax.tree.structure(jax.device_get(grads))
    same_gradients(grads, wanted)
