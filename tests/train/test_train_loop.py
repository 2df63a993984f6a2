"""The loop, with everything it is handed replaced by small fakes."""

import dataclasses

import jax.numpy as jnp
import pytest

from vmae_jax.train import loop
from vmae_jax.train.refused import CollapseError, NotFiniteError, Refused, SpikeError
from vmae_jax.train.rows import Work


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
        result, self.broken = self.broken, []
        return result


class Saver:
    """Commits a save at the poll after the next one."""

    def __init__(self, message):
        self.message, self.waiting, self.saved = message, [], []

    def save(self, step, state, meta):
        self.message.append(("save", step, dict(meta)))
        self.waiting.append(step)
        return True

    def poll(self):
        return []

    def wait(self):
        result, self.waiting = self.waiting, []
        self.saved += result
        return result


class Run:
    def __init__(self, *, bad=(), stop_at=None, spent=None, **options):
        self.time_spent = spent or {}
        self.message, self.rows, self.batches = [], [], Batches()
        self.saver = Saver(self.message)
        bad = set(bad)

        def step(state, batch):
            finite = state + 1 not in bad
            value = 1.0 / (state + 1) if finite else float("nan")
            metrics = {"loss": jnp.float32(value), "grad_norm": jnp.float32(value), "finite": jnp.float32(finite)}
            return state + 1, metrics

        self.run = loop.Run(
            step=step,
            batches=self.batches,
            saver=self.saver,
            journal=self,
            work=Work(4, 8),
            log_every=2,
            save_every=5,
            preempted=lambda step: step == stop_at,
            meta=lambda step: {"data_position": 4 * step},
            show=False,
            **options,
        )

    def write(self, row):
        self.rows.append(dict(row))
        self.message.append(("row", row["step"]))

    def flush(self):
        self.message.append(("flush",))

    def spent(self):
        return self.time_spent

    def train(self, start=0, stop=10, **options):
        return loop.train(start, start=start, stop=stop, run=dataclasses.replace(self.run, **options))

    def of(self, kind, event=None):
        return [r for r in self.rows if r["kind"] == kind and (event is None or r.get("event") == event)]


def test_steps_rows_and_saves():
    run = Run()
    state, outcome = run.train()
    assert (state, outcome.status, outcome.step) == (10, "done", 10)
    assert run.batches.taken == 10
    assert [row["step"] for row in run.of("train")] == [2, 4, 6, 8, 10]
    assert [message[1] for message in run.message if message[0] == "save"] == [5, 10]
    assert [row["step"] for row in run.of("event", "saved")] == [5, 10]
    row = run.of("train")[-1]
    assert row["loss"] == pytest.approx(0.1)
    assert row["examples_seen"] == 40
    assert row["clips_per_second"] == pytest.approx(2 * row["examples_per_second"])
    assert 0 <= row["data_wait_fraction"] <= 1
    assert "finite" not in row


def test_rows_are_on_disk_before_the_checkpoint_that_relies_on_them():
    run = Run()
    run.train(log_every=1)
    for i, message in enumerate(run.message):
        if message[0] == "save":
            assert run.message[i - 1] == ("flush",)
            assert ("row", message[1]) in run.message[:i]


def test_saved_is_stated_only_when_committed():
    run = Run()
    run.run.saver.wait = lambda: []
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
    with pytest.raises(NotFiniteError, match="step 3: the loss or its gradient is not finite"):
        run.train()
    assert run.of("event", "not finite")[0]["step"] == 3


def test_not_finite_between_two_rows_is_found_and_skipped_if_so_set():
    run = Run(bad=[3, 7], on_nonfinite="skip")
    _, outcome = run.train()
    assert outcome.status == "done"
    assert [row["step"] for row in run.of("event", "not finite")] == [3, 7]


def rolls_back(run, *, save=5, times=9, batches=None):
    """What a command does for "rollback": a state (here: a step) of the newest save, and data from there."""

    def go_back(refused, at):
        run.backs.append((refused.step, refused.why, at))
        if len(run.backs) > times:
            raise NotFiniteError("too often")
        start = max((step for step in run.saver.saved + run.saver.waiting), default=0)
        run.batches = Batches()
        return start, start, run.batches

    run.backs = []
    return dataclasses.replace(run.run, go_back=go_back, on_nonfinite="rollback")


def test_roll_back_goes_to_the_last_save_and_on_with_other_batches():
    run = Run(bad=[7])
    bad = {7}
    inner = run.run.step

    def step(state, batch):
        found = inner(state, batch)
        if state + 1 in bad:
            bad.clear()
            return found
        return found[0], found[1] | {"finite": jnp.float32(1), "loss": jnp.float32(1), "grad_norm": jnp.float32(1)}

    run.run = dataclasses.replace(run.run, step=step)
    run.run = rolls_back(run)
    state, outcome = run.train(log_every=2)
    assert run.backs == [(7, "not finite", 8)]
    assert (state, outcome.status) == (10, "done")
    assert run.batches.taken == 5
    assert [row["step"] for row in run.of("train")] == [2, 4, 6, 6, 8, 10]
    assert [row["step"] for row in run.of("event", "not finite")] == [7]


