"""Collapse is found where it happens, and neither at random initialization nor in early training."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vmae_jax.commands.collapse import Watch
from vmae_jax.eval.collapse import Limits, verdict
from vmae_jax.eval.spectrum import spectrum
from vmae_jax.types import Loss, Method, Term

FACTORS, PIXELS, HIDDEN, WIDTH, HELD_OUT, BATCH = 6, 16, 32, 16, 48, 64
EVERY, STEPS = 50, 300  # steps between evaluations, and of a training
FOUND = 250  # the step up to which the collapse of the toy is to be found

# A quick start (`configs/quickstart.py`, 64 clips, 128 dimensions): steps, then centred RankMe, mean and least
# std, and normalized std. Its features become nearly constant at first, and recover without any help.
EARLY = {
    0: (15.2, 0.527, 0.143, 0.585), 20: (15.0, 0.168, 0.0535, 0.172), 40: (13.9, 0.0993, 0.0272, 0.0997),
    60: (14.3, 0.0776, 0.0234, 0.0774), 80: (13.9, 0.0991, 0.0225, 0.0989), 100: (14.0, 0.143, 0.0297, 0.142),
    120: (13.5, 0.314, 0.0974, 0.314), 140: (13.8, 0.597, 0.216, 0.605), 160: (13.1, 0.72, 0.215, 0.735),
    200: (11.2, 0.744, 0.169, 0.752), 300: (10.9, 0.808, 0.217, 0.812), 360: (10.9, 0.834, 0.251, 0.839),
}  # fmt: skip
# Untrained encoders of the sizes tiny, S and B on 1,024 drawn clips, likewise, with their dimensions.
UNTRAINED = [(55.8, 0.057, 0.033, 0.061, 128), (153.5, 0.101, 0.065, 0.105, 384), (274.1, 0.104, 0.071, 0.109, 768)]


def statistics(rank=20.0, std=0.5, least=0.1, normalized=0.5, dimensions=128, clips=64):
    return {"rankme_centred": rank, "std": std, "std_min": least, "normalized_std": normalized, "clips": float(clips),
            "dimensions": float(dimensions)}  # fmt: skip


def judged(found, **limits):
    """The steps of the evaluations at which features count as collapsed."""
    watch = Watch({"spectrum": spectrum(**limits)}, [])
    named = {step: {f"spectrum/{name}": value for name, value in one.items()} for step, one in found.items()}
    return [step for step, one in named.items() if watch(step, one) is not None]


def test_early_training_and_random_features_are_not_a_collapse():
    assert not judged({step: statistics(*numbers) for step, numbers in EARLY.items()}, patience=1)
    for *numbers, dimensions in UNTRAINED:
        one = statistics(*numbers, dimensions=dimensions, clips=1024)
        assert not judged({0: one, 10: one, 20: one}, patience=1)
    assert not judged({0: statistics(rank=1.5), 10: statistics()}, patience=1), "before the first step"


BAD = {
    "below 2": statistics(rank=1.9),
    "below 0.05 of the possible 63": statistics(rank=3.1),
    "below 0.25 of its maximum 20": statistics(rank=4.9),
    "least spread of a dimension": statistics(least=4.9e-4),
    "normalized spread is 0.0009, below 0.001": statistics(std=0.5, normalized=9e-4),
    "mean spread is 0.024, below 0.05 of its maximum 0.5": statistics(std=0.024, least=0.01),
    "normalized spread is 0.024, below 0.05": statistics(normalized=0.024),
}


@pytest.mark.parametrize("words", BAD)
def test_each_alarm_has_its_reason_and_needs_patience(words):
    good, bad = statistics(), BAD[words]
    found = verdict([(10, good), (20, bad), (30, bad)], Limits())
    assert words in "; ".join(found.reasons)
    assert found.healthy == 10
    assert not verdict([(10, good), (20, bad)], Limits()).reasons
    assert not verdict([(10, good), (20, bad), (30, good)], Limits()).reasons
    assert not verdict([(10, good), (20, bad), (30, good), (40, bad)], Limits()).reasons
    assert verdict([(10, good), (20, bad)], Limits(patience=1)).reasons


def test_the_rank_of_few_clips_is_judged_by_what_is_possible():
    """Of 1,408 dimensions, 5% is 70, more than the rank of 64 clips can be."""
    wide = statistics(rank=30.0, dimensions=1408)
    assert not judged({10: wide, 20: wide}, patience=1)


def test_untrained_features_are_a_standard_for_the_spread_alone():
    start = statistics(rank=60.0, normalized=0.6)
    low = statistics(rank=12.0, normalized=0.02)
    assert verdict([(0, start), (10, low)], Limits(patience=1)).reasons == (
        "the normalized spread is 0.02, below 0.05 of its maximum 0.6",
    )


def test_a_resumed_run_and_one_that_went_back_reach_the_same_verdicts():
    good, bad = statistics(), statistics(rank=4.0)
    found = {0: good, 10: good, 20: bad, 30: bad, 40: good}
    named = {step: {f"own/{name}": value for name, value in one.items()} for step, one in found.items()}
    rows = [{"kind": "eval", "step": step, "time": 1.0, **one} for step, one in named.items()]
    rows += [{"kind": "train", "step": 20, "loss": 1.0}]
    rows += [rows[1] | {"own/rankme_centred": 500.0}]  # `vmae eval` of the same step later
    whole = Watch({"own": spectrum()}, [])
    alone = {step: whole(step, one) for step, one in named.items()}
    assert [step for step, one in alone.items() if one] == [30]
    assert (alone[30].step, alone[30].why) == (11, "collapse")
    assert alone[30].details["evaluator"] == "own"
    for start in (0, 10, 20):
        resumed = Watch({"own": spectrum()}, [row for row in rows if row["step"] <= start])
        assert {step: resumed(step, one) for step, one in named.items() if step > start} == {
            step: one for step, one in alone.items() if step > start
        }
    assert whole(20, named[20]) is None, "after going back to step 10, the steps that follow come again"
    assert whole(30, named[30]) == alone[30]
    assert Watch({}, rows)(30, named[30]) is None


def clips(seed, count):
    """Clips [count 2 PIXELS] whose two frames are different pictures of the same random factors."""
    random = np.random.default_rng(seed)
    pictures = np.random.default_rng(0).normal(size=(FACTORS, 2 * PIXELS))
    video = random.normal(size=(count, FACTORS)) @ pictures + 0.3 * random.normal(size=(count, 2 * PIXELS))
    return video.reshape(count, 2, PIXELS).astype(np.float32)


def initial(seed):
    keys = jax.random.split(jax.random.key(seed), 4)
    normal = lambda key, rows, columns: jax.random.normal(key, (rows, columns)) / np.sqrt(rows)  # noqa: E731
    dense = lambda key, rows, columns: {"w": normal(key, rows, columns), "b": jnp.zeros(columns)}  # noqa: E731
    encoder = {"in": dense(keys[0], PIXELS, HIDDEN), "block": dense(keys[1], HIDDEN, HIDDEN)}
    encoder |= {"out": dense(keys[2], HIDDEN, WIDTH), "norm": {"w": jnp.ones(WIDTH), "b": jnp.zeros(WIDTH)}}
    return {"encoder": encoder, "predictor": normal(keys[3], WIDTH, WIDTH)}


def encode(encoder, frames):
    """A residual network with a final norm, as a transformer has."""
    x = jax.nn.gelu(frames @ encoder["in"]["w"] + encoder["in"]["b"])
    x = x + jax.nn.gelu(x @ encoder["block"]["w"] + encoder["block"]["b"])
    x = x @ encoder["out"]["w"] + encoder["out"]["b"]
    return jax.nn.standardize(x, axis=-1) * encoder["norm"]["w"] + encoder["norm"]["b"]


def latent():
    """Predict the features of the second frame from those of the first one.

    The target is `context.frozen`, or where that is None, the encoder itself: no stop-gradient, no momentum.
    """

    def loss(params, batch, context):
        target = params["encoder"] if context.frozen is None else context.frozen
        found = encode(params["encoder"], batch["video"][:, 0]) @ params["predictor"]
        error = jnp.abs(found - encode(target, batch["video"][:, 1])).mean(-1)
        return Loss({"features": Term(error.sum(), jnp.float32(len(error)))})

    def features(params, batch, *, layer=None, pool=True):
        return encode(params["encoder"], batch["video"][:, 0])

    return Method(init=lambda key, batch: (initial(0), None), loss=loss, features=features)


@functools.cache
def trained(seed, *, frozen):
    """The results of `eval.spectrum` by step: untrained, and after every EVERY steps."""
    method, tx, data = latent(), optax.adam(1e-2), jnp.asarray(clips(seed + 1, 256))
    target = initial(seed + 100)["encoder"] if frozen else None

    def step(state, key):
        batch = {"video": data[jax.random.randint(key, (BATCH,), 0, len(data))]}

        def loss(params):
            term = method.loss(params, batch, SimpleNamespace(frozen=target)).terms["features"]
            return term.total / term.count

        updates, moments = tx.update(jax.grad(loss)(state[0]), state[1])
        return (optax.apply_updates(state[0], updates), moments), None

    some = jax.jit(lambda state, key: jax.lax.scan(step, state, jax.random.split(key, EVERY))[0])
    params = initial(seed)
    index = np.arange(HELD_OUT)
    state, evaluator, found = (params, tx.init(params)), spectrum(), {}
    for at in range(0, STEPS + 1, EVERY):
        state = some(state, jax.random.key(at)) if at else state
        found[at] = evaluator(method, state[0], [{"video": clips(0, HELD_OUT), "index": index, "valid": index >= 0}])
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_the_collapse_of_a_network_that_predicts_itself_is_found_and_a_frozen_target_is_healthy(seed):
    own, frozen = trained(seed, frozen=False), trained(seed, frozen=True)
    steps = judged(own)
    assert steps
    assert steps[0] <= FOUND
    assert steps == [at for at in own if at >= steps[0]], "it stays collapsed"
    assert own[STEPS]["rankme_centred"] > 5, "the rank alone does not show it"
    assert own[STEPS]["cosine"] > 0.99
    assert not judged(frozen, patience=1)
