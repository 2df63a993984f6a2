"""Small runs for tests: labelled videos on the disk, a real but tiny classifier, and what evaluates it."""

import av
import jax
import numpy as np

from vmae_jax.commands.experiment import experiment
from vmae_jax.commands.restore import restore
from vmae_jax.configs import common
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.io.paths import Workdir
from vmae_jax.spec import call, to_json
from vmae_jax.train import sharding

FRAMES, SIZE, CLASSES = 4, 16, 3


def write_video(path, number):
    """A video of noise around a grey that depends on its class."""
    random = np.random.default_rng(number)
    path.parent.mkdir(exist_ok=True, parents=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for _ in range(12):
            picture = random.integers(0, 80, (4, 6, 3)) + 60 * (number % CLASSES)
            frame = np.kron(picture, np.ones((8, 8, 1))).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())


def write_videos(folder, count=7):
    """So many videos of three classes, in folders."""
    for number in range(count):
        write_video(folder / f"class{number % CLASSES}" / f"{number}.mp4", number)


def loader(folder, *, size=SIZE, batch=3, views=2, labels=True):
    return call(
        "data.pipeline.loader",
        source=call("data.sources.folder", path=str(folder), labels="folders"),
        sampler=call("data.clips.multiview", frames=FRAMES, stride=1, views=views),
        transforms=[call("data.transforms.resize", size=size)],
        global_batch=batch,
        labels=labels,
        workers=1,
    )


def config_of(folder, evaluators=None, *, attention="auto", size=SIZE, train=None, **held_out):
    known = loader(folder, batch=2, views=1)
    if evaluators is None:
        evaluators = {
            "views": call("eval.multiview"),
            "knn": call("eval.knn", train=known, k=3),
            "probe": call("eval.probe", train=known),
            "attentive": call(
                "eval.attentive_probe", train=known, pool=call("models.pooling.attentive", heads=2), epochs=1, batch=4
            ),
            "held_out": call("eval.held_out"),
        }
    model = call("models.variants.vit", size="micro", frames=FRAMES, resolution=SIZE, dtype="float32",
                 attention=attention)  # fmt: skip
    return common.sections(
        method=call("methods.classify.build", model=model, classes=CLASSES, init_scale=1.0),
        data=loader(folder, batch=8, views=1),
        optimizer=call("train.optim.adamw", schedule=call("train.schedule.constant", value=1e-3)),
        train={"length": {"steps": 1}, **(train or {})},
        eval={"data": loader(folder, size=size, **held_out), "evaluators": evaluators},
    )


def parameters(made, mesh, seed=0):
    init = lambda key, batch: made.method.init(key, batch)[0]  # noqa: E731
    return sharding.create(init, jax.random.key(seed), made.batch_spec, mesh)[0]


def mesh_of(**axes):
    count = int(np.prod(list(axes.values())))
    return sharding.make_mesh(axes, devices=jax.devices()[:count])


def save_run(path, config, step=5):
    """A workdir with one checkpoint, whose average of the parameters is another network: both, and the workdir."""
    workdir = Workdir(path)
    workdir.path.mkdir()
    workdir.config_json.write_text(to_json(config))
    made = experiment(config)
    params, average = (parameters(made, mesh_of(data=1), seed) for seed in (0, 1))
    saver = Checkpoints(workdir.checkpoints, asynchronous=False)
    saver.save(step, {"params": params, "extra": {"ema": average}, "frozen": {}}, {})
    saver.close()
    return workdir, params, average


def same_run(whole, again, step=4):
    """Assert that two workdirs ended at a step with the same finite parameters and the same carried state."""
    runs = [restore(str(path)) for path in (whole, again)]
    assert [run.step for run in runs] == [step, step]
    for one, other in zip(*(jax.tree.leaves(run.params) for run in runs), strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.isfinite(one).all()
    for one, other in zip(*(jax.tree.leaves(run.carried().extra) for run in runs), strict=True):
        np.testing.assert_array_equal(one, other)
