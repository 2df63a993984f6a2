"""Moments: precision and recall with known answers, segments from scores, and a probe that finds what is shown."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.data.streams.core import Clip, Recording
from vmae_jax.data.streams.segments import segments
from vmae_jax.data.video import BadVideo, Encoded, Side, VideoInfo
from vmae_jax.eval import detection
from vmae_jax.eval.detection import Moments
from vmae_jax.eval.moments import Windows, moments, shown, spans_of
from vmae_jax.types import Method


def made(*rows):
    """Moments of rows (video, begin, end, label, score)."""
    table = np.asarray(rows, float).reshape(-1, 5)
    return Moments(table[:, 0].astype(int), table[:, 1:3], table[:, 3].astype(int), table[:, 4])


TRUTH = made((0, 0, 10, 0, 1), (0, 20, 30, 0, 1), (1, 5, 15, 0, 1))


def test_overlaps_are_intersections_over_unions():
    spans = np.array([[0.0, 10], [5, 15], [20, 30]])
    want = [[1, 5 / 15, 0], [5 / 15, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(detection.overlap(spans, spans), want)


@pytest.mark.parametrize(
    ("found", "least", "want"),
    [
        (TRUTH, 0.5, 1.0),
        (made(), 0.5, 0.0),
        (made((0, 0, 10, 0, 0.9)), 0.5, 1 / 3),
        # The second finds what the first has taken: right, wrong, right at precisions 1 and 2/3.
        (made((0, 0, 10, 0, 0.9), (0, 1, 10, 0, 0.8), (1, 5, 15, 0, 0.7)), 0.5, (1 + 2 / 3) / 3),
        # A wrong one first: 1/2, 2/3 and 3/4, of which the best of a higher recall counts.
        (made((1, 40, 50, 0, 0.9), (0, 0, 10, 0, 0.8), (0, 20, 30, 0, 0.7), (1, 5, 15, 0, 0.6)), 0.5, 3 / 4),
        (made((0, 0, 5, 0, 0.9), (0, 20, 30, 0, 0.8)), 0.6, 1 / 2 / 3),
        (made((0, 0, 5, 0, 0.9), (0, 20, 30, 0, 0.8)), 0.5, 2 / 3),
        (made((2, 0, 10, 0, 0.9)), 0.1, 0.0),
        # Of two true moments it takes the one that it overlaps most, and the next one takes the other.
        (made((0, 4, 30, 0, 0.9), (0, 0, 10, 0, 0.8)), 0.1, 2 / 3),
    ],
)
def test_average_precision_by_hand(found, least, want):
    assert detection.average_precision(found, TRUTH, least) == pytest.approx(want)


def test_a_class_without_moments_has_no_precision():
    assert np.isnan(detection.average_precision(TRUTH, made(), 0.5))


def test_recall_by_hand():
    truth = made((0, 0, 10, 0, 1), (0, 20, 30, 0, 1), (0, 0, 10, 1, 1), (1, 0, 10, 0, 1))
    found = made(
        (0, 50, 60, 0, 0.9), (0, 0, 10, 0, 0.8), (0, 20, 30, 0, 0.7), (0, 0, 9, 1, 0.1), (1, 0, 10, 1, 0.9),
    )  # fmt: skip
    assert detection.recall(found, truth, 1, 0.5) == 2 / 4  # two of class 0 are looked at in video 0
    assert detection.recall(found, truth, 2, 0.5) == 3 / 4
    assert detection.recall(found, truth, 2, 0.95) == 2 / 4
    assert detection.recall(made(), truth, 5, 0.1) == 0.0


def test_of_overlapping_segments_the_surest_stays():
    found = made((0, 0, 10, 0, 0.5), (0, 1, 10, 0, 0.9), (0, 8, 18, 0, 0.4), (0, 30, 40, 0, 0.1))
    np.testing.assert_array_equal(detection.suppressed(found, 0.5).score, [0.9, 0.4, 0.1])


def test_segments_of_scores():
    """Windows of 2 seconds, one a second: their middles are at 1, 2, …, their parts end between these."""
    begins = np.arange(6.0)
    windows = np.stack([begins, begins + 2], 1)
    spans, scores = spans_of(np.array([0.0, 1.0, 0.8, 0.0, 0.0, 0.45]), windows)
    found = {(*span, round(score, 6)) for span, score in zip(spans.tolist(), scores.tolist(), strict=True)}
    assert found == {(1.5, 3.5, 0.9), (1.5, 2.5, 1.0), (5.5, 7.0, 0.45)}


def windows_of(seed, videos=4, n=40):
    """Windows of a second, every half second, of videos with two actions; features show which is on, in noise."""
    draw, parts, truth = np.random.default_rng(seed), [], []
    mixing = np.random.default_rng(9).normal(size=(2, 6))
    for video in range(videos):
        begin = draw.uniform(1, 4)
        truth += [(video, begin, begin + 5, 0, 1), (video, begin + 7, begin + 11, 1, 1)]
        starts = np.arange(n) * 0.5
        parts.append((np.full(n, video), np.stack([starts, starts + 1], 1)))
    video, span = (np.concatenate(one) for one in zip(*parts, strict=True))
    whole = Windows(np.zeros((len(video), 1)), video, span, made(*truth))
    return whole._replace(features=shown(whole, 2) @ mixing + 0.05 * draw.normal(size=(len(video), 6)))


def test_what_windows_show_follows_them():
    whole = windows_of(0)
    label = shown(whole, 2)
    begin, end = whole.truth.span[0]
    inside = (whole.video == 0) & (whole.span.mean(1) >= begin) & (whole.span.mean(1) < end)
    np.testing.assert_array_equal(label[whole.video == 0, 0], inside[whole.video == 0])
    later = whole._replace(span=whole.span + 2, truth=whole.truth._replace(span=whole.truth.span + 2))
    np.testing.assert_array_equal(shown(later, 2), label)
    none = shown(whole._replace(truth=made()), 2)
    np.testing.assert_array_equal(none, 0)


def toy():
    """A method whose features are the clips' first pixels, and batches of windows."""
    features = lambda params, batch, *, layer=None, pool=True: batch["video"][:, :6] * params  # noqa: E731
    return Method(init=None, loss=None, features=features)  # pyright: ignore


