"""A folder's own split, and a source that stands in where no folder is named."""

import pytest

from vmae_jax.data import sources
from vmae_jax.spec import ConfigError, build, call


@pytest.fixture
def folder(tmp_path):
    for i in range(23):
        (tmp_path / f"{i:02}.mp4").write_bytes(b"")
    return tmp_path


def names(source) -> set[str]:
    opened = source.open()
    return {opened.fetch(i).key for i in range(len(opened))}


def test_the_parts_are_disjoint_and_whole(folder):
    whole, train, held_out = (names(sources.folder(str(folder), part=part)) for part in sources.PARTS)
    assert len(whole) == 23
    assert len(held_out) == 2
    assert not train & held_out
    assert train | held_out == whole


def test_the_split_depends_on_names_alone(folder):
    before = names(sources.folder(str(folder), part="held_out", share=0.5))
    (folder / "new.mp4").write_bytes(b"")
    after = names(sources.folder(str(folder), part="held_out", share=0.5))
    assert len(before - after) <= 1, "one more video moves at most one across"


def test_one_video_is_not_split(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(ConfigError, match="one video cannot be split"):
        sources.folder(str(tmp_path), part="train").open()


def test_folder_or(folder):
    other = call("data.sources.folder", path="elsewhere")
    assert build(call("data.sources.folder_or", otherwise=other)) == sources.folder("elsewhere")
    assert build(call("data.sources.folder_or", otherwise=other, path=str(folder))) == sources.folder(str(folder))


def test_an_unknown_part_is_refused():
    with pytest.raises(ConfigError, match="one of all, train, held_out"):
        sources.folder("x", part="test")
