"""The evaluators of a config, over its held-out data."""

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
from vmae_jax.commands.streams import check_expected, check_streams, check_views
from vmae_jax.data.faults import Fault
from vmae_jax.data.opened import Opened, open_loader
from vmae_jax.data.source import facts_of
from vmae_jax.eval.attentive_probe import AttentiveProbe
from vmae_jax.eval.collect import About, Programs, Results, labelled
from vmae_jax.eval.few_shot import FewShot
from vmae_jax.eval.knn import Knn, Retrieval
from vmae_jax.eval.moments import MomentsProbe
from vmae_jax.eval.probe import Probe
from vmae_jax.eval.propagation import Propagation
from vmae_jax.eval.spectrum import Spectrum
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding
from vmae_jax.train.device import host_rows, prefetch_to_device
from vmae_jax.train.on_mesh import on_mesh
from vmae_jax.types import Batch, Carried, Params

__all__ = ["Measurement", "check_classes"]

log = logging.getLogger(__name__)

# These use no head, so the data may have other classes.
OF_FEATURES = (AttentiveProbe, FewShot, Knn, MomentsProbe, Probe, Propagation, Retrieval, Spectrum)
BROKEN = "broken.csv"


class Measurement:
    """The evaluators of an experiment and their data, opened and checked; call it once per evaluation.

    Programs are compiled once. Batches are enlarged to a multiple of what the mesh needs.

    Attributes:
      data: the opened loader of `made.eval.data`; None if no evaluator reads it.
      heads: whether any evaluator uses the method's own heads.
      mesh: whose devices share the clips.

    Args:
      made: an experiment whose `eval` section has evaluators with data.
      mesh: of the parameters; by default the experiment's own.
      averaged: whether the parameters will be the averaged ones; by default as `made.eval.ema`.

    Raises:
      ConfigError: if data are missing, or do not suit the model, an evaluator, each other or this host's memory.
    """

    def __init__(self, made: Experiment, mesh: jax.sharding.Mesh | None = None, averaged: bool | None = None):
        self._made, self.mesh = made, mesh or made.mesh
        self._averaged = made.eval.ema if averaged is None else averaged
        self._programs = Programs(functools.partial(on_mesh, mesh=self.mesh))
        self._logged: set[tuple[str, int]] = set()
        self._known: dict[str, Opened] = {}  # the data that evaluators compare with, by their names
        self._sequences: dict[str, Any] = {}  # the annotated videos of evaluators, by their names
        self._evaluators = made.eval.ready
        self.data = None if made.eval.data is None else self._open("config.eval.data", made.eval.data)
        self.heads = not all(isinstance(evaluator, OF_FEATURES) for evaluator in self._evaluators.values())
        if self.data is not None:
            check_classes(made, self.data, heads=self.heads)
        for name, evaluator in self._evaluators.items():
            where = f"config.eval.evaluators.{name}"
            if hasattr(evaluator, "sequences"):
                with _as_mistake(f"{where}.sequences"):
                    self._sequences[name] = evaluator.sequences.open()
            if getattr(evaluator, "train", None) is not None:
                self._known[name] = self._open(f"{where}.train", evaluator.train)
                check_classes(made, self.data, self._known[name], heads=self.heads)
            with _as_mistake(where):
                self._check(evaluator, self._known.get(name))

    def __call__(
        self,
        params: Params,
        carried: Callable[[], Carried],
        alive: Callable[[str, str], None] = lambda name, where: None,
        left_out: Callable[[str, Sequence[Fault]], None] | None = None,
    ) -> Results:
        """Run every evaluator; return its metrics as NAME/METRIC, its tables and files as NAME_FILE.

        An evaluator with a loader `train` gets a pass over that as well, to compare with; one with `sequences` gets
        these annotated videos, opened, and no batches.
        Videos that cannot be read are counted as NAME/broken, or NAME/train_broken, and listed in the
        table broken.csv.

        Args:
          params: of the method, on the mesh.
          carried: returns what the state holds beside the parameters.
          alive: called before every batch with the evaluator's name and the batch.
          left_out: takes the unreadable videos of a loader, by its option, and lists them in `quarantine.jsonl`; by
            default each is logged.

        Raises:
          ConfigError: if an evaluator does not suit the data or the method.
          TooManyBadVideos: if more of the videos cannot be read than their loader allows.
        """
        rows = sharding.batch_shards(self.mesh)
        about = About(carried=carried, programs=self._programs, rows=rows, averaged=self._averaged)
        if self.data is not None:
            about = dataclasses.replace(about, label_names=self.data.label_names, name=_names(self.data.source))
        results = Results({})
        broken: dict[str, list[Fault]] = {}
        for name, evaluator in self._evaluators.items():
            found, faults = self._run(name, evaluator, params, about, functools.partial(alive, name), left_out)
            results.update({f"{name}/{key}": float(value) for key, value in found.items()})
            results.update({f"{name}/{prefix}broken": float(len(bad)) for prefix, bad in faults.items() if bad})
            broken |= {name if prefix else "": bad for prefix, bad in faults.items()}
            if isinstance(found, Results):
                results.tables |= {f"{name}_{file}": rows for file, rows in found.tables.items()}
                results.files |= {f"{name}_{file}": content for file, content in found.files.items()}
        if any(broken.values()):
            rows = [(of or "held out", bad) for of, faults in broken.items() for bad in faults]
            results.tables[BROKEN] = [["data", "video", "name", "reason"]]
            results.tables[BROKEN] += [[of, bad.index, bad.key, bad.reason] for of, bad in rows]
        return results

    def _run(
        self,
        name: str,
        evaluator: Any,
        params: Params,
        about: About,
        alive: Callable[[str], None],
        left_out: Callable[[str, Sequence[Fault]], None] | None,
    ) -> tuple[Any, dict[str, list[Fault]]]:
        """What an evaluator found, and the unreadable videos of the held-out data ("") and of its own ("train_").

        They are listed and compared with the limit first, so that an evaluator that fails for the lack of readable
        videos does not hide why.
        """
        about = dataclasses.replace(about, alive=alive)
        more = {"about": about} if "about" in inspect.signature(evaluator).parameters else {}
        if name in self._sequences:
            with _as_mistake(f"config.eval.evaluators.{name}"):
                return evaluator(self._made.method, params, self._sequences[name], **more), {}
        assert self.data is not None, "an evaluator without data is not ready"
        passes = {"": self.data} | ({"train_": self._known[name]} if name in self._known else {})
        found, failure = None, None
        with contextlib.ExitStack() as stack:
            batches = [stack.enter_context(self._once(data, alive)) for data in passes.values()]
            try:
                found = evaluator(self._made.method, params, *(one.rows for one in batches), **more)
            except ValueError as error:
                failure = error
            faults = {prefix: list(one.faults()) for prefix, one in zip(passes, batches, strict=True)}
        if failure is None:  # after a failure the other hosts may be anywhere: nothing is gathered
            faults = {prefix: of_all_hosts(bad) for prefix, bad in faults.items()}
        for prefix, bad in faults.items():
            self._leave_out(f"config.eval.evaluators.{name}.train" if prefix else "config.eval.data", bad, left_out)
            videos, limit = len(passes[prefix]), passes[prefix].loader.max_bad_fraction
            option = f"config.eval.evaluators.{name}.train" if prefix else "config.eval.data"
            refuse_too_many(bad, videos, videos, limit, f"{option}.max_bad_fraction", listed=left_out is not None)
        with _as_mistake(f"config.eval.evaluators.{name}"):
            if failure is not None:
                raise failure
        return found, faults

    def _leave_out(
        self, option: str, bad: list[Fault], left_out: Callable[[str, Sequence[Fault]], None] | None
    ) -> None:
        """Pass on the unreadable videos of a loader, or log each of them once."""
        if left_out is not None:
            left_out(option, bad)
            return
        for fault in bad:
            if (option, fault.index) not in self._logged:
                self._logged.add((option, fault.index))
                log.warning("%s cannot be read, and is left out of the evaluation: %s", fault.key, fault.reason)

    def videos(self) -> dict[str, int]:
        """Return the number of videos of the held-out data ("") and of the data that evaluators compare with."""
        held_out = {} if self.data is None else {"": len(self.data)}
        return held_out | {name: len(data) for name, data in self._known.items()}

    def facts(self) -> dict[str, Any]:
        """Return the facts of the held-out data, and of those that evaluators compare with (see `facts_of`)."""
        found = {} if self.data is None else facts_of(self.data.source, "held-out ")
        for name, videos in self._sequences.items():
            found |= {f"{what} of the {name} videos": fact for what, fact in videos.facts().items()}
        for name, data in self._known.items():
            found |= facts_of(data.source, f"{name} training ")
        return found

    def _open(self, where: str, loader: Any) -> Opened:
        """Open a loader, with batches that divide over the mesh."""
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
            check_expected(method, loader, where)
            if any(spec[name].shape[1:] != own[name].shape[1:] for name in method.inputs):
                rows = loader.clips_per_step
                more = {name: own[name] for name in method.supervision if name not in spec}  # masks and targets look
                more = {name: jax.ShapeDtypeStruct((rows, *one.shape[1:]), one.dtype) for name, one in more.items()}
                sharding.abstract(lambda key, batch: method.init(key, batch)[0], {**spec, **more})
            data = open_loader(loader)
            data.memory(host_rows(sharding.batch_sharding(self.mesh), loader.clips_per_step))
            return data

    def _check(self, evaluator: Any, known: Opened | None) -> None:
        """Raise ValueError if an evaluator cannot use the data or the method."""
        if getattr(evaluator, "reads_views", False) and self.data is not None:
            check_views(self._made.method, self.data.loader.views, "config.eval.data")
        if hasattr(evaluator, "check"):
            method, batch = self._made.method, self._made.batch_spec
            params, extra = sharding.unbox(sharding.abstract(method.init, batch))
            frozen = {} if method.frozen is None else sharding.unbox(sharding.abstract(method.frozen, batch))
            carried = Carried(extra, frozen, params if method.averaged else None)
            evaluator.check(method, params, {} if self.data is None else self.data.loader.spec(), carried)
        if hasattr(evaluator, "label"):
            for data in (self.data, known):
                if data is not None:
                    labelled(data.loader.spec(), evaluator.label)

    @contextlib.contextmanager
    def _once(self, data: Opened, alive: Callable[[str], None]) -> Iterator["_Pass"]:
        """One pass over data, each video once, on the devices."""
        place, clips = sharding.batch_sharding(self.mesh), data.loader.clips_per_step
        batches = prefetch_to_device(data.once(rows=host_rows(place, clips), seed=self._made.seed), place, clips=clips)
        try:
            yield _Pass(_followed(batches, alive), batches.faults)
        finally:
            batches.close()


@dataclasses.dataclass(frozen=True)
class _Pass:
    """The batches of a pass, and the unreadable videos of this host's share."""

    rows: Iterator[Batch]
    faults: Callable[[], Sequence[Fault]]


def check_classes(made: Experiment, data: Any, other: Any = None, *, heads: bool = True) -> None:
    """Compare the class names of opened data with the heads, and with those of other data.

    Args:
      heads: whether the method's own heads are used on these data; evaluators of features use none.

    Raises:
      ConfigError: if there are more classes than outputs of a head, or two data sets number a label differently.
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
                f"there; set names= of both sources to one file of class names"
            )


def _names(source: Any) -> Callable[[int], str] | None:
    """What names the videos of a source by their numbers, if anything does."""
    return getattr(source, "key", None)


@contextlib.contextmanager
def _as_mistake(where: str) -> Iterator[None]:
    """Turn a ValueError into a ConfigError that begins with the option at fault."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith("config."):
            raise
        raise ConfigError(f"{where}: {error}") from error


def _followed(batches: Iterator[Batch], alive: Callable[[str], None]) -> Iterator[Batch]:
    for number, batch in enumerate(batches, 1):
        alive(f"batch {number}")
        yield batch
    alive("the results of its batches")
