"""A training of no steps is the state it begins with, saved: a head sliced by its classes' names can be evaluated."""

import json
import time

import jax
import numpy as np
import pytest

from vmae_jax.commands import evaluate, train
from vmae_jax.commands.restore import restore
from vmae_jax.configs import common
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.io.paths import Workdir
from vmae_jax.io.writers import read_rows
from vmae_jax.spec import ConfigError, call

FRAMES, SIZE = 4, 16


def config(coloured, classes, steps, **more):
    def loader(source, **sampling):
        return call(
            "data.pipeline.loader",
            source=call("data.sources.csv", path=str(coloured / source)),
            sampler=call("data.clips.multiview", frames=FRAMES, stride=1, **sampling),
            transforms=[call("data.transforms.center_crop", size=SIZE)],
            global_batch=8,
            labels=True,
        )

    model = call("models.variants.vit", size="micro", frames=FRAMES, resolution=SIZE, patch=8, depth=1, dtype="float32")
    return common.sections(
        method=call("methods.classify.build", model=model, classes=classes, init_scale=1.0),
        data=loader("train.csv", views=1),
        optimizer=call(
            "train.optim.adamw",
            schedule=call("train.schedule.warmup_cosine", peak=1e-3, warmup={"epochs": 5}),
        ),
        train={"length": {"steps": steps}},
        eval={"data": loader("test.csv", views=2), "evaluators": {"test": call("eval.multiview")}},
        **more,
    )


@pytest.mark.slow
def test_a_sliced_head_is_evaluated_before_it_is_tuned(coloured, tmp_path):
    (tmp_path / "five.txt").write_text("ant\nblue\nbee\ngreen\nred\n")
    (tmp_path / "three.txt").write_text("Blue\nGreen\nRed\n")
    (tmp_path / "longer.txt").write_text("blue\n")
    first = train.run(config(coloured, 5, 0), Workdir(tmp_path / "five"), progress=False)
    assert (first["step"], first["status"]) == (0, "done")
    assert Checkpoints(Workdir(tmp_path / "five").checkpoints).steps() == [0]
    begin = call(
        "train.init_from.weights", path=str(tmp_path / "five"), old_labels=str(tmp_path / "five.txt"),
        new_labels=str(tmp_path / "three.txt"),
    )  # fmt: skip
    sliced = config(coloured, 3, 0, init_from={"params": begin})
    workdir = Workdir(tmp_path / "three")
    train.run(sliced, workdir, progress=False)
    before, after = (restore(str(tmp_path / name)).params for name in ("five", "three"))
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(after["head"][name], before["head"][name][..., [1, 3, 4]])
    jax.tree.map(np.testing.assert_array_equal, after["encoder"], before["encoder"])
    events = [row["event"] for row in read_rows(workdir.metrics) if row["kind"] == "event"]
    assert events == ["started", "saved"]
    found = evaluate.run(str(workdir.path))
    assert found["step"] == 0
    assert found["test/videos"] == 3

    again = train.run(sliced, workdir, progress=False)  # reports that it is done, and does nothing
    assert again["step"] == 0
    longer = config(coloured, 3, 1, init_from={"params": begin})
    with pytest.raises(ConfigError, match="a warm-up of 5 steps does not fit into a training of 1 steps"):
        train.run(longer, workdir, progress=False)


def test_attempts_that_left_no_checkpoint_stay_in_the_account_of_time(coloured, tmp_path):
    """A run that starts from the beginning drops the rows of attempts before it."""
    workdir = Workdir(tmp_path / "run")
    workdir.path.mkdir()
    now = time.time()
    left = [{"kind": "event", "event": "started", "step": 0, "time": now - 100}]
    left += [{"kind": "train", "step": 3, "time": now - 60}]
    workdir.metrics.write_text("".join(json.dumps(row) + "\n" for row in left))
    train.run(config(coloured, 5, 0), workdir, progress=False)
    first, second, *_ = read_rows(workdir.metrics)
    assert (first["event"], first["step"], second["event"]) == ("time spent", 0, "started")
    assert (first["lost"], first["down"]) == (pytest.approx(40, abs=0.1), pytest.approx(60, abs=20))
