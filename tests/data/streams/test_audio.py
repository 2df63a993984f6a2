"""Sound around a clip: placed to the sample, from any process, from the video's file or one beside it."""

import numpy as np
import pytest
from every_stream import RATE, file_of, tone
from numbered_videos import numbered_frames

from vmae_jax.data import clips, sides, sources, transforms
from vmae_jax.data.decode import Wanted, read_clips
from vmae_jax.data.opened import open_loader
from vmae_jax.data.pipeline import loader
from vmae_jax.data.streams.audio import audio
from vmae_jax.data.streams.core import ClipShape, Streams
from vmae_jax.data.video import BadVideo, Encoded, Side


def heard(encoded, stream, indices, clips=None):
    sampler = lambda info, seed: np.asarray(indices)  # noqa: E731
    streams = Streams({"audio": stream}, ClipShape(len(indices[0]), 32, 3))
    read = read_clips(encoded, sampler, np.zeros(2), clips, streams=streams)
    return read.arrays["audio"], read.arrays["audio_span"], read.arrays["audio_valid"]


def loudest_lag(window, truth, most=400):
    """By how many samples a window is later than the truth: where they correlate best."""
    lags = range(-most, most + 1)
    middle = window[most:-most].astype(float)
    scores = [float(middle @ truth[most + lag : len(truth) - most + lag]) for lag in lags]
    return -lags[int(np.argmax(scores))]


@pytest.mark.parametrize(("container", "codec"), [("matroska", "flac"), ("mp4", "aac"), ("avi", "pcm_s16le")])
@pytest.mark.parametrize("first", [0, 20, 60])
def test_sound_is_that_of_the_clip(container, codec, first):
    sound = tone(4.0)
    encoded = Encoded(data=file_of(sound, frames=numbered_frames(100), container=container, codec=codec))
    frames = [list(range(first, first + 32, 2))]  # 64 ms more than 1.2 s: until the next frame would begin
    [window], [span], [valid] = heard(encoded, audio(1.0, RATE, align="start"), frames)
    at = round(first / 25 * RATE)
    truth = sound[at : at + RATE, 0].astype(float)
    assert valid
    assert span.tolist() == [0, RATE]
    assert abs(loudest_lag(window, truth)) <= (0 if codec == "flac" else 40)  # 2.5 ms of a codec's own delay
    if codec == "flac":
        np.testing.assert_allclose(window, truth, atol=2)


