"""What each way of storing videos costs: bytes, processor time to make and to read, and quality.

    python -m benchmarks.prepare FOLDER --out=prepare.json

Every video of the folder is prepared in memory with each codec, at its own size and rate. Reading is what
pre-training does: 16 frames, 4 apart, from a random start, one thread, processor time of the process. Times are
medians over rounds, in each of which every way has its turn. Quality is the PSNR of luma against what the original
file decodes to, of every eighth frame.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from vmae_jax.data.clips import dense
from vmae_jax.data.decode import probe, read_frames
from vmae_jax.data.prepare.examples import examples
from vmae_jax.data.prepare.record import Options, options, serialize
from vmae_jax.data.sources import folder
from vmae_jax.data.video import Encoded

WAYS = {
    "keep": {},
    **{f"h264, quality {q}": {"codec": "h264", "quality": q} for q in (18, 23)},
    "h264, quality 23, gop 250": {"codec": "h264", "quality": 23, "gop": 250},
    **{f"jpeg, quality {q}": {"codec": "jpeg", "quality": q} for q in (85, 95)},
}
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--out", default="prepare.json")
    parser.add_argument("--clips", type=int, default=8, help="read of each video (default 8)")
    parser.add_argument("--rounds", type=int, default=5, help="times that all is measured (default 5)")
    args = parser.parse_args(arguments)
    source = folder(args.folder).open()
    videos = [source.fetch(i) for i in range(len(source))]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    for number in range(args.rounds):
        for name, way in WAYS.items():
            chosen = options(sound=way["codec"] == "keep", **way)
            found[name].append(measure(videos, chosen, args.clips, quality=number == 0))
            print(f"round {number + 1}  {name}  {found[name][-1]}", file=sys.stderr, flush=True)
    rows = [summed(name, rounds) for name, rounds in found.items()]
    results = {"machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}", "rows": rows}
    with open(args.out, "w") as file:
        json.dump(results, file, indent=1)
    print(table(rows))


def summed(name: str, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A way's row: its times' medians, and how far they were apart."""
    spread = {key: [row[key] for row in rounds] for key in ("making_cpu_seconds_an_hour", "reading_cpu_ms_a_clip")}
    medians = {key: statistics.median(values) for key, values in spread.items()}
    return {
        "way": name,
        **rounds[0],
        **medians,
        "clips_a_second_a_core": 1e3 / medians["reading_cpu_ms_a_clip"],
        "from_to": {key: [min(values), max(values)] for key, values in spread.items()},
    }


def measure(videos: Sequence[Encoded], way: Options, clips: int, *, quality: bool) -> dict[str, Any]:
    """One way over all videos: sums, and means over videos."""
    size = seconds = making = reading = 0.0
    decibels = []
    for number, video in enumerate(videos):
        start = time.process_time()
        (fields,) = examples(video, way, key=video.key)
        making += time.process_time() - start
        stored = fields["video"]
        encoded = Encoded(data=stored) if isinstance(stored, bytes) else Encoded(frames=stored, rate=fields["rate"])
        size += len(serialize(fields))
        seconds += fields["num_frames"] / fields["rate"]
        reading += read(encoded, clips, seed=number)
        if quality and way.codec != "keep":
            decibels.append(psnr(video, encoded))
    return {
        "gib_an_hour": size / seconds * 3600 / 2**30,
        "making_cpu_seconds_an_hour": making / seconds * 3600,
        "reading_cpu_ms_a_clip": reading / (clips * len(videos)) * 1e3,
        "psnr": float(np.mean(decibels)) if decibels else None,
    }


def read(encoded: Encoded, clips: int, *, seed: int) -> float:
    """Seconds of processor time to read some clips as pre-training does."""
    sampler, info = dense(16, 4), probe(encoded)
    wanted = [np.unique(sampler(info, np.array([seed, clip], np.uint32))) for clip in range(clips)]
    read_frames(encoded, wanted[0].tolist())
    start = time.process_time()
    for indices in wanted:
        read_frames(encoded, indices.tolist())
    return time.process_time() - start


def psnr(original: Encoded, encoded: Encoded) -> float:
    """Decibels, of the luma of every eighth frame."""
    frames = range(0, probe(original).num_frames, 8)
    total = count = 0.0
    for start in range(0, len(frames), 32):
        part = frames[start : start + 32]
        before, after = (read_frames(which, part) @ LUMA for which in (original, encoded))
        before = before[:, : after.shape[1], : after.shape[2]]  # an odd side lost a row
        total += float(((before - after) ** 2).sum())
        count += after.size
    return 10 * np.log10(255**2 * count / total)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """In Markdown."""
    lines = [
        "| stored as | GiB an hour | CPU s to make an hour | CPU ms to read a clip | clips/s a core | PSNR, dB |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        quality = "original" if row["psnr"] is None else f"{row['psnr']:.1f}"
        least, most = row["from_to"]["reading_cpu_ms_a_clip"]
        lines.append(
            f"| {row['way']} | {row['gib_an_hour']:.2f} | {row['making_cpu_seconds_an_hour']:.0f} "
            f"| {row['reading_cpu_ms_a_clip']:.1f} ({least:.1f} to {most:.1f}) "
            f"| {row['clips_a_second_a_core']:.0f} | {quality} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
