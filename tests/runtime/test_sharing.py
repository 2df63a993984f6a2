"""Shares of work: every unit in one of them, within a job and across the commands of a batch job."""

import jax
import pytest

from vmae_jax.runtime import distributed, sharing
from vmae_jax.runtime.preemption import Preemption
from vmae_jax.spec import ConfigError


def test_every_unit_is_in_one_share_of_the_processes_of_all_shards(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    shares = []
    for shard in range(3):
        for process in range(2):
            monkeypatch.setattr(jax, "process_index", lambda process=process: process)
            shares.append(sharing.share(f"{shard}/3"))
    assert [str(one) for one in shares] == [f"{index}/6" for index in range(6)]
    assert all(sum(one.has(unit) for one in shares) == 1 for unit in range(50))


@pytest.mark.parametrize("text", ["3/3", "1", "/3", "1/", "-1/3", "0/0", "1.0/2"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match=f"--shard={text}: expected i/n with i from 0 to n-1"):
        sharing.share(text)


def test_a_signal_to_any_process_stops_every_one(monkeypatch):
    notes = {}
    monkeypatch.setattr(distributed, "notes", lambda what: dict(notes))
    monkeypatch.setattr(distributed, "leave_note", lambda what, note: notes.update({jax.process_index(): note}))
    one, other = Preemption(), Preemption()
    assert sharing.asked_to_stop(one) == ""
    one._signal = 15
    assert sharing.asked_to_stop(one) == "SIGTERM"
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert sharing.asked_to_stop(other) == "SIGTERM"


def test_waiting_for_a_process_that_fails_raises_its_failure(monkeypatch):
    def lost(*_, **more):
        raise distributed.PeerError(f"after {more['timeout']}")

    monkeypatch.setattr(distributed, "together", lost)
    with pytest.raises(distributed.PeerError, match="after inf"):
        sharing.meet("the end")
    sharing.meet("the end", stopping=True)  # it leaves alone
