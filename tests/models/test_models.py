"""The networks: published sizes, equal forms, options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from vmae_jax.models import positions
from vmae_jax.models.classifier import Classifier, everything
from vmae_jax.models.layers import drop_path
from vmae_jax.models.stack import REMAT
from vmae_jax.models.variants import VARIANTS, vit
from vmae_jax.types import Grid, MaskPlan

COUNTS = {  # encoder + decoder of depth 4; classifier of 400 classes
    "S": (24_029_376, 22_033_936),
    "B": (94_210_944, 86_534_800),
    "L": (317_782_016, 304_270_736),
    "H": (645_659_392, 632_119_440),
    "g": (1_026_306_560, 1_012_174_352),
}
KEY = jax.random.key(0)


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def pixels(model) -> int:
    return model.patch.t * model.patch.h * model.patch.w * model.channels


@pytest.mark.parametrize("size", COUNTS)
def test_parameter_counts(size):
    model = vit(size)
    p = pixels(model)
    plan = MaskPlan(jnp.zeros((1, 4), jnp.int32), jnp.zeros((1, 8), jnp.int32), jnp.zeros((1, 8)))
    encoder = jax.eval_shape(model.encoder.init, KEY, jnp.zeros((1, 4, p)), plan)
    decoder = jax.eval_shape(model.make_decoder({"pixels": p}).init, KEY, jnp.zeros((1, 4, model.encoder.width)), plan)
    classifier = Classifier(model.encoder.clone(final_norm=False), 400)
    head = jax.eval_shape(classifier.init, KEY, jnp.zeros((1, model.grid.size, p)))
    assert (count(encoder) + count(decoder), count(head)) == COUNTS[size]


def test_the_giants_mlps():
    model = vit("g")
    assert model.encoder.blocks["hidden"] == 6144
    assert model.decoder["blocks"]["hidden"] == 2234
    assert model.grid == Grid(8, 16, 16)


def setup(**options):
    model = vit("micro", frames=4, resolution=32, depth=3, dtype="float32", **options)
    cubes = jax.random.normal(jax.random.key(1), (2, model.grid.size, pixels(model)))
    plan = everything(2, model.grid.size)
    # Every dimension's parameters away from their starting point, so that none is 0 or 1.
    params = meta.unbox(jax.jit(model.encoder.init)(KEY, cubes, plan))
    params = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), params)
    return model, params, cubes, plan


def value_and_grad(model, params, cubes, plan, keys=None):
    def loss(params):
        return jnp.square(model.encoder.apply(params, cubes, plan, keys)).mean()

    with jax.default_matmul_precision("highest"):
        return jax.jit(jax.value_and_grad(loss))(params)


def assert_same(one, other, rtol=1e-5):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(float(jnp.abs(b).max()), 1e-6))


@pytest.mark.parametrize(
    "options", [{"unroll": 0}, {"unroll": 3, "remat": "full"}, *({"remat": r} for r in REMAT if r != "none")]
)
def test_every_form_computes_the_same(options):
    plain, params, cubes, plan = setup()
    keys = jax.random.split(KEY, 2)
    other, fresh, _, _ = setup(**options)
    assert jax.tree.structure(fresh) == jax.tree.structure(params)
    assert_same(value_and_grad(plain, params, cubes, plan, keys), value_and_grad(other, params, cubes, plan, keys))


def test_visible_only_embedding_equals_embedding_all_and_gathering():
    """Embedding commutes with gathering: padding the plan out to all tokens changes no seen one."""
    model, params, cubes, _ = setup()
    some = jnp.asarray([[1, 5, 6, 20], [0, 2, 3, 31]])
    plan = MaskPlan(some, jnp.zeros((2, 0), jnp.int32), jnp.zeros((2, 0)))
    picked = jnp.take_along_axis(cubes, some[..., None], 1)
    few = model.encoder.apply(params, picked, plan)
    # The same tokens among all of them, with every other masked out of attention.
    everywhere = everything(2, model.grid.size)
    valid = jax.vmap(lambda i: jnp.zeros(model.grid.size, bool).at[i].set(True))(some)
    all_tokens = model.encoder.apply(params, cubes, everywhere.replace(valid=valid))
    np.testing.assert_allclose(few, jnp.take_along_axis(all_tokens, some[..., None], 1), rtol=0, atol=2e-5)


def test_shallow_is_the_first_blocks():
    model, params, cubes, plan = setup()
    encoder, weights = model.encoder.shallow(params["params"], 0)
    embedded = encoder.apply({"params": weights}, cubes, plan)
    assert embedded.shape == (2, model.grid.size, model.encoder.width)
    encoder, weights = model.encoder.shallow(params["params"], 3)
    whole = model.encoder.clone(final_norm=False).apply(params, cubes, plan)
    np.testing.assert_array_equal(encoder.apply({"params": weights}, cubes, plan), whole)
    with pytest.raises(ValueError, match="3 blocks"):
        model.encoder.shallow(params["params"], 4)


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    x = jnp.ones((2000, 2, 3))
    y = np.asarray(drop_path(x, jax.random.split(KEY, 2000), jnp.float32(0.25)))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert (y == y[:, :1, :1]).all()
    assert abs(y.mean() - 1) < 0.05
    np.testing.assert_array_equal(drop_path(x, None, jnp.float32(0.25)), x)


def test_drop_path_follows_the_example_not_its_place():
    model, params, cubes, plan = setup(drop_path=0.9)
    keys = jax.random.split(KEY, 2)
    there = model.encoder.apply(params, cubes, plan, keys)
    swapped = model.encoder.apply(params, cubes[::-1], plan, keys[::-1])
    np.testing.assert_allclose(there, swapped[::-1], rtol=0, atol=1e-6)
    assert np.abs(np.asarray(there - model.encoder.apply(params, cubes, plan))).max() > 1e-3


@pytest.mark.parametrize("make", [positions.sincos_3d, positions.learned, positions.separable])
def test_other_positions_distinguish_every_token(make):
    grid, width = Grid(2, 3, 4), 24
    module = make()(grid, width)
    index = jnp.arange(grid.size)[None]
    variables = module.init(KEY, index)
    table = np.asarray(module.apply(meta.unbox(variables), index)[0])
    assert table.shape == (24, width)
    assert len({row.tobytes() for row in table}) == grid.size
    assert bool(variables) == (make is not positions.sincos_3d)


def test_shorter_waves_separate_the_places_of_a_small_grid_further():
    def nearest(base):
        table = np.asarray(positions.sincos_3d(base)(Grid(1, 6, 6), 24).apply({}, jnp.arange(36)[None])[0])
        return min(np.linalg.norm(a - b) for i, a in enumerate(table) for b in table[:i])

    assert nearest(10.0) > 1.15 * nearest(10_000.0)
    with pytest.raises(ValueError, match="base=1"):
        positions.sincos_3d(1)


def test_the_sinusoid_of_videomae():
    table = np.asarray(positions.sinusoid_1d()(Grid(1, 2, 2), 8).apply({}, jnp.arange(4)[None])[0])
    for place in range(4):
        for channel in range(8):
            angle = place / 10000 ** (2 * (channel // 2) / 8)
            assert table[place, channel] == pytest.approx(
                np.sin(angle) if channel % 2 == 0 else np.cos(angle), abs=1e-6
            )


def test_bfloat16_is_near_float32_and_parameters_stay_float32():
    model, params, cubes, plan = setup()
    rough = vit("micro", frames=4, resolution=32, depth=3, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(rough.encoder.init(KEY, cubes, plan))} == {jnp.dtype("float32")}
    out = rough.encoder.apply(params, cubes, plan)
    assert out.dtype == jnp.bfloat16
    exact = model.encoder.apply(params, cubes, plan)
    assert float(jnp.abs(out - exact).mean()) < 0.03 * float(jnp.abs(exact).mean())


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels(channels):
    model = vit("micro", frames=4, resolution=16, channels=channels)
    cubes = model.normalize(jnp.full((1, 2, pixels(model)), 255, jnp.uint8))
    assert cubes.shape == (1, 2, pixels(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "XL"}, "unknown size 'XL': there are S, B"),
        ({"dtype": "float16"}, "unknown dtype"),
        ({"remat": "some"}, "unknown remat"),
        ({"frames": 15}, "frames must be a multiple of 2"),
        ({"resolution": 100}, "do not divide into cubes"),
        ({"heads": 7}, "does not divide into 7 heads"),
        ({"channels": 2, "mean": [0.5]}, "mean has 1 numbers for 2 channels"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        vit(**options)


def test_variants_are_those_of_the_paper():
    assert VARIANTS["g"].patch == 14
    assert [VARIANTS[size].depth for size in "SBLHg"] == [12, 12, 24, 32, 40]


def test_positions_of_mae_are_the_column_then_the_row_at_every_time():
    """By hand: sines before cosines, the column's half first, waves from 1 to nearly 10,000."""
    module = positions.sincos_2d()(Grid(2, 3, 4), 8)
    table = np.asarray(module.apply({}, jnp.arange(24)[None]))[0]
    token = 12 + 1 * 4 + 3  # time 1, row 1, column 3
    frequency = np.array([1.0, 0.01])
    column, row = 3 * frequency, 1 * frequency
    np.testing.assert_allclose(table[token], [*np.sin(column), *np.cos(column), *np.sin(row), *np.cos(row)], atol=1e-6)
    np.testing.assert_array_equal(table[:12], table[12:])
    with pytest.raises(ValueError, match="a width of 6 is not a multiple of 4"):
        positions.sincos_2d()(Grid(1, 2, 2), 6).apply({}, jnp.zeros((1, 1), jnp.int32))


