"""Hiera and its masked autoencoder against the official code: encoded tokens, predictions, loss, gradients, logits."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from flax.traverse_util import flatten_dict
from recorded import FOLDER, rows

from vmae_jax.masking.core import Masker
from vmae_jax.masking.units import units
from vmae_jax.methods import classify
from vmae_jax.methods.masked import Masked
from vmae_jax.models.hiera import Size
from vmae_jax.models.hiera_sizes import hiera
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Context, Grid
from vmae_jax.weights.layouts import rules
from vmae_jax.weights.layouts.rules import (
    FUSED,
    MATRIX,
    SAME,
    TABLE,
    TOKEN,
    Conversion,
    Rule,
    Tower,
    linear,
    nested,
    norm,
)

STAGES = (1, 2, 3, 2)
FIRST = (0, 1, 3, 6, 8)  # the first block of each stage
CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
MEAN, DEVIATION = [0.45] * 3, [0.225] * 3

CONV = Conversion(lambda a, shape: a.transpose(2, 3, 4, 1, 0), lambda a: a.transpose(4, 3, 0, 1, 2))
FUSION = Conversion(lambda a, shape: a[:, :, 0].transpose(2, 3, 1, 0).reshape(shape), lambda a: a)
BIAS = Conversion(lambda a, shape: a.reshape(3, -1), lambda a: a.reshape(-1))


@pytest.fixture(scope="module")
def numbers():
    return dict(np.load(FOLDER / "hiera" / "plain.npz"))


def network(pools):
    """Our model of the golden's dims; its clips are not square."""
    about = {"mlp_ratio": 2.0, "decoder_width": 16, "decoder_depth": 2, "decoder_heads": 4, "dtype": "float32"}
    model = hiera(frames=4, resolution=64, pools=pools, mean=MEAN, std=DEVIATION, **about)
    cube = model.patch
    grid = Grid(2, 64 // cube.h, 96 // cube.w)
    encoder = model.encoder.clone(grid=grid, size=Size(4, 1, STAGES))
    return dataclasses.replace(model, grid=grid, encoder=encoder, decoder={**model.decoder, "grid": grid})


def autoencoder():
    given = Masker(keep=lambda grid: 3, score=lambda keys, batch, grid: jnp.asarray(batch["mask"], jnp.float32))
    target = pixels(mean=MEAN, deviation=DEVIATION, joint=True, first=True)
    return Masked(network(2), units(given), None, {"pixels": objective(target)})


def batch(numbers):
    return {"video": numbers["video"], "mask": numbers["mask"], **rows(2)}


def staged(state):
    """The official names with blocks numbered within each stage, and the parts of q, k and v apart."""

    def rename(match):
        number = int(match[1])
        stage = max(n for n in range(4) if FIRST[n] <= number)
        inside = number - FIRST[stage] - (stage > 0)
        return f"widen.{stage}." if inside < 0 else f"stage.{stage}.{inside}."

    found = {}
    for name, value in state.items():
        name = re.sub(r"^blocks\.(\d+)\.", rename, name)
        if name.endswith("attn.qkv.bias"):
            found |= {f"{name}.{letter}": part for letter, part in zip("qkv", np.split(value, 3), strict=True)}
        else:
            found[name] = value
    return found


def block(attention):
    return [
        *norm("norm1", "norm1"),
        *norm("norm2", "norm2"),
        Rule(f"{attention}qkv/kernel", "attn.qkv.weight", FUSED),
        *[Rule(f"{attention}qkv/{letter}_bias", f"attn.qkv.bias.{letter}") for letter in "qkv"],
        *linear(f"{attention}proj", "attn.proj"),
        *linear("mlp/fc1", "mlp.fc1"),
        *linear("mlp/fc2", "mlp.fc2"),
    ]


ENCODER = [
    Rule("embed_kernel", "patch_embed.proj.weight", CONV),
    Rule("embed_bias", "patch_embed.proj.bias"),
    Rule("Separable_0/space_table", "pos_embed_spatial", TABLE),
    Rule("Separable_0/time_table", "pos_embed_temporal", TABLE),
    *[rule for n in range(4) for rule in nested(f"stage_{n}", f"stage.{n}.{{}}", block("attention/"))],
    *[rule for n in range(1, 4) for rule in nested(f"widen_{n}", f"widen.{n}", [*block(""), *linear("skip", "proj")])],
    *norm("norm", "encoder_norm"),
    *[Rule(f"fuse_{n}/kernel", f"multi_scale_fusion_heads.{n}.weight", FUSION) for n in range(2)],
    *[Rule(f"fuse_{n}/bias", f"multi_scale_fusion_heads.{n}.bias", SAME) for n in range(2)],
]
DECODER = [
    Rule("mask_token", "mask_token", TOKEN),
    Rule("Learned_0/table", "decoder_pos_embed", TABLE),
    *linear("project", "decoder_embed"),
    *nested("blocks", "decoder_blocks.{}", block("attention/")),
    *norm("norm", "decoder_norm"),
    *linear("head_pixels", "decoder_pred"),
]
CLASSIFIER = [*norm("fc_norm", "norm"), Rule("head/kernel", "head.projection.weight", MATRIX)]
CLASSIFIER += [Rule("head/bias", "head.projection.bias")]


def of(numbers, kind):
    return {name.removeprefix(kind): value for name, value in numbers.items() if name.startswith(kind)}


def ours(state, method, numbers):
    """Official weights, or gradients, as our parameters; none is missing or left over."""
    template = jax.eval_shape(lambda: meta.unbox(method.init(jax.random.key(0), batch(numbers))[0]))
    towers = [Tower("encoder", "", ENCODER), Tower("decoder", "", DECODER), Tower("", "", CLASSIFIER)]
    return rules.from_state(staged(state), towers, template)


def close(found, wanted, share=None):
    limit = 1e-5 if share is None else share * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=limit)


