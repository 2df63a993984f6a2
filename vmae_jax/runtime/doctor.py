"""What this machine has, and what is missing: the checks behind `vmae doctor`."""

import importlib.metadata
import importlib.util
import io
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import jax
import numpy as np

from vmae_jax.runtime import cache

__all__ = ["Check", "examine", "format", "report"]

Status = Literal["ok", "warn", "fail"]
_PYTHON = ((3, 11), (3, 13))  # the oldest and the newest that are supported
# package -> the oldest version this code is written against, and whether it can do without
_PACKAGES = {
    "jax": "0.10.2",
    "flax": "0.12.8",
    "optax": "0.2.8",
    "orbax-checkpoint": "0.12.8",
    "etils": "1.12",
    "ml-collections": "1.1",
    "tensorflow": "2.20",
    "tensorflow-datasets": "4.9.9",
    "av": "18.1",
    "pillow": "11",
}
_OPTIONAL = {
    "tensorboard": "TensorBoard logs",
    "wandb": "metrics in Weights & Biases",
    "trackio": "metrics in trackio",
    "torch": "`vmae import` and `vmae export` compare outputs with it; .pth files are read without it",
    "transformers": "`vmae export --format=hf` compares outputs with it",
}
_EXTRA = {"wandb": "wandb", "trackio": "trackio", "torch": "torch", "transformers": "torch"}  # of this package
# Versions whose VideoMAE opens checkpoints of the old layout with zero biases: from, up to but without.
_ZERO_BIASES = ((5, 5, 1), (5, 18))
_GIB = 2**30
_HIDDEN = """
from vmae_jax.data.tf import tensorflow
tf = tensorflow()
print(len(tf.config.list_physical_devices("GPU")), len(tf.config.get_visible_devices("GPU")))
"""


class Check(NamedTuple):
    """One finding: `status` is "ok", "warn" (works with limits) or "fail"; `fix` is what to do."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def examine(workdir: str | os.PathLike[str] = ".") -> list[Check]:
    """Looks at Python, packages, devices, memory, disk, video, logs and cache of this machine.

    Never raises over what it finds: a check that breaks is a finding too.

    Args:
      workdir: where runs will be kept; its disk is the one examined.
    """
    checks: list[Check] = []
    examinations: list[Callable[[], list[Check]]] = [
        _python,
        _packages,
        _optional,
        _devices,
        _tensorflow_and_gpu,
        _memory,
    ]
    examinations += [lambda: _disk(workdir), _video, _cache]
    for examination in examinations:
        try:
            checks += examination()
        except Exception as error:
            name = getattr(examination, "__name__", "check").strip("_<>").replace("lambda", "disk")
            checks.append(Check(name, "fail", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"))
    return checks


def format(checks: Iterable[Check]) -> str:  # noqa: A001 — doctor.format reads well where it is used
    """The findings as a table for a terminal, each fix below its finding, a verdict at the end."""
    checks = list(checks)
    wide = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{check.status:<4}  {check.name:<{wide}}  {check.detail}".rstrip())
        if check.fix and check.status != "ok":
            lines.append(f"{'':<4}  {'':<{wide}}  -> {check.fix}")
    failed = [check.name for check in checks if check.status == "fail"]
    warned = [check.name for check in checks if check.status == "warn"]
    verdict = f"Not ready: {', '.join(failed)}." if failed else "Ready to train."
    if warned:
        verdict += f" Worth a look: {', '.join(warned)}."
    return "\n".join([*lines, "", verdict])


def report(checks: Iterable[Check]) -> dict[str, object]:
    """The findings as one JSON-able object."""
    checks = list(checks)
    return {
        "status": "error" if any(check.status == "fail" for check in checks) else "ok",
        "checks": [check._asdict() for check in checks],
    }


def _python() -> list[Check]:
    version, oldest, newest = sys.version_info[:2], *_PYTHON
    detail = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    if version < oldest:
        return [Check("python", "fail", detail, f"use Python {_dotted(oldest)} to {_dotted(newest)}")]
    if version > newest:
        return [Check("python", "warn", detail, f"tested with Python {_dotted(oldest)} to {_dotted(newest)}")]
    return [Check("python", "ok", detail)]


def _packages() -> list[Check]:
    return [_package(name, oldest) for name, oldest in _PACKAGES.items()]


def _package(name: str, oldest: str) -> Check:
    found = _version(name)
    if found is None:
        return Check(name, "fail", "not installed", f"pip install '{name}>={oldest}'")
    if _numbers(found) < _numbers(oldest):
        return Check(name, "warn", f"{found}, older than {oldest}", f"pip install '{name}>={oldest}'")
    return Check(name, "ok", found)


def _optional() -> list[Check]:
    checks = []
    for name, purpose in _OPTIONAL.items():
        found = _version(name)
        detail = found or f"not installed (optional: {purpose})"
        status: Status = "warn" if name == "tensorboard" and found is None else "ok"
        fix = f"pip install 'vmae-jax[{_EXTRA[name]}]'" if name in _EXTRA else f"pip install {name}"
        checks.append(Check(name, status, detail, fix))
    return [_zero_biases(check) if check.name == "transformers" else check for check in checks]


def _zero_biases(check: Check) -> Check:
    """The finding about transformers, with a warning where its version misreads VideoMAE's old layout."""
    found, (first, fixed) = _version("transformers"), _ZERO_BIASES
    if found is None or not first <= _numbers(found) < fixed:
        return check
    detail = (
        f"{found} opens VideoMAE checkpoints that have q_bias and v_bias with zero biases (exports of ours are safe)"
    )
    fix = "pip install 'transformers>=5.18', or rewrite such checkpoints with `vmae import` and `vmae export`"
    return Check(check.name, "warn", detail, fix)


