"""Evaluation with a real network: the same on any mesh, compiled once, checked before it is needed, and for a TPU."""

import csv
import dataclasses
import functools
import io
import json
import logging
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from for_tpus import for_tpus
from small_runs import config_of, loader, mesh_of, parameters, save_run, write_videos

from vmae_jax.commands import attempt, evaluate, train
from vmae_jax.commands.experiment import experiment
from vmae_jax.commands.measure import Measurement
from vmae_jax.configs import videomae_v2
from vmae_jax.eval import reconstruction
from vmae_jax.io.paths import Workdir
from vmae_jax.io.writers import Writers
from vmae_jax.spec import ConfigError, call
from vmae_jax.train import sharding
from vmae_jax.train.on_mesh import replicated
from vmae_jax.types import Carried, Context


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Seven videos of three classes, in folders."""
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder)
    return folder


def measured(made, mesh):
    return Measurement(made, mesh), parameters(made, mesh)


def nothing():
    return Carried(None, {})


@pytest.mark.slow
def test_the_numbers_are_the_same_on_one_device_and_on_eight(videos, caplog):
    """3 videos of 2 clips do not divide over 8 devices: 4 are taken at once; 7 videos still count as 7."""
    made = experiment(config_of(videos))
    one, params = measured(made, mesh_of(data=1))
    alone = one(params, nothing)
    assert (alone["views/videos"], alone["held_out/clips"], alone["knn/neighbours"]) == (7, 14, 7)
    with caplog.at_level(logging.INFO):
        many, params = measured(made, mesh_of(data=2, fsdp=2, tensor=2))
    assert "config.eval.data: 4 videos a batch, not 3, as 4 devices share its clips" in caplog.text
    together = many(params, nothing)
    assert together.keys() == alone.keys()
    for name, value in alone.items():
        assert together[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name
    scores = [np.load(io.BytesIO(found.files["views_predictions.npz"])) for found in (alone, together)]
    np.testing.assert_array_equal(scores[0]["index"], scores[1]["index"])
    np.testing.assert_allclose(scores[0]["scores"], scores[1]["scores"], atol=1e-5)


@pytest.mark.slow
def test_a_second_evaluation_compiles_nothing(videos):
    made = experiment(config_of(videos))
    measure, params = measured(made, mesh_of(data=8))
    compiled = []
    listen = lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None  # noqa: E731
    first, others = measure(params, nothing), jax.tree.map(lambda x: x * 1.5, params)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        second = measure(others, nothing)
        assert not compiled
        jax.jit(lambda x: x + 3)(1.0)
        assert compiled, "the listener hears nothing"
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert second["held_out/loss"] != first["held_out/loss"], "other parameters, other numbers"


@pytest.mark.slow
@pytest.mark.parametrize("axes", [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 8}])
def test_every_evaluator_lowers_for_tpus_with_the_fused_kernel(videos, axes, monkeypatch):
    made, mesh = experiment(config_of(videos, attention="splash")), mesh_of(**axes)
    monkeypatch.setattr("vmae_jax.commands.measure.on_mesh", for_tpus)
    found, params = measured(made, mesh)
    assert found(params, nothing)["held_out/clips"] == 14
    monkeypatch.setattr("vmae_jax.commands.measure.on_mesh", functools.partial(for_tpus, plain=True))
    found, params = measured(made, mesh)
    with pytest.raises(NotImplementedError, match="cannot be automatically partitioned"):
        found(params, nothing)


MISTAKES = {
    "size": ({"size": 32}, {}, r"config.eval.data: .*32"),
    "labels": ({"labels": False}, {"knn": call("eval.knn.retrieval")}, "evaluators.knn: the data has no 'label'"),
    "loss": ({"labels": False}, {"own": call("eval.held_out")}, "evaluators.own: the data gives no 'label'"),
    "train": ({}, {"knn": call("eval.knn", train=loader("/nowhere/at/all"))}, "/nowhere/at/all"),
    "memory": ({}, {"knn": call("eval.knn.retrieval")}, "memory"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_evaluated_is_reported_at_the_start(videos, tmp_path, name):
    """Before the workdir is there: not when the training is over."""
    more, evaluators, words = MISTAKES[name]
    config = config_of(videos, evaluators or None, **more)
    if name == "memory":
        config.eval.data.memory = 1e-6
    with pytest.raises(ConfigError, match=words) as result:
        train.run(config, Workdir(tmp_path / "run"), progress=False)
    assert "\n" not in str(result.value)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def trained(videos, tmp_path):
    """A checkpoint of a run that evaluates the average of its parameters."""
    config = config_of(videos, {"held_out": call("eval.held_out")}, train={"ema_decay": 0.9})
    config.mesh.ici.fsdp = 64  # of another machine
    config.eval.ema = True
    return experiment(config), *save_run(tmp_path / "run", config)


def test_eval_takes_the_average_where_the_config_asks_for_it_on_any_devices(trained):
    made, workdir, params, average = trained
    mesh = mesh_of(data=8)
    measure = Measurement(made, mesh)
    wanted = [measure(replicated(one, mesh), nothing)["held_out/loss"] for one in (params, average)]
    assert wanted[0] != pytest.approx(wanted[1], rel=1e-3)
    result = evaluate.run(str(workdir.path))
    assert (result["ema"], result["held_out/loss"]) == (True, pytest.approx(wanted[1], rel=1e-4))
    result = evaluate.run(str(workdir.path), overrides=[("eval.ema", "false")])
    assert (result["ema"], result["held_out/loss"]) == (False, pytest.approx(wanted[0], rel=1e-4))


def test_broken_videos_are_counted_and_listed(trained, videos, tmp_path, caplog):
    _, workdir, _, _ = trained
    folder = tmp_path / "some"
    write_videos(folder, 3)
    (folder / "class0" / "a.mp4").write_bytes(b"no video")
    result = evaluate.run(str(workdir.path), overrides=[("eval.data.source.path", str(folder))])
    assert (result["held_out/clips"], result["held_out/broken"]) == (6, 1)
    assert caplog.text.count("a.mp4 cannot be read, and is left out") == 1
    [file] = [file for file in result["files"] if file.endswith("broken.csv")]
    with open(file) as opened:
        [row] = csv.DictReader(opened)
    assert (row["data"], row["video"]) == ("held out", "1")
    assert row["name"].endswith("class0/a.mp4")
    assert row["reason"]
    recorded = [json.loads(line) for line in workdir.metrics.read_text().splitlines()]
    assert recorded[-1]["held_out/broken"] == 1


class Once(list):
    """A stream of one batch."""

    def __next__(self):
        return self[0]

    def close(self):
        """Nothing is open."""


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """Draws two clips, which eight devices cannot share, as training does; gives what would be saved."""
    drawn = []
    monkeypatch.setattr(reconstruction, "save", lambda pictures, path, videos=(): drawn.append(pictures))

    def run(attention, **axes):
        config = videomae_v2.get_config("B,smoke")
        config.method.model.attention = attention
        config.mesh.ici.update(axes)
        made = experiment(config)
        made = dataclasses.replace(made, train=dataclasses.replace(made.train, pictures=2))
        clips = {name: np.zeros((2, *leaf.shape[1:]), leaf.dtype) for name, leaf in made.batch_spec.items()}
        clips["video"] = np.random.default_rng(0).integers(0, 256, clips["video"].shape).astype(np.uint8)
        clips["seed"] = np.arange(4, dtype=np.uint32).reshape(2, 2)
        source = SimpleNamespace(key=lambda index: f"{index}.mp4")
        data = SimpleNamespace(batches=lambda **_: Once([clips]), source=source)
        init = made.make_init(made.optimizer_without_data())
        state, _ = sharding.create(init, jax.random.key(0), made.batch_spec, made.mesh)
        attempt.drawing(made, Workdir(tmp_path), data, Writers([]))(state, 1)
        return drawn[-1].videos, lambda: alone(made, state, clips)

    return run


def alone(made, state, clips):
    """The same pictures of one device."""
    params, step, extra, frozen = jax.device_get((state.params, state.step, state.extra["method"], state.frozen))
    context = Context(key=jax.random.key(made.seed), step=step, extra=extra, frozen=frozen, train=False)
    return jax.jit(made.method.reconstruct)(params, clips, context).videos


@pytest.mark.slow
def test_pictures_while_training_are_the_same_on_any_mesh(draw):
    drawn, on_one_device = draw("plain", data=2, fsdp=2, tensor=2)
    for one, other in zip(drawn, on_one_device(), strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_pictures_while_training_lower_for_tpus_with_the_fused_kernel(draw, monkeypatch):
    monkeypatch.setattr(attempt, "on_mesh", functools.partial(for_tpus, plain=True))
    with pytest.raises(NotImplementedError, match="cannot be automatically partitioned"):
        draw("splash", data=2, fsdp=2, tensor=2)
    monkeypatch.setattr(attempt, "on_mesh", for_tpus)
    draw("splash", data=2, fsdp=2, tensor=2)
