"""A TFDS builder of any `Listing`: the machinery that the builders of `data.builders` share.

Records hold a video's original bytes (re-encoded only where an example is a part of a long file)
beside what decoding needs to know. What the annotations name and is not there, or cannot be read, is
left out, counted, and listed in `left_out.csv` beside the records: archives of videos that once
were on the net are rarely whole.
"""

import collections
import concurrent.futures
import csv
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from vmae_jax.data.decode import probe
from vmae_jax.data.listing import Absent, Listing, Row
from vmae_jax.data.video import BadVideo, Encoded
from vmae_jax.spec import ConfigError

__all__ = ["LEFT_OUT", "Settings", "builder_class", "config_of", "make_example", "numbered"]

LEFT_OUT = "left_out.csv"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a builder's `config` gives.

    Attributes:
      dataset: the builder's name.
      name: of this variant, which is a folder's name.
      listing: reads the annotations, when something is to be prepared.
    """

    dataset: str
    name: str
    listing: Callable[[], Listing]


def numbered(
    dataset: str, split: int, listing: Callable[[str | None, int], Listing], directory: str | None
) -> Settings:
    """One of the three splits that a data set has, as `listing(directory, split)` reads it.

    Raises:
      ConfigError: another number.
    """
    if split not in (1, 2, 3):
        raise ConfigError(f"{dataset}: split={split}; there are 1, 2 and 3")
    return Settings(dataset, f"split{split}", functools.partial(listing, directory, split))


def config_of(dataset: str, settings: Any) -> Any:
    """The TFDS BuilderConfig that stands for `settings`."""
    if not isinstance(settings, Settings) or settings.dataset != dataset:
        raise ConfigError(f"{dataset} takes config=data.builders.{dataset}.config(…), not {settings!r}")
    return _config_class()(settings)


def builder_class(dataset: str, *, version: str = "1.0.0", description: str) -> type:
    """The TFDS builder class of a data set whose configs are `Settings`."""
    from vmae_jax.data.tf import tensorflow_datasets

    core = tensorflow_datasets().core

    class ListedBuilder(core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        """Records of a `Listing`."""

        name = dataset
        VERSION = core.Version(version)
        RELEASE_NOTES = {version: "The first."}  # noqa: RUF012 - as TFDS has it

        @functools.cached_property
        def listing(self) -> Listing:
            """The rows, read once. Raises ConfigError: a file that is missing or wrong, no video at all."""
            if self.builder_config is None:
                raise ConfigError(f"{dataset} needs config=data.builders.{dataset}.config(directory=…)")
            listing = self.builder_config.settings.listing()
            if not any(part.rows for part in listing.splits.values()):
                lacking = next((part.absent[0] for part in listing.splits.values() if part.absent), None)
                such = f" (such as {lacking.key}, which {lacking.reason})" if lacking else ""
                raise ConfigError(f"{dataset}: none of the videos that the annotations name is there{such}")
            return listing

        def _info(self) -> Any:
            prepared = os.path.exists(os.path.join(self.data_dir, "dataset_info.json"))
            features = _stored_features(self.data_dir) if prepared else _features(self.listing)
            return core.DatasetInfo(builder=self, features=features, description=description)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager  # nothing is downloaded: owners ask for a signature first
            for split, part in self.listing.splits.items():
                if not part.rows:
                    self._conclude(split, part.absent)
            return {split: self._generate_examples(split) for split, part in self.listing.splits.items() if part.rows}

        def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
            part = self.listing.splits[split]
            absent = list(part.absent)
            yield from _examples(self.listing, split, absent)
            if len(absent) == part.listed:
                last = absent[-1]
                raise ConfigError(f"{dataset}: no video of {split!r} can be read, such as {last.key} ({last.reason})")
            self._conclude(split, absent)

        def _conclude(self, split: str, absent: Sequence[Absent]) -> None:
            if absent:
                _tell(dataset, split, absent, self.listing.splits[split].listed)
                _write_left_out(os.path.join(self.data_dir, LEFT_OUT), split, absent)

    ListedBuilder.__name__ = ListedBuilder.__qualname__ = dataset.title().replace("_", "")
    return ListedBuilder


def make_example(row: Row, listing: Listing) -> dict[str, Any]:
    """A row with its video read, as the features have it.

    Raises:
      BadVideo: the video cannot be read.
    """
    if isinstance(row.video, tuple):
        pictures = tuple(_bytes(path) for path in row.video)
        encoded, video = Encoded(frames=pictures, rate=row.rate), list(pictures)
    elif row.span is not None:
        from vmae_jax.data.prepare.cut import cut

        video = cut(row.video, *row.span, short_side=listing.short_side)
        encoded = Encoded(data=video)
    else:
        video = _bytes(row.video)
        encoded = Encoded(data=video)
    info = probe(encoded)
    none: dict[str, Any] = {name: () if name == "labels" else -1 for name in listing.names}
    return {
        "video": video,
        "key": row.key,
        "num_frames": info.num_frames,
        "rate": info.rate,
        "height": info.height,
        "width": info.width,
        "times_us": [round(float(time) * 1e6) for time in info.times],
        "start_us": round(1e6 * row.span[0]) if row.span else 0,
        **({"text": ""} if listing.text else {}),
        **none,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in row.labels.items()},
    }


@functools.cache
def _config_class() -> type:
    from vmae_jax.data.tf import tensorflow_datasets

    class ListedConfig(tensorflow_datasets().core.BuilderConfig):
        """A TFDS config that carries our settings."""

        def __init__(self, settings: Settings) -> None:
            super().__init__(name=settings.name)
            self.settings = settings

    return ListedConfig


def _features(listing: Listing) -> Any:
    from vmae_jax.data.tf import tensorflow, tensorflow_datasets

    tf, features = tensorflow(), tensorflow_datasets().features
    encoded = features.Tensor(shape=(), dtype=tf.string)
    labels: dict[str, Any] = {}
    for name, names in listing.names.items():
        label = features.ClassLabel(names=list(names))
        labels[name] = features.Sequence(label) if name == "labels" else label
    return features.FeaturesDict(
        {
            "video": features.Sequence(encoded) if listing.pictures else encoded,
            "key": features.Text(),
            "num_frames": tf.int64,
            "rate": tf.float32,
            "height": tf.int64,
            "width": tf.int64,
            "times_us": features.Tensor(shape=(None,), dtype=tf.int64),
            "start_us": tf.int64,
            **({"text": features.Text()} if listing.text else {}),
            **labels,
        }
    )


def _stored_features(folder: str) -> Any:
    """The features of a prepared dataset, whose annotation files need not be there any more."""
    from vmae_jax.data.tf import tensorflow_datasets

    return tensorflow_datasets().features.FeatureConnector.from_config(folder)


def _examples(listing: Listing, split: str, absent: list[Absent]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The examples in order, read a few ahead on all cores; adds what cannot be read to `absent`."""
    rows = listing.splits[split].rows
    workers = os.cpu_count() or 1
    ahead: collections.deque[tuple[Row, concurrent.futures.Future[dict[str, Any]]]] = collections.deque()

    def first() -> Iterator[tuple[str, dict[str, Any]]]:
        row, future = ahead.popleft()
        try:
            yield row.key, future.result()
        except BadVideo as error:
            absent.append(Absent(row.key, str(error)))

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for row in tqdm(rows, desc=split, unit="video", disable=None):
            ahead.append((row, pool.submit(make_example, row, listing)))
            if len(ahead) > 2 * workers:
                yield from first()
        while ahead:
            yield from first()


def _tell(dataset: str, split: str, absent: Sequence[Absent], listed: int) -> None:
    """One line on what was left out."""
    told = f"{dataset}, {split}: {len(absent)} of {listed} videos are left out"
    print(f"{told}, such as {absent[0].key} ({absent[0].reason}); {LEFT_OUT} has them all", file=sys.stderr)


def _write_left_out(path: str, split: str, absent: Sequence[Absent]) -> None:
    fresh = not os.path.exists(path)
    with open(path, "a", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        if fresh:
            rows.writerow(["split", "key", "reason"])
        rows.writerows([split, one.key, one.reason] for one in absent)


def _bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BadVideo(f"cannot be opened: {error.strerror or error}") from error
