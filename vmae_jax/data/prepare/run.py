"""`vmae data prepare`: videos to records, resumable at any point, the same bytes however it came there."""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from etils import epath

from vmae_jax.data.faults import TooManyBadVideos
from vmae_jax.data.prepare.inputs import Inputs, Origin, open_inputs
from vmae_jax.data.prepare.make import ShardJob
from vmae_jax.data.prepare.record import Options, check_timeout
from vmae_jax.data.prepare.shards import (
    Layout,
    check_alike,
    check_apart,
    deal,
    default_shards,
    manifests,
    write_metadata,
    write_whole,
)
from vmae_jax.spec import ConfigError

__all__ = ["Plan", "Runner", "prepare"]

Runner = Callable[[Sequence[ShardJob]], None]
_SHOWN = 3


class Plan:
    """A preparation: its videos dealt to shards.

    Args:
      inputs: the videos.
      layout: where the records go.
      options: how videos are stored.
      shards: how many; by default by the sources' size.
      timeout: seconds in which a decoder has to give the next frame.

    Raises:
      ConfigError: if a number is out of range.
    """

    def __init__(
        self, inputs: Inputs, layout: Layout, options: Options, *, shards: int | None = None, timeout: float = 60.0
    ) -> None:
        check_timeout(timeout)
        if options.codec != "keep":  # writes the sound of records with that of videos, where it is asked for
            inputs = inputs.without("audio")
        self.inputs, self.layout, self.options, self._timeout = inputs, layout, options, timeout
        count = len(self.inputs.keys)
        if shards is not None and not 1 <= shards <= count:
            raise ConfigError(f"shards={shards}: 1 to {count}, the number of videos")
        self.shards = shards or default_shards(self.inputs.sizes)
        self._parts = deal(self.inputs.keys, self.shards)

    @classmethod
    def of(cls, origin: Origin, layout: Layout, options: Options, *, timeout: float = 60.0, **more: Any) -> "Plan":
        """Return the plan for the videos of a place.

        Raises:
          ConfigError: if there are no videos, `layout` is among them, or a number is out of range.
        """
        check_timeout(timeout)
        check_apart(origin.paths, layout.out)
        inputs = open_inputs(origin, scratch=os.fspath(layout.work))
        return cls(inputs, layout, options, timeout=timeout, **more)

    @property
    def identity(self) -> dict[str, Any]:
        """What the bytes of the result follow from."""
        return {
            "options": self.options.asdict(),
            "shards": self.shards,
            "videos": len(self.inputs.keys),
            "source": self.inputs.digest,
        }

    def jobs(self) -> list[ShardJob]:
        """The shards that are not finished."""
        return [self._job(number) for number in range(self.shards) if not self._finished(number)]

    def reports(self) -> list[dict[str, Any]]:
        """Of every shard, in order."""
        return [json.loads(self.layout.report(number).read_text()) for number in range(self.shards)]

    def forget(self) -> None:
        """Removes the shards: nothing that is worth keeping is in them."""
        for number in range(self.shards):
            self.layout.shard(number, self.shards).unlink(missing_ok=True)
        _clear(self.layout)

    def _finished(self, number: int) -> bool:
        return self.layout.report(number).exists() and self.layout.shard(number, self.shards).exists()

    def _job(self, number: int) -> ShardJob:
        indices = self._parts[number]
        keys = [self.inputs.keys[index] for index in indices] if self.inputs.named else None
        part = self.inputs.part(indices)
        kinds = dict(self.inputs.kinds)
        return ShardJob(number, self.shards, self.layout, self.options, part, keys, kinds, self._timeout)


