"""Metrics of labels that were carried through videos: cases by hand, and another implementation."""

import numpy as np
import pytest

from vmae_jax.eval import joints, segmentation
from vmae_jax.eval.tracking import scores_of


def square(top, left, side, size=(60, 80)):
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_jaccard_of_shifted_squares_is_known():
    assert segmentation.jaccard(square(10, 10, 20), square(10, 10, 20)) == 1
    assert segmentation.jaccard(square(10, 10, 20), square(10, 15, 20)) == pytest.approx(15 / 25)
    assert segmentation.jaccard(square(10, 10, 20), square(15, 15, 20)) == pytest.approx(225 / (800 - 225))
    assert segmentation.jaccard(square(0, 0, 10), square(30, 30, 10)) == 0
    assert segmentation.jaccard(square(0, 0, 0), square(0, 0, 0)) == 1


def test_boundary_f_of_equal_disjoint_and_shifted_masks():
    one = square(10, 10, 20)  # the diagonal is 100 pixels, so boundaries match within 1 pixel
    assert segmentation.boundary(one, one) == 1
    assert segmentation.boundary(one, square(35, 50, 20)) == 0
    assert segmentation.boundary(one, square(11, 10, 20)) == 1, "a shift within the tolerance"
    assert segmentation.boundary(one, square(10, 10, 0)) == segmentation.boundary(square(0, 0, 0), one) == 0
    assert segmentation.boundary(square(0, 0, 0), square(0, 0, 0)) == 1
    # Shifted down by 2: both vertical sides match but for their far ends, and of the others nothing.
    edges = {"vertical": 2 * 20 - 1, "all": 4 * 20}
    found = segmentation.boundary(one, square(12, 10, 20))
    assert edges["vertical"] / edges["all"] - 0.05 < found < edges["vertical"] / edges["all"] + 0.05
    assert segmentation.boundary(one, square(12, 10, 20), bound=0.02) == 1


def test_boundary_f_is_that_of_masks_dilated_by_a_disk():
    from scipy import ndimage

    random = np.random.default_rng(0)
    y, x = np.mgrid[-3:4, -3:4]
    disk = x * x + y * y <= 9
    for _ in range(5):
        masks = [ndimage.gaussian_filter(random.normal(size=(50, 70)), 4) > 0 for _ in range(2)]
        edges = [segmentation._edge(mask) for mask in masks]
        near = [ndimage.binary_dilation(edge, disk) for edge in edges]
        recall, precision = (edges[0] & near[1]).sum() / edges[0].sum(), (edges[1] & near[0]).sum() / edges[1].sum()
        expected = 2 * precision * recall / (precision + recall)
        assert 0.2 < expected < 1
        assert segmentation.boundary(*masks, bound=3 / np.hypot(50, 70)) == pytest.approx(expected)


def test_statistics_over_frames_by_hand():
    found = segmentation.statistics(np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]))
    assert found.mean == pytest.approx(0.65)
    assert found.recall == 5 / 8
    # Frames 1, 2, 3 (from 1 to 2.75) and 6, 7, 8 (from 6.25 to 8), counted from 1.
    assert found.decay == pytest.approx(0.9 - 0.4)


def test_objects_are_scored_without_the_first_and_the_last_frame():
    scores = scores_of("objects", ())
    truth = np.where(square(10, 10, 20), 2, 0)
    for number, shift in enumerate((30, 5, 0, 30)):
        scores.add("a", number, 4, truth, np.where(square(10, 10 + shift, 20), 2, 0), [0, 2])
    found = scores.metrics()
    assert found["j_mean"] == pytest.approx((15 / 25 + 1) / 2)
    assert (found["j_recall"], found["objects"]) == (1, 1)
    assert scores.table()[1][:2] == ["a", 2]


def test_iou_of_classes_leaves_out_what_never_occurs():
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 9]], np.uint8)
    found = np.array([[0, 1, 1, 1], [0, 0, 1, 0]], np.uint8)
    counts = segmentation.confusion(truth, found, 3)
    np.testing.assert_array_equal(counts, [[3, 1, 0], [0, 3, 0], [0, 0, 0]])
    np.testing.assert_allclose(segmentation.iou(counts), [3 / 4, 3 / 4, np.nan])


def test_joints_come_back_from_their_maps_and_distances_are_by_the_persons_size():
    points = np.array([[16.0, 40.0], [100.0, 8.0], [64.0, 64.0]])
    labels = joints.maps(points, (16, 16), (128, 128), 4)
    np.testing.assert_allclose(labels.max(axis=(0, 1)), 1)
    assert labels[..., 0].sum() == 16 * 16 - (labels[..., 1:].sum(-1) > 0).sum()
    assert np.abs(joints.places(labels, 3, (128, 128)) - points).max() < 5  # within a token of 8 pixels
    labels[..., 2] = 0
    lost = joints.places(labels, 3, (128, 128))
    assert np.isnan(lost[1]).all()
    assert np.isfinite(lost[[0, 2]]).all()
    truth = np.array([[[0.0, 0.0], [30.0, 40.0], [10.0, 10.0]]])
    apart = joints.distances(truth, truth + np.array([3.0, 0.0]))
    np.testing.assert_allclose(apart, 3 / (0.6 * 50))
    assert joints.pck(apart, 0.1) == 100
    assert joints.pck(apart, 0.09) == 0
    found = np.where([[[False], [True], [False]]], np.nan, truth + np.array([0.0, 1.0]))
    np.testing.assert_allclose(joints.distances(truth, found)[0, [0, 2]], 1 / (0.6 * np.hypot(10, 10)))
    assert joints.pck(joints.distances(truth, found), 0.2) == 100, "a lost joint counts in no share"
