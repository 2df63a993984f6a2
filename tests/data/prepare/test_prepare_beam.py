"""Two Beam workers make the bytes that one process makes."""

import pytest
from prepared_sets import checksums, in_this_process, prepare

from vmae_jax.data.prepare.runners import beam_runner
from vmae_jax.spec import ConfigError

ORIGIN = {"labels": "folders"}


@pytest.mark.slow
def test_two_workers_make_the_same_bytes(video_folder, tmp_path):
    pytest.importorskip("apache_beam", reason="Apache Beam is an extra: pip install 'vmae-jax[beam]'")
    chosen = {"codec": "h264", "quality": 30, "origin": ORIGIN, "shard_count": 4}
    prepare(video_folder, tmp_path / "here", runner=in_this_process, **chosen)
    workers = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    prepare(video_folder, tmp_path / "beam", runner=beam_runner(workers), **chosen)
    assert checksums(tmp_path / "beam") == checksums(tmp_path / "here")


def test_without_beam_one_line_states_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    with pytest.raises(ConfigError, match=r"pip install 'vmae-jax\[beam\]'") as caught:
        beam_runner()
    assert "\n" not in str(caught.value)
