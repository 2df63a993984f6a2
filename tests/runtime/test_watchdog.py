"""A phase that does not end is noticed within its limit, reported with stacks and hosts, and ends with 75."""

import dataclasses
import threading
import time
from typing import Any

import pytest

from vmae_jax.runtime import distributed
from vmae_jax.runtime.watchdog import LIMITS, Watchdog, parse_limits, watched
from vmae_jax.spec import ConfigError
from vmae_jax.train.loop import Hook


class Ended:
    def __init__(self):
        self.status, self.event = None, threading.Event()

    def __call__(self, status):
        self.status = status
        self.event.set()


def test_a_phase_that_does_not_end(capfd):
    ended = Ended()

    def some_function_that_hangs():
        assert ended.event.wait(10)

    with (
        Watchdog({"step": 0.3}, where_are=lambda: "host 1 (b) is silent", end=ended) as dog,
        dog.phase("step", "step 7"),
    ):
        some_function_that_hangs()
    assert ended.status == 75
    result = capfd.readouterr().err
    assert "step 7 has not ended within 0.3 s" in result
    assert "host 1 (b) is silent" in result
    assert "some_function_that_hangs" in result


def test_phases_inside_have_their_own_limit_and_give_the_outer_one_a_new_beginning():
    ended = Ended()
    with Watchdog({"step": 0.8, "save": 5.0, "free": 0.0}, end=ended) as dog, dog.phase("step"):
        for _ in range(2):
            time.sleep(0.3)
            with dog.phase("save"):
                time.sleep(0.7)
        with dog.phase("free"):
            time.sleep(1.0)
        for number in range(2):
            time.sleep(0.5)
            dog.turn("step", f"step {number}")
    time.sleep(0.3)
    assert ended.status is None


@pytest.mark.parametrize("rank", [0, 1])
def test_a_coordinator_that_does_not_answer_is_named(rank, capfd, monkeypatch):
    ended, answered = Ended(), threading.Event()
    monkeypatch.setattr(distributed, "PERIOD", 0.01)
    monkeypatch.setattr(distributed, "patience", lambda: 0.5)
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "coordinator", lambda: "host 0 (10.0.0.1:1234)")
    monkeypatch.setattr(distributed, "publish", lambda text, count: count > 3 and answered.wait(20))
    with Watchdog({}, end=ended):
        assert ended.event.wait(2 if rank == 0 else 20) == (rank != 0)
        answered.set()
    assert ended.status == (75 if rank else None)
    message = capfd.readouterr().err
    assert ("host 0 (10.0.0.1:1234), the coordinator of the job, has not answered for" in message) == (rank != 0)


def test_a_coordinator_that_answers_late_is_waited_for(monkeypatch):
    ended = Ended()
    monkeypatch.setattr(distributed, "PERIOD", 0.01)
    monkeypatch.setattr(distributed, "patience", lambda: 1.0)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "publish", lambda text, count: time.sleep(0.3))
    with Watchdog({}, end=ended):
        time.sleep(2.0)
    assert ended.status is None


@dataclasses.dataclass(frozen=True)
class Parts:
    saver: Any
    preempted: Any
    hooks: Any
    go_back: Any = None


def test_every_part_of_the_loop_is_watched():
    class Saver:
        def save(self, step, state, meta):
            assert dog.current()[:2] == ("save", "the save of step 3")
            return True

        def poll(self):
            return [1]

        def wait(self):
            assert dog.current()[0] == "save"
            return [2]

    def evaluate(state, at):
        assert dog.current()[:2] == ("evaluate", "evaluation at step 3")
        return {"x": 1.0}

    def go_back(refused, at):
        assert dog.current()[:2] == ("restore", f"going back from step {at}")
        return "state", 7, "batches"

    dog = Watchdog(LIMITS)
    parts = watched(Parts(Saver(), lambda at: at == 3, [Hook("evaluation", 1, evaluate)], go_back=go_back), dog)
    with dog.phase("compile"):
        assert parts.go_back("refused", 9) == ("state", 7, "batches")
        assert parts.preempted(2) is False
        assert dog.current()[:2] == ("step", "step 3")
        assert parts.saver.save(3, None, {}) is True
        assert (parts.saver.poll(), parts.saver.wait()) == ([1], [2])
        assert parts.hooks[0].run(None, 3) == {"x": 1.0}
        assert parts.preempted(3) is True


def test_seconds_are_charged_to_the_innermost_phase(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("vmae_jax.runtime.watchdog.time.monotonic", lambda: now[0])
    dog = Watchdog(LIMITS)

    def wait(seconds):
        now[0] += seconds

    wait(1)
    with dog.phase("compile"):
        wait(2)
        with dog.phase("data"):
            wait(4)
        dog.turn("step", "step 1")
        wait(8)
        with dog.phase("save"):
            wait(16)
        wait(32)
    wait(64)
    assert dog.spent() == {"": 65.0, "compile": 2.0, "data": 4.0, "step": 40.0, "save": 16.0}


def test_limits_from_the_command_line():
    assert parse_limits(["step=60", "save=0"]) == LIMITS | {"step": 60.0, "save": 0.0}
    with pytest.raises(ConfigError, match=r"did you mean.*step"):
        parse_limits(["stepp=60"])
    with pytest.raises(ConfigError, match="--limit=data=60: unknown; there are restore, evaluate"):
        parse_limits(["data=60"], ("restore", "evaluate"))
    with pytest.raises(ConfigError, match="step=1800"):
        parse_limits(["step=soon"])
