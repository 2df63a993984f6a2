"""Metrics are full precision, valid JSON, never doubled; a failing writer stops nothing."""

import builtins
import errno
import json
import logging
import math
import time

import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.io import paths
from vmae_jax.io.writers import JsonlWriter, TensorBoardWriter, Writers, number, read_rows


def strict(text: str):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    writer.scalars(1, {"loss": jnp.float32(0.1), "loss/pixels": 1 / 3, "examples_seen": np.int64(2**40)})
    writer.scalars(2, {"loss": jnp.float32("nan"), "up": math.inf, "down": -math.inf, "half": jnp.bfloat16(1.5)})
    writer.scalars(2, {"top1": 0.5}, kind="eval")
    writer.event(2, "saved", path="ü\n", files=["a", 1], error=ValueError("x"), nan=math.nan)
    writer.close()
    rows = [strict(line) for line in path.read_text().splitlines()]
    assert rows == read_rows(path)
    assert [(row["kind"], row["step"]) for row in rows] == [("train", 1), ("train", 2), ("eval", 2), ("event", 2)]
    assert rows[0]["loss"] == float(np.float32(0.1))
    assert rows[0]["loss/pixels"] == 1 / 3
    assert rows[0]["examples_seen"] == 2**40
    assert math.isnan(float(rows[1]["loss"]))
    assert (float(rows[1]["up"]), float(rows[1]["down"]), rows[1]["half"]) == (math.inf, -math.inf, 1.5)
    assert (rows[3]["event"], rows[3]["path"], rows[3]["files"]) == ("saved", "ü\n", ["a", 1])
    assert (rows[3]["error"], rows[3]["nan"]) == ("x", "NaN")
    assert not any(math.isnan(row["time"]) for row in rows)


def test_bad_metrics_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        number(np.zeros(3))
    with pytest.raises(ValueError, match="'step'"):
        JsonlWriter("unused").scalars(1, {"step": 3})


def test_events_are_written_at_once_and_rows_soon(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path, flush_seconds=1e9)
    writer.scalars(1, {"loss": 1.0})
    assert read_rows(path) == []
    writer.event(1, "saved")
    assert len(read_rows(path)) == 2
    quick = JsonlWriter(path, flush_seconds=0)
    quick.scalars(2, {"loss": 1.0})
    assert len(read_rows(path)) == 3


def test_a_resumed_run_has_no_step_twice(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    for step in range(1, 11):
        writer.scalars(step, {"loss": 1 / step})
    writer.event(10, "saved")
    writer.close()
    with open(path, "a") as file:
        file.write('not json\n{"kind": "train", "step": 11, "lo')  # a kill in the middle of a row
    again = JsonlWriter(path)
    again.truncate_after(6)
    again.event(6, "resumed")
    for step in range(7, 13):
        again.scalars(step, {"loss": 1 / step})
    again.close()
    rows = read_rows(path)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 13))
    assert [row["event"] for row in rows if row["kind"] == "event"] == ["resumed"]
    assert "not json" not in path.read_text()