def prepare(plan_of: Callable[[], Plan], layout: Layout, runner: Runner, *, wait: bool = False) -> dict[str, Any]:
    """Make what is missing of the records, then what TFDS needs to open them.

    Args:
      plan_of: makes the plan, once the place is locked.
      layout: where the records go.
      runner: makes the shards of some jobs.
      wait: while another process prepares into the same place.

    Returns:
      the manifest: options, counts, sizes, checksums of the shards, rejected videos.

    Raises:
      ConfigError: as `Plan`, or if another process prepares into the same place and `wait` is False.
      TooManyBadVideos: if not one video can be read.
    """
    with _lock(layout, layout.split, wait=wait):
        plan = plan_of()
        if layout.manifest.exists():
            manifest = manifests(layout.out)[layout.split]
            _same(manifest["identity"], plan.identity, layout)
            _clear(layout)
            return manifest
        check_alike(layout, plan.options, plan.inputs)
        _begin(plan)
        runner(plan.jobs())
        manifest = _manifest(plan)
        if not manifest["examples"]:
            rejected = manifest["rejected"]
            shown = "; ".join(f"{key} {reason}" for key, _, reason in rejected[:_SHOWN])
            plan.forget()
            raise TooManyBadVideos(f"none of the {len(rejected)} videos can be read: {shown}")
        with _lock(layout, ".metadata", wait=True):  # the splits of a dataset share it
            write_metadata(layout, manifest)
        _clear(layout)
        return manifest


def _begin(plan: Plan) -> None:
    """Writes the plan down, or checks that it is the one that was begun."""
    path = plan.layout.work / "plan.json"
    if path.exists():
        _same(json.loads(path.read_text()), plan.identity, plan.layout)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, plan.identity)
    for left in plan.layout.work.glob("*.tmp"):
        left.unlink()


def _same(before: dict[str, Any], now: dict[str, Any], layout: Layout) -> None:
    if before == now:
        return
    flat = [{**one.pop("options"), **one} for one in (dict(before), dict(now))]
    changed = [
        f"{name} was {flat[0].get(name)}, is {flat[1].get(name)}"
        for name in flat[1]
        if flat[0].get(name) != flat[1][name]
    ]
    changed = ["the videos are others" if text.startswith("source was") else text for text in changed]
    raise ConfigError(
        f"--out={layout.out} has the split {layout.split!r} of another preparation already: {'; '.join(changed)}. "
        "Use another --out or --split, or the old values"
    )


def _manifest(plan: Plan) -> dict[str, Any]:
    reports = plan.reports()
    total = {name: sum(report[name] for report in reports) for name in ("examples", "frames", "bytes")}
    rejected = [*map(list, plan.inputs.refused), *(entry for report in reports for entry in report["rejected"])]
    return {
        "name": plan.layout.name,
        "split": plan.layout.split,
        "identity": plan.identity,
        **total,
        "videos": sum(report["videos"] for report in reports),
        "seconds": round(sum(report["seconds"] for report in reports), 3),
        "labels": dict(plan.inputs.kinds),
        "label_names": {name: list(names) for name, names in plan.inputs.label_names.items()},
        "rejected": sorted(rejected),
        "notes": sorted(note for report in reports for note in report["notes"]),
        "shards": [
            {
                "file": plan.layout.shard(i, plan.shards).name,
                **{k: report[k] for k in ("examples", "file_bytes", "sha256")},
            }
            for i, report in enumerate(reports)
        ],
    }


def _clear(layout: Layout) -> None:
    if layout.work.exists():
        layout.work.rmtree()


@contextlib.contextmanager
def _lock(layout: Layout, name: str, *, wait: bool) -> Iterator[None]:
    """Hold a lock of a dataset, such as that of a split; a process that was killed leaves none."""
    root = epath.Path(layout.out) / ".preparing"
    if "://" in layout.out:
        root.mkdir(parents=True, exist_ok=True)
        yield
        return
    path = os.fspath(root / f"{name}.lock")
    file = _locked(path, wait)
    if file is None:
        raise ConfigError(f"--out={layout.out}: another process prepares the split {layout.split!r} there")
    with file:
        try:
            yield
        finally:
            os.unlink(path)
            with contextlib.suppress(OSError):  # folders that are not empty are still needed
                os.rmdir(root)
                os.rmdir(layout.out)


def _locked(path: str, wait: bool) -> TextIO | None:
    """Return an open file that is locked, or None if another process has it locked and `wait` is False."""
    while True:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(open(path, "w"))
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    stack.pop_all()
                    return file
            except BlockingIOError:
                return None
            except FileNotFoundError:  # the process that held the lock has removed the file, so it locks nothing
                continue
