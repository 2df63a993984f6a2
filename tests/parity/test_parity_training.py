"""The same six optimizer steps as the official implementation, through the step everything uses."""

import numpy as np
import pytest
from recorded import trained

from vmae_jax.weights.layouts import videomae


def test_training(pretrain):
    numbers, method = pretrain.numbers, pretrain.method()
    optimizer = {"b2": 0.95, "weight_decay": float(numbers["wd"]), "clip_norm": float(numbers["clip"])}
    params = trained(method, pretrain.params(method), pretrain.batch, numbers, **optimizer)
    final = videomae.to_official(params, pretrain.facts)
    golden = {k.removeprefix("final_norm/"): v for k, v in numbers.items() if k.startswith("final_norm/")}
    assert set(final) == set(golden)
    for name, norm in golden.items():
        assert np.linalg.norm(final[name]) == pytest.approx(float(norm), rel=1e-5), name
