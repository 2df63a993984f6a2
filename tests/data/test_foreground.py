"""Labels of frames, and a sampler that looks for labelled moments."""

import numpy as np
import pytest

from vmae_jax.data.foreground import foreground
from vmae_jax.data.streams.core import Clip, ClipShape, Recording
from vmae_jax.data.streams.segments import frame_labels
from vmae_jax.data.video import BadVideo, Encoded, Side, VideoInfo

RATE, COUNT = 10.0, 200
INFO = VideoInfo(num_frames=COUNT, rate=RATE, times=np.arange(COUNT) / RATE, height=8, width=8, start=2.0)
# On the clock of the side, which is 5 + 2 seconds ahead of the first frame; two moments overlap.
SPANS = {0: (8.0, 9.55), 1: (9.0, 12.0), 2: (25.0, 26.4)}
TABLE = "begin,end,label\n" + "".join(f"{a},{b},{label}\n" for label, (a, b) in SPANS.items())


def recording(text=TABLE):
    return Recording(Encoded(data=b""), INFO, Side(data=text.encode(), start=5.0))


def labels(frames, text=TABLE, classes=3, **options):
    """What the stream reads of a clip of these frames."""
    stream = frame_labels(classes, **options)
    frames = np.asarray(frames)
    clip = Clip(frames, INFO.times[frames], (0.0, 0.0), (8, 8), None, (0, 0))
    out = {"": np.zeros((1, *stream.fields(ClipShape(len(frames), 8, 3))[""].shape), bool)}
    assert stream.read(recording(text), [clip], out) == [True]
    return out[""][0]


def test_labels_of_frames_invert_to_the_moments():
    shown = labels(np.arange(COUNT))
    for label, (begin, end) in SPANS.items():
        inside = np.flatnonzero(shown[:, label])
        np.testing.assert_array_equal(inside, np.arange(inside[0], inside[-1] + 1))  # one piece
        assert abs(7.0 + inside[0] / RATE - begin) <= 1 / RATE
        assert abs(7.0 + (inside[-1] + 1) / RATE - end) <= 1 / RATE
    assert shown[21].tolist() == [True, True, False]  # at 9.1 seconds
    assert not shown[~shown.any(1)].any()
    assert (~shown.any(1)).sum() > 100


def test_a_shifted_window_has_shifted_labels():
    window = 4 * np.arange(16)
    whole = labels(np.arange(COUNT))
    for shift in (0, 1, 7, 100):
        np.testing.assert_array_equal(labels(window + shift), whole[window + shift])
    assert (labels(window) != labels(window + 7)).any()


def test_labels_may_be_in_another_column_and_a_table_may_be_empty():
    text = "begin,end,verb,noun\n8,9,1,4\n"
    np.testing.assert_array_equal(np.flatnonzero(labels([15], text, 5, label="noun")[0]), [4])
    np.testing.assert_array_equal(np.flatnonzero(labels([15], text, 5, label="verb")[0]), [1])
    assert not labels(np.arange(COUNT), "begin,end,label\n").any()
    with pytest.raises(BadVideo, match="has class 4, but there are 3 classes"):
        labels([0], text, 3, label="noun")
    with pytest.raises(BadVideo, match="has no column 'label'"):
        labels([0], text)
    with pytest.raises(ValueError, match="classes=0"):
        frame_labels(0)


def clips(sampler, count=400):
    return np.stack([sampler(INFO, np.array([7, seed], np.uint32))[0] for seed in range(count)])


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0.1, 0.45), (0.5, 0.5, 0.75), (1.0, 1.0, 1.0)])
def test_a_share_of_the_clips_shows_a_moment(share, least, most):
    """Of short clips, few of which show one by chance; every moment is drawn as often as the others."""
    found = clips(foreground(4, 2, share).informed(recording()))
    shown = labels(np.arange(COUNT))[found].any(axis=1)
    assert least <= shown.any(axis=1).mean() <= most
    assert (np.diff(found) == 2).all()
    assert found.min() >= 0
    assert found.max() < COUNT
    if share == 1.0:
        assert (shown.mean(axis=0) > 0.28).all()
        assert found.max() > 190  # a moment's clips reach past its end


def test_every_clip_that_shows_a_moment_can_be_drawn():
    """Of a moment of one frame, which every second start misses."""
    table = "begin,end,label\n13.0,13.05,0\n"
    shown = np.flatnonzero(labels(np.arange(COUNT), table, 1)[:, 0])
    starts = {start for start in range(COUNT - 6) if set(shown) & set(range(start, start + 7, 2))}
    assert len(starts) == 4
    assert {clip[0] for clip in clips(foreground(4, 2, 1.0).informed(recording(table)))} == starts


def test_videos_without_moments_are_sampled_anywhere():
    plain = foreground(4, 2, 1.0)
    anywhere = clips(plain)
    for one in (recording("begin,end,label\n"), recording("begin,end,label\n100,101,0\n")):
        np.testing.assert_array_equal(clips(plain.informed(one)), anywhere)
    assert plain.informed(Recording(Encoded(data=b""), INFO, None)) == plain
    assert anywhere.min() < 5
    assert anywhere.max() > 190
    short = VideoInfo(num_frames=3, rate=RATE, times=np.arange(3) / RATE, height=8, width=8)
    np.testing.assert_array_equal(plain(short, np.array([1, 2], np.uint32)), [[0, 2, 2, 2]])
    with pytest.raises(BadVideo, match="ends before it begins"):
        plain.informed(recording("begin,end,label\n2,1,0\n"))
    for options in ({"frames": 0}, {"stride": 0}, {"share": 1.5}):
        with pytest.raises(ValueError, match=next(iter(options))):
            foreground(**options)
