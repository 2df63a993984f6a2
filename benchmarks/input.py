"""The input side by side with a PyTorch DataLoader of the usual kind, on the same H.264 files.

    python benchmarks/input.py --out=input.json                 # on videos that are made here
    python benchmarks/input.py --videos=FOLDER --rounds=5       # on one's own, brought to 340x256
    python benchmarks/input.py --videos=FOLDER --rounds=5 --out=input.json --resume   # goes on with the rounds there
    python benchmarks/input.py --soak=20000                     # memory over so many clips
    python benchmarks/input.py --alone                          # processor time in one process, on a busy machine

Two workers, sixteen frames with stride 4, four samples of each decoded video, crops to 224. The
runs of a round follow one another, each in a process of its own, so that whatever else the machine
does meets all of them; a ratio is taken within a round, and its median over the rounds is reported.
Progress goes to standard error; the last line of output is one JSON object. It needs PyTorch for
the comparison; decord, where it is installed, reads for PyTorch, and torchcodec with torchvision, where they are,
for one more loader.
"""

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
WIDTH, HEIGHT, LENGTH, RATE = 340, 256, 300, 30
OURS, THREADS = ("ours", "ours, prepared"), ("decoding in processes", "decoding in threads")
TORCH = {"PyTorch, needed frames": "torch", "PyTorch, whole clips": "torch", "PyTorch, torchcodec": "torchcodec"}
LIMIT = 600.0  # seconds of any one run: busy machines are slow


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--videos", help="a folder of videos (default: generated ones)")
    parser.add_argument("--count", type=int, default=8, help="files that are made (default 8)")
    parser.add_argument("--group", type=int, default=250, help="frames between their key frames (default 250)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="that each run measures (default 10)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--soak", type=int, default=0, help="instead: memory over so many clips")
    parser.add_argument("--alone", action="store_true", help="instead: processor time a clip in one process")
    parser.add_argument("--python", default=sys.executable, help="for the PyTorch runs")
    parser.add_argument("--out", help="file for the results, written after every round")
    parser.add_argument("--resume", action="store_true", help="go on with the rounds that --out has")
    args = parser.parse_args()
    if args.resume and not args.out:
        parser.error("--resume goes on with the rounds of a file: name it by --out")
    with tempfile.TemporaryDirectory(prefix="vmae_input_") as scratch:
        files, records = pathlib.Path(scratch, "files"), pathlib.Path(scratch, "records")
        files.mkdir()
        make_files(files, args)
        if args.soak:
            result: dict[str, Any] = {"soak": run("ours", files, records, args, seconds=None)}
        else:
            prepare(files, records)
            result = alone(files, records, args) if args.alone else compare(files, records, args)
    result = _kept(result, args)
    print(json.dumps({"status": "ok", **result}))
    return 0


def _kept(result: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The result with what it was measured on, written to --out."""
    result |= {"machine": f"{platform.processor() or platform.machine()}, {_model()}", "files": args.videos or "made"}
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    return result


def compare(files: pathlib.Path, records: pathlib.Path, args: argparse.Namespace) -> dict[str, Any]:
    """All contenders, round after round."""
    names = [*OURS, *_installed(args.python), *THREADS]
    rounds = json.loads(pathlib.Path(args.out).read_text())["rounds"] if args.resume else []
    for number in range(len(rounds), args.rounds):
        found = {name: run(name, files, records, args, seconds=args.seconds) for name in names}
        rounds.append(found)
        for name, row in found.items():
            print(f"round {number + 1}  {name:24}  {row['clips_per_second']:6.1f} clips/s  "
                  f"{row['cpu_ms_per_clip']:6.1f} ms CPU a clip", file=sys.stderr, flush=True)  # fmt: skip
        _kept({"rounds": rounds}, args)
    table = {name: {key: _spread([found[name][key] for found in rounds]) for key in rounds[0][name]} for name in names}
    pairs = [(ours, torch) for ours in OURS for torch in TORCH if torch in names]
    ratios = {
        f"{ours} / {torch}": {
            "clips_per_second": _spread([f[ours]["clips_per_second"] / f[torch]["clips_per_second"] for f in rounds]),
            "cpu": _spread([f[torch]["cpu_ms_per_clip"] / f[ours]["cpu_ms_per_clip"] for f in rounds]),
        }
        for ours, torch in pairs
    }
    return {"rounds": rounds, "table": table, "ratios": ratios}


def _installed(python: str) -> list[str]:
    """The PyTorch loaders whose libraries this Python has."""
    found = {}
    for module in set(TORCH.values()):
        done = subprocess.run([python, "-c", f"import {module}"], capture_output=True, text=True, check=False)
        found[module] = done.returncode == 0
        if done.returncode:
            print(f"without {module}: {(done.stderr.strip() or '?').splitlines()[-1]}", file=sys.stderr)
    return [name for name, module in TORCH.items() if found[module]]


def alone(files: pathlib.Path, records: pathlib.Path, args: argparse.Namespace) -> dict[str, Any]:
    """Processor time a clip in one process: medians, and ratios within a round."""
    spent = run("alone", files, records, args, seconds=args.seconds)["cpu_ms_per_clip"]
    return {
        "cpu_ms_per_clip": {name: _spread(values) for name, values in spent.items()},
        "ratios": {
            f"{ours} / {torch}": _spread([b / a for a, b in zip(spent[ours], spent[torch], strict=True)])
            for ours in OURS
            for torch in TORCH
            if torch in spent
        },
    }


def run(
    name: str, files: pathlib.Path, records: pathlib.Path, args: argparse.Namespace, *, seconds: float | None
) -> dict[str, Any]:
    """One contender in a process of its own."""
    python = args.python if name in (*TORCH, "alone") else sys.executable
    command = [python, str(HERE / "input_loaders.py"), name, f"--files={files}", f"--workers={args.workers}"]
    found = records.rglob("dataset_info.json") if records.exists() else iter(())
    if name == "alone":
        command += ["--datasets", *_installed(python)]
    if (info := next(found, None)) is not None:
        command.append(f"--records={info.parent}")
    command.append(f"--soak={args.soak}" if seconds is None else f"--seconds={seconds}")
    soaking = seconds is None
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=None if soaking else subprocess.PIPE,
        text=True,
        timeout=None if soaking else LIMIT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {(done.stderr or '').strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def make_files(folder: pathlib.Path, args: argparse.Namespace) -> None:
    """Ten seconds each of 340x256 at 30 frames a second, as x264 encodes by default but for the groups."""
    import av

    for number in range(args.count):
        frames = _of_videos(args.videos, number) if args.videos else _made(number)
        with av.open(str(folder / f"{number:03d}.mp4"), "w") as container:
            stream: Any = container.add_stream("libx264", rate=RATE)
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", args.group
            for picture in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())


def _of_videos(folder: str, number: int) -> np.ndarray:
    """A video of the folder, scaled, and played to and fro until it is long enough."""
    from vmae_jax.data import sources
    from vmae_jax.data.decode import probe, read_frames
    from vmae_jax.data.scaling import View, shown

    source = sources.folder(folder).open()
    encoded = source.fetch(number % len(source))
    info = probe(encoded)
    count = min(info.num_frames, LENGTH)
    frames = read_frames(encoded, range(count))
    there = np.arange(LENGTH) % (2 * count)
    height, width = frames.shape[1:3]
    return shown(frames, View(0, 0, height, width, HEIGHT, WIDTH))[np.minimum(there, 2 * count - 1 - there)]


def _made(seed: int) -> np.ndarray:
    """Textures of every scale that drift, with some grain: about as hard to decode as real video."""
    random = np.random.default_rng(seed)
    scene = np.zeros((2 * HEIGHT, 2 * WIDTH, 3))
    for octave in range(2, 8):
        coarse = random.normal(size=(2 * HEIGHT >> octave, 2 * WIDTH >> octave, 3))
        rows, columns = (
            np.linspace(0, side - 1, size).astype(int)
            for side, size in zip(coarse.shape[:2], scene.shape[:2], strict=True)
        )
        scene += coarse[rows][:, columns] * 6 * octave
    shift = np.cumsum(random.normal(size=(LENGTH, 2)) * 0.7, axis=0).astype(int)
    frames = np.empty((LENGTH, HEIGHT, WIDTH, 3), np.uint8)
    for time, (down, across) in enumerate(shift):
        there = np.roll(scene, (down, across), (0, 1))[:HEIGHT, :WIDTH]
        frames[time] = (128 + there + random.normal(size=(HEIGHT, WIDTH, 1)) * 3).clip(0, 255)
    return frames


def prepare(files: pathlib.Path, records: pathlib.Path) -> None:
    """`vmae data prepare`, with its own choice of groups and quality."""
    command = [sys.executable, "-m", "vmae_jax", "data", "prepare", str(files), f"--out={records}", "--codec=h264"]
    subprocess.run([*command, "--quiet"], check=True, stdout=subprocess.DEVNULL, cwd=HERE.parent)


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def _model() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if pathlib.Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    sys.exit(main())