def test_tensorboard_reads_scalars_and_pictures_and_no_step_twice(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorBoardWriter(tmp_path / "tensorboard")
    for step in range(1, 6):
        writer.scalars(step, {"loss": 1 / step})
    writer.images(5, {"reconstruction": np.full((4, 6, 3), 7, np.uint8)})
    writer.close()
    [file] = (tmp_path / "tensorboard").iterdir()
    file.rename(file.with_name(f"events.out.tfevents.{int(time.time())}.~.1.0"))  # the last of this second's
    again = TensorBoardWriter(tmp_path / "tensorboard")
    again.truncate_after(3)
    again.scalars(4, {"loss": 40.0})
    again.scalars(4, {"top1": 0.5}, kind="eval")
    again.flush()
    again.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert events.Scalars("train/loss")[-1].value == 40.0
    assert events.Scalars("eval/top1")[0].value == 0.5
    assert "reconstruction" not in events.Tags()["images"] or not events.Images("reconstruction")  # of step 5


def test_pictures_reach_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorBoardWriter(tmp_path)
    writer.images(5, {"reconstruction": np.full((4, 6, 3), 7, np.uint8)})
    writer.close()
    image = EventAccumulator(str(tmp_path)).Reload().Images("reconstruction")[0]
    assert (image.step, image.height, image.width) == (5, 4, 6)


def test_without_tensorboard_it_reports_it_once(tmp_path, monkeypatch, caplog):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("tensorboard"):
            raise ImportError("No module named 'tensorboard'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    writer = TensorBoardWriter(tmp_path / "tensorboard")
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            writer.scalars(step, {"loss": 1.0})
        writer.close()
    assert [record.getMessage() for record in caplog.records] == [
        "no TensorBoard logs: No module named 'tensorboard' (pip install tensorboard)"
    ]
    assert not (tmp_path / "tensorboard").exists()


def test_a_failing_writer_stops_nothing(tmp_path, caplog):
    class Failing(JsonlWriter):
        def _add(self, row):
            raise OSError("disk full")

    good = tmp_path / "good.jsonl"
    writers = Writers([Failing(tmp_path / "bad.jsonl"), JsonlWriter(good)])
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            writers.scalars(step, {"loss": 1.0})
        writers.event(3, "saved")
        writers.images(3, {})
        writers.truncate_after(9)
        writers.flush()
        writers.close()
    assert len(read_rows(good)) == 4
    writers.write({"kind": "train", "step": 4, "loss": 2.0})
    writers.write({"kind": "event", "step": 4, "event": "not finite", "loss": math.nan})
    train, event = read_rows(good)[-2:]
    assert (train["kind"], train["step"], train["loss"]) == ("train", 4, 2.0)
    assert (event["kind"], event["event"], event["loss"]) == ("event", "not finite", "NaN")
    assert writers.errors == {"Failing": 6}
    assert [record.getMessage() for record in caplog.records] == [
        "Failing failed, training continues without its output: disk full"
    ]


def test_a_clock_that_is_set_does_not_move_the_rows_of_a_run(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    writer.scalars(1, {"loss": 1.0})
    real = time.time
    for jump in (-3.15e7, 3.15e7):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        writer.event(1, "saved")
        writer.scalars(2, {"loss": 1.0})
    writer.close()
    times = [row["time"] for row in read_rows(path)]
    assert len(times) == 5
    assert times == sorted(times)
    assert times[-1] - times[0] < 3600


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_rows_wait_for_a_truncation_that_a_full_disk_refused(tmp_path, monkeypatch):
    """A run went back to step 2 while the disk was full: no step is there twice once it is not."""
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    for step in range(1, 6):
        writer.scalars(step, {"loss": 1.0})
    writer.flush()
    writers = Writers([writer])
    with monkeypatch.context() as patch:
        patch.setattr(paths, "write_bytes", full)  # a shorter copy takes room; appending still works
        writers.truncate_after(3)
        writers.scalars(4, {"loss": 2.0})
        writers.flush()
        writers.truncate_after(2)
        writers.event(2, "rolled back")
        for step in (3, 4):
            writers.scalars(step, {"loss": 3.0})
        writers.flush()
    assert writers.errors == {"JsonlWriter": 5}
    writers.close()
    rows = read_rows(path)
    assert [(row["step"], row.get("loss")) for row in rows] == [(1, 1.0), (2, 1.0), (2, None), (3, 3.0), (4, 3.0)]


def test_tensorboard_goes_on_when_a_full_disk_has_room_again(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.summary.writer.record_writer import RecordWriter

    monkeypatch.setattr("vmae_jax.io.writers._RETRY_SECONDS", 0.0)
    monkeypatch.setattr("threading.excepthook", lambda args: None)
    writers = Writers([TensorBoardWriter(tmp_path / "tensorboard")])
    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", full)
        for step in range(50):
            writers.scalars(step, {"loss": 1.0})
        writers.flush()
    failed = writers.errors["TensorBoardWriter"]
    assert failed
    for step in range(50, 60):
        writers.scalars(step, {"loss": 1.0})
    writers.flush()
    writers.close()
    assert writers.errors["TensorBoardWriter"] <= failed + 1  # the thread's error is seen by the next call
    assert max(file.stat().st_size for file in (tmp_path / "tensorboard").iterdir()) > 300
