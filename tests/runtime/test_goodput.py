"""The wall time of a run is accounted for, whatever happened to it."""

import pytest

from vmae_jax.runtime.goodput import EVENT, KINDS, Account, Moment, carried, shares


def test_kinds_are_made_of_phases_and_add_up():
    phases = {"": 1.0, "restore": 2.0, "compile": 4.0, "data": 8.0, "step": 16.0, "save": 32.0, "evaluate": 64.0}
    account = Account(lambda: phases)
    account.carry({"lost": 128.0, "down": 256.0})
    seconds = account.seconds()
    assert seconds == {
        "trained": 16, "compiled": 4, "waited": 8, "saved": 32, "evaluated": 64, "started": 3, "lost": 128, "down": 256,
    }  # fmt: skip
    assert sum(seconds.values()) == 511
    assert sum(shares(seconds).values()) == pytest.approx(1.0)
    assert shares({}) == dict.fromkeys(KINDS, 0.0)


def test_what_a_killed_attempt_left_is_kept_lost_or_down():
    rows = [
        {"kind": "event", "event": "started", "step": 0, "time": 1000.0},
        {"kind": "event", "event": EVENT, "step": 5, "time": 1040.0, "trained": 30.0, "compiled": 10.0},
        {"kind": "train", "step": 8, "time": 1052.0},
    ]
    assert carried(rows, 5, Moment(1060.0)) == dict.fromkeys(KINDS, 0.0) | {
        "trained": 30.0, "compiled": 10.0, "lost": 12.0, "down": 8.0,
    }  # fmt: skip
    assert carried(rows, 0, Moment(1060.0)) == dict.fromkeys(KINDS, 0.0) | {"lost": 52.0, "down": 8.0}
    assert carried([], 0, Moment(1060.0)) == {}


def test_attempts_that_ended_before_a_checkpoint_are_in_the_event_that_a_new_beginning_writes():
    rows = [
        {"kind": "event", "event": EVENT, "step": 0, "time": 1100.0, "lost": 60.0, "down": 40.0},
        {"kind": "event", "event": "started", "step": 0, "time": 1101.0},
        {"kind": "train", "step": 2, "time": 1120.0},
    ]
    assert carried(rows, 0, Moment(1150.0)) == dict.fromkeys(KINDS, 0.0) | {"lost": 80.0, "down": 70.0}


def test_going_back_turns_what_was_trained_since_into_loss():
    phases = {"": 0.0, "step": 10.0, "data": 1.0}
    account = Account(lambda: phases, {"trained": 5.0})
    account.mark(4)
    phases |= {"step": 17.0, "data": 3.0, "restore": 2.0}
    account.back(4)
    seconds = account.seconds()
    assert (seconds["trained"], seconds["waited"], seconds["lost"], seconds["started"]) == (15.0, 1.0, 9.0, 2.0)
    assert sum(seconds.values()) == 5 + 22
    phases["step"] += 1.0
    assert account.seconds()["trained"] == 16.0


def test_the_seconds_of_a_start_are_not_also_those_of_being_down():
    rows = [{"kind": "event", "event": EVENT, "step": 5, "time": 1040.0, "trained": 40.0}]
    account = Account(lambda: {"": 8.0, "restore": 2.0})
    account.carry(carried(rows, 5, Moment(1100.0 - account.running())))
    seconds = account.seconds()
    assert (seconds["trained"], seconds["down"], seconds["started"]) == (40.0, 50.0, 10.0)
    assert sum(seconds.values()) == 100.0  # 1000 to 1100


YEAR = 365 * 86400.0


@pytest.mark.parametrize("jump", [-YEAR, 0.0, YEAR])
def test_a_clock_that_is_set_between_attempts_changes_nothing(jump):
    """The machine's own clock goes from 100 to 195 seconds, whatever the time of day does."""
    second = 1030.0 + jump
    rows = [
        {"kind": "event", "event": "started", "step": 0, "time": 1000.0, "boot": "b", "uptime": 100.0},
        {"kind": "train", "step": 3, "time": 1020.0},
        {"kind": "eval", "step": 3, "time": 5e9},  # of another process, which had another time of day
        {"kind": "event", "event": "resumed", "step": 0, "time": second, "boot": "b", "uptime": 130.0},
        {"kind": "event", "event": EVENT, "step": 5, "time": second + 10, "trained": 9.0},
        {"kind": "train", "step": 7, "time": second + 15},
    ]
    at = Moment(second - jump + 60, "b", 190.0)
    assert carried(rows, 5, at) == dict.fromkeys(KINDS, 0.0) | {"trained": 9.0, "lost": 5.0, "down": 45.0}
    assert carried(rows, 0, at) == dict.fromkeys(KINDS, 0.0) | {"lost": 45.0, "down": 45.0}


def test_on_another_machine_the_time_of_day_counts_and_never_backwards():
    rows = [{"kind": "event", "event": "started", "step": 0, "time": 1000.0, "boot": "b", "uptime": 100.0}]
    assert carried(rows, 0, Moment(1060.0, "c", 5.0))["down"] == 60.0
    assert carried(rows, 0, Moment(500.0, "c", 5.0))["down"] == 0.0