def test_nothing_is_saved_that_was_not_looked_at():
    """Step 4 is bad and 5 is saved: the run goes back before the save, though no row is due."""
    run = Run(bad=[4])
    run.run = rolls_back(run, times=2)
    with pytest.raises(NotFiniteError, match="too often"):
        run.train(log_every=100)
    assert run.backs == [(4, "not finite", 5)] * 3
    assert not [message for message in run.message if message[0] == "save"]


def test_spikes_are_reported_as_such():
    run = Run()
    inner = run.run.step
    spiky = lambda state, batch: (state + 1, inner(state, batch)[1] | {"spike": jnp.float32(state + 1 == 3)})  # noqa: E731
    run.run = dataclasses.replace(run.run, step=spiky)
    with pytest.raises(SpikeError, match=r"step 3: .* far above"):
        run.train()
    assert run.of("event", "spike")[0]["step"] == 3
    assert "spike" not in run.of("train")[0]


def test_replicas_are_compared_when_due_and_before_a_save():
    seen = []
    run = Run(hooks=[loop.Hook("comparison", 5, lambda state, step: seen.append(("compare", step)))])
    run.message, saver = seen, run.saver
    saver.message = seen
    run.train()
    assert [message[:2] for message in seen if message[0] in ("compare", "save")] == [
        ("compare", 5), ("save", 5), ("compare", 10), ("save", 10),
    ]  # fmt: skip


def test_time_spent_is_reported_before_every_save_and_in_every_row():
    run = Run(spent={"trained": 3.0, "saved": 1.0})
    run.train()
    assert {row["goodput"] for row in run.of("train")} == {0.75}
    events = run.of("event", "time spent")
    assert [(row["step"], row["trained"], row["saved"]) for row in events] == [(5, 3, 1), (10, 3, 1), (10, 3, 1)]


def test_pictures_and_evaluation_come_when_due_and_before_the_last_save():
    calls = []
    pictures = loop.Hook("pictures", 4, lambda state, step: calls.append(("pictures", step)))
    evaluation = loop.Hook(
        "evaluation", None, lambda state, step: calls.append(("evaluate", step)) or {"accuracy": 0.5}
    )
    run = Run(hooks=[pictures, evaluation])
    _, outcome = run.train()
    assert calls == [("pictures", 4), ("pictures", 8), ("pictures", 10), ("evaluate", 10)]
    assert outcome.metrics["accuracy"] == 0.5
    assert run.message.index(("row", 10)) < next(i for i, s in enumerate(run.message) if s[:2] == ("save", 10))


def test_broken_videos_are_handed_on():
    handed = []
    run = Run(faults=lambda *call: handed.append(call))
    run.batches.broken = [("a.mp4", "truncated", 3)]
    run.train()
    assert handed[0] == (2, 2, [("a.mp4", "truncated", 3)])
    assert sum(batches for _, batches, _ in handed) == handed[-1][0]  # every batch is counted once


def test_an_evaluation_before_the_first_step_and_of_a_resumed_run_none():
    seen = []
    evaluate = lambda state, step: (seen.append((int(state), step)), {"top1": step / 10})[1]  # noqa: E731
    hooks = [loop.Hook("evaluation", 5, evaluate, at_start=True)]
    run = Run(hooks=hooks)
    _, outcome = run.train()
    assert seen == [(0, 0), (5, 5), (10, 10)]
    assert [(row["step"], row["top1"]) for row in run.of("eval")] == [(0, 0.0), (5, 0.5), (10, 1.0)]
    assert outcome.metrics["top1"] == 1.0
    seen.clear()
    Run(hooks=hooks).train(start=5)
    assert seen == [(10, 10)]
    seen.clear()
    Run(hooks=[hooks[0]._replace(at_start=False)]).train()
    assert seen == [(5, 5), (10, 10)]


def collapses(*steps):
    """A hook with results, and what finds a collapse in those after these steps."""
    hook = loop.Hook("evaluation", 2, lambda state, step: {"rank": float(step)})
    found = lambda step, results: Refused(step - 1, "collapse", DETAILS) if results.get("rank") in steps else None  # noqa: E731
    return {"hooks": [loop.Hook("pictures", 1, lambda state, step: None), hook], "collapsed": found}


DETAILS = {"evaluator": "spectrum", "reason": "the centred RankMe is 1.2, below 2"}


@pytest.mark.parametrize("action", ["report", "stop"])
def test_a_collapse_is_reported_or_ends_the_run_before_the_save(action):
    run = Run(**collapses(4, 6), on_collapse=action)
    if action == "report":
        assert run.train(save_every=4)[1].status == "done"
    else:
        with pytest.raises(CollapseError, match=r"after step 2 the features collapsed .*RankMe is 1\.2"):
            run.train(save_every=4)
    assert run.saver.saved == ([4, 8, 10] if action == "report" else [])
    events = [(row["step"], row["action"], row["reason"]) for row in run.of("event", "collapse")]
    assert events == [(step, action, DETAILS["reason"]) for step in ((4, 6) if action == "report" else (4,))]


def test_a_collapse_rolls_back():
    run = Run(**collapses(8))
    run.run = dataclasses.replace(rolls_back(run, times=1), on_nonfinite="stop")
    with pytest.raises(NotFiniteError, match="too often"):
        run.train(on_collapse="rollback", save_every=4)
    assert run.backs == [(7, "collapse", 8)] * 2
    assert run.saver.waiting == [4], "and not the step that collapsed"
