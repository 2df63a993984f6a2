"""Imported weights are used as any workdir is: features, probes of every kind, evaluation; and so is pre-training."""

import json

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from vmae_jax import weights
from vmae_jax.cli import main
from vmae_jax.commands import evaluate, features, reconstruct
from vmae_jax.commands.restore import restore
from vmae_jax.configs import common
from vmae_jax.data.decode import read_frames
from vmae_jax.data.opened import open_loader
from vmae_jax.data.video import Encoded
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.io.paths import Workdir
from vmae_jax.spec import ConfigError, build, call, to_json
from vmae_jax.weights.subject import fresh_params, subject

FRAMES, SIZE = 4, 16
PROBE = "stride=1"  # the rest is the checkpoint's


def method(kind="classifier"):
    model = call(
        "models.variants.vit", size="micro", frames=FRAMES, resolution=SIZE, patch=8, width=192, heads=3, depth=1,
        decoder_width=192, decoder_heads=3, decoder_depth=1, dtype="float32",
    )  # fmt: skip
    if kind == "classifier":
        return call("methods.classify.build", model=model, classes=2)
    pixels = call("targets.core.objective", target=call("targets.pixels"))
    return call(
        "methods.masked.build", model=model, encoder_mask=call("masking.tube", ratio=0.5), objectives={"pixels": pixels}
    )


def write(folder, config):
    """A workdir with fresh parameters."""
    workdir = Workdir(folder)
    workdir.path.mkdir()
    workdir.config_json.write_text(to_json(config))
    saver = Checkpoints(workdir.checkpoints, asynchronous=False)
    saver.save(0, {"params": fresh_params(subject(config))}, {})
    saver.close()
    return str(folder)


@pytest.fixture(scope="module", params=["classifier", pytest.param("pretraining", marks=pytest.mark.slow)])
def imported(request, tmp_path_factory):
    """A workdir that `vmae import` made of a file, without a config, and the parameters of the run behind it."""
    folder = tmp_path_factory.mktemp(request.param)
    run = write(folder / "run", ConfigDict({"method": method(request.param)}, convert_dict=False))
    weights.export_checkpoint(run, format="hf", out=str(folder / "hf"))
    result = weights.import_weights(str(folder / "hf"), out=str(folder / "imported"))
    assert result["config"] == "made from the weights"
    return str(folder / "imported"), run


def test_features_of_imported_weights_are_those_of_the_run(imported, coloured, tmp_path):
    path, run = imported
    video = str(coloured / "all" / "red" / "02.mp4")
    result = features.run(path, videos=[video], out=str(tmp_path), options=features.Options(like="tad", batch=2))
    assert (result["videos"], result["window"], result["stride"]) == (1, 4, 4)
    found = np.load(tmp_path / "02.npz")["features"]
    one = restore(run)
    clips = np.stack([read_frames(Encoded(path=video), range(8))[start : start + 4] for start in (0, 4)])
    pixels = np.asarray([tf.image.resize(clip, (SIZE, SIZE)).numpy() for clip in clips])
    mean, std = (np.float32(getattr(build(method().model), name)) for name in ("mean", "std"))
    np.testing.assert_allclose(
        found, one.made.method.features(one.params, {"video": pixels * std + 255 * mean}), atol=1e-3
    )
    # By default the stride is that of the papers' pre-training.
    assert restore(path).made.loader.sampler.stride == 4
    with pytest.raises(ConfigError, match="has weights but no data: name the videos"):
        open_loader(restore(path).made.loader)


@pytest.mark.parametrize(
    "kind", ["linear", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("knn", "retrieval", "attentive"))]
)
def test_every_probe_of_folders_and_lists(imported, coloured, kind):
    """Three classes, more than the classifier's own two, which is not asked."""
    path, _ = imported
    fast = {"attentive": [("eval.evaluators.attentive.epochs", "2")]}.get(kind, [])
    for data in (f"data={coloured}/train.csv,test={coloured}/test.csv", f"data={coloured}/all"):
        found = evaluate.run(path, config=f"configs/probe.py:{kind},{data},{PROBE}", overrides=fast)
        named = "test=" in data
        if kind in ("linear", "knn") and named:
            assert found[f"{kind}/top1"] == 1.0, "any features distinguish colours"
        assert found[f"{kind}/videos"] == (3 if named else 1)


