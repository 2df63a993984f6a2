"""The loader's promise: a batch is a function of (seed, position), for any reader and any place."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numbered_videos import numbered_frames

from vmae_jax import spec
from vmae_jax.data import clips, faults, sources, transforms
from vmae_jax.data.clips import Dense
from vmae_jax.data.decode import read_clips
from vmae_jax.data.encode import encode_h264
from vmae_jax.data.opened import open_loader
from vmae_jax.data.order import fold
from vmae_jax.data.pipeline import Loader, loader
from vmae_jax.data.rand_augment import rand_augment
from vmae_jax.data.workers import Closed
from vmae_jax.spec import ConfigError

SIZE = 16


def make(folder, **options):
    options = {"global_batch": 4, "repeat": 2, "workers": 2, "labels": True} | options
    return loader(
        options.pop("source", sources.folder(str(folder), labels="folders")),
        options.pop("sampler", clips.dense(4, 2)),
        options.pop("transforms", [transforms.multi_scale_crop(SIZE), transforms.flip()]),
        **options,
    )


def take(batches, count):
    with batches:
        return [next(batches) for _ in range(count)]


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


@pytest.fixture(scope="module")
def opened(video_folder):
    return open_loader(make(video_folder))


@pytest.fixture(scope="module")
def truth(opened):
    """Seven whole global batches from the start: nearly three epochs of ten videos."""
    return take(opened.batches(rows=range(8), seed=5), 7)


def test_batches_are_what_the_spec_states(opened, truth):
    described = opened.loader.spec()
    for batch in truth:
        assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
            key: (value.shape, value.dtype) for key, value in described.items()
        }
        assert batch["valid"].all()
    assert len(opened) == 10
    assert opened.steps_per_epoch == 2
    assert opened.label_names == {"label": ("even", "odd")}
    unlabelled = open_loader(dataclasses.replace(opened.loader, labels={}))
    assert unlabelled.label_names == {}, "nobody reads them, so their names need not be those of other data"


def test_index_label_and_pixels_belong_together(opened, truth):
    """The right half of video n has brightness 20 n + 20 (conftest), whichever way it was flipped."""
    keys = [opened.source.fetch(i).key for i in range(10)]
    for batch in truth:
        for video, index, label in zip(batch["video"], batch["index"], batch["label"], strict=True):
            number = int(keys[index].split("_")[1].split(".")[0])
            assert label == number % 2
            corners = [video[0, 8, 1].astype(int).mean(), video[0, 8, -2].astype(int).mean()]
            assert min(abs(corner - (20 * number + 20)) for corner in corners) < 12


def test_each_video_once_an_epoch(truth):
    order = np.concatenate([batch["index"][::2] for batch in truth])
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert list(order[:10]) != list(order[10:20])


def test_repeats_share_a_video_and_its_frames_but_nothing_else(truth):
    seeds = np.concatenate([batch["seed"] for batch in truth])
    assert len({tuple(seed) for seed in seeds}) == len(seeds)
    crops = 0
    for batch in truth:
        np.testing.assert_array_equal(batch["index"][::2], batch["index"][1::2])
        crops += sum(not np.array_equal(a, b) for a, b in zip(batch["video"][::2], batch["video"][1::2], strict=True))
    assert crops > 20


def test_one_window_for_all_repeats(video_folder):
    """As the official num_sample: one decode, then crops of their own. Without crops: equal."""
    plain = open_loader(make(video_folder, transforms=[transforms.resize(SIZE)], repeat=3))
    for batch in take(plain.batches(rows=range(12), seed=1), 3):
        videos = batch["video"].reshape(4, 3, *batch["video"].shape[1:])
        assert (videos == videos[:, :1]).all()
        assert len(np.unique(batch["seed"], axis=0)) == 12


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_start_and_any_split_of_rows_give_the_same_rows(opened, truth, data):
    step = data.draw(st.integers(0, 5), label="step")
    rows = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True), label="rows")
    got = take(opened.batches(rows=rows, seed=5, start=4 * step), 2)
    for offset, batch in enumerate(got):
        assert_same(batch, {key: value[rows] for key, value in truth[step + offset].items()})


def test_another_seed_is_another_order(opened, truth):
    other = take(opened.batches(rows=range(8), seed=6), 3)
    assert any(not np.array_equal(a["index"], b["index"]) for a, b in zip(other, truth, strict=False))
    assert not np.array_equal(other[0]["seed"], truth[0]["seed"])


def test_the_number_of_workers_changes_nothing(video_folder, truth):
    assert_same(
        take(open_loader(make(video_folder, workers=1, prefetch=1)).batches(rows=range(8), seed=5), 1)[0], truth[0]
    )


def test_batches_that_are_left_out_change_no_other(opened, truth):
    """Two windows, of which one follows the start; truth has the batches of a run that left nothing out."""
    with opened.batches(rows=range(8), seed=5, start=4, skips=[(12, 16), (0, 4)]) as batches:
        for step in (2, 4):
            assert batches.position == 4 * step
            assert_same(next(batches), truth[step])
        assert batches.position == 20


def test_position_counts_videos_consumed(opened):
    with opened.batches(rows=[0], seed=1, start=12) as batches:
        assert batches.position == 12
        next(batches)
        assert batches.position == 16
    with pytest.raises(Closed):
        next(batches)


def children():
    """The processes that this one has started and that are not over."""
    found = set()
    for file in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = file.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                found.add(int(file.parent.name))
    return found


def test_once_is_every_video_once_and_padding(video_folder):
    opened, before = open_loader(make(video_folder, repeat=1)), children()
    feed = opened.once(rows=range(4))
    batches = [next(feed)]
    assert children() > before, "processes read"
    batches += feed
    assert len(batches) == 3
    assert children() == before  # over, so nothing runs on
    with pytest.raises(StopIteration):
        next(feed)
    index, valid = (np.concatenate([batch[key] for batch in batches]) for key in ("index", "valid"))
    assert index.tolist() == [*range(10), -1, -1]
    assert valid.tolist() == [True] * 10 + [False] * 2
    assert not batches[-1]["video"][2:].any()
    parts = [list(opened.once(rows=rows)) for rows in ([0, 1], [2, 3])]
    for whole, left, right in zip(batches, *parts, strict=True):
        assert_same({k: np.concatenate([left[k], right[k]]) for k in left}, whole)


def test_views_are_clips_of_their_own(video_folder):
    opened = open_loader(
        make(video_folder, repeat=1, sampler=clips.multiview(4, 2, 3), transforms=[transforms.center_crop(SIZE)])
    )
    assert opened.loader.clips_per_step == 12
    batch = take(opened.once(rows=range(12)), 1)[0]
    assert batch["index"].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    firsts = batch["video"][:3, 0, 8, 1].astype(int).mean(-1)  # brightness counts frames
    assert (np.diff(firsts) > 10).all()


def test_grey(video_folder):
    batch = take(open_loader(make(video_folder, channels=1)).batches(rows=[0, 1], seed=0), 1)[0]
    assert batch["video"].shape == (2, 4, SIZE, SIZE, 1)


@pytest.mark.parametrize(("frames", "size", "channels"), [(1, 15, 1), (5, 40, 3)])
def test_any_number_of_frames_any_resolution_any_channels(video_folder, frames, size, channels):
    crops = [transforms.random_resized_crop(size)]
    opened = open_loader(
        make(video_folder, sampler=clips.dense(frames, 1), transforms=crops, channels=channels, repeat=1)
    )
    [batch] = take(opened.batches(rows=range(4), seed=0), 1)
    assert {key: (part.shape, part.dtype) for key, part in batch.items()} == {
        key: (part.shape, part.dtype) for key, part in opened.loader.spec().items()
    }


@pytest.mark.slow
def test_a_batch_is_what_reading_and_transforming_by_hand_gives(video_folder):
    """Crops and RandAugment in the workers, and crops in the graph because something comes before them."""

    def darker(features, seed):
        return features | {"video": features["video"] // 2}

    for chain in (
        [transforms.multi_scale_crop(SIZE), transforms.flip()],
        [rand_augment(), transforms.random_resized_crop(SIZE), transforms.flip()],
        [transforms.resize(SIZE), transforms.flip(), rand_augment(), rand_augment(magnitude=2.0)],
        [transforms.resize(SIZE), rand_augment(), transforms.flip()],
        [darker, rand_augment(), transforms.random_resized_crop(SIZE)],
    ):
        opened = open_loader(make(video_folder, transforms=chain, global_batch=1))
        [batch] = take(opened.batches(rows=range(2), seed=3, start=7), 1)
        word = fold(3, 7, -1)
        seed = np.array([word >> 32, word & 0xFFFFFFFF], np.uint32)
        encoded = opened.source.fetch(int(batch["index"][0]))
        [frames] = read_clips(encoded, opened.loader.sampler, seed).arrays["video"]
        for repeat, video in enumerate(batch["video"]):
            truth = transforms.apply(chain, {"video": frames, "repeat": repeat}, batch["seed"][repeat])["video"]
            np.testing.assert_array_equal(video, truth)


@pytest.fixture
def broken_folder(video_folder, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(video_folder, folder)
    (folder / "even" / "video_4.mp4").write_bytes(b"no video at all")
    return folder


def test_a_broken_video_is_replaced_by_its_neighbour_and_reported_once(broken_folder, truth):
    opened = open_loader(make(broken_folder, max_bad_fraction=0.5))
    with opened.batches(rows=range(8), seed=5) as batches:
        got = [next(batches) for _ in range(7)]
        result = batches.faults()
        assert batches.faults() == []
    assert [(fault.key, fault.index, fault.kind, fault.drawn) for fault in result] == [
        ("even/video_4.mp4", 2, "broken", True)
    ]
    assert "no readable video" in result[0].reason
    replaced = 0
    for old, new in zip(truth, got, strict=True):
        np.testing.assert_array_equal(new["seed"], old["seed"])
        np.testing.assert_array_equal(new["index"], np.where(old["index"] == 2, 3, old["index"]))
        good = old["index"] != 2
        np.testing.assert_array_equal(new["video"][good], old["video"][good])
        replaced += (~good).sum()
    assert replaced >= 4
    again = take(opened.batches(rows=range(8), seed=5, start=8), 2)
    assert_same(again[1], got[3])


def test_a_broken_video_in_one_pass_is_not_valid(broken_folder):
    batches = open_loader(make(broken_folder, repeat=1)).once(rows=range(4))
    index = np.concatenate([batch["index"] for batch in batches])
    assert index.tolist() == [0, 1, -1, *range(3, 10), -1, -1]
    assert len(batches.faults()) == 1


def test_faults_are_those_of_the_batches_so_far_whatever_is_read_ahead(broken_folder, truth):
    """So that hosts, and a run that is repeated, find the same at the same step."""
    due = next(step for step, batch in enumerate(truth) if 2 in batch["index"])
    opened = open_loader(make(broken_folder, prefetch=4))
    with opened.batches(rows=range(8), seed=5) as batches:
        found = []
        for _ in range(due + 1):
            next(batches)
            time.sleep(0.2)  # more is read by now
            found.append(len(batches.faults()))
    assert found == [0] * due + [1]


def test_when_the_first_twenty_cannot_be_read_the_rest_is_not_tried(tmp_path):
    for number in range(200):
        (tmp_path / f"{number:03}.mp4").write_bytes(b"text")
    opened = open_loader(make(tmp_path, source=sources.folder(str(tmp_path)), labels=False))
    words = "none of the first 20 of 200 videos can be read: "
    with opened.batches(rows=[0], seed=0) as batches:
        with pytest.raises(faults.TooManyBadVideos, match=words):
            next(batches)
        assert 20 <= len(batches.faults()) < 150


def test_nothing_readable_is_one_clear_error(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(b"text")
    opened = open_loader(make(tmp_path, source=sources.folder(str(tmp_path)), labels=False, max_bad_fraction=1.0))
    with opened.batches(rows=[0], seed=0) as batches, pytest.raises(faults.TooManyBadVideos, match="none of the 3"):
        next(batches)


@dataclasses.dataclass(frozen=True)
class Stalls(Dense):
    """A sampler that never comes to an end on one video, as a decoder may on a crafted file."""

    def __call__(self, info, seed):
        until = time.process_time() + 60
        while info.num_frames == 23 and time.process_time() < until:
            pass
        return super().__call__(info, seed)


def test_a_hang_is_cut_off_and_counted(broken_folder):
    (broken_folder / "even" / "video_4.mp4").write_bytes(encode_h264(numbered_frames(23)))
    opened = open_loader(make(broken_folder, sampler=Stalls(4, 2), timeout=1.0, max_bad_fraction=1.0, repeat=1))
    with opened.batches(rows=range(4), seed=2) as batches:
        index = np.concatenate([next(batches)["index"] for _ in range(8)])
        result = batches.faults()
    assert 2 not in index
    assert [(fault.index, fault.reason) for fault in result] == [(2, "takes longer than 1 s to decode")]


def test_labels_must_be_there(video_folder):
    with pytest.raises(ConfigError, match="none at all"):
        open_loader(make(video_folder, source=sources.folder(str(video_folder))))


@pytest.mark.parametrize(
    "options",
    [
        {"global_batch": 0},
        {"repeat": 0},
        {"workers": 0},
        {"channels": 2},
        {"timeout": 0.0},
        {"max_bad_fraction": 2.0},
        {"transforms": [transforms.flip()]},
    ],
)
def test_options_that_make_no_sense(video_folder, options):
    with pytest.raises(ConfigError, match="loader: "):
        make(video_folder, **options)


def test_rows_must_be_rows(opened):
    for rows in ([], [0, 0], [8], [-1]):
        with pytest.raises(ValueError, match="rows must be"):
            opened.batches(rows=rows, seed=0)


def test_a_config_builds_a_loader_without_tensorflow_or_disk(tmp_path):
    config = spec.call(
        "data.pipeline.loader",
        source=spec.call("data.sources.folder", path="/nowhere"),
        sampler=spec.call("data.clips.dense", frames=16, stride=4),
        transforms=[spec.call("data.transforms.multi_scale_crop", size=224)],
        global_batch=256,
        repeat=4,
    )
    (tmp_path / "config.json").write_text(spec.to_json(config))
    code = """
        import pathlib, sys
        from vmae_jax import spec
        loader = spec.build(spec.from_json(pathlib.Path(sys.argv[1]).read_text()))
        print(loader.spec()["video"].shape, "tensorflow" in sys.modules, "av" in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "config.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "(1024, 16, 224, 224, 3) False False\n"
    assert isinstance(spec.build(config), Loader)


def test_a_trainer_that_forgets_to_close_ends_quietly_and_cleanly(video_folder):
    code = f"""
        import sys
        sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
        from test_data_pipeline import make
        from vmae_jax.data.opened import open_loader
        batches = open_loader(make({str(video_folder)!r})).batches(rows=range(8), seed=0)
        print(next(batches)["index"].shape, *[p._process.pid for p in batches._reader.workers._running])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        env={key: value for key, value in os.environ.items() if not key.startswith("TF_")},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("(8,)")
    for pid in done.stdout.split()[1:]:
        assert not pathlib.Path("/proc", pid).exists()


def test_tensorflow_sees_no_accelerator():
    from vmae_jax.data.tf import tensorflow

    tf = tensorflow()
    assert {device.device_type for device in tf.config.get_visible_devices()} == {"CPU"}


def test_real_clips(clips):
    opened = make(clips, source=sources.folder(str(clips)), labels=False, transforms=[transforms.multi_scale_crop(224)])
    batch = take(open_loader(opened).batches(rows=range(8), seed=0), 1)[0]
    assert batch["video"].shape == (8, 4, 224, 224, 3)
    assert batch["video"].std() > 10
