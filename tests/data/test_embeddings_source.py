"""Files of features as examples without videos: what is read, split and refused."""

import numpy as np
import pytest

from vmae_jax.commands.config import load_config
from vmae_jax.commands.experiment import experiment
from vmae_jax.data.faults import TooManyBadVideos
from vmae_jax.data.opened import open_loader
from vmae_jax.data.sources import embeddings
from vmae_jax.spec import ConfigError

CONFIG = "configs/lvmae.py:smoke"


def write(folder, count=6, width=5):
    """Files of 3, 4, … vectors, in subfolders of two classes."""
    for number in range(count):
        path = folder / f"class{number % 2}" / f"{number}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        begin = 5.0 * np.arange(3 + number)
        vectors = np.full((3 + number, width), number + 1, np.float32)
        np.savez(path, features=vectors, seconds=np.stack([begin, begin + 5], 1))


def config(folder, width=5, length=6):
    made = load_config(CONFIG, [("data.source.path", str(folder)), ("data.global_batch", "6")])
    stream = made.data.streams.embeddings
    with made.ignore_type():
        stream.width, stream.length, stream.of = width, length, None
    return made


def test_every_file_is_an_example(tmp_path):
    write(tmp_path)
    made = experiment(config(tmp_path), trains=True)
    with open_loader(made.loader).batches(rows=range(6), seed=0) as batches:
        batch = next(batches)
    for row in range(6):
        length = int(batch["embeddings_mask"][row].sum())
        values = set(batch["embeddings"][row, :length].ravel().tolist())
        assert len(values) == 1
        assert length == min(int(values.pop()) + 2, 6)
        assert not batch["embeddings"][row, length:].any()
    assert not np.asarray(batch["video"]).any()


def test_folders_are_split_and_name_classes(tmp_path):
    write(tmp_path)
    sides = [embeddings(str(tmp_path), labels="folders", part=part, share=0.3).open() for part in ("train", "held_out")]
    assert [len(side) for side in sides] == [4, 2]
    assert not {side.key(n) for side in sides[:1] for n in range(4)} & {sides[1].key(n) for n in range(2)}
    assert sides[0].label_names == {"label": ("class0", "class1")}
    first = sides[0].fetch(0)
    assert first.labels["label"] == int(first.key[5])
    assert first.sides["embeddings"].path.endswith(".npz")


def test_folders_without_features_are_refused(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"no file of features in .* \(looked for \.npz\)"):
        embeddings(str(tmp_path)).open()


def test_vectors_of_another_size_are_reported(tmp_path):
    write(tmp_path)
    made = experiment(config(tmp_path, width=4))
    message = r"has features \(\d, 5\) and seconds \(\d, 2\), not \[n 4\]"
    with (
        open_loader(made.loader).batches(rows=range(6), seed=0) as batches,
        pytest.raises(TooManyBadVideos, match=message),
    ):
        next(batches)


def test_a_loader_without_the_stream_is_refused(tmp_path):
    made = config(tmp_path)
    del made.data["streams"]
    with pytest.raises(ConfigError, match=r"config\.method reads 'embeddings', which config\.data does not provide"):
        experiment(made)
