"""AdamW against PyTorch's arithmetic written out, decay groups, layer decay, frozen parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from toy_method import CLOCK, DEPTH, toy, toy_batch

from vmae_jax import spec
from vmae_jax.models.parameters import Parameter
from vmae_jax.spec import ConfigError
from vmae_jax.train import schedule
from vmae_jax.train.adamw import AdamWState
from vmae_jax.train.optim import adamw, decays, layer_scales
from vmae_jax.train.sgd import sgd
from vmae_jax.train.sharding import unbox

SCHEDULE = schedule.warmup_cosine(1e-2, final=1e-4, warmup={"steps": 3}, batch_unit=None)


def flat_of(tree):
    return flatten_dict(tree, sep="/")


def abstract_toy():
    return jax.eval_shape(toy().init, jax.random.key(0), toy_batch())[0]


def some_params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.tree.map(lambda leaf: leaf.shape, unbox(abstract_toy()), is_leaf=lambda x: hasattr(x, "shape"))
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def pytorch_adamw(params, all_grads, rates, *, b1, b2, eps, wd, clip, scales):
    """`clip_grad_norm_` and AdamW as PyTorch defines them, in float64, each parameter in its own group."""
    flat = {k: np.float64(v) for k, v in flat_of(params).items()}
    decay = flat_of(decays(abstract_toy()))
    m, v = ({k: np.zeros_like(p) for k, p in flat.items()} for _ in range(2))
    for t, (grads, lr) in enumerate(zip(all_grads, rates), start=1):
        grads = {k: np.float64(g) for k, g in flat_of(grads).items()}
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        coefficient = min(clip / (norm + 1e-6), 1.0) if clip else 1.0
        for k, p in flat.items():
            g, rate = grads[k] * coefficient, lr * np.float64(scales[k])
            p = p * (1 - rate * (wd if decay[k] else 0.0))
            m[k] = b1 * m[k] + (1 - b1) * g
            v[k] = b2 * v[k] + (1 - b2) * g * g
            denominator = np.sqrt(v[k]) / np.sqrt(1 - b2**t) + eps
            flat[k] = p - rate / (1 - b1**t) * m[k] / denominator
    return flat


@pytest.mark.parametrize(("b2", "clip", "layer_decay"), [(0.95, 0.5, None), (0.999, None, 0.75), (0.999, 1e3, 0.9)])
def test_adamw_is_that_of_pytorch(b2, clip, layer_decay):
    optimizer = adamw(SCHEDULE, b2=b2, weight_decay=0.3, clip_norm=clip, layer_decay=layer_decay)
    tx, rate = optimizer.build(abstract_toy(), CLOCK)
    params = some_params()
    all_grads = [some_params(seed) for seed in range(1, 9)]
    rates = [rate.value(step) for step in range(len(all_grads))]
    scales = flat_of(layer_scales(abstract_toy(), layer_decay))
    expected = pytorch_adamw(params, all_grads, rates, b1=0.9, b2=b2, eps=1e-8, wd=0.3, clip=clip, scales=scales)
    state, ours = tx.init(params), params
    update = jax.jit(lambda g, s, p: tx.update(g, s, p, tx.norm(g), jnp.bool_(True)))
    for grads, lr in zip(all_grads, rates):
        assert float(tx.rate(state)) == pytest.approx(lr, rel=1e-6)
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in jax.tree.leaves(grads)))
        assert float(tx.norm(grads)) == pytest.approx(norm, rel=1e-6)
        ours, state = update(grads, state, ours)
    for path, value in flat_of(ours).items():
        change = np.abs(expected[path] - flat_of(params)[path]).max()
        np.testing.assert_allclose(
            value, expected[path], rtol=0, atol=2e-6 * np.abs(expected[path]).max(), err_msg=path
        )
        assert np.abs(value - expected[path]).max() < 2e-5 * change + 2e-7, path


@pytest.mark.parametrize("b1", [0.0, 0.9])
@pytest.mark.parametrize("b2", [0.9, 0.95, 0.999, 0.9999])
def test_bias_correction_keeps_its_digits(b1, b2):
    """1 - b ** count in float32 has lost them: 6e-5 of it at 0.999 and a count of 1."""
    params = {"kernel": np.zeros((), np.float32)}
    boxes = {"kernel": Parameter(params["kernel"], (), decay=True)}
    tx, _ = adamw(schedule.constant(1.0), b1=b1, b2=b2, weight_decay=0.0).build(boxes, CLOCK)

    def moved(count):
        moments = {"kernel": jnp.float32(0.5)}, {"kernel": jnp.float32(0.25)}
        state = AdamWState(count - 1, *moments)
        one = {"kernel": jnp.float32(1.0)}
        return tx.update(one, state, params, tx.norm(one), jnp.bool_(True))[0]["kernel"]

    count = np.arange(1, 2000, 37)
    m, v = b1 * 0.5 + (1 - b1), b2 * 0.25 + (1 - b2)
    exact = -(m / (1 - np.float64(b1) ** count)) / (np.sqrt(v / (1 - np.float64(b2) ** count)) + 1e-8)
    np.testing.assert_allclose(jax.vmap(moved)(jnp.asarray(count)), exact, rtol=2e-6)


def test_kernels_decay_and_nothing_else():
    flat = flat_of(decays(abstract_toy()))
    assert {path for path, decay in flat.items() if decay} == {path for path in flat if path.endswith("/kernel")}


def test_a_parameter_that_does_not_declare_its_decay_is_an_error():
    """Also in a box of flax that only names its axes."""
    kernel = Parameter(np.zeros((3, 3)), (None, "embed"), decay=True)
    for filters in (np.zeros(3), nn.LogicallyPartitioned(np.zeros(3), ("embed",))):
        with pytest.raises(ConfigError, match=r"'encoder/filters' does not declare.*models.parameters.declare"):
            adamw(SCHEDULE).build({"encoder": {"filters": filters, "kernel": kernel}}, CLOCK)


def test_layer_decay_by_place():
    scales = flat_of(layer_scales(abstract_toy(), 0.5))
    assert scales["encoder/embed/kernel"] == 0.5 ** (DEPTH + 1)
    blocks = scales["encoder/blocks/fc1/kernel"]
    assert blocks.shape == (DEPTH, 1, 1)
    np.testing.assert_array_equal(blocks.ravel(), [0.5**3, 0.5**2, 0.5])
    assert scales["head/kernel"] == 1.0
    with pytest.raises(ConfigError, match="whose blocks declare their layers; it has head/kernel"):
        layer_scales({"head": {"kernel": Parameter(np.zeros((2, 2)), (None, None), decay=True)}}, 0.5)


def test_layer_decay_follows_each_tower_by_its_own_depth():
    """Stacked blocks, blocks of a layer each, and a tower whose blocks declare none."""
    box = lambda shape, names, layer: Parameter(np.zeros(shape), names, decay=False, layer=layer)  # noqa: E731
    params = {
        "video": {"blocks": {"bias": box((2, 3), ("layers", "embed"), 1)}, "table": box((4, 3), (None, "embed"), 0)},
        # A hierarchy: a stack of two blocks, then one block alone, of which the axis is not the first.
        "audio": {
            "low": {"bias": box((3, 2), ("embed", "layers"), 1)},
            "high": {"bias": box((3,), ("embed",), 3)},
            "norm": {"bias": box((3,), ("embed",), None)},
        },
        "decoder": {"table": box((4, 3), (None, "embed"), 0), "bias": box((2, 3), ("layers", "embed"), None)},
    }
    scales = flat_of(layer_scales(params, 0.5))
    np.testing.assert_array_equal(scales["video/blocks/bias"], [[0.25], [0.5]])
    assert scales["video/table"] == 0.125
    np.testing.assert_array_equal(scales["audio/low/bias"], [[0.125, 0.25]])
    assert scales["audio/high/bias"] == 0.5
    assert scales["audio/norm/bias"] == scales["decoder/table"] == scales["decoder/bias"] == 1.0


def test_frozen_parts_keep_value_and_have_no_moments():
    tx, _ = adamw(SCHEDULE, freeze=["encoder/blocks", "*/embed/bias"]).build(abstract_toy(), CLOCK)
    params, grads = some_params(), some_params(1)
    state = tx.init(params)
    assert set(flat_of(state.mu)) == {"encoder/embed/kernel", "head/bias", "head/kernel"}
    norm = tx.norm(grads)
    new, _ = tx.update(grads, state._replace(count=jnp.int32(5)), params, norm, jnp.bool_(True))
    before, after = flat_of(params), flat_of(new)
    assert set(after) == set(before)
    moved = {path for path in after if (np.asarray(after[path]) != before[path]).any()}
    assert moved == set(flat_of(state.mu))
    trained = [flat_of(grads)[path] for path in flat_of(state.mu)]
    assert float(norm) == pytest.approx(np.sqrt(sum((g**2).sum() for g in trained)), rel=1e-6)


def test_a_step_that_is_not_taken_leaves_every_bit():
    tx, _ = adamw(SCHEDULE, clip_norm=1.0).build(abstract_toy(), CLOCK)
    params = some_params()
    state = tx.init(params)._replace(mu=some_params(1), nu=jax.tree.map(np.abs, some_params(2)), count=jnp.int32(3))
    bad = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), params)
    found = tx.update(bad, state, params, tx.norm(bad), jnp.bool_(False))
    assert jax.tree.structure(found) == jax.tree.structure((params, state))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves((params, state)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_moments_take_over_the_boxes():
    tx, _ = adamw(SCHEDULE).build(abstract_toy(), CLOCK)
    boxed = jax.eval_shape(lambda: tx.init(toy().init(jax.random.key(0), toy_batch())[0]))
    assert boxed.mu["encoder"]["blocks"]["fc1"]["kernel"].names == ("layers", "embed", "mlp")


@pytest.mark.parametrize(
    ("freeze", "message"), [(["encodr"], "'encodr' matches no parameter.*encoder/"), (["*"], "leaves nothing to train")]
)
def test_freeze_errors(freeze, message):
    with pytest.raises(ConfigError, match=message):
        adamw(SCHEDULE, freeze=freeze).build(abstract_toy(), CLOCK)


def test_rates_of_some_parameters_are_a_share():
    """Shares of all patterns that match are multiplied, and with that of the layer; the arithmetic is PyTorch's."""
    shares = {"head": 0.5, "head/kernel": 0.1, "encoder": 0.0}
    optimizer = adamw(SCHEDULE, b2=0.999, weight_decay=0.3, layer_decay=0.5, rate_shares=shares)
    layers = flat_of(layer_scales(abstract_toy(), 0.5))
    factor = {"head/kernel": 0.05, "head/bias": 0.5}
    scales = {path: layer * (0 if path.startswith("encoder") else factor[path]) for path, layer in layers.items()}
    (tx, rate), params, grads = optimizer.build(abstract_toy(), CLOCK), some_params(), some_params(1)
    rates = [rate.value(0) + 1e-2]
    expected = pytorch_adamw(params, [grads], rates, b1=0.9, b2=0.999, eps=1e-8, wd=0.3, clip=None, scales=scales)
    tx, _ = dataclasses.replace(optimizer, schedule=schedule.constant(rates[0])).build(abstract_toy(), CLOCK)
    ours, _ = tx.update(grads, tx.init(params), params, tx.norm(grads), jnp.bool_(True))
    for path, value in flat_of(ours).items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-5, atol=1e-6, err_msg=path)
    assert "rate × 0.05" in optimizer.describe(abstract_toy())
    with pytest.raises(ConfigError, match=r"optimizer.rate_shares: 'tail' matches no parameter"):
        adamw(SCHEDULE, rate_shares={"tail": 0.1}).build(abstract_toy(), CLOCK)
    with pytest.raises(ValueError, match="at least 0 and finite"):
        adamw(SCHEDULE, rate_shares={"head": -0.1})


