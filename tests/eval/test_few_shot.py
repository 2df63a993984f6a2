"""Few-shot evaluation: episodes, classifiers against independent ones, chance and certainty."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vmae_jax.eval.few_shot import episodes, few_shot, logistic, prototypes
from vmae_jax.types import Method

CLASSES, EACH, WIDTH = 8, 22, 12


def videos(signal, each=EACH):
    """Features of so many videos of every class: noise, and `signal` times the class."""
    random = np.random.default_rng(0)
    label = np.repeat(np.arange(CLASSES), each)
    return random.normal(size=(len(label), WIDTH)) + signal * np.eye(CLASSES, WIDTH)[label], label


def batches(features, label, rows=176):
    for start in range(0, len(label), rows):
        pick = np.arange(start, start + rows)
        valid, pick = pick < len(label), np.minimum(pick, len(label) - 1)
        yield {
            "video": features[pick].astype(np.float32),
            "label": label[pick].astype(np.int32),
            "index": np.where(valid, pick, -1).astype(np.int32),
            "valid": valid,
        }


def toy(**more):
    features = lambda params, batch, *, layer=None, pool=True: batch["video"] * params  # noqa: E731
    return Method(
        init=lambda *_: (jnp.ones(()), None), loss=lambda *_: pytest.fail("trains"), features=features, **more
    )


def run(evaluator, features, label, method=None):
    return evaluator(method or toy(), jnp.ones(()), batches(features, label))


def test_episodes_have_other_classes_and_no_video_twice():
    places = {7 * one: np.arange(EACH) + 100 * one for one in range(CLASSES)} | {99: np.arange(5)}
    options = {"ways": 5, "shots": 3, "queries": 15, "repeat": False, "seed": 3}
    found = list(episodes(places, count=40, **options))
    owners = [np.concatenate([one.support, one.query], axis=1) // 100 for one in found]
    for one, owner in zip(found, owners, strict=True):
        assert one.support.shape == (5, 3)
        assert one.query.shape == (5, 15)
        assert (owner == owner[:, :1]).all()  # a row is of one class
        assert len(set(owner[:, 0].tolist())) == 5  # and every row of another
        assert len(np.unique(np.concatenate([one.support.ravel(), one.query.ravel()]))) == 5 * 18
    assert {int(one) for owner in owners for one in owner[:, 0]} == set(range(CLASSES))  # class 99 is too small
    again = list(episodes(places, count=10, **options))
    assert all((a.query == b.query).all() for a, b in zip(found, again, strict=False))  # number n is a function of n
    other = next(episodes(places, count=1, **{**options, "seed": 4}))
    assert (other.query != found[0].query).any()
    repeated = [one.support[:, 0] // 100 for one in episodes(places, count=40, **{**options, "repeat": True})]
    assert any(len(set(one.tolist())) < 5 for one in repeated)


def test_too_few_videos_are_reported():
    with pytest.raises(ValueError, match=r"0 of 8 classes have 23 videos \(8 shots and 15 queries\)"):
        run(few_shot(shots=8), *videos(1.0))


def minimised(support, query):
    """Logistic regression in all dimensions, by another minimiser."""
    ways, shots, width = support.shape
    x, hot = jnp.asarray(support.reshape(-1, width)), jnp.repeat(jnp.eye(ways), shots, axis=0)

    def loss(weights):
        error = optax.softmax_cross_entropy(x @ weights[:-1] + weights[-1], hot).sum()
        return error + 0.5 * jnp.square(weights[:-1]).sum()

    solver = optax.lbfgs()
    step = optax.value_and_grad_from_state(loss)

    def body(_, carry):
        weights, state = carry
        value, grad = step(weights, state=state)
        updates, state = solver.update(grad, state, weights, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(weights, updates), state

    start = jnp.zeros((width + 1, ways))
    weights = jax.jit(lambda: jax.lax.fori_loop(0, 150, body, (start, solver.init(start)))[0])()
    return np.asarray(query @ np.asarray(weights[:-1]) + np.asarray(weights[-1]))


@pytest.mark.parametrize("width", [4, 40])
def test_logistic_regression_is_at_its_minimum(width):
    """Fewer dimensions than support videos, and more; compared where the independent minimum is not near a tie."""
    random = np.random.default_rng(0)
    support = random.normal(size=(3, 4, width)) + 0.5 * random.normal(size=(3, 1, width))
    query = random.normal(size=(200, width))
    expected = minimised(support, query)
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 0.02
    assert clear.sum() > 150
    np.testing.assert_array_equal(logistic(support, query)[clear], expected.argmax(axis=1)[clear])
    assert (prototypes(support, query) != expected.argmax(axis=1)).any()  # it is another classifier


def test_prototypes_by_hand_and_equal_features():
    support = np.array([[[0.0, 0.0], [2.0, 0.0]], [[0.0, 4.0], [0.0, 6.0]]])
    assert prototypes(support, np.array([[1.0, 2.0], [0.0, 3.2], [9.0, 1.0]])).tolist() == [0, 1, 0]
    assert logistic(np.zeros((3, 2, 5)), np.ones((4, 5))).tolist() == [0, 0, 0, 0]  # nothing to learn from


@pytest.mark.parametrize("classifier", ["logistic", "prototype"])
def test_random_features_are_at_chance_and_clear_ones_are_right(classifier):
    chance = run(few_shot(classifier=classifier, episodes=100), *videos(0.0, each=600))
    assert abs(chance["accuracy"] - 0.2) < 0.01
    assert chance["chance"] == 0.2
    clear = run(few_shot(classifier=classifier, episodes=20), *videos(50.0))
    assert clear["accuracy"] == 1.0
    assert clear["interval95"] == 0.0


def test_the_interval_and_the_table_are_those_of_the_episodes():
    found = run(few_shot(ways=3, shots=1, queries=5, episodes=30), *videos(1.0))
    header, *rows = found.tables["episodes.csv"]
    assert header == ["episode", "accuracy", "classes"]
    scores = np.array([row[1] for row in rows])
    assert found["accuracy"] == pytest.approx(scores.mean())
    assert found["interval95"] == pytest.approx(1.96 * np.sqrt(((scores - scores.mean()) ** 2).sum() / 29 / 30))
    assert found["episodes"] == len(rows) == 30
    assert all(len(set(row[2].split())) == 3 for row in rows)


def test_outputs_of_heads_and_unit_features():
    features, label = videos(3.0)
    scaled = features * np.random.default_rng(1).uniform(0.01, 100, (len(label), 1))
    assert run(few_shot(episodes=10, normalize=True), scaled, label)["accuracy"] > 0.8
    method = toy(predict=lambda params, batch: -batch["video"])
    one = few_shot(episodes=10, of="logits")
    one.check(method, None, {}, None)
    assert run(one, features, label, method)["accuracy"] == run(few_shot(episodes=10), -features, label)["accuracy"]
    with pytest.raises(ValueError, match="needs a method with heads"):
        one.check(toy(), None, {}, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ways": 1}, "ways at least 2"),
        ({"episodes": 0}, "the others at least 1"),
        ({"classifier": "knn"}, "one of logistic, prototype"),
        ({"of": "tokens"}, "one of features, logits"),
        ({"of": "logits", "layer": 3}, "layer= is about features"),
    ],
)
def test_mistakes(options, words):
    with pytest.raises(ValueError, match=words):
        few_shot(**options)


def test_videos_without_a_class_and_features_that_are_not_finite_are_refused():
    features, label = videos(1.0)
    with pytest.raises(ValueError, match="have no class"):
        run(few_shot(), features, np.where(np.arange(len(label)) < 3, -1, label))
    features[5] = np.nan
    with pytest.raises(ValueError, match=r"the features of 1 of 176 videos \(5\) are not finite"):
        run(few_shot(), features, label)
