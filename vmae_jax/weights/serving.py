"""The model as StableHLO: run by JAX, or anything that reads StableHLO, without our code.

Why not ONNX: JAX has no exporter of its own, and the ways through TensorFlow or third parties are
not kept up with it. `jax.export` is part of JAX, promises six months of compatibility, and takes
a symbolic batch.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from vmae_jax.spec import ConfigError
from vmae_jax.weights import verify
from vmae_jax.weights.checkpoint import Checkpoint
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.formats.atomic import replaced
from vmae_jax.weights.subject import Subject, fresh_params, leaves, probe, subject

__all__ = ["export", "run"]

PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS = "weights.safetensors"
TOLERANCE = 1e-4

# A module may reach beyond its arguments by these operations alone; exports have only calls that XLA itself resolves.
_LEAVES_XLA = re.compile(r"(?:custom_call\b(?: *@(\w+))?|\b(?:infeed|outfeed|send|recv)\b)")
_OWN_CALLS = ("shape_assertion", "Sharding")


def export(source: Checkpoint, *, out: Any, dtype: str = "float32", clip: np.ndarray | None = None) -> dict[str, Any]:
    """Writes a folder with `features.stablehlo`, `logits.stablehlo` of a classifier, and the weights.

    Each module is a function of (weights: flat dict of float32 arrays, streams: one argument for each of
    `Method.inputs`, such as video: uint8 [b t h w c]) for any b, on CPU, CUDA and TPU, with the normalisation of
    pixels inside. The weights are those that these functions read, whatever their names are.

    Args:
      dtype: of the matrix products.
      clip: a real clip, compared beside a random one.

    Raises:
      ConfigError: a dtype that is not computed in; outputs that differ.
    """
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"--dtype={dtype}: a StableHLO model computes in float32 or bfloat16")
    one = subject(source.config, dtype=dtype)
    functions = _functions(one, source.params)
    every = {name: np.asarray(value) for name, value in leaves(source.params).items()}
    read = set().union(*(_read(function, every, one) for function in functions.values()))
    weights = {name: array for name, array in every.items() if name in read}
    found: dict[str, float] = {}
    with replaced(out) as new:
        new.mkdir()
        tensors.write_safetensors(new / WEIGHTS, weights, {})
        for name, function in functions.items():
            module = _lower(function, weights, one)
            (new / f"{name}.stablehlo").write_bytes(module.serialize())
            (new / f"{name}.mlir").write_text(module.mlir_module(), encoding="utf-8")
        manifest = {
            "format": "jax.export",
            "jax": jax.__version__,
            "functions": {name: f"{name}.stablehlo" for name in functions},
            "sha256": {name: _digest((new / f"{name}.stablehlo").read_bytes()) for name in functions},
            "arguments": ["weights: the tensors of weights.safetensors, by name", *one.method.inputs],
            "inputs": {
                name: {"dtype": np.dtype(leaf.dtype).name, "shape": ["b", *leaf.shape[1:]]}
                for name, leaf in one.spec.items()
            },
            "weights": WEIGHTS,
            "dtype": dtype,
            "step": source.step,
        }
        (new / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for streams in _rows(one, clip):
            for name, function in functions.items():
                expected, answer = jax.jit(function)(weights, *streams), run(new, name)(*streams)
                difference = verify.differences({name: expected}, {name: answer})[name]
                found[name] = max(difference, found.get(name, 0.0))
        worst = max(found.values())
        if not worst <= TOLERANCE:
            raise ConfigError(f"export: verification failed: the exported model differs by {worst:.3g}")
    return {
        "out": str(out),
        "format": "stablehlo",
        "step": source.step,
        "dtype": dtype,
        "tensors": len(weights),
        "parameters": int(sum(array.size for array in weights.values())),
        "left_out": {
            name: "neither features nor logits read it"
            for name in source.params
            if not any(path.partition("/")[0] == name for path in weights)
        },
        "compared_on": ["random clips of two batch sizes"] + (["a real clip"] if clip is not None else []),
        "checked_by": f"running it with JAX {jax.__version__} on {jax.default_backend()}",
        "largest_difference": worst,
        "differences": found,
        "not_checked": f"platforms {', '.join(p for p in PLATFORMS if p != _platform())}",
    }


def run(folder: Any, name: str = "features") -> Callable[..., np.ndarray]:
    """Return an exported function of the streams that the manifest lists, such as uint8 clips [b t h w c].

    A module that calls anything but StableHLO's own operations (a library of the machine, a host callback) is
    refused before it is compiled, and a damaged one before it is read. Beyond that, a module is a program, and
    MLIR's reader of bytecode is not made for hostile input: run exports of people you trust.

    Raises:
      ConfigError: if the folder has no such function, or one that is damaged or calls foreign code.
    """
    folder = pathlib.Path(folder)
    try:
        manifest = tensors.read_json(folder / "manifest.json")
        functions, digests = manifest.get("functions"), manifest.get("sha256")
        if not isinstance(functions, dict) or name not in functions:
            raise ConfigError(f"{folder} has no function {name!r}: {', '.join(map(str, functions or ())) or 'none'}")
        module = _read_module(folder / f"{name}.stablehlo", digests.get(name) if isinstance(digests, dict) else None)
        weights = tensors.read_file(folder / WEIGHTS).state
    except (tensors.UnreadableFileError, OSError) as error:
        raise ConfigError(f"{folder}: {error}") from None
    return lambda *streams: np.asarray(module.call(weights, *streams))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_module(path: pathlib.Path, digest: Any) -> jax.export.Exported:
    """Read a module whose every operation is StableHLO's own. Raises ConfigError: if it is damaged or has others."""
    content = path.read_bytes()
    if _digest(content) != digest:
        raise ConfigError(f"{path} is damaged: its SHA-256 is not the one in manifest.json")
    try:
        module = jax.export.deserialize(bytearray(content))
        text = module.mlir_module()
    except Exception as error:  # the readers of flatbuffers and of MLIR raise whatever the bytes lead to
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"{path} is no StableHLO module that this JAX reads: {reason}") from None
    foreign = sorted({found[0].strip('"') for found in _LEAVES_XLA.finditer(text) if found[1] not in _OWN_CALLS})
    if foreign:
        raise ConfigError(f"{path} calls code outside of StableHLO ({', '.join(foreign)[:200]}): it is not run")
    return module


