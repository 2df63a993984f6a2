"""A path that cannot be a folder is a mistake in one line, wherever it is given."""

import pytest

from vmae_jax.io import folders
from vmae_jax.io.folders import check_folder
from vmae_jax.spec import ConfigError


def test_a_file_is_no_folder(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for exists in (False, True):
        with pytest.raises(ConfigError, match=rf"--out={file} is a file: name a folder"):
            check_folder(file, "--out", exists=exists)
        with pytest.raises(ConfigError, match=rf"--workdir={file}/a/b cannot be a folder, for {file} is a file"):
            check_folder(file / "a" / "b", exists=exists)
        with pytest.raises(ConfigError, match=r"File name too long: name another folder"):
            check_folder(tmp_path / ("x" * 300), exists=exists)
        check_folder(tmp_path, exists=exists)
    check_folder(tmp_path / "not" / "yet", exists=False)
    with pytest.raises(ConfigError, match=rf"--workdir={tmp_path}/not: there is no such folder"):
        check_folder(tmp_path / "not")
    check_folder("gs://bucket/anything")


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_without_permission(tmp_path, monkeypatch, exists):
    monkeypatch.setattr(folders.os, "access", lambda path, mode: False)  # the tests may run as root
    with pytest.raises(ConfigError, match=f"cannot be {'read' if exists else 'written'} by this user"):
        check_folder(tmp_path, exists=exists)
