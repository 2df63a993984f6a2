"""StableHLO exports, run: the same outputs for any batch."""

import json

import jax
import numpy as np
import pytest

from vmae_jax.exchange import export_checkpoint, load, serving
from vmae_jax.spec import ConfigError


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
