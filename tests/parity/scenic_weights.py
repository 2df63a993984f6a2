"""Arrays of Scenic's transformers under our names."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from vmae_jax.inputs.readers import Read, Reader

ATTENTION = "MultiHeadDotProductAttention_0"


class Given(Reader):
    """Spectrograms as they were recorded, "spectrogram" of a batch."""

    inputs = ("spectrogram",)

    def shape(self, batch, wanted):
        """All will do."""

    def read(self, batch, frames, keys=None):
        """Return them as videos of one column."""
        return Read(jnp.asarray(batch["spectrogram"])[..., None], jnp.asarray(batch["valid"]))

    def there(self, batch):
        """Return True for every row."""
        return np.ones(len(batch["valid"]), bool)


def below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays below a prefix."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def blocks(arrays: Mapping[str, np.ndarray], suffix: str = "") -> dict[str, Any]:
    """Return stacked blocks; biases of keys, which a softmax cancels, are left out."""
    depth = sum(name.startswith("encoderblock_") and name.endswith(f"{suffix}/LayerNorm_0/bias")
                and name.split("/")[0].removeprefix("encoderblock_").removesuffix(suffix).isdigit()
                for name in arrays)  # fmt: skip
    layers = [_block(below(arrays, f"encoderblock_{layer}{suffix}/")) for layer in range(depth)]
    stacked = {name: np.stack([layer[name] for layer in layers]) for name in layers[0]}
    return unflatten_dict(stacked, sep="/")


def _block(one: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    width = one["LayerNorm_0/scale"].shape[0]
    kernels = [one[f"{ATTENTION}/{name}/kernel"].reshape(width, width) for name in ("query", "key", "value")]
    found = {
        "attention/qkv/kernel": np.stack(kernels),
        "attention/qkv/q_bias": one[f"{ATTENTION}/query/bias"].reshape(width),
        "attention/qkv/v_bias": one[f"{ATTENTION}/value/bias"].reshape(width),
        "attention/proj/kernel": one[f"{ATTENTION}/out/kernel"].reshape(width, width),
        "attention/proj/bias": one[f"{ATTENTION}/out/bias"],
    }
    for ours, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_1")):
        found |= {f"{ours}/{leaf}": one[f"{theirs}/{leaf}"] for leaf in ("scale", "bias")}
    for ours, theirs in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
        found |= {f"mlp/{ours}/{leaf}": one[f"MlpBlock_0/{theirs}/{leaf}"] for leaf in ("kernel", "bias")}
    return found


def embed(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return a patch embedding, a convolution whose kernel has the order of our cubes."""
    kernel = arrays[f"{name}/kernel"]
    return {"kernel": kernel.reshape(-1, kernel.shape[-1]), "bias": arrays[f"{name}/bias"]}


def layer(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return the leaves of a norm or of a linear layer."""
    return below(arrays, f"{name}/")
