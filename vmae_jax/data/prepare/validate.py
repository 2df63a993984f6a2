"""`vmae data validate`: decodes every frame of every video, and says what is wrong with which.

    broken      cannot be read: the reason, and the frame that failed
    no video    has no video stream
    missing     some frames are announced, and no decoder gives them
    short       fewer frames than a clip needs
    variable    frames are not evenly spaced: sampling by number is not sampling by time
    rotated     carries a quarter turn (read upright here; other programs may not)
    odd size    a side is odd, which common H.264 does not have

The first two keep a video from training; the others are worth knowing.
"""

import collections
import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from vmae_jax.data.decode import open_encoded
from vmae_jax.data.pictures import quarter_turns
from vmae_jax.data.prepare.child import alarm
from vmae_jax.data.prepare.inputs import Origin, Part, open_inputs
from vmae_jax.data.prepare.local import run_jobs
from vmae_jax.data.prepare.options import check_timeout
from vmae_jax.data.video import BadVideo, Encoded
from vmae_jax.spec import ConfigError

__all__ = ["BROKEN", "check", "in_words", "validate"]

BROKEN = ("broken", "no video")
_JOB = 32  # videos
_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class _CheckJob:
    """Checks some videos (see `produce.Job`)."""

    number: int
    part: Part
    least: int
    timeout: float

    def run(self, crashed: Mapping[int, str], say: Callable[..., None]) -> None:
        for index in range(len(self.part)):
            say(at=index)
            if index in crashed:
                found = [("broken", crashed[index])]
            else:
                with alarm(self.timeout) as alive:
                    found = list(_check_one(self.part, index, self.least, alive))
            say(done=index, found=found)


def validate(
    origin: Origin,
    *,
    sample: int | None = None,
    least: int = 16,
    workers: int | None = None,
    timeout: float = 60.0,
    progress: bool = True,
) -> dict[str, Any]:
    """Checks the videos of a source.

    Args:
      origin: where they are.
      sample: how many to check, chosen by the digests of their names; by default all.
      least: frames that a video should have.
      workers: processes; by default one a core.
      timeout: seconds in which a video has to give its next frame.
      progress: show a bar.

    Returns:
      {"videos": checked, "broken": how many cannot be read, "found": [{"key", "kind", "reason"}, …]}.

    Raises:
      ConfigError: there are no videos, or a number that makes no sense.
    """
    if least < 1 or (sample is not None and sample < 1):
        raise ConfigError(f"frames={least}, sample={sample}: at least 1")
    check_timeout(timeout)
    with tempfile.TemporaryDirectory() as scratch:
        inputs = open_inputs(origin, scratch=scratch)
        order = range(len(inputs.keys))
        if sample is not None:
            order = sorted(order, key=lambda i: hashlib.sha256(inputs.keys[i].encode()).digest())[:sample]
        groups = [order[start : start + _JOB] for start in range(0, len(order), _JOB)]
        found: dict[int, list[tuple[str, str]]] = {}

        def hear(job: int, line: dict[str, Any]) -> str:
            found[groups[job][line["done"]]] = line["found"]
            return f"{sum(kind in BROKEN for told in found.values() for kind, _ in told)} broken"

        jobs = [_CheckJob(i, inputs.part(group), least, timeout) for i, group in enumerate(groups)]
        run_jobs(jobs, workers, hear=hear, progress=progress)
    told = [{"key": inputs.keys[i], "kind": kind, "reason": reason} for i in sorted(found) for kind, reason in found[i]]
    told += [{"key": key, "kind": kind, "reason": reason} for key, kind, reason in inputs.refused]
    bad = {entry["key"] for entry in told if entry["kind"] in BROKEN}
    return {"videos": len(order) + len(inputs.refused), "broken": len(bad), "found": told}


def check(encoded: Encoded, *, least: int = 16, alive: Callable[[], None] = lambda: None) -> Iterator[tuple[str, str]]:
    """What is wrong with a video: (kind, reason) of each; nothing where it is good.

    Args:
      encoded: the video.
      least: frames that it should have.
      alive: called at every frame.
    """
    try:
        with contextlib.closing(open_encoded(encoded)) as reader:
            info, given, turned = reader.info, 0, False
            for _, frame in reader.frames():
                alive()
                given += 1
                turned = turned or quarter_turns(frame) != 0
    except BadVideo as error:
        yield ("no video" if "no video stream" in str(error) else "broken"), str(error)
        return
    if given < info.num_frames:
        yield "missing", f"{info.num_frames - given} of {info.num_frames} frames cannot be decoded"
    if given < least:
        yield "short", f"has {given} frames, fewer than {least}"
    gaps = np.diff(info.times)
    if len(gaps) and (gaps.max() > 1.5 * np.median(gaps) or gaps.min() < 0.5 * np.median(gaps)):
        yield "variable", f"has frames {gaps.min() * 1e3:.0f} to {gaps.max() * 1e3:.0f} ms apart"
    if turned:
        yield "rotated", "carries a quarter turn"
    if info.width % 2 or info.height % 2:
        yield "odd size", f"is {info.width}x{info.height}"


def _check_one(part: Part, index: int, least: int, alive: Callable[[], None]) -> Iterator[tuple[str, str]]:
    try:
        encoded = part.fetch(index)
    except BadVideo as error:
        yield "broken", str(error)
        return
    yield from check(encoded, least=least, alive=alive)


def in_words(result: Mapping[str, Any]) -> str:
    """`validate`'s answer for people."""
    kinds = collections.defaultdict(list)
    for entry in result["found"]:
        kinds[entry["kind"]].append(entry)
    lines = [f"{result['videos']} videos, {result['broken']} broken"]
    for kind, entries in sorted(kinds.items(), key=lambda item: item[0] not in BROKEN):
        lines.append(f"{kind}: {len(entries)}")
        lines += [f"  {entry['key']}: {entry['reason']}" for entry in entries[:_SHOWN]]
        lines += [f"  … and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
    return "\n".join(lines)
