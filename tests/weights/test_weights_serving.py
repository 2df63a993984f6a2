"""StableHLO exports, run: the same outputs for any batch."""

import json

import jax
import numpy as np
import pytest

from vmae_jax.spec import ConfigError, call
from vmae_jax.weights import export_checkpoint, load, serving


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