def test_a_head_of_imported_weights_is_evaluated_with_a_config_or_overrides(imported, coloured, tmp_path):
    path, _ = imported
    known = [line for line in (coloured / "test.csv").read_text().splitlines() if not line.endswith(" 2")]
    (tmp_path / "two.csv").write_text("\n".join(known))
    lists = [("eval.data.source.path", str(tmp_path / "two.csv")), ("eval.data.source.root", str(coloured))]
    tests = common.sections(
        method=method(), data=ConfigDict(), optimizer=ConfigDict(), train={"length": {"steps": 0}},
        eval={
            "data": call(
                "data.pipeline.loader",
                source=call("data.sources.csv", path="a list"),
                sampler=call("data.clips.multiview", frames=FRAMES, stride=1, views=2),
                transforms=[call("data.transforms.view_crop", size=SIZE, crops=1)],
                global_batch=8,
                labels=True,
            ),
            "evaluators": {"test": call("eval.multiview")},
        },
    )  # fmt: skip
    (tmp_path / "tests.py").write_text(
        f"from vmae_jax.spec import from_json\n\ndef get_config(_=None):\n    return from_json({to_json(tests)!r})\n"
    )
    if "classifier" in path:
        found = evaluate.run(path, config=str(tmp_path / "tests.py"), overrides=[*lists, ("method.classes", "2")])
        assert found["test/videos"] == 2
    else:
        with pytest.raises(ConfigError, match="multiview needs a method with outputs"):
            evaluate.run(path, config=str(tmp_path / "tests.py"), overrides=lists)
    with pytest.raises(ConfigError, match="its config evaluates nothing"):
        evaluate.run(path)


def test_reconstruction_of_imported_weights(imported, coloured, tmp_path):
    path, _ = imported
    if "classifier" in path:
        with pytest.raises(ConfigError, match="reconstructs no pixels"):
            reconstruct.run(path, out=str(tmp_path))
        return
    with pytest.raises(ConfigError, match="has weights but no data"):
        reconstruct.run(path, out=str(tmp_path))
    result = reconstruct.run(path, out=str(tmp_path), videos=[str(coloured / "all" / "red")], clips=2)
    assert result["clips"] == 2


def test_mistakes_are_one_line(imported, coloured, tmp_path):
    path, _ = imported
    (tmp_path / "none.py").write_text(
        "from ml_collections import ConfigDict\n\ndef get_config(_=None):\n    return ConfigDict()\n"
    )
    for config, words in (
        (
            f"configs/probe.py:data={coloured}/all,frames=8,size=32",
            r"takes clips of 4x16x16x3 .* gives 8x32x32x3: leave out frames= and size=, or .*model\.frames=",
        ),
        (f"configs/probe.py:data={coloured}/train.csv,{PROBE}", "of the test videos as test="),
        ("configs/probe.py:linear", "give the labelled videos as"),
        (str(tmp_path / "none.py"), "has no section eval"),
    ):
        with pytest.raises(ConfigError, match=words) as error:
            evaluate.run(path, config=config)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_probe_of_prepared_records_asks_their_held_out_split(imported, coloured, tmp_path, capsys):
    for split, part in (("train", "train.csv"), ("validation", "test.csv")):
        words = ["data", "prepare", str(coloured / part), f"--out={tmp_path}/set", f"--split={split}", "--workers=1"]
        assert main([*words, "--quiet"]) == 0
    path, _ = imported
    config = f"configs/probe.py:knn,data={tmp_path}/set,{PROBE}"
    assert main(["eval", f"--checkpoint={path}", f"--config={config}"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["knn/videos"], found["knn/neighbours"], found["knn/top1"]) == (3, 9, 1.0)
