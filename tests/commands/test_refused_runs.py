"""A run that is refused leaves no config in its workdir, so that a corrected command starts as in a new one."""

import pytest
from small_runs import config_of, save_run, write_videos

from vmae_jax.commands import train
from vmae_jax.io.paths import Workdir
from vmae_jax.spec import ConfigError, call


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder, 4)
    return folder


def test_a_schedule_that_does_not_fit_leaves_no_workdir(videos, tmp_path):
    config = config_of(videos, {})
    config.optimizer.schedule = call("train.schedule.warmup_cosine", peak=1e-3, warmup={"steps": 9})
    with pytest.raises(ConfigError, match=r"a warm-up of 9 steps does not fit .*schedule\.warmup\.steps=0"):
        train.run(config, Workdir(tmp_path / "run"), progress=False)
    assert not (tmp_path / "run").exists()


def test_weights_that_do_not_exist_leave_no_workdir(videos, tmp_path):
    config = config_of(videos, {})
    config.init_from["params/encoder"] = call("train.init_from.weights", path=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"^init_from\.params/encoder: .*/nothing"):
        train.run(config, Workdir(tmp_path / "run"), progress=False)
    assert not (tmp_path / "run").exists()


def test_weights_that_do_not_fit_leave_no_config(videos, tmp_path):
    other = config_of(videos, {})
    other.method.model.depth = 3
    save_run(tmp_path / "other", other)
    config = config_of(videos, {})
    config.init_from["params/encoder"] = call(
        "train.init_from.weights", path=str(tmp_path / "other"), select="params/encoder"
    )
    workdir = Workdir(tmp_path / "run")
    with pytest.raises(ConfigError, match="differ in depth 3 and 2"):
        train.run(config, workdir, progress=False)
    assert not workdir.config_json.exists()
    assert not workdir.metrics.exists()
    del config.init_from["params/encoder"]
    assert train.run(config, workdir, progress=False)["status"] == "done"
    assert workdir.config_json.exists()
