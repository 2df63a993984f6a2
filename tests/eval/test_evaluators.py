"""Evaluators: equal to loops written by hand, exact for awkward counts and on any mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vmae_jax.eval.collect import About
from vmae_jax.eval.held_out import held_out
from vmae_jax.eval.knn import knn, retrieval, vote
from vmae_jax.eval.multiview import multiview
from vmae_jax.eval.probe import fit, probe
from vmae_jax.eval.scores import average_precision
from vmae_jax.types import Carried, Loss, Method, Term

WIDTH, CLASSES = 6, 3


def videos(count, seed=0, noise=0.1):
    """Clips that carry their class, [count views], with labels."""
    random = np.random.default_rng(seed)
    label = random.integers(0, CLASSES, count)
    return random.normal(size=(count, 4, WIDTH)) * noise + np.eye(CLASSES, WIDTH)[label][:, None], label


def batches(clips, label, rows=8, mesh=None, labelled=True):
    """Batches of two videos of four clips each, the last one filled up with rows that do not count."""
    views, per = clips.shape[1], rows // clips.shape[1]
    for start in range(0, len(clips), per):
        pick = np.arange(start, start + per)
        real = np.repeat(pick < len(clips), views)
        pick = np.minimum(pick, len(clips) - 1)
        batch = {
            "video": clips[pick].reshape(rows, WIDTH).astype(np.float32),
            "index": np.where(real, np.repeat(pick, views), -1).astype(np.int32),
            "valid": real,
            "label": np.repeat(label[pick], views, axis=0).astype(np.int32),
        }
        if not labelled:
            del batch["label"]
        if mesh is not None:
            place = NamedSharding(mesh, PartitionSpec("data"))
            batch = {name: jax.device_put(value, place) for name, value in batch.items()}
        yield batch


def toy():
    """A "network" whose features are its clips and whose logits are their first entries."""
    features = lambda params, batch, *, layer=None, pool=True: batch["video"] * params  # noqa: E731
    return Method(
        init=lambda key, batch: (jnp.ones(()), None),
        loss=lambda *_: pytest.fail("an evaluator trains nothing"),
        features=features,
        predict=lambda params, batch: 5 * params * batch["video"][:, :CLASSES],
    )


@functools.cache
def expected(count=7):
    """Top-1 of averaged softmaxes, video by video."""
    clips, label = videos(count, noise=1.0)
    right, probabilities = 0, []
    for one, truth in zip(clips, label, strict=True):
        scores = np.exp(5 * one[:, :CLASSES])
        mean = (scores / scores.sum(1, keepdims=True)).mean(0)
        probabilities.append(mean)
        right += mean.argmax() == truth
    return right / count, np.stack(probabilities)


@pytest.mark.parametrize("devices", [None, 8])
def test_multiview_is_a_loop_over_videos_on_any_mesh(devices):
    clips, label = videos(7, noise=1.0)
    mesh = None if devices is None else jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    found = multiview()(toy(), jnp.ones(()), batches(clips, label, mesh=mesh))
    top1, probabilities = expected()
    assert found["top1"] == pytest.approx(top1)
    assert found["videos"] == 7
    header, *rows = found.tables["videos.csv"]
    assert header[:3] == ["video", "label", "class1"]
    assert [row[0] for row in rows] == list(range(7))
    assert [row[2] for row in rows] == probabilities.argmax(1).tolist()
    per_class = [np.mean(probabilities.argmax(1)[label == c] == c) for c in np.unique(label)]
    assert found["mean_class_accuracy"] == pytest.approx(np.mean(per_class))
    assert [row[4] for row in found.tables["classes.csv"][1:]] == pytest.approx(per_class, abs=1e-6)
    assert "top5" not in found, "of three classes it is always 1"


def test_multiview_without_labels_or_with_none_but_held_back_ones_still_predicts():
    clips, label = videos(5)
    for more in ({"labelled": False}, {}):
        found = multiview()(toy(), jnp.ones(()), batches(clips, label if more else np.full(5, -1), **more))
        assert dict(found) == {"videos": 5.0}
        assert len(found.tables["videos.csv"]) == 6
    with pytest.raises(ValueError, match="goes from 0 to 3, the model has 3 classes"):
        multiview()(toy(), jnp.ones(()), batches(clips, np.array([0, 3, 1, 1, 1])))


def test_average_precision_by_hand_and_ties_do_not_matter():
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.1]), np.array([1, 0, 1, 0])) == pytest.approx((1 + 2 / 3) / 2)
    tied = np.array([0.5, 0.5, 0.5, 0.5])
    assert average_precision(tied, np.array([1, 0, 0, 1])) == average_precision(tied, np.array([0, 1, 1, 0])) == 0.5
    assert np.isnan(average_precision(tied, np.zeros(4)))


def test_knn_by_hand():
    known, label = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), np.array([0, 0, 1])
    scores = vote(known, label, np.array([[1.0, 0.05], [0.0, 2.0]]), k=2, temperature=0.1)
    assert scores.argmax(1).tolist() == [0, 1]
    similar = np.array([1.0, 0.05]) / np.linalg.norm([1.0, 0.05]) @ (known / np.linalg.norm(known, axis=1)[:, None]).T
    weights = np.exp((similar[:2] - similar[:2].max()) / 0.1)
    np.testing.assert_allclose(scores[0], [weights.sum(), 0.0], rtol=1e-6)


def test_knn_probe_and_retrieval_find_separable_classes_and_chance_is_chance():
    clips, label = videos(21)
    train, known = videos(60, seed=1)
    random = np.random.default_rng(5)
    nothing, shuffled = random.normal(size=train.shape), random.permutation(known)
    run = lambda one, x=train, y=known: one(toy(), jnp.ones(()), batches(clips, label), batches(x, y))  # noqa: E731
    assert run(knn(None))["top1"] == 1.0
    assert run(probe(None))["top1"] == 1.0
    assert run(retrieval())["r1"] == 1.0
    assert run(probe(None), nothing, shuffled)["top1"] < 0.75


def test_retrieval_does_not_find_the_query_itself():
    clips = np.eye(4, WIDTH)[:, None].repeat(4, 1)
    label = np.array([0, 1, 2, 2])
    found = retrieval(ranks=(1, 3))(toy(), jnp.ones(()), batches(clips, label))
    assert found["r3"] == 0.5  # classes 0 and 1 have one video each, which is the query
    assert found["r1"] < 1
    found = retrieval(ranks=(1, 4, 10))(toy(), jnp.ones(()), batches(clips, np.arange(4)))
    assert [found[f"r{rank}"] for rank in (1, 4, 10)] == [0, 0, 0]  # as many as there are videos, or more
    with pytest.raises(ValueError, match="needs at least two videos"):
        retrieval()(toy(), jnp.ones(()), batches(clips[:1], label[:1]))


EVALUATORS = {"knn": knn(None), "probe": probe(None), "retrieval": retrieval()}


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.parametrize("side", ["train", "test"])
def test_features_and_labels_that_cannot_be_compared_are_refused(name, side):
    clips, label = videos(8)

    def run(x, y):
        pair = [batches(clips, label), batches(x, y)]
        return EVALUATORS[name](toy(), jnp.ones(()), *(pair if side == "train" else pair[::-1]))

    broken = clips.copy()
    broken[2] = np.nan
    several = np.eye(CLASSES)[label]  # a class each, as several
    of = "" if side == "test" else "gallery " if name == "retrieval" else "training "
    for x, y, words in (
        (broken, label, rf"the features of 1 of 8 {of}videos \(2\) are not finite"),
        (clips, np.where(np.arange(8) < 5, -1, label), rf"5 of 8 {of}videos \(0, 1, 2, …\) have no class: label is -1"),
        (clips, several, rf"label must be one class number per video, but the {of}videos have int32 of shape \[8, 3\]"),
    ):
        with pytest.raises(ValueError, match=words):
            run(x, y)


def test_the_probe_is_at_the_minimum():
    clips, label = videos(30, noise=1.0)
    x, penalty = clips[:, 0], 0.1
    weights = fit(x, label, CLASSES, penalty=penalty)

    def loss(w):
        logits = x @ w["kernel"] + w["bias"]
        error = -jax.nn.log_softmax(logits)[jnp.arange(30), label].mean()
        return error + 0.5 * penalty * (w["kernel"] ** 2).sum()

    gradient = jax.grad(loss)(jax.tree.map(jnp.asarray, weights))
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) < 1e-4


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: knn(None, k=0), "k must be at least 1"),
        (lambda: retrieval(ranks=(0,)), "at least 1"),
        (lambda: probe(None, penalties=()), "penalties"),
    ],
)
def test_mistakes(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_methods_own_loss_is_given_its_teachers_and_what_it_carries():
    """Each video once, whatever fills up the last batch."""

    def loss(params, batch, context):
        error = (batch["video"] * context.frozen["teacher"] + context.extra["queue"] - params).sum(-1)
        valid = batch["valid"].astype(jnp.float32)
        return Loss({"match": Term((error * valid).sum(), valid.sum(), jnp.float32(2.0))})

    clips, label = videos(5)
    carried = lambda: Carried({"queue": jnp.float32(3.0)}, {"teacher": jnp.float32(2.0)})  # noqa: E731
    about = About(carried=carried)
    found = held_out()(toy()._replace(loss=loss), jnp.ones(()), batches(clips, label), about)
    each = (clips.astype(np.float32) * 2 + 3 - 1).sum(-1).mean()
    assert found["loss/match"] == pytest.approx(each, rel=1e-5)
    assert found["loss"] == pytest.approx(2 * each, rel=1e-5)
    assert found["clips"] == 20
