"""The memory of reading ahead: computed, fitted to a budget, and refused where nothing helps."""

import dataclasses

import pytest

from vmae_jax.data import clips, files, opened, sources, transforms
from vmae_jax.data.pipeline import loader
from vmae_jax.data.source import record_bytes
from vmae_jax.spec import ConfigError

ROWS = range(32)  # 8 videos of 4 clips


def make(**options):
    crops = [transforms.multi_scale_crop(224)]
    return loader(sources.folder("/nowhere"), clips.dense(16, 4), crops, global_batch=8, repeat=4, **options)


def test_the_sum_of_every_queue():
    """By hand: a clip of 16 frames of 224x224 in colour is 2,408,448 bytes, a batch 32 of them."""
    found = opened.budget(make(memory=4.0), ROWS, workers=3)
    assert found.batches == 5 * 77_070_336  # two made ahead, three on the way
    assert found.clips == 4 * 4 * 2_408_448  # four of a video, in each of three processes and in one slab more
    assert found.decoders == 3 * 96 * 1_048_576
    assert found.total == 385_351_680 + 38_535_168 + 301_989_888
    assert found.limit == 4 * 1_073_741_824
    assert found.describe().startswith("0.68 GiB of 4.00: 3 decoders 0.28, clips being read 0.04, 2 + 3 batches 0.36")
    assert opened.budget(make(prefetch=3), ROWS, workers=3).total - found.total == 77_070_336
    assert opened.budget(make(), ROWS, workers=4).total - found.total == 96 * 1_048_576 + 4 * 2_408_448
    assert opened.budget(make(), range(16), workers=3).batches == 5 * 77_070_336 // 2


def test_records_pass_through_this_process_and_files_do_not(tmp_path):
    record = 5 << 20
    found = opened.budget(make(), ROWS, workers=3, record=record)
    assert found.records == 4 * 7 * 5_242_880
    assert found.total == opened.budget(make(), ROWS, workers=3).total + found.records
    assert "records being read 0.14" in found.describe()
    tight = dataclasses.replace(make(workers=8, prefetch=1), memory=(found.total + 1) / (1 << 30))
    assert opened.fitted(tight, ROWS, record=record).workers < opened.fitted(tight, ROWS).workers
    (tmp_path / "a.mp4").touch()
    assert record_bytes(sources.folder(str(tmp_path)).open()) == 0
    here, there = files.Files([files.Entry("/a.mp4")], root=""), files.Files([files.Entry("gs://b/a.mp4")], root="")
    assert record_bytes(here) == 0 < record_bytes(there)


def test_less_is_read_ahead_before_fewer_processes_read():
    roomy = opened.fitted(make(memory=8.0, workers=8, prefetch=4), ROWS)
    assert (roomy.prefetch, roomy.workers) == (4, 8)
    between = dataclasses.replace(make(workers=8, prefetch=4), memory=(roomy.total - 1) / (1 << 30))
    assert (opened.fitted(between, ROWS).prefetch, opened.fitted(between, ROWS).workers) == (3, 8)
    tight = opened.fitted(make(memory=0.5, workers=8, prefetch=4), ROWS)
    assert tight.prefetch == 1
    assert 1 <= tight.workers < 8
    assert tight.total <= tight.limit


def test_what_cannot_fit_is_reported():
    with pytest.raises(ConfigError, match=r"32 clips a step on this host take .* the budget is 0\.10"):
        opened.fitted(make(memory=0.1), ROWS)
    with pytest.raises(ConfigError, match="memory must be positive"):
        make(memory=0.0)


@pytest.mark.parametrize(("group", "half"), [("max\n", 8 << 30), (f"{1 << 30}\n", 1 << 29), (f"{1 << 40}\n", 8 << 30)])
def test_by_default_half_of_what_there_is(monkeypatch, group, half):
    """Of the machine's memory, 16 GiB here, or of its container's."""
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 4 << 20}.__getitem__)
    monkeypatch.setattr("pathlib.Path.read_text", lambda path: group)
    assert opened.budget(make(), ROWS, workers=1).limit == half
