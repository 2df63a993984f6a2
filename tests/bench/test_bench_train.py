"""`vmae bench train`: the whole of training against the step alone."""

import json

import pytest

from vmae_jax import cli


@pytest.mark.slow
def test_it_measures_both_sides(capsys):
    arguments = ["bench", "train", "--config=configs/quickstart.py:smoke", "--rounds=1"]
    assert cli.main(arguments) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["share_of_step"] == pytest.approx(report["clips_per_second"] / report["step_clips_per_second"])
    assert 0 <= report["data_wait"] < 1


def test_rounds_are_at_least_one(capsys):
    assert cli.main(["bench", "train", "--config=configs/quickstart.py:smoke", "--rounds=0"]) == 2
    assert "--rounds must be at least 1" in capsys.readouterr().err
