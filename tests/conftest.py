"""Eight virtual devices, a cache of compiled programs, nothing deprecated, and no memory kept between files."""

import ctypes
import gc
import logging
import os
import pathlib
import resource
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # tests/ and benchmarks/ are files of the project, not of the package

import tests.forks
from tests import quick_xla

os.environ["JAX_PLATFORMS"] = os.environ.get("VMAE_TEST_PLATFORM", "cpu")
# A collective whose devices are 40 seconds apart aborts the process by default; on a loaded machine they may be.
for _flag in (
    "--xla_force_host_platform_device_count=8",
    *quick_xla.FLAGS,
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=120",
):
    if _flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}".strip()
# Eight devices on few cores: XLA makes as many threads as there are devices, and a device that waits
# for the others holds one of them, so that a loaded machine can end with nobody left to compute.
os.environ.setdefault("NPROC", "32")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Tests compile thousands of small programs, most of which the last run of the tests has compiled: all are kept.
PROGRAMS = ROOT / ".cache" / "tests"
MOST_BYTES = 2**30  # when there is more, it starts again from nothing
GROWTH_BYTES = 1.5 * 2**30  # of memory since it last did so, at which a worker frees what earlier files compiled
os.environ.setdefault("VMAE_CACHE", str(PROGRAMS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from collections.abc import Iterator

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from vmae_jax.runtime.cache import enable_cache

jax.config.update("jax_threefry_partitionable", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a plugin may have imported JAX before


def pytest_configure(config: pytest.Config) -> None:
    """Remove compiled programs that a killed process left empty, and all of them when they are too many."""
    if hasattr(config, "workerinput") or not PROGRAMS.is_dir():
        return
    sizes = {path: path.stat().st_size for path in PROGRAMS.iterdir() if path.is_file()}
    everything = sum(sizes.values()) > MOST_BYTES
    for path, size in sizes.items():
        if everything or not size:
            path.unlink(missing_ok=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, so that no worker is left with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> pathlib.Path:
    """A folder of real clips: those of tests/clips, and those of the folder that $VMAE_CLIPS names, where it is set."""
    folder = tmp_path_factory.mktemp("clips")
    shipped = ROOT / "tests" / "clips"
    for where in {shipped, pathlib.Path(os.environ.get("VMAE_CLIPS") or shipped).resolve()}:
        for path in where.iterdir():
            if path.suffix in (".mp4", ".avi"):
                (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="session")
def forks() -> Iterator[str]:
    """The address of a process that runs `vmae` commands as forks; see `tests/forks.py`."""
    with tests.forks.server() as address:
        yield address


@pytest.fixture(scope="module", autouse=True)
def little_memory_kept() -> None:
    """Free what earlier files compiled once that is much: a worker of the suite grows by gigabytes otherwise.

    Not after every file: that takes an eighth of the suite's time. Every file opens the compilation cache again, since
    commands that a test calls may have turned it to another folder. `malloc_trim` because commands that a test
    calls in this process make the C library keep freed memory. Objects from before the file's tests, most of them of
    modules, are frozen: otherwise every garbage collection visits hundreds of thousands of them.
    """
    global _kept_bytes
    compilation_cache.reset_cache()
    enable_cache()
    if _resident_bytes() - _kept_bytes > GROWTH_BYTES:
        jax.clear_caches()
        gc.unfreeze()
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)
        _kept_bytes = _resident_bytes()
    gc.freeze()


def _resident_bytes() -> int:
    """Memory of this process; the most that it ever had where the system has no other figure."""
    try:
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


_kept_bytes = _resident_bytes()


@pytest.fixture
def compiled_now() -> Iterator[None]:
    """Compile without the cache, for tests that read the names of operations.

    Programs in the cache may be older than these names, which JAX leaves out of its keys.
    """
    folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()


@pytest.fixture
def update_golden() -> bool:
    """True when UPDATE_GOLDEN=1 asks for the golden texts to be rewritten."""
    return os.environ.get("UPDATE_GOLDEN") == "1"


@pytest.fixture
def users_model(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`tests/users_model.py` as the plugin `brightness` of the current folder; the process forgets it afterwards."""
    from vmae_jax import plugins, registry

    shutil.copy(pathlib.Path(__file__).parent / "users_model.py", tmp_path / "brightness.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(registry, "_admitted", set())
    plugins.allow_plugins(["brightness"])
    yield "brightness"
    sys.modules.pop("brightness", None)


@pytest.fixture(autouse=True)
def _level_of_our_logger():
    """Commands set how much is logged, for the process; each test begins with the level that pytest has."""
    logger = logging.getLogger("vmae_jax")
    logger.setLevel(logging.NOTSET)
    yield
    logger.setLevel(logging.NOTSET)
