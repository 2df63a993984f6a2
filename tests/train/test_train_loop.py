"""The loop, with everything it is handed replaced by small fakes."""

import jax.numpy as jnp
import pytest

from vmae_jax.train import loop


class Batches:
    def __init__(self):
        self.taken, self.wait_seconds, self.broken = 0, 0.0, []

    def __next__(self):
        self.taken += 1
        self.wait_seconds += 0.01
        return {"number": self.taken}

    def __iter__(self):
        return self

    def faults(self):
        told, self.broken = self.broken, []
        return told


class Saver:
    """Commits a save at the poll after the next one."""

    def __init__(self, said):
        self.said, self.waiting, self.saved = said, [], []

    def save(self, step, state, meta):
        self.said.append(("save", step, dict(meta)))
        self.waiting.append(step)
        return True

    def poll(self):
        return []

    def wait(self):
        told, self.waiting = self.waiting, []
        self.saved += told
        return told


class Run:
    def __init__(self, *, bad=(), stop_at=None, **options):
        self.said, self.rows, self.batches = [], [], Batches()
        self.saver = Saver(self.said)
        bad = set(bad)

        def step(state, batch):
            finite = state + 1 not in bad
            value = 1.0 / (state + 1) if finite else float("nan")
            metrics = {"loss": jnp.float32(value), "grad_norm": jnp.float32(value), "finite": jnp.float32(finite)}
            return state + 1, metrics

        self.parts = loop.Parts(
            step=step,
            batches=self.batches,
            saver=self.saver,
            write=lambda row: (self.rows.append(dict(row)), self.said.append(("row", row["step"])))[0],
            flush=lambda: self.said.append(("flush",)),
            preempted=lambda step: step == stop_at,
            meta=lambda step: {"data_position": 4 * step},
            videos=4,
            clips=8,
            show=False,
            **options,
        )

    def train(self, start=0, stop=10, **every):
        every = {"log": 2, "save": 5} | every
        return loop.train(start, start=start, stop=stop, every=loop.Every(**every), parts=self.parts)

    def of(self, kind, event=None):
        return [r for r in self.rows if r["kind"] == kind and (event is None or r.get("event") == event)]


def test_steps_rows_and_saves():
    run = Run()
    state, outcome = run.train()
    assert (state, outcome.status, outcome.step) == (10, "done", 10)
    assert run.batches.taken == 10
    assert [row["step"] for row in run.of("train")] == [2, 4, 6, 8, 10]
    assert [said[1] for said in run.said if said[0] == "save"] == [5, 10]
    assert [row["step"] for row in run.of("event", "saved")] == [5, 10]
    row = run.of("train")[-1]
    assert row["loss"] == pytest.approx(0.1)
    assert row["examples_seen"] == 40
    assert row["clips_per_second"] == pytest.approx(2 * row["examples_per_second"])
    assert 0 <= row["data_wait_fraction"] <= 1
    assert "finite" not in row


def test_rows_are_on_disk_before_the_checkpoint_that_relies_on_them():
    run = Run()
    run.train(log=1)
    for i, said in enumerate(run.said):
        if said[0] == "save":
            assert run.said[i - 1] == ("flush",)
            assert ("row", said[1]) in run.said[:i]


def test_saved_is_said_only_when_committed():
    run = Run()
    run.parts.saver.wait = lambda: []
    run.train()
    assert not run.of("event", "saved")


def test_resuming_goes_on_from_the_step():
    run = Run()
    state, _ = run.train(start=7)
    assert state == 10
    assert run.batches.taken == 3
    assert [row["step"] for row in run.of("train")] == [8, 10]


def test_preempted_saves_this_step_and_ends():
    run = Run(stop_at=3)
    state, outcome = run.train()
    assert (state, outcome.status, outcome.step) == (3, "preempted", 3)
    assert run.saver.saved == [3]
    assert run.of("event", "preempted")[0]["step"] == 3


def test_preempted_at_the_last_step_is_done():
    assert Run(stop_at=10).train()[1].status == "done"


def test_not_finite_stops_by_default_and_names_the_step():
    run = Run(bad=[3])
    with pytest.raises(loop.NotFiniteError, match="step 3: the loss or its gradient is not finite"):
        run.train()
    assert run.of("event", "not finite")[0]["step"] == 3


def test_not_finite_between_two_rows_is_found_and_skipped_if_so_set():
    run = Run(bad=[3, 7], on_nonfinite="skip")
    _, outcome = run.train()
    assert outcome.status == "done"
    assert [row["step"] for row in run.of("event", "not finite")] == [3, 7]


def test_pictures_and_evaluation_come_when_due_and_before_the_last_save():
    calls = []
    run = Run(
        pictures=lambda state, step: calls.append(("pictures", step)),
        evaluate=lambda state, step: calls.append(("evaluate", step)) or {"accuracy": 0.5},
    )
    _, outcome = run.train(pictures=4, evaluate=None)
    assert calls == [("pictures", 4), ("pictures", 8), ("pictures", 10), ("evaluate", 10)]
    assert outcome.metrics["accuracy"] == 0.5
    assert run.said.index(("row", 10)) < next(i for i, s in enumerate(run.said) if s[:2] == ("save", 10))


def test_broken_videos_are_handed_on():
    told = []
    run = Run(faults=told.extend)
    run.batches.broken = [("a.mp4", "truncated", 3)]
    run.train()
    assert told == [("a.mp4", "truncated", 3)]
    [event] = run.of("event", "broken videos")
    assert (event["step"], event["count"]) == (2, 1)
