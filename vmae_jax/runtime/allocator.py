"""Host memory that is freed is kept for the next step, where the host is what computes.

On a CPU, XLA asks the C library for a step's temporaries each time and gives them back, and its
matrix products do the same with their buffers. By default glibc maps such large pieces afresh, so
that the kernel clears every page of them again at every step. Figures in docs/performance.md.
"""

import ctypes
import importlib.util
import os

__all__ = ["keep_freed_memory"]

# Of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
ACCELERATORS = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin")


def keep_freed_memory() -> bool:
    """Make glibc reuse freed memory instead of returning it; call it before JAX creates threads.

    The process then stays as large as it once was. Nothing is done, and False returned, where an
    accelerator's plugin is installed and JAX_PLATFORMS does not ask for the CPU, where the
    C library is another, or where the user set it up (MALLOC_… or GLIBC_TUNABLES).
    """
    if os.environ.get("JAX_PLATFORMS", "") != "cpu" and any(map(importlib.util.find_spec, ACCELERATORS)):
        return False
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl, macOS
        return False
    # No separate mappings, nothing given back, and one heap: those of threads are too small for temporaries.
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1), mallopt(M_ARENA_MAX, 1)])