@pytest.mark.parametrize(
    ("initial", "embed", "qkv"), [("videomae", 384**-0.5, 4 * 32), ("mae", None, 4 * 32), ("mae_st", None, 2 * 32)]
)
def test_initial_values_are_those_of_each_code(initial, embed, qkv):
    """The bounds of the uniform draws: PyTorch's of a convolution, or Xavier's of a matrix."""
    model = vit("micro", frames=4, resolution=32, prefix=1, initial=initial, dtype="float32")
    plan, cubes = everything(1, model.grid.size), jnp.zeros((1, model.grid.size, pixels(model)))
    params = meta.unbox(jax.jit(model.encoder.init)(KEY, cubes, plan))["params"]
    largest = float(jnp.abs(params["embed"]["kernel"]).max())
    assert largest == pytest.approx(embed or (6 / (384 + 32)) ** 0.5, rel=0.01)
    assert float(jnp.abs(params["embed"]["bias"]).max()) <= 384**-0.5
    largest = float(jnp.abs(params["blocks"]["attention"]["qkv"]["kernel"]).max())
    assert largest == pytest.approx((6 / qkv) ** 0.5, rel=0.01)


def decoded(given, **options):
    """What a decoder makes of the encoder's tokens, one of which is a class token."""
    model = vit("micro", frames=4, resolution=32, decoder_depth=1, prefix=1, dtype="float32", **options)
    plan = MaskPlan(jnp.arange(4)[None], jnp.arange(4, 32)[None], jnp.ones((1, 28)))
    decoder = model.make_decoder({"pixels": 8})
    params = meta.unbox(jax.jit(decoder.init)(KEY, given, plan))["params"]
    return params, decoder.apply({"params": params}, given, plan)["pixels"]


