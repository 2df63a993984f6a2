"""Scores of frames against their labels, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.eval.frames import frames
from vmae_jax.eval.multiview import multiview
from vmae_jax.types import Carried, Method, Output

HEADS = {"verb": Output("frames", 4, "verb"), "noun": Output("frames", 2, "noun")}
METHOD = Method(None, None, None, predict=lambda params, batch: batch["video"] * params, heads=HEADS)  # pyright: ignore
# Two frames with two verbs and one noun each.
VERBS = np.array([[[1, -1], [2, 1]], [[-3, -1], [-1, 4]], [[9, 9], [9, 9]]], np.float32)
NOUNS = np.array([[[1], [1]], [[2], [-1]], [[9], [9]]], np.float32)
BATCH = {
    "video": jnp.concatenate([VERBS.reshape(3, 4), NOUNS.reshape(3, 2)], axis=1),
    "verb": np.array([[[1, 0], [1, 0]], [[0, 0], [1, 1]], [[0, 0], [0, 0]]], bool),
    "noun": np.zeros((3, 2, 1), bool) | (np.arange(3) == 1)[:, None, None],
    "valid": np.array([True, True, False]),
    "verb_valid": np.ones(3, bool),
    "noun_valid": np.array([False, True, True]),
}


def test_scores_of_frames_by_hand():
    """Padding and rows without labels are left out."""
    found = frames()(METHOD, 1.0, [BATCH])
    assert (found["verb_frames"], found["noun_frames"]) == (4, 2)
    assert found["verb_exact"] == 2 / 4  # wrong: a second verb in frame 2, and the first one missing in frame 4
    assert found["noun_exact"] == 1 / 2
    assert found["verb_foreground"] == 3 / 4
    assert found["verb_mAP"] == pytest.approx((1 + 1) / 2)
    assert found["noun_mAP"] == 1.0
    assert found.tables["verb_frames.csv"] == [["class", "frames", "AP"], [0, 3, 1.0], [1, 1, 1.0]]


def test_what_has_no_frames_or_labels_is_refused():
    spec = {name: array for name, array in BATCH.items() if name != "verb_valid"}
    with pytest.raises(ValueError, match="no stream 'verb_valid': set streams="):
        frames().check(METHOD, 1.0, spec, Carried())
    other = METHOD._replace(heads={"": Output("one", 6)})
    with pytest.raises(ValueError, match="needs a method with outputs of frames"):
        frames().check(other, 1.0, BATCH, Carried())
    nothing = {**BATCH, "noun_valid": np.zeros(3, bool)}
    with pytest.raises(ValueError, match="none of the videos has labels"):
        frames()(METHOD, 1.0, [nothing])
    with pytest.raises(ValueError, match=r"these outputs are of frames: use eval\.frames"):
        multiview().check(METHOD, 1.0, BATCH, Carried())
