"""`vmae bench input`: the verdict follows from the numbers, and the command measures every stage."""

import json

import pytest

from vmae_jax.bench.input import Rate, report, table, timed
from vmae_jax.commands import bench_input
from vmae_jax.commands.config import load_config
from vmae_jax.spec import ConfigError


def rate(clips_per_second, cpu_ms):
    return Rate(1000, 1000 / clips_per_second, cpu_ms)


STAGES = {"read": rate(500, 0.1), "decode and crop": rate(50, 35.0), "batch": rate(900, 1.0)}


def test_busy_cores_bound_the_input_and_the_dearest_stage_is_named():
    found = report(STAGES, rate(50, 36.0), cores=2, clips=64, step_seconds=None, hosts=1, row_bytes={})
    assert found["bound_by"] == "decode and crop"
    assert "90% of 2 cores" in found["why"]
    assert "feeding" not in found


def test_idle_cores_mean_that_something_is_waited_for():
    stages = STAGES | {"read": rate(20, 0.1)}
    found = report(stages, rate(19, 36.0), cores=8, clips=64, step_seconds=None, hosts=1, row_bytes={})
    assert found["bound_by"] == "read"
    assert "read alone reaches 20.0 clips/s" in found["why"]


def test_where_a_service_decodes_its_workers_are_waited_for():
    found = report(
        {"transfer": rate(900, 0.1)},
        rate(50, 3.0),
        cores=2,
        clips=64,
        step_seconds=None,
        hosts=1,
        row_bytes={},
        served=True,
    )
    assert found["bound_by"] == "the data service"
    assert "the cores here are 8% busy" in found["why"]


def test_how_many_cores_would_feed_steps_of_a_length():
    whole = rate(50, 40.0)  # two cores, busy: 25 clips/s a core
    found = report(STAGES, whole, cores=2, clips=64, step_seconds=0.32, hosts=2, row_bytes={})["feeding"]
    assert found["clips_per_second_needed"] == 200
    assert found["clips_per_second_of_hosts"] == 100
    assert found["wait_share"] == pytest.approx(0.5)
    assert (found["cores_needed"], found["cores_needed_per_host"]) == (8, 4)
    slow = report(STAGES, whole, cores=2, clips=64, step_seconds=10.0, hosts=2, row_bytes={})["feeding"]
    assert slow["wait_share"] == 0
    assert slow["cores_needed_per_host"] == 1
    text = table(report(STAGES, whole, cores=2, clips=64, step_seconds=0.32, hosts=2, row_bytes={}))
    assert "the devices wait 50% of the time; 4 cores per host would suffice" in text


def test_the_first_call_is_not_counted():
    calls = []

    def step():
        calls.append(1)
        return 3

    found = timed(step, cpu=lambda: 2.0 * len(calls), seconds=0.0)
    assert found.clips == 3
    assert found.cpu_seconds == 2.0
    assert len(calls) == 2


@pytest.mark.slow
def test_the_command_measures_every_stage(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = load_config("configs/quickstart.py:smoke", [])
    found = bench_input.run_input(config, seconds=0.3, step_seconds=0.1, hosts=2)
    json.dumps(found)
    assert list(found["stages"]) == ["read", "decode and crop", "batch", "transfer"]
    assert all(numbers["clips_per_second"] > 0 for numbers in found["stages"].values())
    assert found["bound_by"] in found["stages"]
    declared = bench_input.experiment(config).loader.spec()
    assert found["bytes"] == {name: one.size // one.shape[0] * one.dtype.itemsize for name, one in declared.items()}
    assert "together" in capsys.readouterr().err


def test_options_that_make_no_sense():
    config = load_config("configs/quickstart.py:smoke", [])
    for options in ({"seconds": 0.0}, {"hosts": 0}, {"step_seconds": -1.0}):
        with pytest.raises(ConfigError, match="vmae bench input"):
            bench_input.run_input(config, **options)
    config.data.service = "localhost:1"
    with pytest.raises(ConfigError, match="--hosts need hosts that decode"):
        bench_input.run_input(config, hosts=2)
