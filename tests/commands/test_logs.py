"""What `train.logging` names is what metrics go to; a package that is missing is one clear line."""

import importlib.util
import types

import pytest
from ml_collections import ConfigDict

from vmae_jax.commands import logs
from vmae_jax.commands.config import load_config
from vmae_jax.io.paths import Workdir
from vmae_jax.spec import ConfigError, build

CONFIG = "configs/quickstart.py:smoke"


def made_with(*overrides):
    """An experiment as far as writers look at it."""
    config = load_config(CONFIG, overrides)
    return types.SimpleNamespace(config=config, train=build(config.train))


def names(made, tmp_path):
    return [type(writer).__name__ for writer in logs.open_writers(made, Workdir(tmp_path / "run"))._writers]


def test_tensorboard_is_the_default_and_can_be_left_out(tmp_path):
    assert names(made_with(), tmp_path) == ["JsonlWriter", "TensorBoardWriter"]
    assert names(made_with(("train.logging.tensorboard", "False")), tmp_path) == ["JsonlWriter"]


def test_a_project_turns_a_tracker_on(tmp_path):
    made = made_with(("train.logging.wandb", "mine"), ("train.logging.trackio", "mine"))
    assert names(made, tmp_path)[2:] == ["WandbWriter", "TrackioWriter"]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_missing_package_is_one_line_with_the_command_that_installs_it(name, monkeypatch):
    made = made_with((f"train.logging.{name}", "mine"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ConfigError) as error:
        logs.check_trackers(made)
    assert f"pip install 'vmae-jax[{name}]'" in str(error.value)
    assert f"config.train.logging.{name}=mine" in str(error.value)
    assert "\n" not in str(error.value)
    logs.check_trackers(made_with())


@pytest.mark.parametrize(
    ("logging", "message"),
    [({"wandbb": "x"}, "no entry 'wandbb'"), ({"wandb": " "}, "logging.wandb must be the name of a project"),
     ({"tensorboard": "yes"}, "logging.tensorboard must be True or False")],
)  # fmt: skip
def test_entries_that_mean_nothing_are_refused(logging, message):
    made = made_with()
    made.config.train.logging = ConfigDict(logging)
    with pytest.raises(ConfigError, match=message):
        build(made.config.train)
