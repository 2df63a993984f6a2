"""Following objects: its arms, their compute, and its table."""

import pytest

from benchmarks.learning_propagation import ARMS, SETTING, SMOKE, Job, config_of, jobs, main, tables
from vmae_jax.commands.experiment import experiment


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_trained_for_as_long_as_its_flops_allow(arm, tmp_path):
    config = config_of(SMOKE, arm, 0, tmp_path)
    assert config.data.source.call == "data.synthetic.world"
    flops, step = SMOKE.arms.flops, experiment(config).model_flops()
    assert abs(config.train.length.steps * step - flops) <= step / 2


def test_an_arm_is_trained_before_its_features_are_measured():
    found = jobs(2)
    assert len(found) == len(set(found)) == 20
    for seed in range(2):
        for arm in ARMS:
            trained, followed = (found.index(Job(stage, arm, seed)) for stage in ("pretrain", "follow"))
            assert trained < followed


def test_the_table_compares_with_the_other_arm_and_with_no_training():
    rows = {}
    for arm, value in {"siammae": 0.5, "videomae": 0.4, "siammae-untrained": 0.3, "videomae-untrained": 0.45}.items():
        for seed in range(3):
            numbers = {
                f"{where}_{name}": value + seed / 100
                for where in ("last", "before")
                for name in ("jf_mean", "j_mean", "f_mean")
            }
            rows[Job("follow", arm, seed)] = numbers
    lines = tables(SETTING, rows).splitlines()
    assert lines[2].endswith("| 10.0 ± 0.0 | videomae |")
    assert lines[3].endswith("| -5.0 ± 0.0 | videomae-untrained |")
    assert lines[4].startswith("| siammae-untrained | 31.0 ± 2.5 |")


def test_bad_options(tmp_path, capsys):
    assert main([f"--out={tmp_path}", "--seeds=0"]) == 2
    assert "at least 1" in capsys.readouterr().err
    assert main([f"--out={tmp_path}", "--report"]) == 2
    assert "holds no results" in capsys.readouterr().err
