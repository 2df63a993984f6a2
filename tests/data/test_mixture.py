"""Mixtures: every part's weight is kept in every epoch, and no video comes twice before all came once."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmae_jax import spec
from vmae_jax.data import clips, sources, transforms
from vmae_jax.data import labels as data_labels
from vmae_jax.data.mixture import Mixed, mixture, part, places
from vmae_jax.data.opened import open_loader
from vmae_jax.data.order import Epoch, epoch_of, index_at
from vmae_jax.data.pipeline import loader
from vmae_jax.data.tf import tensorflow
from vmae_jax.data.video import Encoded
from vmae_jax.spec import ConfigError


def order(positions, epoch, *, seed=0, shuffle=True):
    """The numbers of the videos at these positions, from inside a graph."""
    tf = tensorflow()
    at = tf.function(lambda p: tf.map_fn(lambda one: index_at(one, epoch=epoch, seed=seed, shuffle=shuffle), p))
    return at(tf.constant(list(positions), tf.int64)).numpy()


def part_of(numbers, epoch):
    return np.searchsorted(np.cumsum(epoch.videos), numbers, side="right")


PARTS = st.lists(st.tuples(st.integers(1, 9), st.floats(0.1, 3.0)), min_size=1, max_size=4)


@settings(max_examples=6, deadline=None)
@given(PARTS, st.sampled_from(["passes", "shares"]), st.integers(0, 2**40), st.booleans())
def test_weights_hold_in_every_epoch_and_every_video_has_its_turn(parts, weigh, seed, shuffle):
    videos, weights = zip(*parts, strict=True)
    epoch = Epoch(videos, places(videos, weights, weigh), tuple(range(7, 7 + len(videos))))
    epochs = 3
    numbers = order(range(epochs * epoch.length), epoch, seed=seed, shuffle=shuffle)
    assert numbers.min() >= 0
    assert numbers.max() < sum(videos)
    for one in numbers.reshape(epochs, -1):
        assert tuple(np.bincount(part_of(one, epoch), minlength=len(videos))) == epoch.places
    # After any whole number of epochs no video of a part was seen twice more often than another.
    for count in range(1, epochs + 1):
        seen = np.bincount(numbers[: count * epoch.length], minlength=sum(videos))
        for own in np.split(seen, np.cumsum(videos)[:-1]):
            assert own.max() - own.min() <= 1


@settings(max_examples=5, deadline=None)
@given(PARTS, st.integers(0, 2**40), st.integers(0, 10**12), st.integers(0, 15))
def test_any_position_is_reached_at_once_and_alone(parts, seed, start, host):
    """What is at a position does not depend on where one began or who else reads."""
    videos, weights = zip(*parts, strict=True)
    epoch = Epoch(videos, places(videos, weights, "passes"), tuple(range(len(videos))))
    together = order(range(start, start + 40), epoch, seed=seed)
    one_of_16 = order(range(start + host, start + 40, 16), epoch, seed=seed)
    assert list(one_of_16) == list(together[host::16])


def test_where_all_weights_are_one_an_epoch_is_every_video_once():
    epoch = Epoch((5, 1, 8), (5, 1, 8), (0, 1, 2))
    numbers = order(range(28), epoch, seed=4)
    assert sorted(numbers[:14]) == sorted(numbers[14:]) == list(range(14))
    assert list(numbers[:14]) != list(numbers[14:])
    assert list(numbers) == list(order(range(28), Epoch((14,), (14,)), seed=4))  # as the same videos without parts


def test_parts_are_mixed_all_through_an_epoch():
    epoch = Epoch((300, 300), (300, 300), (0, 1))
    halves = part_of(order(range(600), epoch, seed=1), epoch).reshape(6, 100).mean(1)
    assert np.abs(halves - 0.5).max() < 0.2


@pytest.mark.parametrize(
    ("videos", "weights", "weigh", "expected"),
    [
        ((10, 20), (1, 1), "passes", (10, 20)),
        ((10, 20), (2, 0.25), "passes", (20, 5)),
        ((1, 20), (0.01, 1), "passes", (1, 20)),
        ((10, 20), (1, 1), "shares", (15, 15)),
        ((10, 20, 3), (3, 2, 1), "shares", (17, 11, 5)),
        ((658, 169), (3, 1), "shares", (620, 207)),
    ],
)
def test_places_of_an_epoch(videos, weights, weigh, expected):
    assert places(videos, weights, weigh) == expected


class Listed:
    """A source of names."""

    def __init__(self, name, count, **label_names):
        self.name, self.count, self.label_names = name, count, label_names

    def __len__(self):
        return self.count

    def fetch(self, index):
        label = {"label": index % 2} if self.name != "c" else {}
        return Encoded(data=b"x", key=f"{self.name}{index}", labels={**label, "labels": (0, 1)})


def test_examples_labels_and_strides_of_the_parts():
    parts = [("a", part(None)), ("b", part(None, stride=2)), ("c", part(None))]
    listed = [Listed("a", 2, label=("run", "jump")), Listed("b", 3, label=("jump", "fly")), Listed("c", 1)]
    mixed = Mixed(parts, listed, Epoch((2, 3, 1), (2, 3, 1), (0, 1, 2)))
    assert len(mixed) == 6
    assert mixed.label_names == {"label": ("run", "jump", "fly")}
    found = [mixed.fetch(i) for i in range(6)]
    assert [one.key for one in found] == ["a/a0", "a/a1", "b/b0", "b/b1", "b/b2", "c/c0"]
    assert [one.labels.get("label") for one in found] == [0, 1, 1, 2, 1, None]
    assert [one.stride for one in found] == [None, None, 2, 2, 2, None]
    assert found[0].labels["labels"] == (0, 1)  # nobody names them: they stay numbers
    unnamed = Mixed(parts[:2], [listed[0], Listed("b", 1)], Epoch((2, 1), (2, 1), (0, 1)))
    assert "label" not in unnamed.fetch(2).labels


def test_a_part_can_be_left_without_its_classes():
    """Those of the others keep their numbers, and the names that it alone has are not classes of the mixture."""
    listed = [Listed("a", 2, label=("run", "jump")), Listed("b", 3, label=("fly", "jump"))]
    parts = [("a", part(None)), ("b", part(None, labels={"label": -1}))]
    mixed = Mixed(parts, listed, Epoch((2, 3), (2, 3), (0, 1)))
    assert mixed.label_names == {"label": ("run", "jump")}
    assert [mixed.fetch(i).labels["label"] for i in range(5)] == [0, 1, -1, -1, -1]
    with pytest.raises(ConfigError, match="a part has classes of that name already"):
        Mixed([parts[0], ("b", part(None, labels={"label": 1}))], listed, Epoch((2, 3), (2, 3), (0, 1)))


def mixed_loader(folder, **options):
    source = mixture(
        {
            "some": part(sources.folder(str(folder / "even")), weight=2),
            "others": part(sources.folder(str(folder / "odd")), stride=3),
            "left out": part(sources.folder("/nowhere"), weight=0),
        }
    )
    return loader(source, clips.dense(4, 1), [transforms.center_crop(16)], global_batch=5, workers=2, **options)


def test_a_loader_reads_a_mixture(video_folder):
    opened = open_loader(mixed_loader(video_folder))
    assert len(opened) == 10  # videos
    assert opened.steps_per_epoch == 3  # 15 places
    with opened.batches(rows=range(5), seed=3) as batches:
        taken = [next(batches) for _ in range(3)]
    index = np.concatenate([batch["index"] for batch in taken])
    counted = collections.Counter(index.tolist())  # "others" comes first: sorted by name
    assert counted == {**dict.fromkeys(range(5), 1), **dict.fromkeys(range(5, 10), 2)}
    for number, video in zip(index, np.concatenate([batch["video"] for batch in taken]), strict=True):
        steps = np.diff(video[:, 8, 2, 0].astype(int))  # frames differ by 5 in brightness
        assert np.abs(steps - (15 if number < 5 else 5)).max() <= 2
    with opened.batches(rows=[4, 1], seed=3, start=5) as batches:  # another host, in the middle of it
        later = next(batches)
    np.testing.assert_array_equal(later["index"], taken[1]["index"][[4, 1]])
    np.testing.assert_array_equal(later["video"], taken[1]["video"][[4, 1]])
    with opened.once(rows=range(5)) as batches:
        assert sorted(i for batch in batches for i in batch["index"].tolist()) == list(range(10))


def test_epoch_of_a_plain_source(video_folder):
    assert epoch_of(sources.folder(str(video_folder)).open()) == Epoch((10,), (10,))


def test_mistakes(tmp_path):
    folder = sources.folder(str(tmp_path / "none"))
    for parts, words in (({}, "there is none"), ({"a": folder}, "'a' is not")):
        with pytest.raises(ConfigError, match=words):
            mixture(parts)
    with pytest.raises(ConfigError, match="weigh='equal'"):
        mixture({"a": part(folder)}, weigh="equal")
    with pytest.raises(ConfigError, match="all weights are 0"):
        mixture({"a": part(folder, weight=0)})
    for options in ({"weight": -1.0}, {"stride": 0}):
        with pytest.raises(ConfigError, match=r"data\.mixture\.part"):
            part(folder, **options)
    with pytest.raises(ConfigError, match="part 'a' of the mixture: data source: there is no folder"):
        mixture({"a": part(folder)}).open()
    with pytest.raises(ConfigError, match="strides of their own, and the sampler has none"):
        loader(mixture({"a": part(folder, stride=2)}), clips.uniform(4), [transforms.center_crop(16)])


def test_a_config_holds_a_mixture():
    config = spec.call(
        "data.mixture",
        parts={"mine": spec.call("data.mixture.part", source=spec.call("data.sources.folder", path="/x"), stride=2)},
    )
    assert spec.build(spec.from_json(spec.to_json(config))).parts[0][1].stride == 2


def test_all_videos_of_a_part_have_its_labels(video_folder):
    """A domain by part, beside the labels that the sources give; a part without it is an error that names the video."""
    parts = {
        "a": part(sources.folder(str(video_folder / "even")), labels={"domain": 0, "share": 0.5}),
        "b": part(sources.folder(str(video_folder / "odd")), labels={"domain": 1, "share": 0.25}),
    }
    options = {"global_batch": 10, "workers": 1}
    fields = {"domain": data_labels.one(), "share": data_labels.numbers(1)}
    chain = [transforms.resize(8)]
    with open_loader(loader(mixture(parts), clips.dense(2, 1), chain, labels=fields, **options)).once(
        rows=range(10)
    ) as batches:
        batch = next(batches)
    assert batch["domain"].tolist() == [0] * 5 + [1] * 5
    np.testing.assert_allclose(batch["share"][:, 0], [0.5] * 5 + [0.25] * 5)
    named = mixture({"a": part(sources.folder(str(video_folder), labels="folders"), labels={"label": 1})})
    with pytest.raises(ConfigError, match="a part has classes of that name already"):
        named.open()
    lacking = parts | {"b": part(sources.folder(str(video_folder / "odd")))}
    opened = open_loader(
        loader(mixture(lacking), clips.dense(2, 1), chain, labels={"domain": fields["domain"]}, **options)
    )
    with opened.once(rows=range(10)) as batches, pytest.raises(ConfigError, match=r"labels\['domain'\]: b/"):
        next(batches)
