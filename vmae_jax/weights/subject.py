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
from vmae_jax.lookup import entry
from vmae_jax.masking.core import Masker, ranks
from vmae_jax.methods.masked import Masked
from vmae_jax.models.rotary import Rotary
from vmae_jax.models.variants import Model
from vmae_jax.spec import ConfigError
from vmae_jax.types import Method
from vmae_jax.weights.layouts.fit import sinusoid
from vmae_jax.weights.layouts.videomae import Facts

__all__ = [
    "Subject",
    "compute_dtype",
    "fresh_params",
    "normalized",
    "outputs",
    "probe",
    "published",
    "subject",
]

MASKED = "methods.masked.build"
VIT = "models.variants.vit"


class Subject(NamedTuple):
    """A config's method, with what a conversion needs of it.

    Attributes:
      method: with models that compute in float32, regardless of the config.
      spec: shape and type of one row of each stream that the method reads.
      model: `models.variants.Model` of the argument `model`; None where the method has another or none, which no
        published layout has a place for.
      facts: of that model.
      masked: the same as a masked autoencoder that hides random tokens and decodes them all; None for others.
      pixels: the objective that predicts pixels, where there is one.
    """

    config: ConfigDict
    method: Method
    spec: Mapping[str, jax.ShapeDtypeStruct]
    model: Any = None
    facts: Any = None
    masked: Masked | None = None
    pixels: str | None = None

    @property
    def normalized_targets(self) -> bool:
        """Whether the pixels' objective predicts normalised cubes."""
        assert self.masked is not None
        return self.masked.objectives[str(self.pixels)].target.normalize


def subject(config: ConfigDict, *, dtype: str = "float32") -> Subject:
    """Return the method and models of an experiment's config.

    Args:
      config: with a section `method`; `data` is needed where the method reads other streams than its model's clips.
      dtype: of the matrix products.

    Raises:
      ConfigError: if the section is no method, or the shapes of its streams are not known.
    """
    section = config.get("method")
    node: Any = section.copy_and_resolve_references() if isinstance(section, ConfigDict) else section
    for one in spec.calls(node):
        is_model = entry(spec.resolve(str(one.call))).kind == "model"
        if is_model and isinstance(one.get("dtype"), str):  # `build` refuses anything else
            one.dtype = dtype
    method = spec.build(node, "method")
    given: Any = node.get("model")
    model = spec.build(given, "model") if isinstance(given, ConfigDict) else None
    if model is None or given.get("call") != VIT:
        return Subject(config, method, _streams(config, method, model if isinstance(model, Model) else None))
    masked, pixels = None, None
    if node.call == MASKED:
        arguments = spec.arguments(node, "method")
        objectives = arguments["objectives"]
        pixels = next((name for name, one in objectives.items() if hasattr(one.target, "render")), None)
        # As many random tokens as the method's own mask keeps, which may need a frozen network.
        mask = Masker(arguments["encoder_mask"].keep, lambda keys, batch, grid: ranks(keys, grid.size))
        masked = Masked(model, mask, None, {pixels: objectives[pixels]} if pixels else {})
    facts = Facts(
        patch=model.patch,
        channels=model.channels,
        heads=model.encoder.blocks["heads"],
        decoder_heads=model.decoder["blocks"]["heads"],
        head=f"head_{pixels or 'pixels'}",
        tables={name: table for name in ("encoder", "decoder") if (table := fixed_positions(model, name)) is not None},
        keeps_prefix=model.decoder["keep_prefix"],
        image=(model.grid.t, model.patch.t, model.encoder.prefix) == (1, 1, 1),
    )
    return Subject(config, method, _streams(config, method, model), model, facts, masked, pixels)


def published(one: Subject, why: str) -> Any:
    """Return the model; raise ConfigError if published layouts have no place for the method's; `why` it is needed."""
    if one.model is None:
        section: Any = one.config.get("method")
        raise ConfigError(f"{why}, and method {short(section.call)} has no `model` of {VIT}")
    return one.model


def _streams(config: ConfigDict, method: Method, model: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """One row of each stream that a method reads: the model's clips, or as the config's loader gives them."""
    if model is not None and method.inputs == ("video",):
        return {"video": jax.ShapeDtypeStruct((1, *model.video_shape), np.uint8)}
    section = config.get("data")
    if not isinstance(section, ConfigDict):
        raise ConfigError(f"the shapes of {', '.join(method.inputs)} are not known: the config has no section data")
    given = spec.build(section, "loader").spec()
    missing = [name for name in method.inputs if name not in given]
    if missing:
        raise ConfigError(f"config.method reads {missing[0]!r}, which config.data does not give: {', '.join(given)}")
    return {name: jax.ShapeDtypeStruct((1, *given[name].shape[1:]), given[name].dtype) for name in method.inputs}


def compute_dtype(config: ConfigDict) -> Any:
    """Return the dtype of the matrix products of a config's model, "auto" resolved as on this machine.

    It is float32 for a method without a model of `models.variants.vit`.
    """
    section: Any = config.method
    given = section.get("model")
    if not isinstance(given, ConfigDict) or given.get("call") != VIT:
        return jnp.float32
    return spec.build(given, "model").encoder.dtype


def fresh_params(one: Subject, seed: int | None = 0) -> Any:
    """Freshly initialised parameters, nested dicts of numpy arrays; zeros where `seed` is None."""
    init = lambda key, batch: meta.unbox(one.method.init(key, batch)[0])  # noqa: E731
    batch = {**_supervision(one), **probe(one)}
    if seed is None:  # only names and shapes are wanted: nothing to compile
        return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), jax.eval_shape(init, jax.random.key(0), batch))
    return jax.tree.map(np.asarray, jax.device_get(jax.jit(init)(jax.random.key(seed), batch)))


