"""Export, import and load without PyTorch: whole, accounted for, or nothing at all."""

import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict

from vmae_jax.spec import ConfigError, call
from vmae_jax.weights import export_checkpoint, import_weights, load, verify
from vmae_jax.weights.checkpoint import read_checkpoint
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.layouts import huggingface


@pytest.fixture(autouse=True)
def no_pytorch(monkeypatch):
    """These tests are of machines without it; others compare with it."""
    monkeypatch.setattr(verify, "has_torch", lambda: False)


@pytest.fixture(scope="module")
def exports(runs, tmp_path_factory):
    """Each run in both formats of transformers and the official code."""
    folder, made = tmp_path_factory.mktemp("exports"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "has_torch", lambda: False)
        for kind, workdir in runs.items():
            for format_, name in (("hf", "hf"), ("videomae", "x.pth"), ("videomae", "x.safetensors")):
                out = folder / kind / name
                report = export_checkpoint(workdir, format=format_, out=out)
                made[kind, name] = out, report
    return made


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def params_of(workdir):
    return read_checkpoint(workdir).params


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", ["hf", "x.pth", "x.safetensors"])
@pytest.mark.parametrize("kind", ["pretraining", "classifier"])
def test_there_and_back(runs, exports, kind, name, tmp_path):
    out, report = exports[kind, name]
    assert report["checked_by"] == "round trip"
    assert "not compared" in report["not_checked"]
    assert report["largest_difference"] == 0
    json.dumps(report)
    report = import_weights(out, out=tmp_path / "back")
    json.dumps(report)
    assert report["kind"] == kind
    assert not report["dropped"]
    assert_same(params_of(tmp_path / "back"), params_of(runs[kind]))
    method, params = load(out)
    assert_same(params, params_of(runs[kind]))
    original, _ = load(runs[kind])
    video = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
    ours, theirs = (jax.jit(one.features)(params, {"video": video}) for one in (original, method))
    np.testing.assert_array_equal(ours, theirs)


def test_hf_folder(exports):
    folder, _ = exports["pretraining", "hf"]
    assert {p.name for p in folder.iterdir()} == {
        "config.json", "preprocessor_config.json", "model.safetensors", "README.md"
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["use_mean_pooling"] is False
    assert config["layer_norm_eps"] == 1e-6
    assert (config["num_frames"], config["image_size"], config["patch_size"]) == (4, 16, 8)
    prepare = json.loads((folder / "preprocessor_config.json").read_text())
    assert prepare["image_mean"] == [0.485, 0.456, 0.406]
    assert prepare["rescale_factor"] == 1 / 255
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o666 & ~umask()}
    names = set(safetensors.numpy.load_file(folder / "model.safetensors"))
    assert "videomae.layernorm.weight" in names
    assert not any("qkv" in name for name in names)
    for bias in ("q_bias", "v_bias", "query.bias", "value.bias", "key.bias"):
        assert f"videomae.encoder.layer.1.attention.attention.{bias}" in names
    folder, _ = exports["classifier", "hf"]
    config = json.loads((folder / "config.json").read_text())
    assert config["use_mean_pooling"] is True
    assert config["id2label"] == {str(i): f"LABEL_{i}" for i in range(5)}


def test_labels_average_encoder_and_half(small, tmp_path, runs):
    config = small.config_of("classifier")
    plain, average = small.random_params(config, 1), small.random_params(config, 2)
    workdir = small.write_run(tmp_path / "run", config, plain, ema=average)
    labels = ["a", "b <b>", "c", "d", "é"]
    report = export_checkpoint(workdir, format="hf", out=tmp_path / "hf", ema=True, labels=labels, dtype="float16")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["label2id"]["é"] == 4
    half = safetensors.numpy.load_file(tmp_path / "hf" / "model.safetensors")
    np.testing.assert_array_equal(half["classifier.bias"], average["head"]["bias"].astype(np.float16))
    assert report["weights"] == "average of the parameters"
    with pytest.raises(ConfigError, match="2 different label names were given for 5 classes"):
        export_checkpoint(workdir, format="hf", out=tmp_path / "no", labels=["a", "b"])
    with pytest.raises(ConfigError, match="keeps no average"):
        export_checkpoint(runs["classifier"], format="hf", out=tmp_path / "no", ema=True)
    report = export_checkpoint(runs["pretraining"], format="hf", out=tmp_path / "encoder", part="encoder")
    assert report["left_out"]["decoder/mask_token"] == "only the encoder is exported"
    names = set(safetensors.numpy.load_file(tmp_path / "encoder" / "model.safetensors"))
    assert "embeddings.patch_embeddings.projection.bias" in names
    assert "layernorm.bias" in names