def test_a_kept_class_token_is_decoded_and_another_is_left_out():
    given = jax.random.normal(jax.random.key(2), (1, 5, 32))
    other = given.at[:, 0].add(1.0)
    kept, before = decoded(given, decoder_prefix="kept", project_bias=True)
    assert np.abs(np.asarray(before - decoded(other, decoder_prefix="kept", project_bias=True)[1])).max() > 1e-4
    assert "prefix_token" not in kept
    assert kept["project"]["bias"].shape == (16,)
    own, before = decoded(given, prefix_positions=True)
    np.testing.assert_array_equal(before, decoded(other, prefix_positions=True)[1])
    assert {"prefix_token", "prefix_position"} <= set(own)
    assert "bias" not in own["project"]


def test_attention_without_biases_has_none():
    _, params, _, _ = setup(qkv_bias=False)
    assert set(params["params"]["blocks"]["attention"]["qkv"]) == {"kernel"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": "torch"}, "unknown initial 'torch': there are videomae, mae, mae_st"),
        ({"decoder_prefix": "both", "prefix": 1}, "unknown decoder_prefix 'both': there are own, kept"),
        ({"decoder_prefix": "kept"}, "prefix is 0"),
        ({"prefix_positions": True}, "prefix is 0"),
    ],
)
def test_options_of_class_tokens_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        vit("micro", **options)