def _supervision(one: Subject) -> dict[str, np.ndarray]:
    """A row of zeros of each stream that only masks and targets read, which shape the parameters."""
    section = one.config.get("data")
    if not one.method.supervision or not isinstance(section, ConfigDict):
        return {}
    given = spec.build(section, "loader").spec()
    known = {name: given[name] for name in one.method.supervision if name in given}
    return {name: np.zeros((1, *leaf.shape[1:]), leaf.dtype) for name, leaf in known.items()}


def probe(one: Subject, clip: np.ndarray | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Return a batch to compare outputs on: a random row of each stream and, where there is one, a real clip.

    Args:
      clip: uint8 [t h w c] of the method's own shape.

    Raises:
      ConfigError: if the clip has another shape, or the method reads other streams beside it.
    """
    rng = np.random.default_rng(seed)
    streams = {name: _random(rng, leaf) for name, leaf in one.spec.items()}
    if clip is not None:
        if list(streams) != ["video"]:
            raise ConfigError(f"a clip alone is no row of a method that reads {', '.join(streams)}")
        shape = one.spec["video"].shape[1:]
        if clip.shape != shape or clip.dtype != np.uint8:
            raise ConfigError(f"a clip of uint8{shape} is compared, not {clip.dtype}{clip.shape}")
        streams = {"video": np.concatenate([streams["video"], clip[None]])}
    rows = 1 if clip is None else 2
    return {
        **streams,
        "seed": rng.integers(0, 1 << 32, (rows, 2), np.uint32),
        "index": np.arange(rows, dtype=np.int32),
        "valid": np.ones(rows, bool),
    }


def _random(rng: np.random.Generator, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    dtype = np.dtype(leaf.dtype)
    if dtype.kind == "b":
        return np.ones(leaf.shape, bool)
    if dtype.kind == "u":
        return rng.integers(0, np.iinfo(dtype).max, leaf.shape, dtype, endpoint=True)
    return np.zeros(leaf.shape, dtype) if dtype.kind == "i" else rng.standard_normal(leaf.shape).astype(dtype)


def normalized(model: Any, video: np.ndarray) -> np.ndarray:
    """The clips as PyTorch models take them: float32 [b t c h w], mean and deviation taken off."""
    pixels = (video.astype(np.float32) / 255.0 - np.float32(model.mean)) / np.float32(model.std)
    return np.ascontiguousarray(pixels.astype(np.float32).transpose(0, 1, 4, 2, 3))


def outputs(one: Subject, params: Any, batch: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Any]:
    """Return the outputs of our model for a batch, and the mask.

    Returns:
      "tokens" [b n d]; "features" and "logits" of a classifier, or "prediction" [b k p] and
      "loss" of a pre-training model with all hidden cubes decoded; and bool [b n], True where a
      cube was hidden, or None.
    """
    with jax.default_matmul_precision("highest"):
        result, visible = jax.device_get(jax.jit(lambda p, b: _outputs(one, p, b))(params, dict(batch)))
    hidden = None
    if visible is not None:
        hidden = np.ones((len(batch["index"]), one.model.grid.size), bool)
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
    """Return whether the model's positions are VideoMAE's fixed 1-D sinusoid."""
    table = one.facts.tables.get("encoder")
    return table is not None and bool(np.abs(table - sinusoid(*table.shape)).max() < 1e-5)


def fixed_positions(model: Model, tower: str) -> np.ndarray | None:
    """Return the positions that a tower of a model adds and computes, [n width]; None where it learns or rotates them.

    Args:
      tower: "encoder" or "decoder".
    """
    if isinstance(model.encoder.positions, Rotary):
        return None
    grid = model.grid
    width = model.encoder.width if tower == "encoder" else model.decoder["width"]
    module = model.encoder.positions(grid, width)
    index = jnp.arange(grid.size)[None]
    if jax.eval_shape(lambda: module.init(jax.random.key(0), index)):
        return None
    return np.asarray(module.apply({}, index))[0]


def leaves(params: Any) -> dict[str, np.ndarray]:
    """The parameters by path, "encoder/embed/kernel"."""
    return dict(flatten_dict(params, sep="/"))  # pyright: ignore[reportReturnType] - no empty nodes
