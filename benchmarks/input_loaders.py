"""What `benchmarks/input.py` compares, each measured in a process of its own, which prints one JSON line.

    python benchmarks/input_loaders.py NAME --files=FOLDER --records=FOLDER --seconds=10

The PyTorch loader is of the usual kind: a Dataset that opens a file with decord (PyAV where decord
is not installed), Pillow for the crops, floats normalised in the worker, a DataLoader over it. The one of
today decodes with torchcodec and crops uint8 tensors with torchvision's transforms v2, which stay uint8: as
here, they become floats on the device.
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

FRAMES, STRIDE, SIDE, SAMPLES, BATCH = 16, 4, 224, 4, 4  # SAMPLES clips of a video, BATCH videos a step
SCALES = (1, 0.875, 0.75, 0.66)
AHEAD = 6  # batches that a loader may have made ahead
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Step = Callable[[], int]


@contextlib.contextmanager
def ours(args: argparse.Namespace, *, records: bool) -> Iterator[Step]:
    """The loader of this project, on loose files or on what `vmae data prepare` made of them."""
    from vmae_jax.data import clips, sources, transforms
    from vmae_jax.data.opened import open_loader
    from vmae_jax.data.pipeline import loader

    source = sources.tfds(directory=args.records) if records else sources.folder(args.files)
    crops = [transforms.multi_scale_crop(SIDE, SCALES)]
    made = loader(
        source, clips.dense(FRAMES, STRIDE), crops, global_batch=BATCH, repeat=SAMPLES, workers=args.workers
    )  # fmt: skip
    with open_loader(made).batches(rows=range(BATCH * SAMPLES), seed=0) as batches:
        yield lambda: len(next(batches)["video"])


@contextlib.contextmanager
def reference(args: argparse.Namespace, videos: "Videos") -> Iterator[Step]:
    """A PyTorch DataLoader over a dataset."""
    import torch  # pyright: ignore[reportMissingImports]

    loader = torch.utils.data.DataLoader(
        videos,
        batch_size=BATCH,
        num_workers=args.workers,
        collate_fn=lambda items: torch.cat(items),
        drop_last=True,
        persistent_workers=True,
        worker_init_fn=lambda number: (torch.set_num_threads(1), np.random.seed(number))[0],
    )
    endless = iter(loader)
    yield lambda: len(next(endless))


class Videos:
    """A map-style dataset: SAMPLES augmented clips of one file, float32 [s c t h w]."""

    def __init__(self, paths: list[str], *, whole: bool) -> None:
        self.paths = paths
        self.whole = whole

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, number: int) -> Any:
        import torch  # pyright: ignore[reportMissingImports]
        from PIL import Image

        frames = read_torch(self.paths[number % len(self.paths)], whole=self.whole)
        samples = []
        for _ in range(SAMPLES):
            images = crops([Image.fromarray(frame) for frame in frames])
            stacked = torch.from_numpy(np.concatenate([np.asarray(image) for image in images], axis=2))
            clip = stacked.permute(2, 0, 1).contiguous().float().div(255)
            for channel in range(len(clip)):
                clip[channel].sub_(MEAN[channel % 3]).div_(DEVIATION[channel % 3])
            samples.append(clip.view(FRAMES, 3, SIDE, SIDE).transpose(0, 1))
        return torch.stack(samples)


class Tensors(Videos):
    """The same clips as a loader of today makes them: torchcodec and torchvision, uint8 [s t c h w]."""

    def __getitem__(self, number: int) -> Any:
        import torch  # pyright: ignore[reportMissingImports]
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]
        from torchvision.transforms.v2 import functional  # pyright: ignore[reportMissingImports]

        decoder = VideoDecoder(self.paths[number % len(self.paths)], num_ffmpeg_threads=1, seek_mode="approximate")
        frames = decoder.get_frames_at(_sampled(decoder.metadata.num_frames).tolist()).data
        samples = []
        for _ in range(SAMPLES):
            left, top, wide, tall = _box(frames.shape[-1], frames.shape[-2])
            samples.append(functional.resized_crop(frames, top, left, tall, wide, [SIDE, SIDE], antialias=True))
        return torch.stack(samples)


def _box(width: int, height: int) -> tuple[int, int, int, int]:
    """A box of the official multi-scale kind: left, top, width, height."""
    tall, wide = (int(min(width, height) * SCALES[step]) for step in np.random.randint(len(SCALES), size=2))
    return np.random.randint(width - wide + 1), np.random.randint(height - tall + 1), wide, tall


def crops(images: list[Any]) -> list[Any]:
    """One box for all frames, cut and scaled by Pillow."""
    from PIL import Image

    left, top, wide, tall = _box(*images[0].size)
    cut = [image.crop((left, top, left + wide, top + tall)) for image in images]
    return [image.resize((SIDE, SIDE), Image.Resampling.BILINEAR) for image in cut]


def read_torch(path: str, *, whole: bool) -> np.ndarray:
    """The sampled frames, uint8 [t h w 3]."""
    try:
        import decord  # pyright: ignore[reportMissingImports]
    except ImportError:
        return _read_pyav(path, whole=whole)
    reader = decord.VideoReader(path, num_threads=1)
    index = _sampled(len(reader))
    return reader.get_batch(range(len(reader))).asnumpy()[index] if whole else reader.get_batch(index).asnumpy()


def _read_pyav(path: str, *, whole: bool) -> np.ndarray:
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        index = _sampled(stream.frames)
        first, last = index[0], index[-1]
        rate, unit = float(stream.average_rate or 25), float(stream.time_base or 1)
        container.seek(0 if whole else int(first / rate / unit), stream=stream)
        frames = {}
        for frame in container.decode(stream):
            number = round(float(frame.time) * rate)
            if whole or number in index:
                frames[number] = frame.to_ndarray(format="rgb24")
            if not whole and number >= last:
                break
        return np.stack([frames[number] for number in index])


def _paths(args: argparse.Namespace) -> list[str]:
    return sorted(map(str, pathlib.Path(args.files).glob("*.mp4")))


def _sampled(count: int) -> np.ndarray:
    return np.random.randint(count - FRAMES * STRIDE + 1) + np.arange(FRAMES) * STRIDE


@contextlib.contextmanager
def decoding(args: argparse.Namespace, *, processes: bool) -> Iterator[Step]:
    """Decoding and cropping alone, in processes that may die or in threads of this one."""
    from vmae_jax.data import clips, crops, transforms
    from vmae_jax.data.decode import Wanted, read_clips
    from vmae_jax.data.video import Encoded
    from vmae_jax.data.workers import Workers

    sampler, crop = clips.dense(FRAMES, STRIDE), crops.leading([transforms.multi_scale_crop(SIDE, SCALES)])
    paths = _paths(args)
    workers = Workers(args.workers, sampler=sampler, crop=crop) if processes else None

    def one(number: int) -> int:
        encoded, seed = Encoded(path=paths[number % len(paths)]), np.array([number, 1], np.uint32)
        wanted = [Wanted(0, repeat, (number, repeat)) for repeat in range(SAMPLES)]
        if workers is not None:
            return len(workers.decode(encoded, seed, wanted).arrays["video"])
        return len(read_clips(encoded, sampler, seed, wanted, crop=crop).arrays["video"])

    with ThreadPoolExecutor(args.workers) as pool:
        numbers = iter(range(1 << 30))
        yield lambda: sum(pool.map(one, [next(numbers) for _ in range(4 * args.workers)]))
    if workers is not None:
        workers.close()


def alone(args: argparse.Namespace, rounds: int = 5, videos: int = 5) -> dict[str, Any]:
    """Milliseconds of processor time a clip in this process alone, in turns: for machines that are not quiet.

    Reading, decoding and cropping, and for PyTorch the floats; neither batches nor the way between processes.
    """
    from vmae_jax.data import clips, crops, sources, transforms
    from vmae_jax.data.decode import Wanted, read_clips

    sampler, crop = clips.dense(FRAMES, STRIDE), crops.leading([transforms.multi_scale_crop(SIDE, SCALES)])
    paths = _paths(args)
    opened = {"ours": sources.folder(args.files).open(), "ours, prepared": sources.tfds(directory=args.records).open()}

    def read(source: Any, number: int) -> Any:
        wanted = [Wanted(0, repeat, (number, repeat)) for repeat in range(SAMPLES)]
        encoded = source.fetch(number % len(source))
        return read_clips(encoded, sampler, np.array([number, 1], np.uint32), wanted, crop=crop)

    ways: dict[str, Callable[[int], Any]] = {
        name: lambda number, source=source: read(source, number) for name, source in opened.items()
    }
    ways |= {name: dataset(paths).__getitem__ for name, dataset in DATASETS.items() if name in args.datasets}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-1, rounds):  # the first round is not counted
        for name, way in ways.items():
            began = time.process_time()
            for video in range(videos):
                way(max(number, 0) * videos + video)
            if number >= 0:
                spent[name].append(1000 * (time.process_time() - began) / videos / SAMPLES)
    return {"cpu_ms_per_clip": spent}


DATASETS: dict[str, Callable[[list[str]], Videos]] = {
    "PyTorch, needed frames": lambda paths: Videos(paths, whole=False),
    "PyTorch, whole clips": lambda paths: Videos(paths, whole=True),
    "PyTorch, torchcodec": lambda paths: Tensors(paths, whole=False),
}
CONTENDERS: dict[str, Any] = {
    "ours": lambda args: ours(args, records=False),
    "ours, prepared": lambda args: ours(args, records=True),
    **{name: lambda args, name=name: reference(args, DATASETS[name](_paths(args))) for name in DATASETS},
    "decoding in processes": lambda args: decoding(args, processes=True),
    "decoding in threads": lambda args: decoding(args, processes=False),
}


def family() -> list[int]:
    """This process and all below it."""
    parents: dict[int, list[int]] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = pathlib.Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(entry))
    found = [os.getpid()]
    for pid in found:
        found += parents.get(pid, [])
    return found


def cpu_seconds() -> float:
    """Processor time of this process and all below it, those that ended included."""
    ticks = 0
    for pid in family():
        with contextlib.suppress(OSError):
            ticks += sum(map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory() -> int:
    """Bytes that this process and all below it hold, what they share counted once; not the programs' files.

    Those are shared with whatever else runs from the same environment, which comes and goes.
    """
    total = 0
    for pid in family():
        with contextlib.suppress(OSError):
            lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))) * 1024
    return total


def measure(step: Step, args: argparse.Namespace) -> dict[str, Any]:
    """The rate, after what was made ahead while the processes started is used up."""
    end, steps = time.perf_counter() + args.warm, 0
    while time.perf_counter() < end or steps < AHEAD:
        step()
        steps += 1
    began, used, clips, steps = time.perf_counter(), cpu_seconds(), 0, 0
    while (passed := time.perf_counter() - began) < args.seconds or steps < 2 * AHEAD:
        clips += step()
        steps += 1
    return {"clips_per_second": clips / passed, "cpu_ms_per_clip": 1000 * (cpu_seconds() - used) / clips}


def soak(step: Step, args: argparse.Namespace) -> dict[str, Any]:
    """Memory over many clips, twenty times on the way after a first part that is not counted."""
    seen, clips, due = [], 0, args.soak // 20
    while clips < args.soak:
        clips += step()
        if clips >= due:
            seen.append(memory())
            print(f"{clips} clips: {seen[-1] / 2**20:.1f} MiB", file=sys.stderr, flush=True)
            due += args.soak // 20
    return {"clips": clips, "mebibytes": [round(size / 2**20, 1) for size in seen], "growth": seen[-1] / seen[0] - 1}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=[*CONTENDERS, "alone"])
    parser.add_argument("--files", required=True)
    parser.add_argument("--records")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm", type=float, default=4.0)
    parser.add_argument("--soak", type=int, default=0)
    parser.add_argument("--datasets", nargs="*", default=list(DATASETS)[:2], help="of PyTorch, with `alone`")
    args = parser.parse_args()
    if args.name == "alone":
        print(json.dumps(alone(args)), flush=True)
        return 0
    with CONTENDERS[args.name](args) as step:
        print(json.dumps(soak(step, args) if args.soak else measure(step, args)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
