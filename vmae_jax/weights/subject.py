"""The model to exchange with another program, of a config or of a file of weights, and its outputs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from vmae_jax import spec
from vmae_jax.errors import short
from vmae_jax.methods.masked import Masked
from vmae_jax.spec import ConfigError
from vmae_jax.types import Method
from vmae_jax.weights.layouts.fit import sinusoid
from vmae_jax.weights.layouts.videomae import Layout

__all__ = ["Subject", "compute_dtype", "fresh_params", "normalized", "outputs", "probe", "subject"]

MASKED = "methods.masked.build"


class Subject(NamedTuple):
    """A config's method, with what a conversion must know of its model.

    Attributes:
      method: with the model computing in float32, whatever the config says.
      model: `models.variants.Model`.
      masked: the same as a masked autoencoder that decodes all that is hidden; None for others.
      pixels: the objective that predicts pixels, where there is one.
    """

    config: ConfigDict
    method: Method
    model: Any
    layout: Layout
    masked: Masked | None
    pixels: str | None

    @property
    def normalized_targets(self) -> bool:
        """Whether the pixels' objective predicts normalised cubes."""
        assert self.masked is not None
        return self.masked.objectives[str(self.pixels)].target.normalize


def subject(config: ConfigDict, *, dtype: str = "float32") -> Subject:
    """The method and model of an experiment's config.

    Args:
      config: with a section `method` whose call has an argument `model`.
      dtype: of the matrix products.

    Raises:
      ConfigError: a method without a model of `models.variants.vit`.
    """
    section = config.get("method")
    node: Any = section.copy_and_resolve_references() if isinstance(section, ConfigDict) else section
    given: Any = node.get("model") if isinstance(node, ConfigDict) else None
    if not isinstance(given, ConfigDict) or not str(given.get("call")).startswith("models.variants."):
        raise ConfigError(f"method {short(_name(node))} has no `model` of models.variants.vit")
    given.dtype = dtype
    method, model = spec.build(node, "method"), spec.build(given, "model")
    masked, pixels = None, None
    if node.call == MASKED:
        arguments = spec.arguments(node, "method")
        masked = Masked(**arguments | {"model": model, "decoder_mask": None})
        pixels = next((n for n, one in masked.objectives.items() if hasattr(one.target, "render")), None)
    layout = Layout(
        patch=model.patch,
        channels=model.channels,
        heads=model.encoder.blocks["heads"],
        depth=model.encoder.blocks["depth"],
        decoder_heads=model.decoder["blocks"]["heads"],
        decoder_depth=model.decoder["blocks"]["depth"],
        cosine=model.encoder.blocks["cosine"],
        layer_scale=bool(model.encoder.blocks["layer_scale"]),
        head=f"head_{pixels or 'pixels'}",
    )
    return Subject(config, method, model, layout, masked, pixels)


def _name(node: Any) -> Any:
    return node.get("call") if isinstance(node, ConfigDict) else node


def compute_dtype(config: ConfigDict) -> Any:
    """The dtype of the matrix products of a config's model, "auto" resolved as on this machine."""
    section: Any = config.method
    return spec.build(section.model, "model").encoder.dtype


def fresh_params(one: Subject, seed: int | None = 0) -> Any:
    """Freshly initialised parameters, nested dicts of numpy arrays; zeros where `seed` is None."""
    init = lambda key, batch: meta.unbox(one.method.init(key, batch)[0])  # noqa: E731
    batch = probe(one.model)
    if seed is None:  # only names and shapes are wanted: nothing to compile
        return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), jax.eval_shape(init, jax.random.key(0), batch))
    return jax.tree.map(np.asarray, jax.device_get(jax.jit(init)(jax.random.key(seed), batch)))


def probe(model: Any, clip: np.ndarray | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch to compare outputs on: a random clip and, where there is one, a real one.

    Args:
      clip: uint8 [t h w c] of the model's own shape.

    Raises:
      ConfigError: the clip has another shape.
    """
    rng = np.random.default_rng(seed)
    clips = [rng.integers(0, 256, model.video_shape, np.uint8)]
    if clip is not None:
        if clip.shape != model.video_shape or clip.dtype != np.uint8:
            raise ConfigError(f"a clip of uint8{model.video_shape} is compared, not {clip.dtype}{clip.shape}")
        clips.append(clip)
    rows = len(clips)
    return {
        "video": np.stack(clips),
        "seed": rng.integers(0, 1 << 32, (rows, 2), np.uint32),
        "index": np.arange(rows, dtype=np.int32),
        "valid": np.ones(rows, bool),
        "label": np.zeros(rows, np.int32),
    }


def normalized(model: Any, video: np.ndarray) -> np.ndarray:
    """The clips as PyTorch models take them: float32 [b t c h w], mean and deviation taken off."""
    pixels = (video.astype(np.float32) / 255.0 - np.float32(model.mean)) / np.float32(model.std)
    return np.ascontiguousarray(pixels.astype(np.float32).transpose(0, 1, 4, 2, 3))


def outputs(one: Subject, params: Any, batch: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Any]:
    """What the model here says of a batch, and the mask it was asked with.

    Returns:
      "tokens" [b n d]; "features" and "logits" of a classifier, or "prediction" [b k p] and
      "loss" of a pre-training model with all hidden cubes decoded; and bool [b n], True where a
      cube was hidden, or None.
    """
    with jax.default_matmul_precision("highest"):
        result, visible = jax.device_get(jax.jit(lambda p, b: _outputs(one, p, b))(params, dict(batch)))
    hidden = None
    if visible is not None:
        hidden = np.ones((len(batch["video"]), one.model.grid.size), bool)
        np.put_along_axis(hidden, np.asarray(visible), False, axis=1)
    return {name: np.asarray(value) for name, value in result.items()}, hidden


def _outputs(one: Subject, params: Any, batch: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    result = {"tokens": one.method.features(params, batch, pool=False)}
    if one.method.predict is not None and "head" in params:
        result |= {"features": one.method.features(params, batch), "logits": one.method.predict(params, batch)}
    if one.masked is None or "decoder" not in params or not one.pixels:
        return result, None
    masks = one.masked.plan(batch, decode_all=True)
    encoded = one.masked.encode(params, batch, masks, train=False)
    prediction = one.masked.decode(params, batch, encoded, masks)[one.pixels]
    target = one.masked.objectives[one.pixels].target(batch, masks.decode, one.model.patch)
    return result | {"prediction": prediction, "loss": jnp.square(prediction - target).mean()}, masks.visible


def sinusoidal(one: Subject) -> bool:
    """Whether the model's positions are VideoMAE's fixed 1-D sinusoid."""
    grid, width = one.model.grid, one.model.encoder.width
    module = one.model.encoder.positions(grid, width)
    index = jnp.arange(grid.size)[None]
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), index))
    if variables:
        return False
    return bool(np.abs(np.asarray(module.apply({}, index))[0] - sinusoid(grid.size, width)).max() < 1e-5)


def leaves(params: Any) -> dict[str, np.ndarray]:
    """The parameters by path, "encoder/embed/kernel"."""
    return dict(flatten_dict(params, sep="/"))  # pyright: ignore[reportReturnType] - no empty nodes
