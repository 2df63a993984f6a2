"""A run that meets bad data goes back and around it, and is then the run that never had them."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from tests import quick_xla
from tests.forks import Process
from vmae_jax.io.checkpoint import read_tree
from vmae_jax.io.layout import flat
from vmae_jax.io.writers import read_rows

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCH, STEPS = 8, 12

PLUGIN = '''
from collections.abc import Sequence
from typing import Any
import jax.numpy as jnp
from vmae_jax.data.order import clip_seeds
from vmae_jax.registry import register

__all__ = ["method"]

@register("method", method="method")
def method(method: Any, batches: Sequence[int] = ()) -> Any:
    """The method, its loss not a number in the batches of these numbers."""
    seeds = jnp.asarray([clip_seeds(0, batch * 8, 1)[0] for batch in batches], jnp.uint32).reshape(-1, 2)

    def loss(params, batch, context):
        found = method.loss(params, batch, context)
        bad = (batch["seed"][:, None] == seeds).all(-1).any()
        factor = jnp.where(bad, jnp.nan, 1.0)
        terms = {name: term.replace(total=term.total * factor) for name, term in found.terms.items()}
        return found.replace(terms=terms)

    return method._replace(loss=loss)
'''
CONFIG = """
from vmae_jax.configs import quickstart
from vmae_jax.spec import call

def get_config(arguments=None):
    config = quickstart.get_config("smoke")
    batches = [int(number) for number in filter(None, (arguments or "").split("+"))]
    config.method = call("poison.method", method=config.method, batches=batches)
    return config
"""


@pytest.fixture(scope="module")
def train(tmp_path_factory, forks):
    home = tmp_path_factory.mktemp("poison")
    (home / "poison.py").write_text(PLUGIN)
    (home / "config.py").write_text(CONFIG)
    environment = quick_xla.on_devices(1) | {
        "VMAE_CACHE": str(home / "cache"), "PYTHONPATH": f"{home}{os.pathsep}{ROOT}", "XDG_CACHE_HOME": str(home),
    }  # fmt: skip

    def run(workdir, poison, *more, status=0):
        process = Process(
            forks,
            [
                "train", "--plugins=poison", f"--config={home}/config.py:{poison}",
                f"--workdir={workdir}", "--quiet", f"--config.train.length.steps={STEPS}",
                "--config.checkpoint.every.steps=4", "--config.train.on_nonfinite=rollback",
                "--config.train.pictures_every=none", "--config.eval.data=none", *more,
            ],
            environment,
        )  # fmt: skip
        assert process.wait(600) == status, process.err[-3000:]
        return json.loads(process.out.splitlines()[-1])

    return run


def losses(workdir):
    return [(row["step"], row["loss"], row["grad_norm"]) for row in read_rows(workdir / "metrics.jsonl")
            if row["kind"] == "train"]  # fmt: skip


def events(workdir, name):
    return [row for row in read_rows(workdir / "metrics.jsonl") if row.get("event") == name]


def assert_same(one, other):
    assert losses(one) == losses(other)
    assert [step for step, *_ in losses(one)] == list(range(1, STEPS + 1))
    a, b = (flat(read_tree(run, select="")) for run in (one, other))
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


@pytest.mark.slow
def test_back_past_bad_data_is_the_run_that_never_had_them(train, tmp_path):
    """Batch 5 (step 6) is bad, step 4 is saved: the batches 4 and 5 are left behind, on every start."""
    ran, never = tmp_path / "ran", tmp_path / "never"
    assert train(ran, "5")["step"] == STEPS
    [event] = events(ran, "rolled back")
    assert (event["step"], event["batches"], event["in_a_row"]) == (4, [4, 5], 1)
    assert event["reason"] == "step 6: not finite"
    assert events(ran, "time spent")[-1]["lost"] > 0
    assert [row["step"] for row in events(ran, "saved")] == [4, 8, 12]
    [line] = (ran / "skipped.jsonl").read_text().splitlines()
    never.mkdir()
    (never / "skipped.jsonl").write_text(line + "\n")
    train(never, "5")  # the bad batch is in the data still; it is not met
    assert not events(never, "rolled back")
    assert_same(ran, never)

    # As if it had been killed after going back: what it went past stays behind.
    shutil.rmtree(ran / "checkpoints" / "12")
    shutil.rmtree(ran / "checkpoints" / "8")
    train(ran, "5")
    assert_same(ran, never)
    account = events(ran, "time spent")[-1]
    whole = sum(account[kind] for kind in ("trained", "compiled", "waited", "saved", "evaluated", "started"))
    assert account["lost"] > 0
    first = min(row["time"] for row in read_rows(ran / "metrics.jsonl"))
    assert whole + account["lost"] + account["down"] >= account["time"] - first - 1


@pytest.mark.slow
def test_too_often_in_a_row_stops_with_the_reason(train, tmp_path):
    """Batches 5, 6 and 7 are bad: each time the run goes back to step 4, and the third time is one too many."""
    result = train(tmp_path / "run", "5+6+7", "--config.train.rollbacks=2", status=1)
    assert "rolling back to step 4 2 times in a row" in result["error"]
    assert [json.loads(line)["back_to"] for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()] == [
        4,
        4,
    ]
