"""Small runs to export: a config, random parameters (biases too), a checkpoint."""

import pathlib
import types
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from vmae_jax import spec
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.spec import call
from vmae_jax.weights.subject import fresh_params, subject

DIMS = {
    "size": "micro",
    "frames": 4,
    "resolution": 16,
    "patch": 8,
    "width": 24,
    "heads": 2,
    "decoder_width": 16,
    "decoder_heads": 2,
    "decoder_depth": 1,
    "dtype": "float32",
}


def config_of(kind: str = "pretraining", *, normalize: bool = True, classes: int = 5, **dims: Any) -> ConfigDict:
    model = call("models.variants.vit", **DIMS | dims)
    if kind == "classifier":
        method = call("methods.classify.build", model=model, classes=classes)
    else:
        pixels = call("targets.core.objective", target=call("targets.pixels", normalize=normalize))
        encoder_mask = call("masking.random", ratio=0.5)
        method = call("methods.masked.build", model=model, encoder_mask=encoder_mask, objectives={"pixels": pixels})
    return ConfigDict({"method": method, "seed": 0}, sort_keys=False, convert_dict=False)


def random_params(config: ConfigDict, seed: int = 0) -> Any:
    """Every parameter random, so that none that is lost goes unseen."""
    rng = np.random.default_rng(seed)
    noise = lambda a: np.asarray(0.2 * rng.standard_normal(a.shape), np.float32)  # noqa: E731
    return jax.tree.map(noise, fresh_params(subject(config), None))


def write_run(
    workdir: pathlib.Path, config: ConfigDict, params: Any, *, ema: Any = None, step: int = 3
) -> pathlib.Path:
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(spec.to_json(config))
    state = {"params": params} | ({"extra": {"ema": ema}} if ema is not None else {})
    checkpoints = Checkpoints(workdir / "checkpoints", asynchronous=False)
    checkpoints.save(step, state, {})
    checkpoints.close()
    return workdir


@pytest.fixture(scope="session")
def small() -> types.SimpleNamespace:
    """What makes small models: config_of(kind, **dims), random_params(config), write_run(folder, …)."""
    return types.SimpleNamespace(config_of=config_of, random_params=random_params, write_run=write_run)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """A pre-training run and a classifier, only read by the tests of a module."""
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for kind in ("pretraining", "classifier"):
        config = config_of(kind)
        made[kind] = write_run(folder / kind, config, random_params(config))
    return made
