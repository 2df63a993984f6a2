"""What `vmae bench step` measures and how: turns, peak, parts of a trace, and the same work in PyTorch."""

import importlib.util
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax import cli
from vmae_jax.bench import profile, step
from vmae_jax.bench.step import Timing, interleaved, matmul_peak, random_batch

MICRO = [
    "--config=configs/videomae_v2.py:S", "--clips=2",
    "--config.method.model.size=micro", "--config.method.model.frames=4", "--config.method.model.resolution=32",
    "--config.data.sampler.frames=4", "--config.data.transforms[0].size=32", "--config.method.encoder_mask.ratio=0.5",
]  # fmt: skip
TORCH = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("transformers") is not None


def run(capsys, *arguments):
    status = cli.main(["bench", "step", *MICRO, *arguments])
    captured = capsys.readouterr()
    return status, json.loads(captured.out.splitlines()[-1]), captured.err


def test_contenders_take_turns_and_warm_up_first():
    calls = []

    def contender(name, seconds):
        def step():
            calls.append(name)
            return seconds

        return step

    took = interleaved({"a": contender("a", 1.0), "b": contender("b", 2.0)}, rounds=3, warmup=2)
    assert calls == ["a", "b"] * 5
    assert {name: timing.seconds for name, timing in took.items()} == {"a": (1.0,) * 3, "b": (2.0,) * 3}
    with pytest.raises(ValueError, match="at least one round"):
        interleaved({}, rounds=0)


def test_median_best_and_spread():
    timing = Timing((1.0, 2.0, 3.0, 4.0, 10.0))
    assert (timing.median, timing.best, timing.spread) == (3.0, 1.0, pytest.approx((4 - 2) / 2 / 3))


def test_the_peak_is_seconds_for_a_tera_of_operations(monkeypatch):
    """Four products of 50x50 matrices are a million operations: a second for them is a million for a tera."""
    monkeypatch.setitem(step.PEAK_SIDE, "cpu", 50)
    peak, clock = matmul_peak(jnp.float32), iter([10.0, 11.0])
    peak()  # compiles
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert peak() == pytest.approx(1e6)


def test_random_batches_are_valid_and_repeatable():
    spec = {
        "video": jax.ShapeDtypeStruct((2, 4, 8, 8, 3), np.uint8),
        "seed": jax.ShapeDtypeStruct((2, 2), np.uint32),
        "index": jax.ShapeDtypeStruct((2,), np.int32),
        "valid": jax.ShapeDtypeStruct((2,), np.bool_),
    }
    one, two = random_batch(spec), random_batch(spec)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert one["valid"].all()
    assert one["index"].tolist() == [0, 1]
    assert len(np.unique(one["video"])) > 100


def event(start, duration, name, **stats):
    return types.SimpleNamespace(start_ns=start, duration_ns=duration, name=name, stats=list(stats.items()))


def test_time_inside_another_event_counts_once():
    events = [
        event(10, 20, "inner"),
        event(0, 100, "loop"),
        event(40, 30, "inner"),
        event(45, 5, "kernel", hlo_op="leaf"),
        event(200, 7, "loop"),
    ]
    totals = {}
    for name, seconds in profile.own_times(events):
        totals[name] = totals.get(name, 0.0) + seconds * 1e9
    assert totals == pytest.approx({"loop": 100 - 20 - 30 + 7, "inner": 20 + 30 - 5, "leaf": 5})


@pytest.mark.parametrize(
    ("scope", "part"),
    [
        (
            "jit(train_step)/transpose(jvp(Encoder))/tower=encoder/blocks/while/body/part=mlp/fc1/dot_general",
            "encoder backward",
        ),
        ("jit(train_step)/jvp(tower=decoder)/head_pixels/dot_general", "decoder"),
        ("jit(train_step)/jvp(tower=teacher)/tower=encoder/part=mlp/dot_general", "teacher"),
        ("jit(train_step)/jvp(masks)/sort", "masks, patches and gather"),
        ("jit(train_step)/jvp(targets)/jit(_var)/reduce_sum", "targets and loss"),
        ("jit(train_step)/optimizer/add", "optimizer"),
        ("jit(train_step)/transpose(jvp(loss))/mul", "loss backward"),
        ("jit(train_step)/finite", "other"),
    ],
)
def test_each_scope_is_one_part(scope, part):
    shares = profile.by_part([profile.Op("fusion", scope, 1.0, 1)])
    assert {name for name, seconds in shares.items() if seconds} == {part}


@pytest.mark.slow
def test_the_command_measures_a_step_and_where_its_time_goes(capsys, tmp_path):
    status, report, table = run(capsys, "--rounds=2", f"--profile={tmp_path}", "--config.mesh.ici.data=8", "--clips=8")
    assert status == 0, report
    assert report["clips_per_second"] == pytest.approx(8 / report["seconds"])
    assert report["devices"] == 8
    assert report["share_of_peak"] > 0
    assert sum(report["parts"].values()) == pytest.approx(1.0)
    assert min(report["parts"][name] for name in ("encoder", "encoder backward", "decoder", "optimizer")) > 0
    assert len(report["costliest"]) == 10
    assert "share of peak" in table


def test_mistakes_are_reported_in_one_line(capsys):
    status, report, _ = run(capsys, "--against=tensorflow")
    assert status == 2
    assert report["error"] == "--against=tensorflow: there are torch, torch-fused, torch-compiled"


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.skipif(not TORCH, reason="needs torch and transformers")
def test_pytorch_does_the_same_work(capsys):
    """The first losses agree on the same weights, clips and masks: the work is equal."""
    arguments = ["--rounds=2", "--against=torch,torch-fused", "--config.mesh.ici.data=1", "--config.mesh.ici.fsdp=8"]
    status, report, _ = run(capsys, *arguments, "--clips=8")
    assert status == 0, report
    for name in ("torch", "torch-fused"):
        assert report[name]["first_loss"] == pytest.approx(report["first_loss"], rel=1e-5)
    assert report["ratio"] == report["torch"]["ratio"]
