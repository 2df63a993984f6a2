"""Log-mel spectrograms: other programs' numbers, the published formulas in NumPy, silence, and what is refused."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.inputs.log_mel import decibels, hamming, kaldi
from vmae_jax.inputs.readers import sound
from vmae_jax.inputs.spec_augment import spec_augment
from vmae_jax.inputs.waveform import waveform
from vmae_jax.types import row_keys

GOLDEN = np.load(pathlib.Path(__file__).resolve().parents[1] / "goldens" / "log_mel" / "sound.npz")
SOUND = GOLDEN["kaldi_samples"]


def published(samples, *, window, bins, low, high, kaldi_style):
    """The formulas of Kaldi's filter banks, or of TensorFlow's with Hamming windows, one frame after the other."""
    sound, length, rate, fft = samples / 32768.0, 400, 16000, 512
    mel = lambda f: 1127 * np.log(1 + f / 700)  # noqa: E731
    corner = np.linspace(mel(low), mel(high), bins + 2)
    frames = 1 + (len(sound) - length) // 160 if kaldi_style else -(-len(sound) // 160)
    sound = np.append(sound, np.zeros(length))
    rows = []
    for number in range(frames):
        x = sound[number * 160 :][:length].copy()
        if kaldi_style:
            x -= x.mean()
            x -= 0.97 * np.append(x[0], x[:-1])
        spectrum = np.abs(np.fft.rfft(x * window, fft)) ** (2 if kaldi_style else 1)
        row = np.zeros(bins)
        for i in range(fft // 2 + 1):
            place = mel(i * rate / fft)
            for b in range(bins):
                left, centre, right = corner[b : b + 3]
                if left < place < right:
                    side = (place - left) / (centre - left) if place <= centre else (right - place) / (right - centre)
                    row[b] += side * spectrum[i]
        rows.append(row)
    mels = np.stack(rows)
    return np.log(np.maximum(mels, 1.1920929e-07)) if kaldi_style else np.log(mels + 0.01)


def raw(form, samples):
    return np.asarray(form(jnp.asarray(samples)[None]))[0] * form.deviation + form.mean


def test_kaldis_and_librosas_numbers():
    np.testing.assert_allclose(raw(kaldi(bins=80), SOUND), GOLDEN["kaldi"], rtol=0, atol=1e-3)
    found = np.asarray(decibels()(jnp.asarray(GOLDEN["librosa_samples"])[None]))[0]
    wanted = np.clip((GOLDEN["librosa"] - 20) / 40, -2, 0) + 1
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)
    assert found.min() < -0.5
    assert found.max() > 0.5


def test_the_published_formulas():
    symmetric, periodic = (2 * np.pi * np.arange(400) / n for n in (399, 400))
    wanted = published(SOUND, window=0.5 - 0.5 * np.cos(symmetric), bins=128, low=20, high=8000, kaldi_style=True)
    np.testing.assert_allclose(raw(kaldi(), SOUND), wanted, rtol=0, atol=1e-3)
    sound = SOUND[:4000]
    wanted = published(sound, window=0.54 - 0.46 * np.cos(periodic), bins=64, low=125, high=7500, kaldi_style=False)
    np.testing.assert_allclose(raw(hamming(bins=64, mean=1.102, deviation=2.762), sound), wanted, rtol=0, atol=1e-3)


def test_half_the_amplitude_is_six_decibels_less():
    form, sound = decibels(), jnp.asarray(GOLDEN["librosa_samples"])[None]
    values, quiet = (np.asarray(form(one))[0] for one in (sound, sound // 2))
    inside = (values > -0.5) & (values < 1)
    assert inside.mean() > 0.1
    np.testing.assert_allclose(np.median((values - quiet)[inside]) * 40, 20 * np.log10(2), atol=0.02)


@pytest.mark.parametrize("form", [kaldi(), hamming(), decibels()], ids=["kaldi", "hamming", "decibels"])
def test_silence_is_finite_and_frames_are_counted(form):
    for samples in (form.samples(7), form.samples(8) - 1, form.samples(12)):
        found = np.asarray(form(jnp.zeros((2, samples), jnp.int16)))
        assert found.shape == (2, form.frames(samples), form.bins)
        assert form.frames(samples) == (12 if samples == form.samples(12) else 7)
        assert np.isfinite(found).all()
        assert np.ptp(found) == 0


def test_official_numbers_of_frames():
    assert kaldi().frames(160_000) == 998
    assert (hamming().frames(160_000), hamming().frames(128_000)) == (1000, 800)
    assert decibels().frames(10 * 44100) == 861


def test_spec_augment_hides_bands_of_each_example():
    values, real = jnp.ones((3, 100, 64)), jnp.ones((3, 100), bool)
    keys = row_keys(np.array([[1, 2], [1, 2], [3, 4]], np.uint32))
    augment = jax.jit(spec_augment(frequency=20, frequencies=1, time=10, times=2))
    found = np.asarray(augment(values, real, keys)[0])
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()
    for one in found:
        bins, frames = (one == 0).all(axis=0), (one == 0).all(axis=1)
        assert bins.sum() <= 20
        assert frames.sum() <= 20
        np.testing.assert_array_equal(one == 0, bins[None] | frames[:, None])
    ramp = jnp.broadcast_to(jnp.arange(100.0)[None, :, None], (3, 100, 64))
    heard = jnp.arange(100)[None].repeat(3, 0) < 50
    moved, real = spec_augment(0, 0, 0, 0, shift=True)(ramp, heard, keys)
    by = int(moved[2, 0, 0])
    np.testing.assert_array_equal(np.asarray(moved[2]), np.roll(np.asarray(ramp[2]), -by, axis=0))
    np.testing.assert_array_equal(np.asarray(real[2]), np.roll(np.asarray(heard[2]), -by))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kaldi(high=9000), "0 <= low < high <= 8000"),
        (lambda: kaldi(shape="flat"), "shape='flat'"),
        (lambda: hamming(added=0.0), "silence has no logarithm"),
        (lambda: hamming(power=3), "power=3"),
        (lambda: decibels(hop=4096), "a hop of 4096"),
        (lambda: kaldi(bins=0), "bins=0"),
        (lambda: kaldi(deviation=0), "deviation=0"),
        (lambda: spec_augment(time=-1), "time=-1"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_rolled_waveform_is_the_same_sound_from_elsewhere_and_its_padding_moves_with_it():
    rng, keys = np.random.default_rng(0), row_keys(np.array([[1, 2], [3, 4]], np.uint32))
    samples = np.zeros((2, 3200), np.int16)
    samples[:, :1600] = rng.integers(-9000, 9000, (2, 1600))
    changed, by = waveform(gain=None)(samples, keys)
    assert by[0] != by[1]
    for row in range(2):
        np.testing.assert_array_equal(changed[row], np.roll(samples[row], int(by[row])))

    batch = {
        "audio": samples,
        "audio_span": np.tile(np.array([0, 1600], np.int32), (2, 1)),
        "audio_valid": np.ones(2, bool),
        "valid": np.ones(2, bool),
    }
    reader = sound(kaldi(bins=16), waveform=waveform(gain=None))
    found = reader.read(batch, 16, keys)
    for row in range(2):
        starts = (np.arange(16) * 160 - int(by[row])) % 3200
        np.testing.assert_array_equal(found.real[row], (starts + 160 > 0) & (starts < 1600))
        rolled = kaldi(bins=16)(np.roll(samples[row], int(by[row]))[None])
        np.testing.assert_allclose(found.video[row, :, :, 0, 0], rolled[0, :16], rtol=1e-5, atol=1e-5)
    as_it_is = reader.read(batch, 16)
    np.testing.assert_array_equal(as_it_is.real[0], np.arange(16) < 10)


def test_a_louder_waveform_is_the_same_times_a_number_by_its_seed():
    keys = row_keys(np.stack([np.arange(500, dtype=np.uint32)] * 2, axis=1))
    samples = np.tile(np.array([100, -200, 0, 3000], np.int16), (500, 1))
    changed, by = waveform(roll=False)(samples, keys)
    factors = changed[:, 3] / 3000
    np.testing.assert_allclose(changed, factors[:, None] * samples, rtol=1e-5)
    assert not by.any()
    assert 0.5 < factors.min() < 0.75
    assert 1.25 < factors.max() < 1.5
    assert abs(factors.mean() - 1) < 0.02
    assert abs(factors.std() - 1 / np.sqrt(4 * 21)) < 0.01  # of Beta(10, 10)
    with pytest.raises(ValueError, match="gain=0"):
        waveform(gain=0)