def _devices() -> list[Check]:
    devices = jax.local_devices()
    kinds = sorted({device.device_kind for device in devices})
    detail = f"{len(devices)} x {', '.join(kinds)} ({jax.default_backend()})"
    limit = (devices[0].memory_stats() or {}).get("bytes_limit") if jax.default_backend() != "cpu" else None
    if limit:
        detail += f", {limit / _GIB:.1f} GiB each for JAX"
    if jax.default_backend() == "cpu":
        fix = (
            "for an accelerator install JAX for it: pip install 'vmae-jax[cuda13]' (NVIDIA GPUs), "
            "'vmae-jax[cuda12]' (their older drivers) or 'vmae-jax[tpu]'"
        )
        if _accelerator():
            return [Check("devices", "fail", f"{detail}, though this machine has {_accelerator()}", fix)]
        return [Check("devices", "warn", f"{detail}: no accelerator, small models only", fix)]
    return [Check("devices", "ok", detail)]


def _accelerator() -> str:
    """What hardware the system shows, whether JAX can use it or not; "" for none."""
    if os.path.exists("/dev/nvidia0"):
        return "an NVIDIA GPU"
    vfio = os.listdir("/dev/vfio") if os.path.isdir("/dev/vfio") else []
    if os.path.exists("/dev/accel0") or any(name.isdigit() for name in vfio):
        return "a TPU (or another device behind vfio)"
    return ""


def _tensorflow_and_gpu() -> list[Check]:
    """TensorFlow takes all of a GPU's memory at its first operation unless the GPU is hidden."""
    name = "GPU kept from TensorFlow"
    if jax.default_backend() != "gpu":
        return [Check(name, "ok", "no GPU in use here")]
    if _version("tensorflow") is None:
        return [Check(name, "ok", "no TensorFlow here")]
    run = subprocess.run([sys.executable, "-c", _HIDDEN], capture_output=True, text=True, timeout=120, check=False)
    try:
        there, visible = map(int, run.stdout.split()[-2:])
    except ValueError:
        reason = (run.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        return [Check(name, "fail", f"TensorFlow does not start: {reason[:200]}", "reinstall tensorflow")]
    if visible:
        return [Check(name, "fail", f"TensorFlow sees {visible} of {there} GPUs", "report this as a bug of vmae_jax")]
    return [Check(name, "ok", f"TensorFlow sees none of the {there} GPUs it could use")]


def _memory() -> list[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup_limit()
    usable = min(total, limit) if limit else total
    detail = f"{usable / _GIB:.1f} GiB of memory, {cores} cores"
    if usable < 4 * _GIB:
        return [Check("host", "warn", detail, "data loading wants 4 GiB or more")]
    return [Check("host", "ok", detail)]


def _cgroup_limit() -> int | None:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if os.path.exists(path):
            with open(path) as file:
                text = file.read().strip()
            return int(text) if text.isdigit() else None
    return None


def _disk(workdir: str | os.PathLike[str]) -> list[Check]:
    if "://" in os.fspath(workdir):
        return [Check("disk", "ok", f"{os.fspath(workdir)} is in a bucket")]
    folder = os.path.abspath(workdir)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    detail = f"{free / _GIB:.1f} GiB free at {folder}"
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"vmae")
    if free < 5 * _GIB:
        return [Check("disk", "warn", detail, "a ViT-B run keeps about 4 GiB of checkpoints; name another --workdir")]
    return [Check("disk", "ok", detail)]


def _video() -> list[Check]:
    """Writes a few frames as H.264 and reads them back."""
    name = "H.264 video"
    if importlib.util.find_spec("av") is None:
        return [Check(name, "fail", "PyAV is not installed", "pip install av")]
    import av

    frames = (np.arange(8)[:, None, None, None] * 24 + np.zeros((8, 32, 48, 3))).astype(np.uint8)
    try:
        read = _round_trip(frames)
    except (OSError, ValueError, RuntimeError) as error:  # FFmpeg's errors are among these
        return [
            Check(
                name,
                "fail",
                f"cannot write and read it: {' '.join(str(error).split())}",
                "pip install --force-reinstall av",
            )
        ]
    apart = int(np.abs(read.astype(int) - frames.astype(int)).max()) if read.shape == frames.shape else 255
    if apart > 16:
        return [
            Check(
                name, "fail", f"frames come back changed (by up to {apart} of 255)", "pip install --force-reinstall av"
            )
        ]
    return [Check(name, "ok", f"PyAV {av.__version__} writes and reads it")]


def _round_trip(frames: np.ndarray) -> np.ndarray:
    """`frames` [t h w 3] as H.264 in MP4 and back."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer, mode="r", format="mp4") as source:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)])


def _cache() -> list[Check]:
    folder = cache.cache_folder()
    if folder is None:
        return [Check("compilation cache", "warn", f"off by {cache.VARIABLE}", "every start compiles again")]
    problem = cache.secure(folder)
    if problem:
        return [Check("compilation cache", "warn", problem, f"set {cache.VARIABLE} to a folder of your own")]
    size = sum(entry.stat().st_size for entry in folder.iterdir() if entry.is_file())
    return [Check("compilation cache", "ok", f"{folder}, {size / _GIB:.2f} GiB")]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """1.10.2rc1 as (1, 10, 2)."""
    numbers = []
    for part in version.split("+")[0].split("."):
        digits = "".join(c for c in part[: len(part) - len(part.lstrip("0123456789"))])
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
