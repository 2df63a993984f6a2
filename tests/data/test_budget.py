"""The memory of reading ahead: computed, fitted to a budget, and refused where nothing helps."""

import dataclasses

import pytest

from vmae_jax.data import budget, clips, files, sources, transforms
from vmae_jax.data.pipeline import loader
from vmae_jax.spec import ConfigError

ROWS = range(32)  # 8 videos of 4 clips


def make(**options):
    crops = [transforms.multi_scale_crop(224)]
    return loader(sources.folder("/nowhere"), clips.dense(16, 4), crops, global_batch=8, repeat=4, **options)


def test_the_sum_of_every_queue():
    found = budget.budget(make(memory=4.0), ROWS, workers=3)
    clip = 16 * 224 * 224 * 3
    assert found.batches == (2 + budget.ON_THE_WAY) * 32 * clip
    assert found.clips == 4 * 4 * clip
    assert found.total == found.batches + found.clips + 3 * budget.PROCESS
    assert found.limit == 4 << 30
    assert "GiB of 4.00" in found.describe()


def test_records_pass_through_this_process_and_files_do_not(tmp_path):
    record = 5 << 20
    found = budget.budget(make(), ROWS, workers=3, record=record)
    assert found.records == 4 * budget.COPIES * record
    assert found.total == budget.budget(make(), ROWS, workers=3).total + found.records
    assert "records being read 0.14" in found.describe()
    tight = dataclasses.replace(make(workers=8, prefetch=1), memory=(found.total + 1) / (1 << 30))
    assert budget.fitted(tight, ROWS, record=record).workers < budget.fitted(tight, ROWS).workers
    (tmp_path / "a.mp4").touch()
    assert budget.record_bytes(sources.folder(str(tmp_path)).open()) == 0
    here, there = files.Files([files.Entry("/a.mp4")], root=""), files.Files([files.Entry("gs://b/a.mp4")], root="")
    assert budget.record_bytes(here) == 0 < budget.record_bytes(there)


def test_less_is_read_ahead_before_fewer_processes_read():
    roomy = budget.fitted(make(memory=8.0, workers=8, prefetch=4), ROWS)
    assert (roomy.prefetch, roomy.workers) == (4, 8)
    between = dataclasses.replace(make(workers=8, prefetch=4), memory=(roomy.total - 1) / (1 << 30))
    assert (budget.fitted(between, ROWS).prefetch, budget.fitted(between, ROWS).workers) == (3, 8)
    tight = budget.fitted(make(memory=0.5, workers=8, prefetch=4), ROWS)
    assert tight.prefetch == 1
    assert 1 <= tight.workers < 8
    assert tight.total <= tight.limit


def test_what_cannot_fit_is_told():
    with pytest.raises(ConfigError, match=r"32 clips a step on this host take .* the budget is 0\.10"):
        budget.fitted(make(memory=0.1), ROWS)
    with pytest.raises(ConfigError, match="memory must be positive"):
        make(memory=0.0)


def test_by_default_half_of_what_there_is():
    assert budget.budget(make(), ROWS, workers=1).limit == budget.available_memory() // 2 > 0
