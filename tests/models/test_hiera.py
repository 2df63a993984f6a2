"""Hiera: the order of its tokens, pooling, masks of whole units, and what hidden pixels can reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.masking.core import plan
from vmae_jax.masking.random import random
from vmae_jax.masking.tube import tube
from vmae_jax.masking.units import units
from vmae_jax.methods import classify, masked
from vmae_jax.models.classifier import everything
from vmae_jax.models.hiera import pooled, rerolled, unrolled
from vmae_jax.models.hiera_sizes import SIZES, hiera
from vmae_jax.patches import gather_cubes
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Context, Grid

TINY = {"size": "micro", "frames": 4, "patch": 2, "dtype": "float32"}
TINY |= {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
HIDDEN = units(random(0.9, "visible"))


def pictures(b=2, t=2, h=16, w=24, d=3):
    return np.random.default_rng(0).normal(size=(b, t, h, w, d)).astype(np.float32)


def in_units(x, side):
    """[b t h w d] as [b u side side d], unit by unit."""
    b, t, h, w, d = x.shape
    return x.reshape(b, t, h // side, side, w // side, side, d).swapaxes(3, 4).reshape(b, -1, side, side, d)


@pytest.mark.parametrize("stage", range(4))
def test_pooling_is_the_maximum_of_squares_and_tokens_return_to_their_places(stage):
    x = pictures()
    tokens, wanted = unrolled(x), x
    for _ in range(stage):
        b, t, h, w, d = wanted.shape
        tokens, wanted = pooled(tokens), wanted.reshape(b, t, h // 2, 2, w // 2, 2, d).max(axis=(3, 5))
    np.testing.assert_array_equal(rerolled(tokens), in_units(wanted, 8 >> stage))


def test_shapes_and_counts_of_the_published_video_model():
    """25,088 tokens after the convolution; of 1,568 predicted places 156 are visible, and a value for each colour."""
    model = hiera("B")
    target = pixels(joint=True, first=True)
    method = masked.Masked(model, HIDDEN, None, {"pixels": objective(target)})
    batch = {name: jax.ShapeDtypeStruct(*of) for name, of in clips(1).items()}
    params = jax.eval_shape(lambda b: method.init(jax.random.key(0), b)[0], batch)
    done = jax.eval_shape(lambda p, b: method.forward(p, b, context()), params, batch)
    assert (model.grid, model.patch) == (Grid(8, 14, 14), (2, 16, 16))
    assert done.masks.visible.shape == (1, 39 * 4)
    assert done.encoded.shape == (1, 39 * 4, 768)
    assert done.predictions["pixels"].shape == (1, 1412, 16 * 16 * 3)
    encoder = params["encoder"]
    assert encoder["embed_kernel"].value.shape == (3, 7, 7, 3, 96)
    assert encoder["Separable_0"]["space_table"].value.shape == (56 * 56, 96)
    assert encoder["Separable_0"]["time_table"].value.shape == (8, 96)
    stages = lambda name: encoder[name]["norm1"]["scale"].value.shape  # noqa: E731
    assert [stages(f"stage_{n}") for n in range(4)] == [(2, 96), (2, 192), (15, 384), (2, 768)]


def clips(b, side=224, frames=16):
    shapes = {"video": ((b, frames, side, side, 3), np.uint8), "seed": ((b, 2), np.uint32)}
    return shapes | {"index": ((b,), np.int32), "valid": ((b,), bool)}


def context():
    return Context(key=jax.random.key(0), step=jnp.int32(0), train=False)


@pytest.mark.parametrize("size", [name for name in SIZES if name != "micro"])
def test_parameters_have_layers_from_0_to_the_depth(size):
    """For layer decay: convolution and positions are layer 0, block k is layer k, whatever its stage."""
    model = hiera(size, **({"frames": 1, "tubelet": 1} if size in "TS" else {}), pools=3)
    cubes = jax.ShapeDtypeStruct((1, model.grid.size, model.cube), jnp.float32)
    encoder = model.encoder.clone(final_norm=False)
    made = jax.eval_shape(lambda c: encoder.init(jax.random.key(0), c, everything(*c.shape[:2]))["params"], cubes)
    covered = set()
    for box in jax.tree.leaves(made, is_leaf=lambda leaf: hasattr(leaf, "layer")):
        assert box.layer is not None
        stacked = box.names[0] == "layers"
        covered |= set(range(box.layer, box.layer + (box.value.shape[0] if stacked else 1)))
    assert covered == set(range(sum(SIZES[size].stages) + 1))


def test_masks_keep_whole_units():
    grid = Grid(2, 6, 4)
    made = plan(jax.random.split(jax.random.key(0), 3), {}, grid, units(random(0.5, "visible")))
    seen = np.zeros((3, grid.size))
    np.put_along_axis(seen, np.asarray(made.visible), 1.0, axis=1)
    shares = in_units(seen.reshape(3, 2, 6, 4, 1), 2).mean(axis=(2, 3, 4))
    assert made.unit == (1, 2, 2)
    assert set(np.unique(shares)) == {0.0, 1.0}
    np.testing.assert_array_equal(shares.sum(axis=1), 6)


@pytest.mark.slow
def test_hidden_pixels_reach_nothing():
    """Not even through the border, where the kernel of a visible unit's tokens overlaps hidden pixels."""
    model = hiera(resolution=32, **TINY)
    video = np.random.default_rng(0).integers(0, 256, (1, 4, 32, 32, 3)).astype(np.uint8)
    masks = plan(jax.random.split(jax.random.key(0), 1), {}, model.grid, units(random(0.5, "visible")))
    seen = np.zeros((1, model.grid.size, 1), np.uint8)
    np.put_along_axis(seen, np.asarray(masks.visible)[..., None], 1, axis=1)
    pixel = np.broadcast_to(seen.reshape(1, 2, 4, 4, 1, 1), (1, 2, 4, 4, 1, 64)).reshape(1, 2, 4, 4, 8, 8)
    pixel = pixel.transpose(0, 1, 2, 4, 3, 5).reshape(1, 2, 32, 32, 1).repeat(2, axis=1)
    changed = np.where(pixel == 1, video, 255 - video)

    def features(params, video, plan):
        plan = plan.replace(visible=jnp.repeat(plan.visible, len(video), axis=0))
        cubes = model.normalize(gather_cubes(video, plan.visible, model.patch))
        return model.encoder.apply({"params": params}, cubes, plan)

    @jax.jit
    def run(videos):
        cubes = model.normalize(gather_cubes(videos[:1], masks.visible, model.patch))
        params = model.encoder.init(jax.random.key(0), cubes, masks)["params"]
        return [features(params, videos, plan) for plan in (masks, everything(1, model.grid.size))]

    masked, whole = run(np.concatenate([video, changed]))
    np.testing.assert_array_equal(masked[0], masked[1])
    assert np.abs(np.asarray(whole[0] - whole[1])).max() > 1e-3