def test_description_has_a_line_for_each_parameter():
    text = adamw(SCHEDULE, layer_decay=0.5, freeze=["head/bias"]).describe(abstract_toy()).splitlines()
    assert len(text) == len(jax.tree.leaves(abstract_toy()))
    assert "encoder/blocks/fc1/kernel  decay 0.05  rate × 0.125, 0.25, 0.5" in text
    assert "head/bias  frozen" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"b1": 1.0}, "b1"),
        ({"eps": 0.0}, "eps"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"layer_decay": 1.5}, "layer_decay"),
        ({"freeze": "encoder"}, "list of patterns"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        adamw(SCHEDULE, **arguments)


def test_a_config_makes_the_same_optimizer():
    config = spec.call("train.optim.adamw", schedule=spec.call("train.schedule.constant", value=0.1), freeze=["a"])
    optimizer = spec.build(spec.from_json(spec.to_json(config)))
    assert optimizer == adamw(schedule.constant(0.1), freeze=["a"])


def test_also_decay_reaches_what_does_not_declare_it():
    plain, more = adamw(SCHEDULE), adamw(SCHEDULE, also_decay=["*bias"])
    before, after = (flat_of(one.decays(abstract_toy())) for one in (plain, more))
    changed = {path for path in before if before[path] != after[path]}
    assert changed
    assert changed == {path for path in before if path.endswith("bias")}
    described = dict(line.split("  ", 1) for line in more.describe(abstract_toy()).splitlines())
    assert all(described[path].startswith("decay 0.05") for path in changed)
    with pytest.raises(ConfigError, match=r"optimizer.also_decay: '\*tokens' matches no parameter"):
        adamw(SCHEDULE, also_decay=["*tokens"]).build(abstract_toy(), CLOCK)
    with pytest.raises(ValueError, match="also_decay is a list of patterns"):
        adamw(SCHEDULE, also_decay="*bias")


def pytorch_sgd(params, all_grads, rates, heads, *, momentum, nesterov, wd, clip):
    """`clip_grad_norm_` and SGD as PyTorch defines them, in float64; the head has rates of its own."""
    flat = {k: np.float64(v) for k, v in flat_of(params).items()}
    decay, buffers = flat_of(decays(abstract_toy())), {}
    for t, grads in enumerate(all_grads):
        grads = {k: np.float64(g) for k, g in flat_of(grads).items()}
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        coefficient = min(clip / (norm + 1e-6), 1.0) if clip else 1.0
        for k, p in flat.items():
            g = grads[k] * coefficient + (wd * p if decay[k] else 0.0)
            buffers[k] = momentum * buffers[k] + g if k in buffers else g
            lr = heads[t] if k.startswith("head/") else rates[t]
            flat[k] = p - lr * (g + momentum * buffers[k] if nesterov else buffers[k])
    return flat


@pytest.mark.parametrize(("nesterov", "wd", "clip"), [(True, 0.0, 5.0), (False, 0.3, None)])
def test_sgd_is_that_of_pytorch(nesterov, wd, clip):
    head = schedule.arctangent(0.05, -100.0, 0.05)
    optimizer = sgd(SCHEDULE, nesterov=nesterov, weight_decay=wd, clip_norm=clip, rates={"head": head})
    tx, rate = optimizer.build(abstract_toy(), CLOCK)
    params = some_params()
    all_grads = [some_params(seed) for seed in range(1, 7)]
    rates, heads = ([one.value(step) for step in range(6)] for one in (rate, head.at(CLOCK)))
    assert heads[0] > 10 * heads[5]
    expected = pytorch_sgd(params, all_grads, rates, heads, momentum=0.9, nesterov=nesterov, wd=wd, clip=clip)
    state, ours = tx.init(params), params
    update = jax.jit(lambda g, s, p, good: tx.update(g, s, p, tx.norm(g), good))
    for grads, lr in zip(all_grads, rates, strict=True):
        assert float(tx.rate(state)) == pytest.approx(lr, rel=1e-6)
        same, kept = update(grads, state, ours, jnp.bool_(False))  # a refused step
        jax.tree.map(np.testing.assert_array_equal, (same, kept), (ours, state))
        ours, state = update(grads, state, ours, jnp.bool_(True))
    assert int(state.count) == 6
    for path, value in flat_of(ours).items():
        np.testing.assert_allclose(
            value, expected[path], rtol=0, atol=3e-6 * np.abs(expected[path]).max(), err_msg=path
        )


def test_sgd_freezes_and_names_its_rates():
    own = {"head": schedule.constant(0.5)}
    tx, _ = sgd(SCHEDULE, freeze=["encoder"], rates=own).build(abstract_toy(), CLOCK)
    params = some_params()
    state = tx.init(params)
    assert set(state.velocity) == {"head"}
    new, _ = tx.update(some_params(1), state, params, tx.norm(some_params(1)), jnp.bool_(True))
    jax.tree.map(np.testing.assert_array_equal, new["encoder"], params["encoder"])
    assert (new["head"]["kernel"] != params["head"]["kernel"]).all()
    lines = dict(line.split("  ", 1) for line in sgd(SCHEDULE, rates=own).describe(abstract_toy()).splitlines())
    assert lines["head/bias"] == "decay 0  the rate of head"
    assert lines["encoder/embed/kernel"] == "decay 0  the schedule's rate"
    for options, words in (
        ({"rates": {"nothing": SCHEDULE}}, "optimizer.rates: 'nothing' matches no parameter"),
        ({"rates": {"head": SCHEDULE, "head/bias": SCHEDULE}}, "both match head/bias"),
        ({"freeze": ["encoder", "head"]}, "leaves nothing to train"),
    ):
        with pytest.raises(ConfigError, match=words):
            sgd(SCHEDULE, **options).build(abstract_toy(), CLOCK)


def test_sgd_slows_lower_layers():
    params, grads = some_params(), some_params(1)
    steps = []
    for share in (None, 0.5):
        tx, _ = sgd(SCHEDULE, layer_decay=share).build(abstract_toy(), CLOCK)
        new, _ = tx.update(grads, tx.init(params), params, tx.norm(grads), jnp.bool_(True))
        steps.append(jax.tree.map(lambda a, b: a - b, new, params))
    scales = layer_scales(abstract_toy(), 0.5)
    jax.tree.map(lambda a, b, s: np.testing.assert_allclose(b, a * s, rtol=1e-4, atol=1e-7), *steps, scales)
    assert " × 0.125" in sgd(SCHEDULE, layer_decay=0.5).describe(abstract_toy())


@pytest.mark.parametrize(
    "options",
    [{"momentum": 1.0}, {"layer_decay": 1.5}, {"momentum": 0.0, "nesterov": True}, {"clip_norm": 0.0}, {"trust": 0.0}],
)
def test_mistakes_of_sgd(options):
    with pytest.raises(ValueError, match=r"must be above 0|momentum=|must be in \(0, 1\]"):
        sgd(SCHEDULE, **options)


def lars_of_the_paper(params, all_grads, rates, *, momentum, wd, trust):
    """Local rates by the ratio of norms (You et al. 2017, as MoCo v3 has it), in float64, each stacked layer alone."""
    flat = {k: np.float64(v) for k, v in flat_of(params).items()}
    decay, velocity = flat_of(decays(abstract_toy())), {k: np.zeros_like(v) for k, v in flat.items()}
    boxes = flat_of(abstract_toy())
    for grads, rate in zip(all_grads, rates, strict=True):
        for k, g in flat_of(grads).items():
            stacked = "layers" in boxes[k].names
            for at in range(len(flat[k])) if stacked else [...]:
                d = np.float64(g)[at] + (wd * flat[k][at] if decay[k] else 0.0)
                if d.ndim > 1:
                    d = d * trust * np.sqrt((flat[k][at] ** 2).sum()) / np.sqrt((d**2).sum())
                velocity[k][at] = momentum * velocity[k][at] + d
                flat[k][at] = flat[k][at] - rate * velocity[k][at]
    return flat


def test_lars_is_that_of_the_paper():
    params, all_grads = some_params(), [some_params(seed) for seed in range(1, 5)]
    tx, rate = sgd(SCHEDULE, weight_decay=0.3, trust=0.02).build(abstract_toy(), CLOCK)
    rates = [rate.value(step) for step in range(4)]
    expected = lars_of_the_paper(params, all_grads, rates, momentum=0.9, wd=0.3, trust=0.02)
    state, ours = tx.init(params), params
    update = jax.jit(lambda g, s, p: tx.update(g, s, p, tx.norm(g), jnp.bool_(True)))
    for grads in all_grads:
        ours, state = update(grads, state, ours)
    for path, value in flat_of(ours).items():
        most = np.abs(expected[path]).max()
        np.testing.assert_allclose(value, expected[path], rtol=0, atol=3e-6 * most, err_msg=path)
        assert np.abs(expected[path] - flat_of(params)[path]).max() > 1e-5 * most, path


def test_lars_is_that_of_optax_where_the_rate_is_constant():
    """Its momentum is of steps, ours and PyTorch's of gradients. A zero parameter or gradient has no ratio."""
    params = {"kernel": np.zeros((2, 3), np.float32), "other": np.ones((3, 2), np.float32)}
    grads = {"kernel": np.ones((2, 3), np.float32), "other": np.zeros((3, 2), np.float32)}
    boxes = {name: Parameter(array, (None, None), decay=True) for name, array in params.items()}
    tx, _ = sgd(schedule.constant(0.1), trust=0.01).build(boxes, CLOCK)
    theirs = optax.lars(0.1, trust_coefficient=0.01, momentum=0.9)
    state, other, one, two = tx.init(params), theirs.init(params), params, params
    for _ in range(3):
        one, state = tx.update(grads, state, one, tx.norm(grads), jnp.bool_(True))
        updates, other = theirs.update(grads, other, two)
        two = optax.apply_updates(two, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, two)
    np.testing.assert_array_equal(one["other"], params["other"])
    assert (one["kernel"] != 0).all()
