"""The geometry of features, at values that are known in closed form or were computed independently."""

import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.eval.collect import About
from vmae_jax.eval.geometry import describe, lidar, rankme, sigreg, trace_ratio
from vmae_jax.eval.spectrum import spectrum
from vmae_jax.types import Method

D = 128
SPECTRAL = ("rankme", "rankme_centred", "eigen_rank", "participation", "alpha", "cosine", "cosine_centred")


def normal(n, d=D, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.parametrize(("n", "expected"), [(64, 59.1), (256, 118.5), (1024, 126.0), (4096, 127.5)])
def test_rankme_of_a_normal_distribution_grows_with_the_clips(n, expected):
    assert rankme(normal(n)) == pytest.approx(expected, abs=0.15)


def test_rankme_of_low_ranks_and_of_features_that_are_not_centred():
    low = np.zeros((256, D))
    low[:, :8] = normal(256, 8)
    assert rankme(low) == pytest.approx(7.94, abs=0.06)
    assert rankme(np.full((64, D), 3.0)) == pytest.approx(1.0, abs=1e-3)
    moved = normal(4096) + 10
    assert rankme(moved) == pytest.approx(25.7, abs=0.1)
    assert describe(moved)["rankme_centred"] == pytest.approx(127.5, abs=0.1)


def test_singular_values_and_eigenvalues_give_different_ranks():
    """Standard deviations ∝ 1/k: 46.8 of singular values, 4.9 of the covariance's eigenvalues; λ ∝ k^-2."""
    found = describe(normal(4096) / np.arange(1, D + 1))
    assert found["rankme"] == pytest.approx(46.8, abs=0.3)
    assert found["eigen_rank"] == pytest.approx(4.9, abs=0.1)
    assert found["alpha"] == pytest.approx(2.0, abs=0.1)


def exact(values, n=64, seed=3):
    """Centred features [n, len(values)] with exactly these singular values."""
    random = np.random.default_rng(seed)
    left = np.linalg.qr(np.c_[np.ones(n), random.normal(size=(n, len(values)))])[0][:, 1:]
    return left * values @ np.linalg.qr(random.normal(size=(len(values), len(values))))[0]


def test_exact_spectra():
    flat = describe(exact(np.ones(20)))
    for name in ("rankme", "rankme_centred", "eigen_rank", "participation"):
        assert flat[name] == pytest.approx(20, rel=1e-4), name
    assert flat["alpha"] == pytest.approx(0, abs=1e-9)
    values = np.array([3.0, 1.0])
    found = describe(exact(values))
    share, square = values / 4, values**2 / 10
    assert found["rankme"] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)
    assert found["eigen_rank"] == pytest.approx(np.exp(-(square * np.log(square)).sum()), rel=1e-5)
    assert found["participation"] == pytest.approx(100 / 82)
    for power in (0.5, 1.0, 3.0):
        assert describe(exact(np.arange(1.0, 41) ** (-power / 2)))["alpha"] == pytest.approx(power, rel=1e-6)


def test_order_rotation_and_scale():
    features = normal(200, 24) * np.linspace(0.2, 2, 24) + 0.5
    whole, random = describe(features), np.random.default_rng(1)
    assert describe(features[random.permutation(200)]) == pytest.approx(whole, rel=1e-9)
    turned = describe(features @ np.linalg.qr(random.normal(size=(24, 24)))[0])
    scaled = describe(7 * features)
    for name in SPECTRAL:
        assert turned[name] == pytest.approx(whole[name], rel=1e-9, abs=1e-9), name
        assert scaled[name] == pytest.approx(whole[name], rel=1e-9, abs=1e-9), name
    assert turned["std_min"] > 1.1 * whole["std_min"]
    assert (scaled["std"], scaled["std_min"]) == pytest.approx((7 * whole["std"], 7 * whole["std_min"]))
    assert scaled["normalized_std"] == pytest.approx(whole["normalized_std"])
    assert (scaled["dead"], scaled["off_diagonal"]) == pytest.approx((whole["dead"], 7**4 * whole["off_diagonal"]))


def test_spread_and_cosine():
    features = normal(512, 16)
    features[:, :4] *= 1e-3
    found = describe(features)
    std = features.std(axis=0)
    assert (found["std"], found["std_min"], found["dead"]) == pytest.approx((std.mean(), std.min(), 0.25))
    assert describe(normal(1024))["normalized_std"] == pytest.approx(1.0, abs=0.01)
    pair = describe(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]))
    assert pair["cosine"] == pytest.approx((2**-0.5 + 0 + 2**-0.5) / 3)
    assert pair["off_diagonal"] == pytest.approx(np.cov([1, 1, 0], [0, 1, 2])[0, 1] ** 2)


