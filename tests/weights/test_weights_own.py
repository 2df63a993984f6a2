"""Parameters under their own names that somebody changed."""

import numpy as np
import pytest

from vmae_jax.spec import ConfigError
from vmae_jax.weights import export_checkpoint, import_weights, load
from vmae_jax.weights.formats.tensors import read_file, write_safetensors


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, np.float32), (-np.inf, np.float32), (1e300, np.float64)])
def test_parameters_that_are_not_finite_are_refused(small, tmp_path, value, dtype):
    """Weights are what the user hands over: one line, and no checkpoint that a save would find to be at fault."""
    config = small.config_of()
    run = small.write_run(tmp_path / "run", config, small.random_params(config))
    export_checkpoint(run, format="params", out=tmp_path / "x.safetensors")
    file = read_file(tmp_path / "x.safetensors")
    name = "encoder/blocks/mlp/fc1/kernel"
    state = {**file.state, name: file.state[name].astype(dtype)}
    state[name][0, 1, 2] = value
    write_safetensors(tmp_path / "bad.safetensors", state, file.about)
    for read in (load, lambda path: import_weights(path, out=tmp_path / "no")):
        with pytest.raises(ConfigError, match=rf"{name} has values that are not finite, or too large for float32"):
            read(tmp_path / "bad.safetensors")
    assert not (tmp_path / "no").exists()