def test_the_window_is_around_the_middle_of_the_clip():
    sound = tone(4.0)
    encoded = Encoded(data=file_of(sound, frames=numbered_frames(100)))
    [window], _, _ = heard(encoded, audio(0.5, RATE), [[50, 52, 54, 56]])  # from 2.00 to 2.32 seconds
    begin = round((2.16 - 0.25) * RATE)
    np.testing.assert_allclose(window, sound[begin : begin + RATE // 2, 0], atol=2)


def test_what_is_before_and_after_the_sound_is_silence():
    encoded = Encoded(data=file_of(tone(1.0), frames=numbered_frames(50), late=0.5))
    windows, spans, valid = heard(encoded, audio(0.4, RATE, align="start"), [[10, 12], [36, 38], [45, 47]])
    assert valid.tolist() == [True, True, False]
    np.testing.assert_allclose(spans[0], [0.1 * RATE, 0.4 * RATE], atol=16)  # Matroska's stamps are milliseconds
    np.testing.assert_allclose(spans[1], [0, 0.06 * RATE], atol=16)
    assert not windows[0, : int(0.1 * RATE) - 16].any()
    assert not windows[2].any()


def test_other_rates_and_channels():
    sound = tone(2.0, rate=44100, channels=2)
    sound[:, 1] = 0
    encoded = Encoded(data=file_of(sound, frames=numbered_frames(50), rate=44100))
    [both], _, _ = heard(encoded, audio(1.0, RATE, channels=2, align="start"), [[5, 6]])
    [mixed], _, _ = heard(encoded, audio(1.0, RATE, align="start"), [[5, 6]])
    truth = tone(2.0)[int(0.2 * RATE) :, 0][:RATE].astype(float)
    assert both.shape == (RATE, 2)
    assert np.abs(both[:, 1]).max() <= 2
    assert abs(loudest_lag(both[:, 0], truth)) <= 1
    ratio = 20 * np.log10(np.std(truth[200:-200]) / np.std(both[200:-200, 0] - truth[200:-200]))
    assert ratio > 30, "decibels above the error of resampling"
    np.testing.assert_allclose(mixed, both[:, 0] / 2, atol=400)


def test_what_a_clip_hears_does_not_depend_on_the_others():
    encoded = Encoded(data=file_of(tone(4.0), frames=numbered_frames(100), codec="aac", container="mp4"))
    stream, frames = audio(0.5, RATE), [[10, 12], [50, 52], [80, 82]]
    together = heard(encoded, stream, frames)[0]
    for view in range(3):
        alone = heard(encoded, stream, frames, [Wanted(view, 0, (1, 2))])[0]
        np.testing.assert_array_equal(alone[0], together[view])


@pytest.mark.parametrize("container", ["wav", "flac", "mp3"])
def test_sound_beside_the_video(container):
    sound = tone(3.0)
    codec = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame"}[container]
    side = Side(data=file_of(sound, container=container, codec=codec), start=0.4)
    encoded = Encoded(data=file_of(tone(1.0), frames=numbered_frames(50)), sides={"audio": side})
    [window], _, [valid] = heard(encoded, audio(0.5, RATE, align="start"), [[10, 12]])
    truth = sound[int(0.8 * RATE) :, 0][: RATE // 2].astype(float)
    assert valid
    assert abs(loudest_lag(window, truth)) <= (0 if container != "mp3" else 40)


def test_no_sound_is_not_valid_and_damaged_sound_is_an_error():
    silent = file_of(None, frames=numbered_frames(10))
    for encoded in (
        Encoded(data=silent),
        Encoded(data=silent, sides={"audio": Side(path="/nowhere/a.wav")}),
        Encoded(data=silent, sides={"audio": Side(data=b"")}),
    ):
        window, _, [valid] = heard(encoded, audio(0.5), [[0, 1]])
        assert not valid
        assert not window.any()
    for wrong in (b"no sound", b"RIFF\x00\x00\x00\x00WAVE"):
        with pytest.raises(BadVideo, match="audio: "):
            heard(Encoded(data=silent, sides={"audio": Side(data=wrong)}), audio(0.5), [[0, 1]])


@pytest.mark.parametrize("cut", [20, 300, 2000, 8000])
def test_sound_that_is_cut_off_is_an_error(cut):
    whole = file_of(tone(1.0), container="flac", codec="flac")
    encoded = Encoded(data=file_of(None, frames=numbered_frames(50)), sides={"audio": Side(data=whole[:cut])})
    with pytest.raises(BadVideo, match="audio: cannot be opened"):
        heard(encoded, audio(1.0, align="start"), [[0, 1]])


def test_sound_without_an_end_in_its_header_ends_early():
    whole = file_of(tone(1.0), container="wav", codec="pcm_s16le")
    encoded = Encoded(data=file_of(None, frames=numbered_frames(50)), sides={"audio": Side(data=whole[:16000])})
    [window], [span], [valid] = heard(encoded, audio(1.0, align="start"), [[0, 1]])
    assert valid
    assert 7900 < span[1] <= 8000, "of two bytes each"
    assert not window[span[1] :].any()


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"rate": 10}, {"channels": 6}, {"align": "end"}])
def test_what_is_no_window_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        audio(**({"seconds": 1.0} | wrong))


def test_sidecars_reach_the_batch(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.mkv").write_bytes(file_of(None, frames=numbered_frames(30, colour=20)))
        if number % 2:
            (tmp_path / f"{number}.wav").write_bytes(file_of(tone(1.5), container="wav", codec="pcm_s16le"))
    source = sides.beside(sources.folder(str(tmp_path)), {"audio": sides.sidecar(".wav")})
    made = loader(source, clips.dense(4, 2), [transforms.resize(16)], global_batch=4, workers=2,
                  streams={"audio": audio(0.5, RATE)})  # fmt: skip
    with open_loader(made).once(rows=range(4)) as batches:
        batch = next(batches)
    assert batch["audio"].dtype == np.int16
    assert batch["audio_valid"].tolist() == [False, True, False, True]
    assert batch["audio"].any(1).tolist() == [False, True, False, True]
