"""Mixing and erasing: what they change, by how much, and that the targets follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.augment.colors import by_view, jitter
from vmae_jax.augment.erasing import random_erasing
from vmae_jax.augment.mixing import mixup_cutmix
from vmae_jax.types import row_keys

B, SIDE = 8, 12


def clips():
    """Each clip is its own number everywhere, so that a pixel shows where it comes from."""
    video = jnp.broadcast_to(jnp.arange(B, dtype=jnp.float32)[:, None, None, None, None], (B, 4, SIDE, SIDE, 3))
    return video, jax.nn.one_hot(jnp.arange(B), B)


def keys(seed=0):
    return row_keys(np.random.default_rng(seed).integers(0, 2**32, (B, 2)).astype(np.uint32))


def test_mixup_blends_clip_and_target_by_the_same_share():
    video, target = clips()
    mixed, soft = jax.jit(mixup_cutmix(cutmix=0.0))(video, target, keys())
    share = np.diag(soft)
    assert np.ptp(share) < 1e-6
    assert 0 < share[0] < 1
    np.testing.assert_allclose(soft[:, ::-1].diagonal(), 1 - share, atol=1e-6)
    expected = share[0] * np.arange(B) + (1 - share[0]) * np.arange(B)[::-1]
    np.testing.assert_allclose(mixed, np.broadcast_to(expected[:, None, None, None, None], mixed.shape), atol=1e-5)


def test_cutmix_cuts_one_box_out_of_all_frames_and_its_area_is_the_share():
    video, target = clips()
    cut, soft = jax.jit(jax.vmap(mixup_cutmix(mixup=0.0), in_axes=(None, None, 0)))(
        video, target, jax.vmap(lambda i: keys().at[0].set(jax.random.key(i)))(jnp.arange(20))
    )
    cut, soft = np.asarray(cut), np.asarray(soft)
    assert set(np.unique(cut[:, 0])) == {0.0, B - 1.0}
    inside = cut[:, 0] == B - 1  # the partner of the first clip is the last
    assert (inside == inside[:, :1, :, :, :1]).all()
    for box, share in zip(inside[:, 0, :, :, 0], soft[:, 0, 0], strict=True):
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        assert box.sum() == len(rows) * len(columns)  # a box
        assert 1 - box.mean() == pytest.approx(share, abs=1e-6)
    assert len(np.unique(soft[:, 0, 0])) > 10


def test_targets_stay_distributions_and_nothing_is_nan():
    video, target = clips()
    target = target * 0.9 + 0.1 / B
    mix = jax.jit(mixup_cutmix())
    for seed in range(6):
        mixed, soft = mix(video, target, keys(seed))
        assert np.isfinite(mixed).all()
        np.testing.assert_allclose(soft.sum(1), 1.0, rtol=1e-5)


def test_groups_draw_for_themselves_and_do_not_meet():
    video, target = clips()
    both, soft = jax.jit(mixup_cutmix(cutmix=0.0, group=4))(video, target, keys())
    assert float(jnp.abs(soft[:4, 4:]).max()) == 0
    assert float(jnp.abs(soft[4:, :4]).max()) == 0
    assert soft[0, 0] != soft[4, 4]
    alone, _ = jax.jit(mixup_cutmix(cutmix=0.0))(video[4:], target[4:], keys()[4:])
    np.testing.assert_array_equal(alone, both[4:])
    with pytest.raises(ValueError, match="of 8 clips does not divide into mixing groups of 6"):
        mixup_cutmix(group=6)(video, target, keys())
    with pytest.raises(ValueError, match="of 7 clips leaves one without a partner"):
        mixup_cutmix()(video[:7], target[:7], keys()[:7])


def test_a_clip_whose_partner_does_not_count_stays_as_it_is():
    video, target = clips()
    valid = jnp.arange(B) != 1  # the partner of clip 6
    for mix in (mixup_cutmix(cutmix=0.0), mixup_cutmix(mixup=0.0)):
        all_, soft = jax.jit(mix)(video, target, keys())
        mixed, result = jax.jit(mix)(video.at[1].set(jnp.nan), target.at[1].set(jnp.nan), keys(), valid)
        np.testing.assert_array_equal(mixed[6], video[6])
        np.testing.assert_array_equal(result[6], target[6])
        others = np.array([0, 2, 3, 4, 5, 7])
        np.testing.assert_allclose(mixed[others], all_[others], rtol=1e-6)
        np.testing.assert_allclose(result[others], soft[others], rtol=1e-6)


def test_probability_zero_changes_nothing():
    video, target = clips()
    mixed, soft = jax.jit(mixup_cutmix(probability=0.0))(video, target, keys())
    np.testing.assert_array_equal(mixed, video)
    np.testing.assert_array_equal(soft, target)


def test_mixup_has_the_share_and_the_switch_of_its_arguments():
    video, target = clips()
    many = jax.vmap(lambda i: keys().at[0].set(jax.random.key(i)))(jnp.arange(400))
    mix = mixup_cutmix(mixup=1.0, switch=0.25)
    mixed, soft = jax.jit(jax.vmap(lambda k: mix(video[:, :1, :, :, :1], target, k)))(many)
    blended = np.asarray(((mixed[:, 0] > 0) & (mixed[:, 0] < B - 1)).all((1, 2, 3, 4)))
    assert blended.mean() == pytest.approx(0.75, abs=0.08)
    assert np.asarray(soft[blended, 0, 0]).mean() == pytest.approx(0.5, abs=0.06)


def test_erasing_is_one_box_of_fresh_noise():
    video = jnp.zeros((64, 3, 20, 24, 2))
    seeds = row_keys(np.random.default_rng(0).integers(0, 2**32, (64, 2)).astype(np.uint32))
    erased = np.asarray(jax.jit(random_erasing(probability=0.5))(video, seeds))
    touched = erased != 0
    hit = touched.any((1, 2, 3, 4))
    assert 16 < hit.sum() < 48
    for clip in touched[hit]:
        assert (clip == clip[:1, :, :, :1]).all()  # the same box in all frames and channels
        box = clip[0, :, :, 0]
        assert box.sum() == box.any(1).sum() * box.any(0).sum()
        assert 0.01 < box.mean() < 0.4
    noise = erased[hit][touched[hit]]
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05
    one = erased[hit][0]
    assert not np.array_equal(one[0], one[1])  # other noise in the next frame


def test_erasing_follows_each_examples_own_key():
    video = jnp.zeros((8, 2, 16, 16, 3))
    erase = jax.jit(random_erasing(probability=1.0))
    whole = erase(video, keys())
    np.testing.assert_array_equal(whole[3:5], erase(video[3:5], keys()[3:5]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mixup_cutmix(mixup=0.0, cutmix=0.0), "one of them above"),
        (lambda: mixup_cutmix(switch=1.5), "switch"),
        (lambda: mixup_cutmix(group=3), "even"),
        (lambda: random_erasing(probability=2.0), "probability"),
        (lambda: random_erasing(area=(0.5, 0.1)), "area"),
    ],
)
def test_mistakes(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def coloured(seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(0.3, 0.6, (B, 2, SIDE, SIDE, 3)), jnp.float32)


def luma(video):
    return np.asarray(video) @ np.array([0.299, 0.587, 0.114])


def test_each_change_of_colours_by_its_definition():
    off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "probability": 1.0, "grey": 0.0}
    video = coloured()

    def changed(**more):
        return np.asarray(jax.jit(jitter(**{**off, **more}))(video, keys()))

    np.testing.assert_allclose(changed(), video, atol=1e-6)
    ratio = changed(brightness=0.4) / np.asarray(video)
    assert np.ptp(ratio, axis=(1, 2, 3, 4)).max() < 1e-5  # one factor for all frames and channels of a clip
    assert 0.2 < np.ptp(ratio) < 0.8
    spread = luma(changed(contrast=0.4)).std(axis=(1, 2, 3)) / luma(video).std(axis=(1, 2, 3))
    assert spread.min() > 0.59
    assert spread.max() < 1.41
    np.testing.assert_allclose(luma(changed(contrast=0.4)).mean((1, 2, 3)), luma(video).mean((1, 2, 3)), atol=1e-5)
    for more in ({"saturation": 0.4}, {"hue": 0.1}):
        assert np.abs(changed(**more) - video).max() > 0.01
        np.testing.assert_allclose(luma(changed(**more)), luma(video), atol=2e-4)  # only the colour
    grey = changed(grey=1.0)
    np.testing.assert_allclose(grey, np.repeat(luma(video)[..., None], 3, -1), atol=1e-6)


def test_colours_change_as_often_as_they_should_and_by_the_clips_seed_alone():
    video, most = jnp.tile(coloured(), (40, 1, 1, 1, 1)), jnp.tile(jax.random.key_data(keys()), (40, 1))
    many = jax.random.wrap_key_data(most.at[:, 1].add(jnp.arange(len(most), dtype=jnp.uint32)))
    found = np.asarray(jax.jit(jitter())(video, many))
    unchanged = (found == np.asarray(video)).all(axis=(1, 2, 3, 4)).mean()
    grey = (np.ptp(found, axis=-1).max(axis=(1, 2, 3)) < 1e-6).mean()
    assert abs(unchanged - 0.2 * 0.8) < 0.06
    assert abs(grey - 0.2) < 0.07
    np.testing.assert_allclose(jax.jit(jitter())(video[8:16], many[8:16]), found[8:16], atol=1e-6)


def test_blur_and_solarisation_by_their_definition():
    off = {"probability": 0.0, "grey": 0.0, "sigma": (1.5, 1.5)}
    video = coloured()
    found = np.asarray(jax.jit(jitter(**off, blur=1.0))(video, keys()))
    away = np.arange(SIDE)[:, None] - np.arange(SIDE)
    weights = np.exp(-(away**2) / (2 * 1.5**2)) * (abs(away) <= 6)
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, np.einsum("yh,xw,bthwc->btyxc", weights, weights, video), atol=1e-5)
    bright = jax.jit(jitter(**off, solarise=1.0))(video, keys())
    np.testing.assert_allclose(bright, np.where(video >= 128 / 255, 1 - video, video), atol=1e-6)
    many = jax.random.split(jax.random.key(1), 400)
    both = jax.jit(jitter(**off, blur=0.5, solarise=0.2))(jnp.tile(coloured()[:1, :1], (400, 1, 1, 1, 1)), many)
    blurred = np.abs(np.asarray(both) - np.asarray(both)[..., ::-1, :]).mean(axis=(1, 2, 3, 4))
    assert abs((blurred < blurred.max() / 2).mean() - 0.5) < 0.1  # noise that is blurred is nearly symmetrical


def test_mistaken_colours():
    with pytest.raises(ValueError, match="sigma="):
        jitter(blur=0.5, sigma=(0, 1))
    with pytest.raises(ValueError, match="at most 32"):
        jitter(blur=0.5, sigma=(1, 1e9))
    with pytest.raises(ValueError, match="solarise must be"):
        jitter(solarise=2)
    with pytest.raises(ValueError, match=r"hue must be in \[0, 0.5\]"):
        jitter(hue=0.6)
    with pytest.raises(ValueError, match="the clips have 1 channels"):
        jitter()(coloured()[..., :1], keys())


def test_each_view_has_its_own_change_of_colours():
    """Rows are view after view of each video; every clip is changed by its own key."""
    video = jnp.asarray(np.random.default_rng(0).random((6, 1, 4, 4, 3)), jnp.float32)
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "probability": 0.0}
    grey, inverted = jitter(**still, grey=1.0), jitter(**still, grey=0.0, solarise=1.0)
    seeds = keys()[:6]
    found = by_view([grey, inverted])(video, seeds)
    np.testing.assert_array_equal(found[::2], grey(video, seeds)[::2])
    np.testing.assert_array_equal(found[1::2], inverted(video, seeds)[1::2])
    assert not np.array_equal(found[::2], inverted(video, seeds)[::2])
    with pytest.raises(ValueError, match="5 clips are no whole number of videos of 2 views"):
        by_view([grey, inverted])(video[:5], seeds[:5])
    with pytest.raises(ValueError, match="changes has 1 entries"):
        by_view([grey])
