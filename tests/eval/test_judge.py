"""What is said of heads of every kind, against definitions written out; pictures that are pictures."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vmae_jax.eval import figures, scores
from vmae_jax.eval.collect import About
from vmae_jax.eval.multiview import multiview
from vmae_jax.types import Method, Output

VIEWS, VIDEOS = 2, 7
HEADS = {
    "verb": Output("one", 3, "verb"),
    "noun": Output("one", 4, "noun"),
    "tags": Output("many", 2, "labels"),
    "score": Output("numbers", 2, "score"),
}


def truth():
    random = np.random.default_rng(3)
    return {
        "verb": random.integers(0, 3, VIDEOS).astype(np.int32),
        "noun": random.integers(0, 4, VIDEOS).astype(np.int32),
        "labels": (random.random((VIDEOS, 2)) < 0.5).astype(np.float32),
        "score": random.normal(size=(VIDEOS, 2)).astype(np.float32),
    }


def outputs():
    return np.random.default_rng(4).normal(size=(VIDEOS, VIEWS, 11)).astype(np.float32)


def batches(labels, rows=8):
    """Four videos a batch, the last one filled up."""
    per, clips = rows // VIEWS, outputs()
    for start in range(0, VIDEOS, per):
        pick = np.arange(start, start + per)
        real = np.repeat(pick < VIDEOS, VIEWS)
        pick = np.minimum(pick, VIDEOS - 1)
        yield {
            "video": clips[pick].reshape(rows, 11),
            "index": np.where(real, np.repeat(pick, VIEWS), -1).astype(np.int32),
            "valid": real,
            **{name: np.repeat(value[pick], VIEWS, axis=0) for name, value in labels.items()},
        }


def method(heads):
    return Method(
        init=lambda key, batch: (jnp.ones(()), None),
        loss=lambda *_: pytest.fail("an evaluator trains nothing"),
        features=lambda params, batch, **_: batch["video"],
        predict=lambda params, batch: batch["video"] * params,
        heads=heads,
    )


def test_heads_of_every_kind_in_one_pass():
    labels = truth()
    about = About({"verb": ("put", "take", "wash")}, lambda number: f"video_{number}.mp4")
    found = multiview()(method(HEADS), jnp.ones(()), batches(labels), about)
    raw = outputs()
    verb, noun = (np.asarray(jax.nn.softmax(part, axis=-1)).mean(1) for part in (raw[..., :3], raw[..., 3:7]))
    tags, score = np.asarray(jax.nn.sigmoid(raw[..., 7:9])).mean(1), raw[..., 9:].mean(1)
    right_verb, right_noun = verb.argmax(1) == labels["verb"], noun.argmax(1) == labels["noun"]
    assert found["verb_top1"] == pytest.approx(right_verb.mean())
    assert found["noun_top1"] == pytest.approx(right_noun.mean())
    assert found["joint_top1"] == pytest.approx((right_verb & right_noun).mean())
    both = (verb[:, :, None] * noun[:, None, :]).reshape(VIDEOS, -1)
    pair = labels["verb"] * 4 + labels["noun"]
    top5 = [pair[i] in np.argsort(-both[i])[:5] for i in range(VIDEOS)]
    assert found["joint_top5"] == pytest.approx(np.mean(top5))
    each = [scores.average_precision(tags[:, i], labels["labels"][:, i]) for i in range(2)]
    assert found["tags_map"] == pytest.approx(np.mean(each))
    error = score - labels["score"]
    assert found["score_mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert found["score_rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
    pearson = [np.corrcoef(score[:, i], labels["score"][:, i])[0, 1] for i in range(2)]
    assert found["score_pearson"] == pytest.approx(np.mean(pearson), rel=1e-4)
    header, *rows = found.tables["videos.csv"]
    first = dict(zip(header, rows[0], strict=True))
    assert (first["video"], first["name"], first["verb_label"]) == (0, "video_0.mp4", labels["verb"][0])
    assert first["tags_label"] == ";".join(str(i) for i in np.flatnonzero(labels["labels"][0]))
    assert {row[1] for row in found.tables["verb_classes.csv"][1:]} <= {"put", "take", "wash"}
    with np.load(io.BytesIO(found.files["predictions.npz"])) as saved:
        np.testing.assert_allclose(saved["noun_scores"], noun, rtol=1e-5)
        np.testing.assert_array_equal(saved["score_label"], labels["score"])


def test_columns_that_are_not_the_heads_are_told():
    with pytest.raises(ValueError, match="11 outputs, its heads 3"):
        multiview()(method({"verb": HEADS["verb"]}), jnp.ones(()), batches(truth()))
    with pytest.raises(ValueError, match=r"labels of shape \[7, 2\] do not fit outputs of \[7, 11\]"):
        multiview()(method({"": Output("many", 11, "labels")}), jnp.ones(()), batches(truth()))


def test_calibration_by_hand():
    confidence, hit = np.array([0.95, 0.95, 0.55, 0.55]), np.array([True, True, True, False])
    bins = scores.reliability(confidence, hit)
    assert scores.calibration(bins) == pytest.approx((2 * 0.05 + 2 * 0.05) / 4)
    assert bins.count.sum() == 4
    assert scores.calibration(scores.reliability(np.ones(3), np.ones(3, bool))) == 0


def test_confusion_and_ranks_by_hand():
    mixed = scores.confusion(np.array([0, 0, 2, 1]), np.array([0, 2, 2, 0]), 3)
    np.testing.assert_array_equal(mixed, [[1, 0, 1], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(scores.ranks(np.array([3.0, 1.0, 3.0, 2.0])), [2.5, 0, 2.5, 1])
    np.testing.assert_array_equal(scores.places(np.array([[0.2, 0.5, 0.5], [0.1, 0.1, 0.1]]), np.array([2, 1])), [1, 1])
    assert np.isnan(scores.correlation(np.ones(3), np.arange(3.0)))


@pytest.mark.parametrize("classes", [2, 14, 51, 400])
def test_pictures_of_any_number_of_classes(classes):
    """The diagonal is dark, the rest light, and names never make it unreadably large."""
    names = [f"a class of a rather long name, number {i}" for i in range(classes)]
    image = figures.confusion(np.eye(classes, dtype=int) * 5, names)
    assert max(image.size) < 1500
    pixels = np.asarray(image.convert("L")).astype(int)
    dark = (pixels < 80).sum() / pixels.size
    assert 0.0002 < dark < 0.6
    again = Image.open(io.BytesIO(figures.png(image)))
    assert again.size == image.size


def test_a_reliability_picture_of_nothing_and_of_all():
    for confidence in (np.zeros(0), np.linspace(0, 1, 50)):
        image = figures.reliability(scores.reliability(confidence, confidence > 0.5))
        assert min(image.size) > 300