def batches(seed, rows=30):
    """Windows as batches, their rows in an order of their own, the last one padded."""
    whole = windows_of(seed)
    order = np.random.default_rng(1).permutation(len(whole.video))
    count = 3  # places for moments
    for start in range(0, len(order), rows):
        own = np.resize(order[start : start + rows], rows)
        valid = np.arange(rows) < len(order) - start
        batch = {"video": jnp.asarray(whole.features[own], jnp.float32), "index": whole.video[own], "valid": valid}
        spans, labels, mask = np.zeros((rows, count, 2)), np.full((rows, count), -1), np.zeros((rows, count), bool)
        for row, video in enumerate(whole.video[own]):
            truth = whole.truth.chosen(whole.truth.video == video)
            spans[row, :2], labels[row, :2], mask[row, :2] = truth.span, truth.label, True
        more = {"segments": spans, "segments_label": labels, "segments_mask": mask, "segments_clip": whole.span[own]}
        yield batch | more | {"segments_valid": np.ones(rows, bool)}


def test_a_probe_finds_two_actions():
    """At 95% and more, from rows in any order; features that show nothing find little."""
    one = moments(train=None, overlaps=[0.5, 0.8], times=[1])
    found = one(toy(), 1.0, batches(1), batches(0))
    assert found["mAP@0.5"] == found["R@1x@0.5"] == 1.0
    assert found["mAP"] > 0.95
    assert (found["videos"], found["moments"]) == (4, 8)
    assert found.tables["moments.csv"][0] == ["class", "moments", "AP@0.5", "AP@0.8"]
    assert [row[:2] for row in found.tables["moments.csv"][1:]] == [[0, 4], [1, 4]]
    assert one(toy(), 0.0, batches(1), batches(0))["mAP"] < 0.2


def test_what_cannot_be_evaluated_is_refused():
    one = moments(train=None)
    with pytest.raises(ValueError, match="no stream 'segments' of moments"):
        one(toy(), 1.0, [{"video": 0}], batches(0))
    empty = [{**batch, "segments_valid": np.zeros(30, bool)} for batch in batches(0)]
    with pytest.raises(ValueError, match="none of the videos has moments beside it"):
        one(toy(), 1.0, empty, batches(0))
    nothing = [{**batch, "segments_mask": np.zeros((30, 3), bool)} for batch in batches(0)]
    with pytest.raises(ValueError, match="none of the videos has a moment: segments is empty"):
        one(toy(), 1.0, nothing, batches(0))
    for options in ({"penalty": -1.0}, {"overlaps": [0.0]}, {"times": [0]}):
        with pytest.raises(ValueError, match=next(iter(options))):
            moments(train=None, **options)


def read(text, count=3):
    """What the stream reads for a clip from second 1 to 3 of a file that begins at second 10."""
    stream = segments(count)
    info = VideoInfo(num_frames=8, rate=2.0, times=np.arange(8) / 2.0, height=8, width=8)
    clip = Clip(np.arange(2, 6), np.arange(2, 6) / 2.0, (1.0, 3.0), (8, 8), None, (0, 0))
    recording = Recording(Encoded(data=b""), info, Side(data=text.encode(), start=10.0))
    out = {suffix: np.zeros((1, *spec.shape), spec.dtype) for suffix, spec in stream.fields(None).items()}
    assert stream.read(recording, [clip], out) == [True]
    return {suffix: array[0] for suffix, array in out.items()}


def test_the_stream_has_all_moments_and_the_place_of_the_clip():
    found = read("begin,end,label\n0.5,11,3\n12,13,0\n")
    np.testing.assert_array_equal(found[""], [[0.5, 11], [12, 13], [0, 0]])
    np.testing.assert_array_equal(found["_label"], [3, 0, -1])
    np.testing.assert_array_equal(found["_mask"], [True, True, False])
    np.testing.assert_array_equal(found["_clip"], [11, 13])
    assert not read("begin,end,label\n")["_mask"].any()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("begin,end,label\n2,1,0\n", "ends before it begins"),
        ("begin,end,label\n1,2,0.5\n", "no class number"),
        ("begin,end,label\n1,2,-1\n", "no class number"),
        ("begin,end,label\n" + "1,2,0\n" * 4, "has 4 segments, more than count=3"),
    ],
)
def test_other_tables_are_refused(text, words):
    with pytest.raises(BadVideo, match=words):
        read(text)
