"""Names of videos for people: files, keys of records, and numbers where there is neither."""

import types

from vmae_jax.commands.named_videos import name_of
from vmae_jax.data import sources


def failing(index):
    raise OSError("cut off")


def test_files_below_a_folder_and_files_named_by_their_whole_path(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"")
    assert name_of(sources.folder(str(tmp_path)).open(), 0) == "a.mp4"
    assert name_of(sources.paths([str(tmp_path / "a.mp4")]).open(), 0) == str(tmp_path / "a.mp4")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "c.mp4").write_bytes(b"")
    (tmp_path / "lists" / "all.csv").write_text(f"{tmp_path}/a.mp4 0\nc.mp4 1\n")
    listed = sources.csv(str(tmp_path / "lists" / "all.csv")).open()
    assert [name_of(listed, i) for i in range(2)] == [str(tmp_path / "a.mp4"), "c.mp4"]


def test_files_records_and_what_cannot_be_read():
    assert name_of(types.SimpleNamespace(key=lambda index: f"videos/{index}.mp4"), 3) == "videos/3.mp4"
    records = types.SimpleNamespace(fetch=lambda index: types.SimpleNamespace(key=f"train/{index}"))
    assert name_of(records, 3) == "train/3"
    assert name_of(types.SimpleNamespace(fetch=failing), 3) == "video 3"
