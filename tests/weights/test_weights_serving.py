"""StableHLO exports, run: the same outputs for any batch."""

import hashlib
import json
import shutil

import jax
import jax.export
import jax.ffi
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.spec import ConfigError, call
from vmae_jax.weights import export_checkpoint, load, serving
from vmae_jax.weights.formats.tensors import write_safetensors


@pytest.mark.parametrize("kind", ["pretraining", "classifier"])
def test_stablehlo(runs, tmp_path, kind):
    report = export_checkpoint(runs[kind], format="stablehlo", out=tmp_path / "served")
    json.dumps(report)
    method, params = load(runs[kind])
    video = np.random.default_rng(3).integers(0, 256, (5, 4, 16, 16, 3), np.uint8)
    for name, function in (("features", method.features), ("logits", method.predict)):
        if function is None:
            with pytest.raises(ConfigError, match="no function 'logits': features"):
                serving.run(tmp_path / "served", name)
            continue
        expected = jax.jit(function)(params, {"video": video})
        np.testing.assert_allclose(serving.run(tmp_path / "served", name)(video), expected, atol=1e-5)
    assert "tensor<?x4x16x16x3xui8>" in (tmp_path / "served" / "features.mlir").read_text()
    with pytest.raises(ConfigError, match=r"manifest.json"):
        serving.run(tmp_path)


def _serve(folder, content):
    """A folder of a stranger with one function."""
    folder.mkdir()
    digest = hashlib.sha256(content).hexdigest()
    manifest = {"functions": {"features": "features.stablehlo"}, "sha256": {"features": digest}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "features.stablehlo").write_bytes(content)
    write_safetensors(folder / serving.WEIGHTS, {"w": np.zeros((2, 2), np.float32)}, {})
    return folder


def _exported(function, *trusted):
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in trusted]
    weights = {"w": jax.ShapeDtypeStruct((2, 2), np.float32)}
    video = jax.ShapeDtypeStruct((2, 2), np.uint8)
    return jax.export.export(jax.jit(function), disabled_checks=checks)(weights, video).serialize()


def test_a_module_of_a_stranger_that_calls_foreign_code_is_refused(tmp_path):
    def foreign(weights, video):
        result = jax.ShapeDtypeStruct((2, 2), np.float32)
        return jax.ffi.ffi_call("a_library_of_the_machine", result, has_side_effect=True)(weights["w"])

    def own(weights, video):
        return weights["w"] @ jnp.sort(video.astype(np.float32))

    content = _exported(foreign, "a_library_of_the_machine")
    with pytest.raises(ConfigError, match=r"calls code outside of StableHLO .*a_library_of_the_machine.* not run"):
        serving.run(_serve(tmp_path / "foreign", content))
    served = serving.run(_serve(tmp_path / "own", _exported(own)))
    np.testing.assert_array_equal(served(np.ones((2, 2), np.uint8)), np.zeros((2, 2)))


@pytest.mark.parametrize("how", ["flipped", "cut off", "no digest", "unreadable"])
def test_a_damaged_module_is_one_line(tmp_path, how):
    content = _exported(lambda weights, video: weights["w"] + video)
    folder = _serve(tmp_path / "served", content)
    if how == "flipped":
        (folder / "features.stablehlo").write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
    if how == "cut off":
        (folder / "features.stablehlo").write_bytes(content[:-1])
    if how == "no digest":
        (folder / "manifest.json").write_text('{"functions": {"features": "features.stablehlo"}}')
    if how == "unreadable":
        shutil.rmtree(folder)
        folder = _serve(tmp_path / "served", b"no module")
    with pytest.raises(ConfigError, match=r"features.stablehlo is (damaged|no StableHLO module)") as refused:
        serving.run(folder)
    assert "\n" not in str(refused.value)


def test_an_attentive_classifier_with_a_class_token(small, tmp_path):
    """Everything that features and logits need is served; what VideoMAE has no place for is refused there."""
    config = small.config_of("classifier", prefix=1)
    config.method.pool = call("models.pooling.attentive", heads=2)
    params = small.random_params(config)
    run = small.write_run(tmp_path / "run", config, params)
    report = export_checkpoint(run, format="stablehlo", out=tmp_path / "served")
    assert not report["left_out"]
    method, params = load(run)
    video = np.random.default_rng(3).integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
    expected = jax.jit(method.predict)(params, {"video": video})
    np.testing.assert_allclose(serving.run(tmp_path / "served", "logits")(video), expected, atol=1e-5)
    with pytest.raises(ConfigError, match="has no place in VideoMAE: export --part=encoder"):
        export_checkpoint(run, format="videomae", out=tmp_path / "x.pth")
    with pytest.raises(ConfigError, match="a class token exists neither"):
        export_checkpoint(run, format="videomae", out=tmp_path / "x.pth", part="encoder")
    assert not (tmp_path / "x.pth").exists()
