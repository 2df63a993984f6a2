"""A run that is resumed with another length than it was begun with reports what becomes of its schedule."""

import logging
import shutil

import pytest
from etils import epath
from ml_collections import ConfigDict
from small_runs import config_of, write_videos

from vmae_jax.commands import train
from vmae_jax.eval import records
from vmae_jax.io.paths import Workdir
from vmae_jax.io.writers import read_rows
from vmae_jax.spec import call


@pytest.mark.slow
def test_a_resumed_run_that_is_shorter_is_warned_of_in_its_log_and_its_report(tmp_path, caplog):
    write_videos(tmp_path / "videos", 4)

    def run(steps):  # which are epochs here
        config = config_of(tmp_path / "videos", {}, train={"length": {"epochs": steps}})
        config.optimizer.schedule = call("train.schedule.warmup_cosine", peak=1e-3, warmup={"steps": 1})
        config.checkpoint.every = ConfigDict({"steps": 1})
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            result = train.run(config, Workdir(tmp_path / "run"), progress=False)
        return result, [
            record.getMessage() for record in caplog.records if "its schedule is now" in record.getMessage()
        ]

    assert run(4)[1] == []
    recorded = records.read(epath.Path(tmp_path / "run"))
    assert (recorded.length, recorded.status()[1]) == (4, "done")
    for step in (3, 4):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    result, [message] = run(3)
    assert (result["status"], result["step"]) == ("done", 3)
    begins = "this run had 4 steps and resumes at step 2 with 3: its schedule is now that of 3 steps"
    assert message.startswith(f"warning: {begins}")
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    events = [row for row in rows if row.get("event") == "warning" and row["message"].startswith(begins)]
    assert [row["step"] for row in events] == [2]