def _functions(one: Subject, params: Any) -> dict[str, Callable[..., Any]]:
    inputs, shapes = one.method.inputs, {name: (leaf.shape, leaf.dtype) for name, leaf in leaves(params).items()}

    def whole(weights):
        """The tree; what the functions do not read, but look up, is zero, and is in no program."""
        zeros = {name: jnp.zeros(*shape) for name, shape in shapes.items() if name not in weights}
        return unflatten_dict({**zeros, **weights}, sep="/")

    def features(weights, *streams):
        return one.method.features(whole(weights), dict(zip(inputs, streams, strict=True)))

    def logits(weights, *streams):
        assert one.method.predict is not None
        return one.method.predict(whole(weights), dict(zip(inputs, streams, strict=True)))

    functions: dict[str, Callable[..., Any]] = {"features": features}
    # An imported classifier may have come without its head.
    if one.method.predict is not None and leaves(params).keys() == leaves(fresh_params(one, None)).keys():
        functions["logits"] = logits
    return functions


def _read(function: Callable[..., Any], weights: dict[str, np.ndarray], one: Subject) -> set[str]:
    """The weights that a function reads."""
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()}
    jaxpr = jax.make_jaxpr(function)(shapes, *one.spec.values()).jaxpr
    live = set(map(id, jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if live.intersection(map(id, equation.outvars)):
            live |= set(map(id, equation.invars))
    return {name for name, variable in zip(sorted(shapes), jaxpr.invars) if id(variable) in live}


def _lower(function: Callable[..., Any], weights: dict[str, np.ndarray], one: Subject) -> Any:
    (rows,) = jax.export.symbolic_shape("b")
    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()}
    streams = [jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype) for leaf in one.spec.values()]
    return jax.export.export(jax.jit(function), platforms=PLATFORMS)(shapes, *streams)


def _rows(one: Subject, clip: np.ndarray | None) -> list[list[np.ndarray]]:
    """The streams of a batch, and of a larger one."""
    first, more = probe(one, clip), probe(one, seed=1)
    names = one.method.inputs
    return [[first[name] for name in names], [np.concatenate([first[name], more[name]]) for name in names]]


def _platform() -> str:
    return {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
