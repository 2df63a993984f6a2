"""Runs the evaluators of a config over its held-out data."""

import contextlib
import dataclasses
import functools
import inspect
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from vmae_jax.commands.experiment import Experiment
from vmae_jax.commands.skipped import of_all_hosts, refuse_too_many
from vmae_jax.commands.streams import check_streams
from vmae_jax.data.agreement import facts_of
from vmae_jax.data.faults import Fault
from vmae_jax.data.opened import Opened, open_loader
from vmae_jax.eval.attentive_probe import AttentiveProbe
from vmae_jax.eval.collect import About, Programs, Results, labelled
from vmae_jax.eval.knn import Knn, Retrieval
from vmae_jax.eval.probe import Probe
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding
from vmae_jax.train.device import host_rows, prefetch_to_device
from vmae_jax.train.on_mesh import on_mesh
from vmae_jax.types import Batch, Extra, Params

__all__ = ["Measurement", "check_classes"]

log = logging.getLogger(__name__)

OF_FEATURES = (AttentiveProbe, Knn, Probe, Retrieval)  # they ask no head, so the data may have other classes
BROKEN = "broken.csv"


class Measurement:
    """The evaluators of an experiment and their data, opened and checked; called as often as there is to measure.

    What they compile is compiled once. A batch is made as large as the mesh needs it.

    Attributes:
      data: the opened loader of `made.eval.data`.
      heads: whether any evaluator asks the method's own heads.
      mesh: whose devices share the clips.

    Args:
      made: an experiment whose `eval` section names data and evaluators.
      mesh: that the parameters will be on; by default the experiment's own.

    Raises:
      ConfigError: data that are not there, or that do not suit the model, an evaluator, each other
        or this host's memory.
    """

    def __init__(self, made: Experiment, mesh: jax.sharding.Mesh | None = None):
        self._made, self.mesh = made, mesh or made.mesh
        self._programs = Programs(functools.partial(on_mesh, mesh=self.mesh))
        self._logged: set[tuple[str, int]] = set()
        self._known: dict[str, Opened] = {}  # what evaluators compare with, by their names
        self.data = self._open("config.eval.data", made.eval.data)
        self.heads = not all(isinstance(evaluator, OF_FEATURES) for evaluator in made.eval.evaluators.values())
        check_classes(made, self.data, heads=self.heads)
        for name, evaluator in made.eval.evaluators.items():
            where = f"config.eval.evaluators.{name}"
            if getattr(evaluator, "train", None) is not None:
                self._known[name] = self._open(f"{where}.train", evaluator.train)
                check_classes(made, self.data, self._known[name], heads=self.heads)
            with _as_mistake(where):
                self._check(evaluator, self._known.get(name))

    def __call__(
        self,
        params: Params,
        carried: Callable[[], tuple[Extra, Params]],
        alive: Callable[[str, str], None] = lambda name, where: None,
    ) -> Results:
        """What every evaluator says, as NAME/METRIC, and the tables and files that some give, as NAME_FILE.

        An evaluator that has a loader `train` gets a pass over that too, for what it compares with.
        Videos that cannot be read are counted as NAME/broken, or NAME/train_broken, and listed in the
        table broken.csv.

        Args:
          params: of the method, on the mesh, as they are evaluated.
          carried: gives the method's carried state and its frozen networks.
          alive: told before every batch where the work is: the evaluator's name, and the batch.

        Raises:
          ConfigError: an evaluator that this data or this method does not suit.
          TooManyBadVideos: if more of the videos cannot be read than their loader allows.
        """
        about = About(self.data.label_names, getattr(self.data.source, "key", None), carried, self._programs)
        results = Results({})
        broken: dict[str, list[Fault]] = {}
        for name, evaluator in self._made.eval.evaluators.items():
            more = {"about": about} if "about" in inspect.signature(evaluator).parameters else {}
            told, passes = functools.partial(alive, name), {"": self.data}
            if name in self._known:
                passes["train_"] = self._known[name]
            faults: dict[str, list[Fault]] = {}
            with _as_mistake(f"config.eval.evaluators.{name}"), contextlib.ExitStack() as stack:
                batches = [stack.enter_context(self._once(data, told)) for data in passes.values()]
                found = evaluator(self._made.method, params, *(one.rows for one in batches), **more)
                faults = {prefix: of_all_hosts(one.faults()) for prefix, one in zip(passes, batches, strict=True)}
            results.update({f"{name}/{key}": float(value) for key, value in found.items()})
            results.update({f"{name}/{prefix}broken": float(len(bad)) for prefix, bad in faults.items() if bad})
            broken |= {name if prefix else "": bad for prefix, bad in faults.items()}
            if isinstance(found, Results):
                results.tables |= {f"{name}_{file}": rows for file, rows in found.tables.items()}
                results.files |= {f"{name}_{file}": content for file, content in found.files.items()}
        if any(broken.values()):
            results.tables[BROKEN] = self._listed(broken)
        for of, bad in broken.items():
            data, option = (self._known[of], f"evaluators.{of}.train") if of else (self.data, "data")
            videos, limit = len(data), data.loader.max_bad_fraction
            refuse_too_many(bad, videos, videos, limit, f"config.eval.{option}.max_bad_fraction")
        return results

    def videos(self) -> dict[str, int]:
        """Return how many there are, of the held-out data ("") and of what evaluators compare with."""
        return {"": len(self.data)} | {name: len(data) for name, data in self._known.items()}

    def facts(self) -> dict[str, Any]:
        """Return what hosts compare of the held-out data and of what evaluators compare with (see `facts_of`)."""
        found = facts_of(self.data.source, "held-out ")
        for name, data in self._known.items():
            found |= facts_of(data.source, f"{name} training ")
        return found

    def _listed(self, broken: dict[str, list[Fault]]) -> list[list[Any]]:
        """The table of broken videos, of the held-out data ("") and what evaluators compare with; each logged once."""
        rows: list[list[Any]] = [["data", "video", "name", "reason"]]
        for of, fault in ((of or "held out", fault) for of, faults in broken.items() for fault in faults):
            rows.append([of, fault.index, fault.key, fault.reason])
            if (of, fault.index) not in self._logged:
                self._logged.add((of, fault.index))
                log.warning("%s cannot be read, and is left out of what is measured: %s", fault.key, fault.reason)
        return rows

    def _open(self, where: str, loader: Any) -> Opened:
        """A loader's data, in batches that divide over the mesh."""
        with _as_mistake(where):
            unit = sharding.batch_shards(self.mesh)
            videos = unit // math.gcd(unit, loader.clips_per_video)
            batch = -(-loader.global_batch // videos) * videos
            if batch != loader.global_batch:
                log.info("%s: %d videos a batch, not %d, as %d devices share its clips",
                         where, batch, loader.global_batch, unit)  # fmt: skip
            loader = dataclasses.replace(loader, global_batch=batch)
            spec, own, method = loader.spec(), self._made.batch_spec, self._made.method
            check_streams(method, spec, where)
            if any(spec[name].shape[1:] != own[name].shape[1:] for name in method.inputs):
                rows = loader.clips_per_step
                more = {name: own[name] for name in method.supervision if name not in spec}  # masks and targets look
                more = {name: jax.ShapeDtypeStruct((rows, *one.shape[1:]), one.dtype) for name, one in more.items()}
                sharding.abstract(lambda key, batch: method.init(key, batch)[0], {**spec, **more})
            data = open_loader(loader)
            data.memory(host_rows(sharding.batch_sharding(self.mesh), loader.clips_per_step))
            return data

    def _check(self, evaluator: Any, known: Opened | None) -> None:
        """Raises ValueError where an evaluator cannot use the data or the method."""
        if hasattr(evaluator, "check"):
            method, batch = self._made.method, self._made.batch_spec
            params, extra = sharding.unbox(sharding.abstract(method.init, batch))
            frozen = {} if method.frozen is None else sharding.unbox(sharding.abstract(method.frozen, batch))
            evaluator.check(method, params, self.data.loader.spec(), (extra, frozen))
        if hasattr(evaluator, "label"):
            for data in (self.data, known):
                if data is not None:
                    labelled(data.loader.spec(), evaluator.label)

    @contextlib.contextmanager
    def _once(self, data: Opened, told: Callable[[str], None]) -> Iterator["_Pass"]:
        """One pass over data, each video once, on the devices."""
        place, clips = sharding.batch_sharding(self.mesh), data.loader.clips_per_step
        batches = prefetch_to_device(data.once(rows=host_rows(place, clips), seed=self._made.seed), place, clips=clips)
        try:
            yield _Pass(_followed(batches, told), batches.faults)
        finally:
            batches.close()


@dataclasses.dataclass(frozen=True)
class _Pass:
    """The batches of a pass, and what of this host's share was broken."""

    rows: Iterator[Batch]
    faults: Callable[[], Sequence[Fault]]


def check_classes(made: Experiment, data: Any, other: Any = None, *, heads: bool = True) -> None:
    """Compares the classes of opened data, by their names, with the heads, and with those of other data.

    Args:
      heads: whether the method's own heads are asked about these data; evaluators on features alone need none.

    Raises:
      ConfigError: more classes than a head tells apart, or the same labels numbered differently.
    """
    for name, head in (made.method.heads or {}).items() if heads else ():
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


@contextlib.contextmanager
def _as_mistake(where: str) -> Iterator[None]:
    """A mistake that is told inside leaves as one line that says where."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith("config."):
            raise
        raise ConfigError(f"{where}: {error}") from error


def _followed(batches: Iterator[Batch], told: Callable[[str], None]) -> Iterator[Batch]:
    for number, batch in enumerate(batches, 1):
        told(f"batch {number}")
        yield batch
    told("what follows from its batches")
