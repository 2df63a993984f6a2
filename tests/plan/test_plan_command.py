"""`vmae plan` compiles the very step that trains, reads no data, and reports what would fit."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import pytest

from vmae_jax.commands import plan, sweep
from vmae_jax.commands.config import apply_overrides, load_config
from vmae_jax.plan import compile as plan_compile
from vmae_jax.plan import hlo
from vmae_jax.plan.schedule import Schedule
from vmae_jax.plan.topology import CHIPS
from vmae_jax.plan.work import Part, Work
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = [
    ("method.model.width", "64"),
    ("method.model.depth", "2"),
    ("method.model.heads", "2"),
    ("method.model.decoder_depth", "1"),
    ("method.model.resolution", "32"),
    ("data.transforms[0].size", "32"),
    ("data.global_batch", "4"),
]


def config(**overrides):
    more = [(path.replace("__", "."), str(value)) for path, value in overrides.items()]
    return load_config("configs/videomae_v2.py:S", [*SMALL, *more])


@pytest.mark.slow
def test_a_plan_for_virtual_cpus(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("VMAE_CACHE", str(tmp_path))
    report = plan.run(config(mesh__ici__fsdp=2), topology_name="cpu:4")
    assert report["cached"] is False
    again = plan.run(config(mesh__ici__fsdp=2), topology_name="cpu:4")
    assert again == report | {"cached": True}
    assert "earlier (cached)" in capsys.readouterr().err
    assert report["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert report["devices"] == 4
    assert report["fits"] is True
    assert report["clips_per_step"] == 16
    assert report["model_flops_per_step"] == pytest.approx(16 * report["model_flops_per_clip"])
    memory = report["hbm_bytes_per_device"]
    batch = 16 * (16 * 32 * 32 * 3 + 8 + 4 + 1) // 4
    assert memory["arguments"] == pytest.approx(memory["state"] + batch, rel=0.01)
    assert memory["peak"] >= memory["arguments"] + memory["temporaries"]
    assert report["collectives"]["all-gather"]["count"] > 0
    json.dumps(report)


def test_splitting_the_state_makes_it_smaller_and_dims_that_do_not_divide_are_listed(monkeypatch):
    def state(**overrides):
        monkeypatch.setattr(plan, "compile_training", chip(10**12))
        planned = plan.run(config(**overrides), topology_name="cpu:4")
        return planned["hbm_bytes_per_device"]["state"], planned["replicated"]

    whole, _ = state()
    split, replicated = state(mesh__ici__fsdp=4)
    assert split < whole / 3
    assert replicated == []
    _, replicated = state(mesh__ici__tensor=4)
    assert any("heads of 2 does not divide by tensor of 4" in note for note in replicated)


def chip(limit, each=1_000_000):
    """A compiler of a chip with `limit` bytes, where a clip of a micro-batch takes `each`; refuses as libtpu does."""

    def compile_training(init, step, *, target, mesh, batch_spec, executed, folder):
        rows = batch_spec["video"].shape[0] // mesh.size
        assert rows % step.accumulate == 0
        replicated = sharding.shardings(sharding.abstract(init, batch_spec), mesh).replicated
        arguments = plan_compile.state_bytes(init, mesh=mesh, batch_spec=batch_spec)
        peak = arguments + each * rows // step.accumulate
        facts: dict[str, Any] = {"seconds": 0.1, "replicated": replicated, "mesh": dict(mesh.shape)}
        if peak > limit:
            return plan_compile.Compiled(False, None, None, None, peak, limit, None, None, **facts)
        sent, done = hlo.Collectives({}, 0), Work(1e9, 2e9, 3e9, 0.0, {"fwd": Part(1e9, 2e9, 3e9, 0.0)})
        return plan_compile.Compiled(
            True, arguments, peak - arguments, 0, peak, limit, sent, done, **facts, schedule=Schedule()
        )

    return compile_training


STATE = 11_500_000  # more than the small model's, which is checked below


def test_what_does_not_fit_states_by_how_much_and_what_would(monkeypatch, capsys):
    monkeypatch.setattr(plan, "compile_training", chip(STATE + 1_900_000))
    report = plan.run(config(), topology_name="cpu:4")
    assert report["fits"] is False
    memory = report["hbm_bytes_per_device"]
    assert memory["state"] < STATE
    assert report["over_bytes"] == memory["peak"] - report["hbm_bytes_limit"] > 0
    assert memory["temporaries"] is None
    micro = report["would_fit"]["accumulate"]
    assert "does NOT fit" in capsys.readouterr().err
    assert plan.run(config(train__accumulate=micro), topology_name="cpu:4")["fits"] is True
    assert micro == 2 or not plan.run(config(train__accumulate=micro // 2), topology_name="cpu:4")["fits"]


def test_a_state_that_is_too_large_by_itself_is_reported(monkeypatch):
    monkeypatch.setattr(plan, "compile_training", chip(100_000))
    report = plan.run(config(), topology_name="cpu:4")
    assert "mesh.ici.fsdp" in report["would_fit"]["advice"]


def test_largest_batch(monkeypatch):
    cpus = plan.topology("cpu:4")
    monkeypatch.setattr(plan, "topology", lambda name: cpus._replace(chip=CHIPS["v5e"]))
    monkeypatch.setattr(plan, "compile_training", chip(STATE + 50_500_000))
    report = plan.run(config(), topology_name="four chips", largest=True)
    tried = {trial["size"]: trial["fits"] for trial in report["trials"]}
    assert len(tried) <= plan.COMPILES
    assert tried[report["largest_global_batch"]]
    assert not tried[report["largest_global_batch"] + 1]


@pytest.mark.slow
def test_a_sweep_recommends_what_fits_and_states_how_to_ask_for_it(monkeypatch, capsys):
    cpus = plan.topology("cpu:4")
    monkeypatch.setattr(sweep, "topology", lambda name: cpus._replace(chip=CHIPS["v5e"]))
    monkeypatch.setattr(plan, "compile_training", chip(STATE + 1_900_000))
    chosen = config()
    report = sweep.run(chosen, topology_name="four chips", tries=4)
    assert len(report["sweep"]) <= 4
    assert report["sweep"][0]["fits"] is False
    recommended = report["recommended"]
    assert recommended["fits"]
    assert recommended["accumulate"] > 1 or recommended["mesh"]["fsdp"] > 1
    result = capsys.readouterr().err
    assert "=>" in result
    assert "recommended: --config.mesh.ici.data=" in result
    json.dumps(report)
    # The overrides ask for the very thing that was tried.
    overrides = [tuple(item.removeprefix("--config.").split("=")) for item in recommended["overrides"]]
    apply_overrides(chosen, overrides)
    planned, _ = plan.adapt(chosen, cpus)
    assert dict(planned.mesh.shape) == recommended["mesh"]
    assert planned.at().peak == recommended["peak"]


@pytest.mark.parametrize(("name", "tries", "message"), [("cpu:4", 3, "speed is known"), ("chip", 0, "at least 1")])
def test_a_sweep_that_makes_no_sense_is_reported(monkeypatch, name, tries, message):
    cpus = plan.topology("cpu:4")
    if name == "chip":
        monkeypatch.setattr(sweep, "topology", lambda name: cpus._replace(chip=CHIPS["v5e"]))
    with pytest.raises(ConfigError, match=message):
        sweep.run(config(), topology_name=name, tries=tries)


def test_the_largest_batch_of_a_cpu_is_nobodys_question():
    with pytest.raises(ConfigError, match="memory is known"):
        plan.run(config(), topology_name="cpu:4", largest=True)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu (pip install 'vmae-jax[plan]')")
def test_a_plan_for_a_tpu_that_is_not_here():
    """The step compiles for 16 chips in bfloat16, with the memory, links and peaks of the chip."""
    overrides = [f"--config.{path}={value}" for path, value in SMALL]
    overrides.append("--config.data.global_batch=16")
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    command = [sys.executable, "-m", "vmae_jax", "plan", "--config=configs/videomae_v2.py:S", "--topology=v5e:4x4"]
    done = subprocess.run(
        [*command, *overrides], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["devices"], report["chips"], report["sold_as"]) == (16, 16, "v5litepod-16")
    assert report["fits"] is True
    assert report["hbm_bytes_limit"] == int(15.75 * 2**30)
    assert report["collectives"]["all-reduce"]["bytes"] > 0
    # What the compiled program multiplies is what the traced one does; tiles are filled up besides.
    executed = report["padded_flops_per_step"] / report["padded_over_executed"]
    assert executed == pytest.approx(report["executed_flops_per_step"], rel=0.02)
    assert report["padded_over_executed"] > 1
    assert report["compiler_seconds"] > report["bound_terms"]["compute"]
    assert report["hbm_bytes_moved_per_device"] > report["hbm_bytes_per_device"]["arguments"]
    assert report["seconds_at_bound"] == max(report["bound_terms"].values())
    assert report["bound_by"] in report["bound_terms"]
    assert any("bfloat16" in note for note in report["notes"])


def test_nothing_here_changed_the_devices():
    assert jax.device_count() == 8
