"""The metrics of heads of every kind, compared with their definitions; pictures are valid images."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vmae_jax.eval import figures, scores
from vmae_jax.eval.collect import About
from vmae_jax.eval.judge import jointly, judge
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


def test_columns_that_are_not_the_heads_are_reported():
    with pytest.raises(ValueError, match="11 outputs, its heads 3"):
        multiview()(method({"verb": HEADS["verb"]}), jnp.ones(()), batches(truth()))
    with pytest.raises(ValueError, match=r"batch\['labels'\] has 2 numbers an example, the head 11"):
        multiview()(method({"": Output("many", 11, "labels")}), jnp.ones(()), batches(truth()))


@pytest.mark.parametrize("kind", ["one", "many", "numbers"])
def test_outputs_that_are_not_finite_are_refused_not_counted_as_right(kind):
    truth = np.array([0, 1, 2]) if kind == "one" else np.eye(3)
    scored = np.eye(3)
    judge(Output(kind, 3), scored, truth, pictures=False)
    for bad in (np.nan, np.inf):
        scored[1:, 1] = bad
        with pytest.raises(ValueError, match=r"the outputs of 2 of 3 videos \(1, 2\) are not finite"):
            judge(Output(kind, 3), scored, truth, pictures=False)
    heads = {"a": Output("one", 3), "b": Output("one", 3)}
    with pytest.raises(ValueError, match="not finite"):
        jointly(heads, {"a": np.eye(3), "b": scored}, {name: np.arange(3) for name in heads})
    with pytest.raises(ValueError, match="labels 'label' of 1 of 2 videos"):
        judge(Output("numbers", 1), np.zeros((2, 1)), np.array([0.0, np.nan]), pictures=False)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_network_that_gives_nan_is_reported_with_the_videos_names(labelled):
    about = About(name=lambda number: f"v{number}.mp4")
    with pytest.raises(ValueError, match=r"of 7 of 7 videos \(v0.mp4, v1.mp4, v2.mp4, …\) are not finite") as error:
        multiview()(method(HEADS), jnp.float32(jnp.nan), batches(truth() if labelled else {}), about)
    assert "\n" not in str(error.value)


def test_labels_mean_in_evaluation_what_they_mean_in_training():
    """Class numbers of a head of many, distributions of a head of one."""
    scored, number = np.random.default_rng(0).random((6, 3)), np.array([0, 1, 2, 2, 1, 0], np.int32)
    hot = np.eye(3, dtype=np.float32)[number]
    for kind, soft in (("one", hot * 0.9 + 0.1 / 3), ("many", hot)):
        one, other = (judge(Output(kind, 3), scored, given, pictures=False) for given in (number, soft))
        assert dict(one) == dict(other)
        assert one.tables == other.tables
        with pytest.raises(ValueError, match="goes from -1 to 2, the model has 3 classes"):
            judge(Output(kind, 3), scored, np.where(number == 1, -1, number), pictures=False)
    with pytest.raises(ValueError, match="1 of 6 videos have no class in 'label'"):
        judge(Output("one", 3), scored, hot * (np.arange(6) > 0)[:, None], pictures=False)
    with pytest.raises(ValueError, match="has 2 numbers an example, the head 3"):
        judge(Output("one", 3), scored, hot[:, :2], pictures=False)
    heads = {"a": Output("one", 3), "b": Output("one", 3)}
    joint = [jointly(heads, {"a": scored, "b": hot}, {"a": given, "b": number}) for given in (number, hot)]
    assert joint[0] == joint[1]
    found = multiview()(method({"": Output("many", 11, "verb")}), jnp.ones(()), batches(truth()))
    assert [row[1] for row in found.tables["videos.csv"][1:]] == truth()["verb"].tolist()


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


def test_of_many_classes_those_that_occur_are_drawn():
    """Ten of 710: the same picture as of these ten alone, apart from its caption."""
    few = np.diag(np.full(10, 5))
    places = np.arange(10) * 70
    counts = np.zeros((710, 710), int)
    counts[np.ix_(places, places)] = few
    names = [f"class {i}" for i in range(710)]
    drawn, alone = figures.confusion(counts, names), figures.confusion(few, [names[i] for i in places])
    assert drawn.size == alone.size
    np.testing.assert_array_equal(np.asarray(drawn)[60:], np.asarray(alone)[60:])


def test_a_regression_is_drawn_with_a_dot_where_a_video_lies():
    """A perfect output is on the diagonal, another is not; the caption counts more than sixteen outputs."""
    true = np.linspace(0.0, 1.0, 5)[:, None]

    def blue(image):
        panel = np.asarray(image).astype(int)[66:306, 74:314]
        return np.argwhere(panel[..., 2] - panel[..., 0] > 60)

    right = blue(figures.regression(true, true))
    assert len(right) > 50
    assert np.abs(right[:, 0] + right[:, 1] - 239).max() < 10
    wrong = blue(figures.regression(1.0 - true, true))
    assert np.abs(wrong[:, 0] + wrong[:, 1] - 239).max() > 200
    assert judge(HEADS["score"], np.zeros((3, 2)), np.ones((3, 2))).files["regression.png"][:4] == b"\x89PNG"


def test_auc_is_the_share_of_pairs_in_order():
    """Against the definition, pair by pair, with many equal scores; of two classes alone, if there are both."""
    random = np.random.default_rng(5)
    score = random.integers(0, 6, 40) / 5
    label = (score + random.normal(0, 0.5, 40) > 0.5).astype(np.int32)
    pairs = [(a > b) + 0.5 * (a == b) for a in score[label == 1] for b in score[label == 0]]
    assert 0.6 < np.mean(pairs) < 0.95
    outputs = np.stack([1 - score, score], axis=1)
    found = judge(Output("one", 2), outputs, label, pictures=False)
    assert found["auc"] == pytest.approx(np.mean(pairs), abs=1e-12)
    reversed_ = judge(Output("one", 2), outputs[:, ::-1], label, pictures=False)
    assert reversed_["auc"] == pytest.approx(1 - np.mean(pairs), abs=1e-12)
    assert "auc" not in judge(Output("one", 2), outputs, np.ones(40, np.int32), pictures=False)
    assert "auc" not in judge(Output("one", 3), np.pad(outputs, ((0, 0), (0, 1))), label, pictures=False)
    assert np.isnan(scores.auc(score, label < 0))


@pytest.mark.parametrize(("classes", "named"), [(5, False), (6, True)])
def test_top5_is_left_out_where_it_is_always_1(classes, named):
    place = np.array([0, 3, classes - 1, 0])
    found = scores.top(place, classes)
    assert found["top1"] == 0.5
    assert ("top5" in found) == named
    if named:
        assert found["top5"] == 0.75
