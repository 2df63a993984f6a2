"""What the sets of V-JEPA, V-JEPA 2 and V-JEPA 2.1 share: masks, models of their dims, recorded gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmae_jax.models.variants import Model, vit
from vmae_jax.types import MaskPlan
from vmae_jax.weights.layouts.vjepa import stripped, write_network


class Given:
    """A mask that the official code drew."""

    def __init__(self, visible: np.ndarray, decode: np.ndarray):
        self.visible, self.decode = jnp.asarray(visible), jnp.asarray(decode)

    def plan(self, keys: Any, grid: Any) -> MaskPlan:
        return MaskPlan(self.visible, self.decode, jnp.ones(self.decode.shape))


def model_of(dims: dict[str, Any], positions: Any, **more: Any) -> Model:
    """The model of a set, from arguments in the official names."""
    encoder, predictor = dims["encoder"], dims["predictor"]
    return vit(
        frames=encoder["num_frames"],
        tubelet=encoder["tubelet_size"],
        resolution=encoder["img_size"],
        channels=encoder["in_chans"],
        patch=encoder["patch_size"],
        width=encoder["embed_dim"],
        depth=encoder["depth"],
        heads=encoder["num_heads"],
        mlp_ratio=encoder["mlp_ratio"],
        decoder_width=predictor["predictor_embed_dim"],
        decoder_depth=predictor["depth"],
        decoder_heads=predictor["num_heads"],
        decoder_mlp_ratio=predictor["mlp_ratio"],
        positions=positions,
        project_bias=True,
        initial="vjepa",
        mask_tokens=len(set(dims["mask_index"])),
        dtype="float32",
        **more,
    )


def gradients(numbers: dict[str, np.ndarray], state: dict[str, np.ndarray], network: str) -> dict[str, np.ndarray]:
    """The recorded gradients under the names of a state dict; what training does not use has none."""
    start = f"grad/{network}/"
    given = stripped({name.removeprefix(start): array for name, array in numbers.items() if name.startswith(start)})
    assert len(given) > 10
    state = stripped(state)
    fixed = {name: array for name, array in state.items() if name.endswith("pos_embed")}
    return {name: given.get(name, np.zeros_like(array)) for name, array in state.items()} | fixed


def final_norms(numbers: dict[str, np.ndarray], facts: Any, networks: dict[str, Any]) -> None:
    """Compare the norms of parameters after the recorded steps, without biases of keys, whose gradient is rounding."""
    compared = 0
    written = {name: write_network(jax.device_get(tree), facts) for name, tree in networks.items()}
    for name, norm in numbers.items():
        kind, _, of = name.partition("/")
        if kind != "final_norm":
            continue
        network, _, parameter = of.partition("/")
        parameter = next(iter(stripped({parameter: 0})))
        if parameter not in written[network]:
            assert parameter.startswith("mask_tokens"), of
            continue
        found = written[network][parameter]
        if parameter.endswith("qkv.bias"):
            found = np.concatenate([np.split(found, 3)[0], np.split(found, 3)[2]])
        assert np.linalg.norm(found) == pytest.approx(float(norm), rel=1e-5), of
        compared += 1
    assert compared > 60
