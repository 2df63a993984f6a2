"""Runs the evaluators of a config over its held-out data."""

from collections.abc import Iterator
from typing import Any

from vmae_jax.commands.experiment import Experiment
from vmae_jax.data.device import host_rows, prefetch_to_device
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding
from vmae_jax.types import Batch, Params

__all__ = ["evaluation_batches", "measure"]

Tables = dict[str, list[list[Any]]]


def measure(made: Experiment, data: Any, params: Params) -> tuple[dict[str, float], Tables]:
    """What every evaluator says, as NAME/METRIC, and the tables that some give, as NAME_FILE.

    An evaluator that has a loader `train` gets a pass over that too, for what it compares with.

    Args:
      data: the opened loader of `made.eval.data`.

    Raises:
      ConfigError: an evaluator that this data or this method does not suit.
    """
    numbers: dict[str, float] = {}
    tables: Tables = {}
    for name, evaluator in made.eval.evaluators.items():
        train = getattr(evaluator, "train", None)
        try:
            with evaluation_batches(made, data) as batches:
                if train is None:
                    found = evaluator(made.method, params, batches)
                else:
                    with evaluation_batches(made, train.open()) as others:
                        found = evaluator(made.method, params, batches, others)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"config.eval.evaluators.{name}: {error}") from error
        numbers |= {f"{name}/{key}": float(value) for key, value in found.items()}
        tables |= {f"{name}_{file}": rows for file, rows in getattr(found, "tables", {}).items()}
    return numbers, tables


class evaluation_batches:  # noqa: N801 - used as a function
    """One pass over held-out data, each video once, on the devices."""

    def __init__(self, made: Experiment, data: Any):
        place = sharding.batch_sharding(made.mesh)
        clips = data.loader.clips_per_step
        sharding.check_batch(clips, made.mesh)
        self.batches = prefetch_to_device(data.once(rows=host_rows(place, clips), seed=made.seed), place, clips=clips)

    def __enter__(self) -> Iterator[Batch]:
        return self.batches

    def __exit__(self, *_: Any) -> None:
        self.batches.close()