def test_a_mask_of_single_tokens_is_refused():
    method = masked.Masked(hiera(resolution=32, **TINY), tube(0.5), None, {"pixels": objective(pixels())})
    batch = {name: jax.ShapeDtypeStruct(*of) for name, of in clips(1, 32, 4).items()}
    params = jax.eval_shape(lambda b: method.init(jax.random.key(0), b)[0], batch)
    with pytest.raises(ValueError, match="whole mask units"):
        jax.eval_shape(lambda p, b: method.loss(p, b, context()), params, batch)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": "g"}, "unknown size"),
        ({"pools": 4}, "unknown pools"),
        ({"resolution": 48}, "mask units of 2x32x32"),
        ({"decoder_heads": 5}, "does not divide into 5 heads"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        hiera(**given)


def test_the_classifier_pools_a_third_time_with_the_same_encoder():
    few, many = hiera("B"), hiera("B", pools=3)
    method = classify.classifier(many, 7)
    batch = {name: jax.ShapeDtypeStruct(*of) for name, of in clips(1).items()}
    params = jax.eval_shape(lambda b: method.init(jax.random.key(0), b)[0], batch)
    assert jax.eval_shape(method.predict, params, batch).shape == (1, 7)
    assert (few.grid, many.grid) == (Grid(8, 14, 14), Grid(8, 7, 7))
    masks = everything(1, few.grid.size)
    cubes = jax.ShapeDtypeStruct((1, few.grid.size, few.cube), jnp.float32)
    own = jax.eval_shape(lambda c: few.encoder.init(jax.random.key(0), c, masks)["params"], cubes)
    shapes = lambda tree: {k: v for k, v in tree.items() if not k.startswith(("fuse", "norm"))}  # noqa: E731
    assert jax.tree.map(jnp.shape, shapes(own)) == jax.tree.map(jnp.shape, params["encoder"])
    with pytest.raises(ValueError, match="last block only"):
        jax.eval_shape(lambda p, b: method.features(p, b, layer=2), params, batch)