def test_the_card_states_what_the_run_states(small, tmp_path):
    config = small.config_of()
    config.data = ConfigDict({"path": "/home/someone/private/videos", "bucket": "gs://private/here"})
    workdir = small.write_run(tmp_path / "my <run>", config, small.random_params(config))
    rows = [
        {"kind": "train", "step": 2, "loss": 0.5, "examples_seen": 64},
        {"kind": "train", "step": 9, "loss": 0.1, "examples_seen": 640},
        {"kind": "eval", "step": 3, "knn/top1": 0.25},
    ]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (workdir / "media").mkdir()
    (workdir / "media" / "reconstruction_00000003.png").write_bytes(b"three")
    (workdir / "media" / "reconstruction_00000009.png").write_bytes(b"nine")
    export_checkpoint(workdir, format="hf", out=tmp_path / "hf", license="cc-by-nc-4.0")
    text = (tmp_path / "hf" / "README.md").read_text()
    assert 'license: "cc-by-nc-4.0"' in text
    assert "# my &lt;run&gt;" in text
    assert "| loss | 0.5 |" in text  # of a step up to the one exported
    assert "private" not in text  # where a disk's videos lay is nobody's business
    assert '".../videos"' in text
    assert "| knn/top1 | 0.25 |" in text
    assert "Videos seen, counted with repetitions: 64." in text
    assert (tmp_path / "hf" / "reconstruction.png").read_bytes() == b"three"


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ({"cosine_attention": True}, "cosine attention cannot be represented"),
        ({"layer_scale": 0.1}, "layer scale cannot be represented"),
        ({"positions": call("models.positions.learned")}, "only the fixed 1-D sinusoid"),
        ({"positions": call("models.positions.sincos_3d")}, "only the fixed 1-D sinusoid"),
    ],
)
def test_what_transformers_cannot_represent_is_refused(small, tmp_path, dims, message):
    config = small.config_of(**dims)
    workdir = small.write_run(tmp_path / "run", config, small.random_params(config))
    with pytest.raises(ConfigError, match=message):
        export_checkpoint(workdir, format="hf", out=tmp_path / "hf")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_bad_flags(runs, tmp_path):
    run, out = runs["pretraining"], tmp_path / "out"
    for flags, message in (
        ({"format": "onnx"}, "use --format=stablehlo"),
        ({"format": "keras"}, "one of hf, videomae, mae, cropmae, vjepa, params, stablehlo"),
        ({"format": "hf", "dtype": "int8"}, "one of float32, float16, bfloat16"),
        ({"format": "videomae"}, "the name of a .pth or .safetensors file"),
        ({"format": "stablehlo", "dtype": "float16"}, "float32 or bfloat16"),
        ({"format": "hf", "clip": np.zeros((2, 8, 8, 3), np.uint8)}, "a clip of uint8"),
    ):
        with pytest.raises(ConfigError, match=message):
            export_checkpoint(run, out=out, **flags)
    with pytest.raises(ConfigError, match="local path"):
        export_checkpoint(run, format="hf", out="gs://bucket/hf")
    (out / "sub").mkdir(parents=True)
    with pytest.raises(ConfigError, match="other things in it"):
        export_checkpoint(run, format="hf", out=out)
    with pytest.raises(ConfigError):
        export_checkpoint(tmp_path / "nothing", format="hf", out=tmp_path / "x")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["hf", "x.safetensors"])