@pytest.mark.slow
def test_the_masked_autoencoder(numbers):
    method = autoencoder()
    params = ours(of(numbers, "weight/"), method, numbers)

    def total(params):
        done = method.forward(params, batch(numbers), CONTEXT)
        term = method.terms(done)["pixels"]
        targets = method.objectives["pixels"].target(done.batch, done.masks.decode, method.model.patch)
        return term.total / term.count, (done, targets)

    (loss, (done, targets)), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    hidden = np.zeros(numbers["hidden"].shape, bool)
    np.put_along_axis(hidden, np.asarray(done.masks.decode), True, axis=1)
    np.testing.assert_array_equal(hidden, numbers["hidden"])
    close(done.predictions["pixels"][:, ::6], numbers["prediction"])
    close(targets[:, ::6], numbers["target"])
    assert float(loss) == pytest.approx(float(numbers["loss"]), abs=1e-5)
    # Theirs are unit by unit, ours in the order of the grid.
    units_first = np.argsort(np.asarray(method.model.encoder._units(done.masks.visible)), axis=1, kind="stable")
    latent = np.take_along_axis(np.asarray(done.encoded), units_first[..., None], axis=1)
    close(latent.reshape(numbers["latent"].shape), numbers["latent"])
    wanted = ours(of(numbers, "grad/"), method, numbers)
    found, wanted = (flatten_dict(tree, sep="/") for tree in (gradients, wanted))
    for name in wanted:
        if name.endswith("k_bias"):  # the softmax cancels it: both are rounding
            assert max(np.abs(found[name]).max(), np.abs(wanted[name]).max()) < 1e-7, name
        else:
            close(found[name], wanted[name], 2e-5)


def test_the_classifier(numbers):
    """The same weights, with a third pooling."""
    method = classify.classifier(network(3), 5)
    shared = {
        name: value
        for name, value in of(numbers, "weight/").items()
        if not name.startswith(("decoder", "encoder_norm", "mask_token", "multi"))
    }
    params = ours(shared | of(numbers, "classifier/"), method, numbers)
    close(jax.jit(method.predict)(params, batch(numbers)), numbers["logits"])
