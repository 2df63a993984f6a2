"""Failed saves are logged and recorded, and tolerated only if a later one succeeds."""

import pytest

from vmae_jax.io.checkpoint import SaveError
from vmae_jax.io.saving import Tolerant


class Saver:
    """Fails on request: "now" at once, "later" when the next call looks."""

    def __init__(self, fates):
        self.fates, self.pending, self.committed = dict(fates), None, []

    def _look(self):
        step, self.pending = self.pending, None
        if step is not None and self.fates.get(step) == "later":
            raise SaveError(f"step {step} was not saved", step)
        if step is not None:
            self.committed.append(step)
            return [step]
        return []

    def save(self, step, state, meta):
        self._look()
        if self.fates.get(step) == "now":
            raise SaveError(f"step {step} was not saved", step)
        self.pending = step
        return True

    def poll(self):
        return self._look()

    wait = poll


class Writers:
    def __init__(self):
        self.events = []

    def event(self, step, name, **details):
        self.events.append((step, name, details["checkpoint"]))


@pytest.mark.parametrize("fate", ["now", "later"])
def test_training_goes_on_and_a_later_save_makes_it_good(fate):
    saver, writers = Saver({6: fate}), Writers()
    tolerant = Tolerant(saver, writers)
    for step in (3, 6, 9):
        tolerant.save(step, None, {})
    assert tolerant.wait() == [9]
    assert saver.committed == [3, 9]
    assert writers.events == [(6 if fate == "now" else 9, "save failed", 6)]
    assert tolerant.wait() == []


@pytest.mark.parametrize("fate", ["now", "later"])
def test_a_run_does_not_end_well_without_its_last_save(fate):
    tolerant = Tolerant(Saver({9: fate}), Writers())
    tolerant.save(3, None, {})
    tolerant.save(9, None, {})
    with pytest.raises(SaveError, match="step 9"):
        tolerant.wait()


def test_what_is_found_while_polling_is_reported_too():
    writers = Writers()
    tolerant = Tolerant(Saver({3: "later"}), writers)
    tolerant.save(3, None, {})
    assert tolerant.poll() == []
    assert writers.events == [(3, "save failed", 3)]
    with pytest.raises(SaveError, match="step 3"):
        tolerant.wait()
