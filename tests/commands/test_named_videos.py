"""Names of videos for people: files, keys of records, and numbers where there is neither."""

import types

from vmae_jax.commands.named_videos import name_of


def failing(index):
    raise OSError("cut off")


def test_files_records_and_what_cannot_be_read():
    assert name_of(types.SimpleNamespace(key=lambda index: f"videos/{index}.mp4"), 3) == "videos/3.mp4"
    records = types.SimpleNamespace(fetch=lambda index: types.SimpleNamespace(key=f"train/{index}"))
    assert name_of(records, 3) == "train/3"
    assert name_of(types.SimpleNamespace(fetch=failing), 3) == "video 3"
