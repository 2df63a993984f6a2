"""Trackers get the metrics and pictures of a run, keep standard output free, and never stop it."""

import logging
import math
import sys

import numpy as np
import pytest

from vmae_jax.io.trackers import TrackioWriter, WandbWriter
from vmae_jax.io.writers import Writers


class Service:
    """A fake package of either service: it prints as they do, and keeps what it is given."""

    def __init__(self, fails=()):
        self.defined = []
        self.opened, self.rows, self.fails, self.finished, self.tried = [], [], set(fails), 0, 0
        self.Image = lambda picture: ("image", picture.size)
        self.Settings = lambda **settings: settings
        self.url, self.dir = None, "folder"

    def init(self, **arguments):
        self.tried += 1
        print("* Project initialized")
        if "init" in self.fails:
            raise ConnectionError("no route\nto the service")
        self.opened.append(arguments)
        return self

    def define_metric(self, name, step_metric=None):
        self.defined.append((name, step_metric))

    def log(self, values, step=None):
        print("logged")
        if "log" in self.fails:
            raise TimeoutError("too slow")
        self.rows.append((values, step))

    def finish(self):
        print("* Run finished")
        self.finished += 1


WRITERS = {"wandb": lambda **more: WandbWriter("project", folder="here", **more),
           "trackio": lambda **more: TrackioWriter("project", **more)}  # fmt: skip


@pytest.fixture(params=sorted(WRITERS))
def tracker(request, monkeypatch):
    """(fake service, its writer, the name of its package)."""

    def make(fails=()):
        service = Service(fails)
        monkeypatch.setitem(sys.modules, request.param, service)
        about = {"name": "run", "identity": lambda: "abc123", "config": {"seed": 0}}
        return service, WRITERS[request.param](**about), request.param

    return make


def use(writers):
    writers.event(0, "started")
    for step in (1, 2):
        writers.scalars(step, {"loss": np.float32(1 / step), "nan": math.nan})
    writers.scalars(2, {"top1": 0.5}, kind="eval")
    writers.images(2, {"reconstruction": np.zeros((4, 6, 3), np.uint8)})
    writers.truncate_after(1)
    writers.flush()
    writers.close()


def test_metrics_and_pictures_arrive(tracker, capsys):
    service, writer, kind = tracker()
    writers = Writers([writer])
    use(writers)
    assert writers.errors == {}
    assert capsys.readouterr().out == "", "standard output ends in the result of the command"
    [opened] = service.opened
    assert (opened["project"], opened["resume"], opened["config"]) == ("project", "allow", {"seed": 0})
    assert "abc123" in (opened["id"] if kind == "wandb" else opened["name"])
    steps = [values.get("step", step) for values, step in service.rows]
    assert steps == [1, 2, 2, 2]
    assert service.rows[1][0]["train/loss"] == 0.5
    assert service.rows[2][0]["eval/top1"] == 0.5
    assert service.rows[3][0]["reconstruction"] == ("image", (6, 4))
    assert service.finished == 1
    own_step = [("step", None), ("*", "step")]  # as the axis of all others
    assert service.defined == (own_step if kind == "wandb" else [])


def test_nothing_is_opened_before_there_are_metrics(tracker):
    service, writer, _ = tracker()
    writer.event(0, "started")
    writer.close()
    assert service.opened == []


def test_a_service_out_of_reach_is_tried_once_and_named_in_one_line(tracker, caplog):
    service, writer, _ = tracker(fails=["init"])
    writers = Writers([writer])
    with caplog.at_level(logging.WARNING):
        use(writers)
    assert service.tried == 1, "each try may take as long as its timeout"
    [record] = caplog.records
    assert "no route to the service" in record.getMessage()
    assert writers.errors == {type(writer).__name__: 1}


def test_a_service_that_fails_later_stops_nothing(tracker, caplog):
    _, writer, _ = tracker(fails=["log"])
    with caplog.at_level(logging.WARNING):
        use(Writers([writer]))
    assert len([record for record in caplog.records if "too slow" in record.getMessage()]) == 1


def test_the_packages_are_imported_only_when_used(tracker, monkeypatch):
    _, writer, kind = tracker()
    monkeypatch.setitem(sys.modules, kind, None)  # importing it is an error
    writers = Writers([writer])
    writers.event(0, "started")
    assert writers.errors == {}
    writers.scalars(1, {"loss": 1.0})
    assert list(writers.errors.values()) == [1]
