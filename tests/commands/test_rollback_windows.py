"""What a run left behind: how often in a row, and kept in a file."""

import pytest

from vmae_jax.commands.rollback import Skip, in_a_row, read_skips, record
from vmae_jax.io.paths import Workdir
from vmae_jax.spec import ConfigError


def test_times_in_a_row_are_those_without_a_new_checkpoint():
    skips = [Skip(5, 8, 5), Skip(8, 9, 5), Skip(20, 21, 10), Skip(21, 25, 10)]
    assert in_a_row([], 5) == 0
    assert in_a_row(skips[:2], 5) == 2
    assert in_a_row(skips, 10) == 2
    assert in_a_row(skips, 5) == 0


def test_the_windows_are_read_as_they_were_written(tmp_path):
    workdir = Workdir(tmp_path)
    assert read_skips(workdir) == []
    skips = [Skip(5, 8, 5, "step 7: not finite"), Skip(2, 9, 2, "step 4: spike")]
    for skip in skips:
        record(workdir, skip)
    assert read_skips(workdir) == skips
    workdir.skipped.write_text('{"first": 1}\n')
    with pytest.raises(ConfigError, match=r"skipped\.jsonl is not what a run wrote"):
        read_skips(workdir)
