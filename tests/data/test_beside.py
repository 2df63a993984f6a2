"""Images beside each clip: which, at which step, on which host; those that cannot be read; what is refused."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from vmae_jax.data import clips, sources, transforms
from vmae_jax.data.beside import seed_of
from vmae_jax.data.faults import TooManyBadVideos
from vmae_jax.data.opened import open_loader
from vmae_jax.data.pipeline import loader
from vmae_jax.spec import ConfigError

SIZE, EACH = 16, 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Seven pictures, the brightness of number n 30 n + 20."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(7):
        Image.new("RGB", (20, 20), (30 * number + 20,) * 3).save(folder / f"{number}.png")
    return folder


def of_pictures(folder, **options):
    options = {"sampler": clips.dense(1, 1), "global_batch": 2 * EACH, "workers": 1} | options
    return loader(sources.images(str(folder)), transforms=[transforms.random_resized_crop(SIZE)], **options)


def made(videos, images, **options):
    options = {"sampler": clips.dense(2, 1), "global_batch": 2, "workers": 1} | options
    return loader(sources.folder(str(videos)), transforms=[transforms.multi_scale_crop(SIZE)], images=images, **options)


@pytest.fixture(scope="module")
def opened(video_folder, pictures):
    return open_loader(made(video_folder, {"image": of_pictures(pictures)}))


def take(batches, count):
    with batches:
        return [next(batches) for _ in range(count)]


@pytest.fixture(scope="module")
def truth(opened):
    return take(opened.batches(rows=range(2), seed=5), 4)


def test_batches_are_what_the_spec_states(opened, truth):
    described = opened.loader.spec()
    for batch in truth:
        assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
            key: (value.shape, value.dtype) for key, value in described.items()
        }
    assert described["image"].shape == (2, EACH, SIZE, SIZE, 3)
    assert opened.steps_per_epoch == 5, "an epoch is one of videos"


def test_they_are_those_that_their_own_loader_gives(opened, truth):
    own = take(opened.images["image"].batches(rows=range(2 * EACH), seed=seed_of(5, "image")), 4)
    for batch, found in zip(truth, own, strict=True):
        np.testing.assert_array_equal(batch["image"].reshape(-1, SIZE, SIZE, 3), found["video"][:, 0])
        np.testing.assert_array_equal(batch["image_valid"].reshape(-1), found["valid"])
    shown = np.concatenate([batch["image"].reshape(2 * EACH, -1)[:, 0] for batch in truth])
    assert sorted(set(shown.tolist())) == [30 * number + 20 for number in range(7)]
    assert len(set(shown[:7].tolist())) == 7, "each once an epoch"


def test_any_step_and_any_host(opened, truth):
    (later,) = take(opened.batches(rows=range(2), seed=5, start=4), 1)
    (second,) = take(opened.batches(rows=[1], seed=5, start=2), 1)
    (past,) = take(opened.batches(rows=range(2), seed=5, start=2, skips=[(2, 6)]), 1)
    for name in truth[0]:
        np.testing.assert_array_equal(later[name], truth[2][name])
        np.testing.assert_array_equal(second[name], truth[1][name][1:])
        np.testing.assert_array_equal(past[name], truth[3][name])


def test_one_pass_has_every_video_and_images_beside_the_last_rows_too(opened):
    [*batches] = opened.once(rows=range(2))
    assert len(batches) == 5
    assert all(batch["image_valid"].all() for batch in batches)


def test_images_that_cannot_be_read_are_listed_and_judged_by_themselves(video_folder, pictures, tmp_path):
    for file in pictures.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "3.png").write_bytes(b"no picture")
    opened = open_loader(made(video_folder, {"image": of_pictures(tmp_path)}))
    with opened.batches(rows=range(2), seed=5) as batches:
        found = [fault for _ in range(3) for fault in (next(batches), *batches.faults())[1:]]
    assert [(fault.key.rpartition("/")[2], fault.index, fault.drawn) for fault in found] == [("3.png", 10 + 3, False)]

    strict = open_loader(made(video_folder, {"image": of_pictures(tmp_path, max_bad_fraction=0.0)}))
    with pytest.raises(
        TooManyBadVideos, match=r"images\['image'\] could not be read .*--config.data.images.image.max_bad"
    ):
        take(strict.batches(rows=range(2), seed=5), 3)


def test_the_memory_of_both_is_counted(opened, pictures, video_folder):
    whole, alone = opened.memory(range(2)), open_loader(made(video_folder, {})).memory(range(2))
    images = opened.images["image"].memory(range(2 * EACH)).total
    assert whole.total == alone.total + images
    assert f"images beside them {images / 2**30:.2f}" in whole.describe()
    with pytest.raises(ConfigError, match="GiB of host memory"):
        open_loader(made(video_folder, {"image": of_pictures(pictures)}, memory=alone.total / 2**30)).memory(range(2))


@pytest.mark.parametrize(
    ("name", "images", "videos", "reason"),
    [
        ("video", {}, {}, "batches have 'video'"),
        ("image", {"sampler": clips.dense(2, 1)}, {}, "2 frames and 1 views, not one"),
        ("image", {"global_batch": 3}, {}, "3 images a step are not a multiple of 2 clips"),
        ("image", {"global_batch": 1}, {}, "1 images a step are not a multiple of 2 clips"),
        ("image", {"labels": True}, {}, "would not be read"),
        ("image", {}, {"service": "localhost:1"}, "decode on this host"),
    ],
)
def test_what_cannot_be_beside_videos_is_refused(tmp_path, name, images, videos, reason):
    with pytest.raises(ConfigError, match=reason):
        made(tmp_path, {name: of_pictures(tmp_path, **images)}, **videos)
    with pytest.raises(ConfigError, match=r"images\['image'\]: it must be a data.pipeline.loader"):
        made(tmp_path, {"image": io.BytesIO()})