def test_an_export_that_is_there_is_replaced_on_demand_alone(runs, tmp_path, name):
    format_, out = "hf" if name == "hf" else "videomae", tmp_path / name
    export_checkpoint(runs["pretraining"], format=format_, out=out, part="encoder")
    files = {path: path.read_bytes() for path in ([out] if out.is_file() else out.iterdir())}
    with pytest.raises(ConfigError, match=f"--out={out} exists already: name another, or replace it with --overwrite"):
        export_checkpoint(runs["pretraining"], format=format_, out=out)
    assert {path: path.read_bytes() for path in files} == files
    report = export_checkpoint(runs["pretraining"], format=format_, out=out, overwrite=True)
    assert not report["left_out"]
    assert {path: path.read_bytes() for path in files} != files


def test_a_full_disk_leaves_the_old_export(runs, tmp_path, monkeypatch):
    out = tmp_path / "hf"
    export_checkpoint(runs["pretraining"], format="hf", out=out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def half(path, state, metadata):
        pathlib.Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "write_safetensors", half)
    with pytest.raises(ConfigError, match="the disk is full; what was there before is as it was"):
        export_checkpoint(runs["pretraining"], format="hf", out=out, overwrite=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_a_wrong_conversion_is_not_left_behind(runs, tmp_path, monkeypatch):
    convert = huggingface.to_state

    def wrong(state, kind):
        state = convert(state, kind)
        for name in state:
            if "encoder.layer.0" in name and name.endswith(("q_bias", "query.bias")):
                state[name] = state[name] * 0
        return state

    monkeypatch.setattr(huggingface, "to_state", wrong)
    with pytest.raises(ConfigError, match=r"verification failed: .*q_bias"):
        export_checkpoint(runs["pretraining"], format="hf", out=tmp_path / "hf")
    assert not list(tmp_path.iterdir())


def test_too_large_for_half(small, tmp_path):
    config = small.config_of()
    params = small.random_params(config)
    params["encoder"]["norm"]["scale"][0] = 1e6
    workdir = small.write_run(tmp_path / "run", config, params)
    with pytest.raises(ConfigError, match=r"encoder.norm.weight|layernorm.weight has values too large for float16"):
        export_checkpoint(workdir, format="hf", out=tmp_path / "hf", dtype="float16")


def test_import_faults_write_nothing(exports, small, tmp_path):
    out = exports["pretraining", "x.safetensors"][0]
    state = safetensors.numpy.load_file(out)
    (tmp_path / "new").mkdir()

    def refused(message, change=None, **flags):
        changed = {name: array.copy() for name, array in state.items()}
        if change:
            change(changed)
        tensors.write_safetensors(tmp_path / "w.safetensors", changed, {})
        with pytest.raises(ConfigError, match=message) as error:
            import_weights(tmp_path / "w.safetensors", out=tmp_path / "new" / "run", **flags)
        assert "\n" not in str(error.value)
        assert not list((tmp_path / "new").iterdir())

    given = {"config": small.config_of()}
    without = lambda s: [s.pop(n) for n in list(s) if n.startswith(("decoder.", "mask_token", "encoder_to"))]  # noqa: E731
    refused("--fresh=decoder begins with a new one", without, **given)
    refused("has shape", lambda s: s.update({"decoder.norm.bias": np.zeros(3, np.float32)}), **given)
    refused(
        "mask_token has 1 values that are not finite", lambda s: s["mask_token"].__setitem__((0, 0, 0), np.nan), **given
    )
    refused("width 24, not 32", None, config=small.config_of(width=32))
    refused("no part 'neck'", None, **given, fresh=["neck"])
    refused("do not determine how many heads")
    refused("another family", lambda s: (s.clear(), s.update(x=np.zeros(3, np.float32))))
    other = {"num_attention_heads": 4, "decoder_num_attention_heads": 2}
    tensors.write_safetensors(tmp_path / "w.safetensors", state, other)
    with pytest.raises(ConfigError, match="heads 4, not 2"):
        import_weights(tmp_path / "w.safetensors", out=tmp_path / "new" / "run", **given)
    (tmp_path / "new" / "run").mkdir()
    (tmp_path / "new" / "run" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is not empty"):
        import_weights(out, out=tmp_path / "new" / "run", **given)


def test_what_only_the_config_states(exports, small, tmp_path):
    shutil.copytree(exports["pretraining", "hf"][0], tmp_path / "hf")

    def change(name, **values):
        path = tmp_path / "hf" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    change("config.json", layer_norm_eps=1e-12)
    change("preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    report = import_weights(tmp_path / "hf", out=tmp_path / "one", config=small.config_of())
    assert [note.split()[2] for note in report["notes"]] == ["has", "is"]
    report = import_weights(tmp_path / "hf", out=tmp_path / "two")
    assert [note.split()[2] for note in report["notes"]] == ["has"]
    assert list(read_checkpoint(tmp_path / "two").config.method.model.mean) == [0.5, 0.5, 0.5]
    for values, message in (
        ({"num_frames": "16"}, "num_frames='16', where a whole number"),
        ({"image_size": 17}, "clips of 17 pixels"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
    ):
        shutil.copy(exports["pretraining", "hf"][0] / "config.json", tmp_path / "hf" / "config.json")
        change("config.json", **values)
        with pytest.raises(ConfigError, match=message):
            import_weights(tmp_path / "hf", out=tmp_path / "three")


def test_a_damaged_newest_step_is_passed_over(small, tmp_path):
    config = small.config_of()
    first, second = small.random_params(config, 1), small.random_params(config, 2)
    run = small.write_run(tmp_path / "run", config, first, step=1)
    small.write_run(tmp_path / "other", config, second, step=2)
    shutil.copytree(tmp_path / "other" / "checkpoints" / "2", run / "checkpoints" / "2")
    assert read_checkpoint(run).step == 2
    for path in (run / "checkpoints" / "2").rglob("*"):
        if path.is_file() and path.stat().st_size > 20_000:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 255
            path.write_bytes(data)
    assert read_checkpoint(run).step == 1
    with pytest.raises(ConfigError, match=r"no readable checkpoint in .*: step 2"):
        read_checkpoint(run / "checkpoints" / "2")


def test_import_of_a_part(exports, small, tmp_path):
    out = exports["pretraining", "hf"][0]
    config = small.config_of("classifier")
    report = import_weights(out, out=tmp_path / "run", config=config, fresh=["norm", "head"])
    assert report["checked_by"] == "shapes"
    assert set(report["fresh"]) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    params = params_of(tmp_path / "run")
    np.testing.assert_array_equal(params["fc_norm"]["scale"], 1)
    method, params = load(tmp_path / "run" / "checkpoints" / "0")
    assert np.isfinite(method.predict(params, {"video": np.zeros((1, 4, 16, 16, 3), np.uint8)})).all()


def test_load_of_weights_without_a_head(runs, tmp_path):
    """The V2 hub's encoders: a classifier's names under `model.`, fc_norm and no head."""
    export_checkpoint(runs["classifier"], format="videomae", out=tmp_path / "x.safetensors")
    state = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    hub = {f"model.{name}": array for name, array in state.items() if not name.startswith("head.")}
    (tmp_path / "hub").mkdir()
    tensors.write_safetensors(tmp_path / "hub" / "model.safetensors", hub, {})
    about = {"model_type": "VideoMAEv2_Base", "model_config": {"img_size": 16, "num_heads": 2, "num_frames": 4}}
    (tmp_path / "hub" / "config.json").write_text(json.dumps(about))
    method, params = load(tmp_path / "hub")
    original, theirs = load(runs["classifier"])
    video = {"video": np.random.default_rng(0).integers(0, 256, (1, 4, 16, 16, 3), np.uint8)}
    np.testing.assert_allclose(method.features(params, video), original.features(theirs, video), atol=1e-6)
