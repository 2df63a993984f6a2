"""A batch of random clips with labels, for the tests of the methods."""

from typing import Any

import numpy as np


def batch_of(b: int = 4, *, size: int = 16, classes: int = 5, **more: Any) -> dict[str, Any]:
    """b clips of 4 frames of size x size pixels; `more` adds to the batch or replaces parts of it."""
    random = np.random.default_rng(0)
    return {
        "video": random.integers(0, 256, (b, 4, size, size, 3)).astype(np.uint8),
        "seed": random.integers(0, 2**32, (b, 2)).astype(np.uint32),
        "index": np.arange(b, dtype=np.int32),
        "valid": np.ones(b, bool),
        "label": np.arange(b, dtype=np.int32) % classes,
        **more,
    }
