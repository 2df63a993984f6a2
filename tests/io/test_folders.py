"""A path that cannot be a folder is a mistake in one line, wherever it is given."""

import os
import types

import pytest

from vmae_jax.commands.errors import exit_status
from vmae_jax.io import folders
from vmae_jax.io.folders import check_folder
from vmae_jax.spec import ConfigError


def test_a_file_is_no_folder(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for exists in (False, True):
        with pytest.raises(ConfigError, match=rf"--out={file} is a file: name a folder"):
            check_folder(file, "--out", exists=exists)
        with pytest.raises(ConfigError, match=rf"--workdir={file}/a/b cannot be a folder, because {file} is a file"):
            check_folder(file / "a" / "b", exists=exists)
        with pytest.raises(ConfigError, match=r"File name too long: name another folder"):
            check_folder(tmp_path / ("x" * 300), exists=exists)
        check_folder(tmp_path, exists=exists)
    check_folder(tmp_path / "not" / "yet", exists=False)
    with pytest.raises(ConfigError, match=rf"--workdir={tmp_path}/not: there is no such folder"):
        check_folder(tmp_path / "not")
    with pytest.raises(ConfigError, match=rf"^checkpoint {tmp_path}/not: there is no such folder"):
        check_folder(tmp_path / "not", "checkpoint")
    check_folder("gs://bucket/anything")


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_without_permission(tmp_path, monkeypatch, exists):
    monkeypatch.setattr(folders.os, "access", lambda path, mode: False)  # the tests may run as root
    with pytest.raises(ConfigError, match=f"cannot be {'read' if exists else 'written'} by this user"):
        check_folder(tmp_path, exists=exists)


def test_a_disk_that_became_read_only_interrupts_a_run_and_is_a_mistake_of_a_new_one(tmp_path, monkeypatch):
    flags = types.SimpleNamespace(f_flag=os.ST_RDONLY)
    monkeypatch.setattr(folders.os, "access", lambda path, mode: False)
    monkeypatch.setattr(folders.os, "statvfs", lambda path: flags)
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    with pytest.raises(ConfigError, match="cannot be written by this user"):
        check_folder(checkpoints, exists=False, run=tmp_path)
    (tmp_path / "config.json").touch()
    with pytest.raises(OSError, match=f"Read-only file system: '{checkpoints}'") as found:
        check_folder(checkpoints, exists=False, run=tmp_path)
    assert exit_status(found.value) == 75
    flags.f_flag = 0
    with pytest.raises(ConfigError, match="cannot be written by this user"):  # a permission that was never given
        check_folder(checkpoints, exists=False, run=tmp_path)
