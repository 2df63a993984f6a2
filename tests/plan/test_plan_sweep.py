"""A sweep finds the quickest that fits, within its tries; what was compiled is kept, and read back as it was."""

import json

import pytest

from vmae_jax.plan import cache, hlo
from vmae_jax.plan.compile import Compiled
from vmae_jax.plan.sweep import Candidate, Row, meshes, recommend, sweep
from vmae_jax.plan.work import Part, Work

POLICIES = ("none", "full", "dots")
COST = {"none": 3.0, "dots": 3.3, "full": 4.0}
SIZE = {"none": 12.0, "dots": 6.0, "full": 1.0}


def attempt_on(limit):
    """A machine where micro-batches cost a little time each, and memory goes with their size."""
    tried = []

    def attempt(candidate):
        tried.append(candidate)
        fsdp = dict(candidate.ici)["fsdp"]
        peak = 64 * SIZE[candidate.remat] / candidate.accumulate + 32 / fsdp
        seconds = COST[candidate.remat] + 0.1 * candidate.accumulate + (5.0 if fsdp == 64 else 0.0)
        return Row(candidate, peak <= limit, round(peak), seconds if peak <= limit else None)

    return attempt, tried


def run(limit, tries=20, accumulate=4, remat="full"):
    attempt, tried = attempt_on(limit)
    start = Candidate(meshes(64)[0], remat, accumulate)
    rows = sweep(
        start, attempt, meshes=meshes(64), policies=POLICIES, accumulates=[2, 1, 8, 16, 32, 64], tries=tries
    )  # fmt: skip
    assert [row.candidate for row in rows] == tried
    assert len(set(tried)) == len(tried) <= tries
    return recommend(rows)


def test_meshes_multiply_to_the_devices():
    found = [dict(mesh) for mesh in meshes(64)]
    assert {"data": 64, "fsdp": 1, "tensor": 1} in found
    assert {"data": 8, "fsdp": 8, "tensor": 1} in found
    assert all(mesh["data"] * mesh["fsdp"] * mesh["tensor"] == 64 for mesh in found)
    assert [dict(mesh) for mesh in meshes(1)] == [{"data": 1, "fsdp": 1, "tensor": 1}]
    assert all(dict(mesh)["fsdp"] in (1, 8) for mesh in meshes(8))


def test_with_room_for_all_the_quickest_policy_in_the_fewest_micro_batches_wins():
    chosen = run(limit=10_000)
    assert (chosen.candidate.remat, chosen.candidate.accumulate) == ("none", 1)


def test_of_those_as_quick_the_smallest_wins():
    a, b = (Row(Candidate((), None, n), True, peak, 1.0 + n / 1000) for n, peak in ((1, 50), (2, 40)))
    assert recommend([a, b]) is b
    assert recommend([Row(Candidate((), None, 1), False, 9, None)]) is None


def test_with_little_room_it_still_fits():
    chosen = run(limit=40)
    assert chosen.fits
    assert chosen.peak <= 40


@pytest.mark.parametrize("tries", [1, 3, 6])
def test_it_keeps_to_its_tries(tries):
    assert run(limit=10_000, tries=tries).fits


def test_nothing_fits():
    assert run(limit=0) is None


def test_what_was_compiled_is_read_back(tmp_path):
    sent = hlo.Collectives({"all-reduce": hlo.Traffic(2, 20, 30, ((10, 2),))}, 1)
    done = Work(1.0, 2.0, 3.0, 4.0, {"fwd": Part(1.0, 2.0, 3.0, 4.0)}, 5)
    result = Compiled(True, 1, 2, 3, 6, None, sent, done, 1.5, ("a: b of 3",), {"data": 2})
    refused = Compiled(False, None, None, None, 6, 5, None, None, 1.5, (), {"data": 2})
    for name, value in (("one", result), ("two", refused)):
        path = cache.entry(tmp_path / "plans", name, "v5e:4x4")
        assert cache.read(path, Compiled) is None
        cache.write(path, value)
        assert cache.read(path, Compiled) == value
    assert cache.entry(tmp_path, "one", "v5e:4x4") != cache.entry(tmp_path, "one", "v5p:4x4x4")


def test_a_damaged_entry_is_made_again(tmp_path, caplog):
    path = cache.entry(tmp_path, "one", "cpu:4")
    for text in ("{", json.dumps({"fits": True})):
        path.write_text(text)
        assert cache.read(path, Compiled) is None
        assert "computed again" in caplog.text
