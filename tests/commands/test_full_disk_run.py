"""A run whose disk is full for a while, with a broken video in its folder, loses nothing."""

import builtins
import errno
import io
import json
import os

import pytest
import small_runs
from ml_collections import ConfigDict

from vmae_jax.commands import train
from vmae_jax.commands.errors import exit_status
from vmae_jax.io.checkpoint import Checkpoints, SaveError
from vmae_jax.io.paths import Workdir
from vmae_jax.io.writers import read_rows

STEPS = 6


def fill(workdir, monkeypatch):
    """From its first checkpoint on the disk of the workdir takes nothing."""
    top, first = str(workdir.path), str(workdir.checkpoints / "2")

    def refusing(function):
        def call(path, *args, **kwargs):
            mode = args[0] if args else kwargs.get("mode", "r")
            below = not isinstance(path, int) and os.fspath(path).startswith(top)
            if below and isinstance(mode, str) and set(mode) & set("wax+") and os.path.exists(first):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
            return function(path, *args, **kwargs)

        return call

    for module in (builtins, io):
        monkeypatch.setattr(module, "open", refusing(module.open))


@pytest.mark.slow
def test_it_continues_to_its_end_ends_with_75_and_resumes(tmp_path, monkeypatch, caplog):
    small_runs.write_videos(tmp_path / "videos")
    (tmp_path / "videos" / "class0" / "broken.mp4").write_bytes(b"no video")
    config = small_runs.config_of(
        tmp_path / "videos", {}, train={"length": {"steps": STEPS}, "log_every": {"steps": 1}}
    )
    config.checkpoint.every = ConfigDict({"steps": 2})
    config.checkpoint.on_error = "continue"
    config.data.max_bad_fraction = 1.0
    workdir = Workdir(tmp_path / "run")
    with monkeypatch.context() as patch:
        fill(workdir, patch)
        with pytest.raises(SaveError) as caught:
            train.run(config, workdir, progress=False)
    assert exit_status(caught.value) == 75
    assert caught.value.step == STEPS
    assert sum("training continues (checkpoint.on_error)" in record.getMessage() for record in caplog.records) >= 2
    assert sum("JsonlWriter failed, training continues" in record.getMessage() for record in caplog.records) == 1
    assert Checkpoints(workdir.checkpoints).steps() == [2]

    assert train.run(config, workdir, progress=False)["step"] == STEPS
    rows = [row["step"] for row in read_rows(workdir.metrics) if row["kind"] == "train"]
    assert rows == list(range(1, STEPS + 1))
    assert Checkpoints(workdir.checkpoints).latest() == STEPS
    listed = [json.loads(line)["path"] for line in workdir.quarantine.read_text().splitlines()]
    assert len(listed) == 1
    assert "broken" in listed[0]
