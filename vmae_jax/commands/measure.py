"""Runs the evaluators of a config over its held-out data."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from vmae_jax.commands.experiment import Experiment
from vmae_jax.data.device import host_rows, prefetch_to_device
from vmae_jax.eval.collect import About, Results
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding
from vmae_jax.types import Batch, Extra, Params

__all__ = ["check_classes", "evaluation_batches", "measure"]


def measure(made: Experiment, data: Any, params: Params, carried: Callable[[], tuple[Extra, Params]]) -> Results:
    """What every evaluator says, as NAME/METRIC, and the tables and files that some give, as NAME_FILE.

    An evaluator that has a loader `train` gets a pass over that too, for what it compares with.

    Args:
      data: the opened loader of `made.eval.data`.
      params: of the method, as they are evaluated.
      carried: gives the method's carried state and its frozen networks.

    Raises:
      ConfigError: an evaluator that this data or this method does not suit.
    """
    check_classes(made, data)
    about = About(data.label_names, getattr(data.source, "key", None), carried)
    results = Results({})
    for name, evaluator in made.eval.evaluators.items():
        train = getattr(evaluator, "train", None)
        more = {"about": about} if "about" in inspect.signature(evaluator).parameters else {}
        try:
            with evaluation_batches(made, data) as batches:
                if train is None:
                    found = evaluator(made.method, params, batches, **more)
                else:
                    known = train.open()
                    check_classes(made, data, known)
                    with evaluation_batches(made, known) as others:
                        found = evaluator(made.method, params, batches, others, **more)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"config.eval.evaluators.{name}: {error}") from error
        results.update({f"{name}/{key}": float(value) for key, value in found.items()})
        if isinstance(found, Results):
            results.tables |= {f"{name}_{file}": rows for file, rows in found.tables.items()}
            results.files |= {f"{name}_{file}": content for file, content in found.files.items()}
    return results


def check_classes(made: Experiment, data: Any, other: Any = None) -> None:
    """Compares the classes of opened data, by their names, with the heads, and with those of other data.

    Raises:
      ConfigError: more classes than a head tells apart, or the same labels numbered differently.
    """
    for name, head in (made.method.heads or {}).items():
        names = data.label_names.get(head.label, ())
        if head.kind != "numbers" and len(names) > head.outputs:
            where = f"config.method.heads.{name}.classes" if name else "config.method.classes"
            raise ConfigError(
                f"the data has {len(names)} classes ({names[0]!r} to {names[-1]!r}), the model "
                f"{head.outputs}: set {where}"
            )
    for label, names in data.label_names.items():
        others = other.label_names.get(label, ()) if other is not None else ()
        if others and others != names:
            place = next(i for i in range(max(len(names), len(others))) if names[i : i + 1] != others[i : i + 1])
            one, two = (repr(found[place]) if place < len(found) else "nothing" for found in (names, others))
            raise ConfigError(
                f"training and evaluation data number their classes differently: {label} {place} is {one} here, {two} "
                f"there; give both sources the same names="
            )


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
