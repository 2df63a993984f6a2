"""A plugin with a module, a model and a method of its own, which no file of the package names."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vmae_jax.models.parameters import FIRST_LAYER, declare
from vmae_jax.registry import register
from vmae_jax.scopes import part, tower
from vmae_jax.types import Loss, Method, Term


class Experts(nn.Module):
    """Small maps side by side, of an axis that only this plugin names."""

    count: int

    @nn.compact
    def __call__(self, x: Any, _: None) -> Any:
        width = x.shape[-1]
        init = declare(nn.initializers.normal(0.1), "experts", "embed", None, decay=True, axes={"experts": "tensor"})
        filters = self.param("filters", init, (self.count, width, width))
        init = declare(nn.initializers.ones, "embed", decay=False)
        return x + self.param("gate", init, (width,)) * jnp.einsum("bd,edk->bek", x, filters).mean(1), None


class Network(nn.Module):
    width: int
    depth: int
    experts: int

    @nn.compact
    def __call__(self, video: Any) -> Any:
        pixels = video.astype(jnp.float32).mean(axis=(1, 2, 3)) / 255.0
        init = declare(nn.initializers.normal(0.5), None, "embed", decay=True, layer=0)
        x = pixels @ self.param("lens", init, (pixels.shape[-1], self.width))
        stack = nn.scan(
            Experts,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
            metadata_params={nn.PARTITION_NAME: "layers", FIRST_LAYER: 1},
        )
        with tower("eye"), part("experts"):
            x, _ = stack(self.experts, name="stack")(x, None)
        init = declare(nn.initializers.normal(0.1), "embed", decay=True)
        return x, x @ self.param("out", init, (self.width,))


@register("method", smoke={"width": 8})
def build(width: int = 4096, depth: int = 3, experts: int = 4) -> Method:
    """Predict the mean brightness of a clip."""
    network = Network(width, depth, experts)

    def init(key: Any, batch: Any) -> Any:
        return {"eye": network.init(key, batch["video"])["params"]}, None

    def loss(params: Any, batch: Any, context: Any) -> Loss:
        del context
        out = network.apply({"params": params["eye"]}, batch["video"])[1]
        error = jnp.square(out - batch["video"].astype(jnp.float32).mean(axis=(1, 2, 3, 4)) / 255.0)
        return Loss({"brightness": Term((error * batch["valid"]).sum(), batch["valid"].sum())})

    def features(params: Any, batch: Any, *, layer: int | None = None, pool: bool = True) -> Any:
        del layer, pool
        return network.apply({"params": params["eye"]}, batch["video"])[0]

    return Method(init, loss, features)


@register("method")
def listener(stream: str = "audio") -> Method:
    """A method that reads a stream which loaders of videos do not give."""
    return build(8)._replace(inputs=("video", stream))
