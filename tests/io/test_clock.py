"""The steady clock of a machine, and which of its starts it counts from."""

import builtins
import time

from vmae_jax.io import clock


def test_a_machine_without_an_id_of_its_start_has_an_empty_one(monkeypatch):
    assert clock.boot() == clock.boot() != ""

    def missing(path, *_):
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(builtins, "open", missing)
    assert clock.boot() == ""


def test_the_clock_counts_while_the_machine_sleeps(monkeypatch):
    asked = []
    monkeypatch.setattr(time, "clock_gettime", lambda which: asked.append(which) or 7.0)
    assert clock.steady() == 7.0
    assert asked == [time.CLOCK_BOOTTIME]
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert clock.steady() != 7.0


def test_now_is_a_moment_of_both_clocks():
    before, moment, after = clock.steady(), clock.now(ago=5.0), clock.steady()
    assert before - 5 <= moment["uptime"] <= after - 5
    assert abs(moment["time"] + 5 - time.time()) < 60
    assert moment["boot"] == clock.boot()
