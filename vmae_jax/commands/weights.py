"""`vmae export` and `vmae import`: weights for other programs, and from them."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vmae_jax import weights
from vmae_jax.commands.config import load_config
from vmae_jax.commands.experiment import experiment
from vmae_jax.commands.reconstruct import sample
from vmae_jax.commands.restore import restore
from vmae_jax.commands.streams import only_video
from vmae_jax.data.texts import read_text
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding

__all__ = ["run_export", "run_import"]


def run_export(args: argparse.Namespace) -> dict[str, Any]:
    """Write an export, after comparing its outputs."""
    return weights.export_checkpoint(
        args.checkpoint,
        format=args.format,
        out=args.out,
        dtype=args.dtype,
        ema=args.ema,
        part=args.part,
        labels=_labels(args.labels),
        license=args.license,
        overwrite=args.overwrite,
        clip=None if args.video is None else _clip(args.checkpoint, args.video),
    )


def run_import(args: argparse.Namespace) -> dict[str, Any]:
    """Create a workdir from published weights."""
    if args.overrides and args.config is None:
        raise ConfigError("vmae import: --config.… needs --config")
    config = None if args.config is None else load_config(args.config, args.overrides)
    return weights.import_weights(
        args.weights,
        out=args.out,
        config=config,
        key=args.key,
        fresh=[part for part in args.fresh.split(",") if part],
        resize=args.resize,
        inflation=args.inflation,
        channels=args.channels,
        make_state=None if config is None else _whole_state(config),
    )


def _whole_state(config: ConfigDict) -> Callable[[Any, Any], Any]:
    """Return (params, average) -> the state of the config's experiment at step 0, from which `vmae train` continues."""

    def make(params: Any, average: Any) -> Any:
        made = experiment(config)
        # The initial state of an optimizer does not depend on the length of an epoch, so no data are needed.
        tx = made.optimizer_without_data()
        state, placement = sharding.create(made.make_init(tx), jax.random.key(made.seed), made.batch_spec, made.mesh)
        params, average = (
            jax.device_put(one, placement.shardings.params) for one in (params, params if average is None else average)
        )
        extra = state.extra | ({"ema": jax.tree.map(jnp.copy, average)} if "ema" in state.extra else {})
        return dataclasses.replace(state, params=params, extra=extra)

    return make


def _labels(path: str) -> list[str]:
    if not path:
        return []
    try:
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--labels={path}: {getattr(error, 'strerror', None) or error}") from error


def _clip(checkpoint: str, video: str) -> np.ndarray:
    """Return one clip of a video, by the run's own frame sampler and transforms."""
    made = restore(checkpoint).made
    only_video(made.method, made.batch_spec, "--video")
    return sample(made, [video], 1, 0)[0]["video"][0]