def test_constant_features_have_no_rank_spread_or_direction_of_their_own():
    """Rounding must not look like a spectrum."""
    random = np.random.default_rng(0)
    one = (3 + normal(1, 64)).astype(np.float32)
    rounded = np.nextafter(one.repeat(256, 0), np.float32(10) * random.choice([-1, 1], (256, 64)).astype(np.float32))
    assert rounded.std() > 0
    for features in (np.zeros((256, 64)), one.repeat(256, 0), rounded):
        found = describe(features)
        assert found["rankme_centred"] == found["eigen_rank"] == found["participation"] == 1.0
        assert found["normalized_std"] < 1e-6
    assert found["cosine"] == pytest.approx(1.0)
    assert describe(one + 1e-4 * normal(256, 64))["rankme_centred"] > 50, "small is not constant"


def test_sigreg():
    for n in (64, 256, 1024):
        assert sigreg(normal(n)) == pytest.approx(1.05, abs=0.15)
    assert sigreg(np.zeros((100, 5))) == pytest.approx(40.20, abs=0.01)
    assert sigreg(2 * normal(1024)) == pytest.approx(243, abs=5)
    for n, expected in ((8, 1.1), (64, 3.9), (256, 13.6), (1024, 55.8)):
        half = np.concatenate([normal(n, D // 2), np.zeros((n, D // 2))], axis=1)
        assert sigreg(half) == pytest.approx(expected, rel=0.2)
    assert sigreg(normal(50)[::-1]) == pytest.approx(sigreg(normal(50)))


def views(n, q, signal=3.0, d=64, seed=0):
    """Clips whose first 8 dimensions have a spread of `signal`, with unit noise in every view."""
    random = np.random.default_rng(seed)
    clips = np.zeros((n, 1, d))
    clips[..., :8] = signal * random.normal(size=(n, 1, 8))
    return clips + random.normal(size=(n, q, d))


def test_lidar_leaves_out_what_varies_within_clips():
    found = views(1000, 50)
    assert lidar(found) == pytest.approx(8.9, abs=0.1)
    assert rankme(found[:, 0]) == pytest.approx(56.7, abs=0.6)
    assert lidar(views(200, 10)) == pytest.approx(11.4, abs=0.4)
    noise = views(1000, 50, signal=0.0)
    assert lidar(noise) == pytest.approx(62, abs=0.5), "the blind spot"
    assert trace_ratio(noise) == pytest.approx(1 / 50, rel=0.05), "which the ratio shows"
    assert trace_ratio(found) > 1


def test_lidar_of_equal_views_is_the_effective_rank_of_the_clips():
    clips = normal(200, 16) / np.arange(1, 17)
    equal = np.repeat(clips[:, None], 4, axis=1)
    assert lidar(equal) == pytest.approx(describe(clips)["eigen_rank"], rel=1e-6)
    assert trace_ratio(equal) == np.inf


def method():
    return Method(
        init=None, loss=None, features=lambda params, batch, *, layer=None, pool=True: batch["video"] * params
    )


def batches(clips, rows=6):
    """Batches of clips [videos views d], the last one filled up with rows that do not count."""
    n, q, _ = clips.shape
    flat, index = clips.reshape(n * q, -1).astype(np.float32), np.repeat(np.arange(n), q)
    for start in range(0, n * q, rows):
        pick = np.arange(start, start + rows)
        real, pick = pick < n * q, np.minimum(pick, n * q - 1)
        yield {"video": flat[pick], "index": np.where(real, index[pick], -1), "valid": real}


def test_the_evaluator_measures_one_clip_of_each_of_the_first_videos():
    clips = views(11, 4, d=9)  # views of a video are in two batches
    taken = []

    def counted():
        for batch in batches(clips):
            taken.append(batch)
            yield batch

    found = spectrum(clips=5)(method(), jnp.float32(2), counted(), About(averaged=True))
    assert len(taken) == 4, "24 of 44 rows"
    rows = (2 * clips[:5]).astype(np.float32)
    wanted = describe(rows[:, 0]) | {"lidar": lidar(rows), "trace_ratio": trace_ratio(rows)}
    assert found == pytest.approx(wanted | {"clips": 5, "dimensions": 9, "averaged": 1}, rel=1e-6)
    alone = spectrum()(method(), jnp.float32(2), batches(clips[:, :1]))
    assert "lidar" not in alone
    assert (alone["clips"], alone["averaged"]) == (11, 0)


def test_what_has_no_spectrum_is_refused():
    one = views(1, 2)
    with pytest.raises(ValueError, match="need at least two videos"):
        spectrum()(method(), jnp.float32(1), batches(one))
    with pytest.raises(ValueError, match="not finite"):
        spectrum()(method(), jnp.float32(np.nan), batches(views(4, 2)))
    for wrong in ({"clips": 1}, {"patience": 0}, {"floor": 1.5}, {"dead": -1}):
        with pytest.raises(ValueError, match="must be"):
            spectrum(**wrong)
