"""Images as clips of one frame: from a folder, a list or a TFDS dataset."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from vmae_jax.data import clips, sources, transforms
from vmae_jax.data.opened import open_loader
from vmae_jax.data.pipeline import loader
from vmae_jax.spec import ConfigError


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Six pictures in two class folders, the red level counts; some noise, of different sizes."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(6):
        folder = root / ("cats" if number % 2 else "dogs")
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (30 + number, 50, 3)).astype(np.uint8)
        pixels[..., 0] = 40 * number
        Image.fromarray(pixels).save(folder / f"a picture {number}.png")
    return root


def batch_of(source, size=20, **options):
    crop = transforms.center_crop(size, **options)
    made = loader(source, clips.dense(1, 1), [crop], global_batch=6, labels=True, workers=1, shuffle=False)
    with open_loader(made).once(rows=range(6)) as batches:
        return next(batches)


def test_a_folder_of_pictures(pictures):
    batch = batch_of(sources.images(str(pictures), labels="folders"))
    assert batch["video"].shape == (6, 1, 20, 20, 3)
    assert batch["label"].tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(batch["video"][:, 0, 10, 10, 0], [40, 120, 200, 0, 80, 160])


def test_a_list_of_pictures(pictures):
    file = pictures / "list.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows(
            [f"{'cats' if number % 2 else 'dogs'}/a picture {number}.png", number] for number in range(6)
        )
    batch = batch_of(sources.csv(str(file)))
    assert batch["label"].tolist() == list(range(6))
    np.testing.assert_array_equal(batch["video"][:, 0, 10, 10, 0], np.arange(6) * 40)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_scaling_is_that_of_pillow(pictures, interpolation):
    batch = batch_of(sources.images(str(pictures), labels="folders"), interpolation=interpolation)
    with Image.open(pictures / "cats" / "a picture 1.png") as picture:
        method = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
        scaled = np.asarray(picture.resize((int(20 * 50 / 31), 20), method)).astype(int)
    truth = scaled[:, round((scaled.shape[1] - 20) / 2) :][:, :20]
    off = np.abs(batch["video"][0, 0].astype(int) - truth)[1:-1].max()  # bilinear differs a little at the edges
    assert off == 0 if interpolation == "bicubic" else off <= 2


def test_a_dataset_of_images_from_tfds(tmp_path):
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(names=["a", "b"])}
    )

    def png(number):
        file = io.BytesIO()
        Image.fromarray(np.full((24, 24, 3), 30 * number, np.uint8)).save(file, "PNG")
        return file.getvalue()

    tfds.dataset_builders.store_as_tfds_dataset(
        name="drawn", version="1.0.0", features=features, data_dir=str(tmp_path),
        split_datasets={"train": [(n, {"image": io.BytesIO(png(n)), "label": n % 2}) for n in range(6)]},
        file_format="array_record", disable_shuffling=True,
    )  # fmt: skip
    batch = batch_of(sources.tfds(directory=str(next(tmp_path.rglob("features.json")).parent), video="image"))
    order = batch["video"][:, 0, 0, 0, 0] // 30
    assert sorted(order) == list(range(6))
    np.testing.assert_array_equal(batch["label"], order % 2)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no picture in"):
        sources.images(str(tmp_path)).open()
    with pytest.raises(ValueError, match="interpolation"):
        transforms.center_crop(8, interpolation="nearest")


def test_a_picture_that_is_none_is_broken(pictures, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "b.png").write_bytes((pictures / "cats" / "a picture 1.png").read_bytes())
    made = loader(sources.images(str(tmp_path)), clips.dense(1), [transforms.resize(8)], global_batch=2, workers=1)
    feed = open_loader(made).once(rows=range(2))
    assert next(feed)["valid"].tolist() == [False, True]
    assert [fault.key for fault in feed.faults()] == ["a.png"]
    feed.close()
