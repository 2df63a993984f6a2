"""The random weights of RAFT-small that `goldens/raft` has numbers of, from a seed."""

import json
import pathlib

import numpy as np

ABOUT = pathlib.Path(__file__).parent / "goldens" / "raft" / "raft_small.json"


def state_of(layout: str) -> dict[str, np.ndarray]:
    """Return the weights in the names of "torchvision" or "raft"."""
    about = json.loads(ABOUT.read_text())
    rng, state = np.random.default_rng(0), {}
    for name, shape in sorted(about["shapes"].items()):
        values = rng.standard_normal(shape)
        scale = 0.05 if name.endswith("bias") else np.sqrt(2 / np.prod(shape[1:]))
        state[name] = (values * scale).astype(np.float32)
    if layout == "torchvision":
        return state
    return {theirs: state[name] for theirs, name in about["original_names"].items()}
