"""The convolutional network of "Unsupervised State Representation Learning in Atari" (Anand et al. 2019), untrained and
supervised: the two ends of the published table, by which this benchmark is checked.

Four convolutions over gray pictures of 210 x 160 (32, 64, 128 and 64 channels; sides 8, 4, 4 and 3; steps 4, 2, 2
and 1), then a layer of 256 features; orthogonal weights with a gain of √2, biases of zero.
"""

import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.atari_play import HEIGHT, WIDTH, Table, gray
from benchmarks.atari_probe import VALUES, Patience, Probing, Set, draws, scores
from vmae_jax.data.decode import probe, read_frames
from vmae_jax.data.sources import folder

__all__ = ["FEATURES", "LAYERS", "features", "flops", "frames", "initial", "outputs", "supervised"]

LAYERS = ((8, 4, 32), (4, 2, 64), (4, 2, 128), (3, 1, 64))  # side, step, channels
FEATURES = 256


def initial(key: jax.Array) -> dict[str, jax.Array]:
    """Return random weights."""
    orthogonal = jax.nn.initializers.orthogonal(math.sqrt(2))
    params, channels = {}, 1
    for number, (side, _, width) in enumerate(LAYERS):
        params[f"conv{number}"] = orthogonal(jax.random.fold_in(key, number), (side, side, channels, width))
        params[f"bias{number}"], channels = jnp.zeros(width), width
    flat = math.prod(_sides()) * channels
    params["out"] = orthogonal(jax.random.fold_in(key, len(LAYERS)), (flat, FEATURES))
    return params | {"bias": jnp.zeros(FEATURES)}


def _sides() -> tuple[int, int]:
    height, width = HEIGHT, WIDTH
    for side, step, _ in LAYERS:
        height, width = (height - side) // step + 1, (width - side) // step + 1
    return height, width


def flops() -> float:
    """Return the operations of one picture, a multiplication and an addition counting as two."""
    height, width, channels, total = HEIGHT, WIDTH, 1, 0
    for side, step, out in LAYERS:
        height, width = (height - side) // step + 1, (width - side) // step + 1
        total, channels = total + 2 * height * width * out * side * side * channels, out
    return float(total + 2 * height * width * channels * FEATURES)


def outputs(params: Mapping[str, jax.Array], pictures: jax.Array) -> jax.Array:
    """Return the features [n 256] of gray pictures, uint8 [n h w]."""
    x = pictures[..., None].astype(jnp.float32) / 255
    for number, (_, step, _) in enumerate(LAYERS):
        kernel, bias = params[f"conv{number}"], params[f"bias{number}"]
        x = jax.lax.conv_general_dilated(x, kernel, (step, step), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x + bias)
    return x.reshape(len(x), -1) @ params["out"] + params["bias"]


def features(params: Mapping[str, jax.Array], pictures: np.ndarray, rows: int = 256) -> np.ndarray:
    """Return the features of many pictures, batch by batch."""
    compiled = jax.jit(outputs)
    parts = []
    for first in range(0, len(pictures), rows):
        part = pictures[first : first + rows]
        padded = np.concatenate([part, np.zeros((rows - len(part), *part.shape[1:]), part.dtype)])
        parts.append(np.asarray(compiled(params, padded))[: len(part)])
    return np.concatenate(parts)


def frames(table: Table, records: Mapping[str, str], show: Callable[[np.ndarray], np.ndarray] = gray) -> np.ndarray:
    """Return every frame of a game, in the order of the table, as its prepared records have it.

    Args:
      records: the folder of each split.
      show: of the RGB frames [t h w 3] of an episode.

    Raises:
      ValueError: if an episode is missing, or has another number of frames than the table.
    """
    out: np.ndarray | None = None
    left = dict(enumerate(table.names))
    places = {name: number for number, name in left.items()}
    for path in records.values():
        source = folder(path).open()
        for index in range(len(source)):
            encoded = source.fetch(index)
            number = places[pathlib.Path(encoded.key).stem]
            rows, there = np.flatnonzero(table.episode == number), probe(encoded).num_frames
            if there != len(rows):
                raise ValueError(f"{path}: {encoded.key} has {there} frames, the table {len(rows)}")
            shown = show(read_frames(encoded, range(there)))
            if out is None:
                out = np.empty((len(table.episode), *shown.shape[1:]), shown.dtype)
            out[rows] = shown
            del left[number]
    if left or out is None:
        raise ValueError(
            f"{', '.join(records.values())}: {len(left)} episodes are missing, such as {min(left.values())}"
        )
    return out


def supervised(
    names: Sequence[str],
    train: Set,
    validation: Set,
    test: Set,
    *,
    seed: int,
    probing: Probing,
    epoch_frames: int,
    saved: pathlib.Path,
    stop: Callable[[], bool] = lambda: False,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any] | None:
    """Train the network with the labels of all variables and test it.

    The authors train a network for each variable; here one network has a linear layer for each, and all of them go on
    until none has become better for long enough.

    Args:
      train, validation, test: the features are gray pictures.
      epoch_frames: frames that are drawn for an epoch, at most as many as there are.
      saved: a file with the state after the last whole epoch, with which an interrupted training goes on.
      stop: asked after each epoch.

    Returns:
      f1, accuracy and epochs as `atari_probe.probe`; None if it was stopped.
    """
    own, key = probing, jax.random.key(seed)
    head = jax.nn.initializers.uniform(2 / math.sqrt(FEATURES))
    centred = lambda name, shape: head(jax.random.fold_in(key, name), shape) - 1 / math.sqrt(FEATURES)  # noqa: E731
    params = initial(key) | {
        "kernel": centred(10, (FEATURES, len(names), VALUES)),
        "head": centred(11, (len(names), VALUES)),
    }
    tx = optax.adam(own.rate, eps=own.epsilon)
    state = params, tx.init(params)
    patience, seen = Patience(own, len(names)), []
    if saved.exists():
        state, seen = _load(saved, state)
        for row in seen:
            patience.see(row)
    while patience.learning.any() and len(seen) < own.epochs:
        if stop():
            return None
        generator = np.random.Generator(np.random.Philox(key=[seed, len(seen)]))
        count = min(epoch_frames, len(train.episode)) // own.batch
        for rows in draws(train.episode, count * own.batch, generator).reshape(count, own.batch):
            state = _update(tx, state, train.features[rows], train.labels[rows])
        rows = draws(validation.episode, min(epoch_frames, len(validation.episode)), generator)
        found = _named(state[0], validation.features[rows])
        seen.append((found == validation.labels[rows]).mean(0))
        patience.see(seen[-1])
        _save(saved, state, seen)
        note(f"epoch {len(seen)}: accuracy {seen[-1].mean():.3f}, {patience.learning.sum()} of {len(names)} learn")
    generator = np.random.Generator(np.random.Philox(seed))
    rows = draws(test.episode, len(test.episode), generator)
    return scores(names, test.labels[rows], _named(state[0], test.features[rows])) | {"epochs": len(seen)}


def _logits(params: Any, pictures: Any) -> jax.Array:
    return jnp.einsum("bd,dvc->bvc", outputs(params, pictures), params["kernel"]) + params["head"]


@functools.partial(jax.jit, static_argnums=0)
def _update(tx: Any, state: Any, pictures: Any, labels: Any) -> Any:
    def loss(params: Any) -> jax.Array:
        each = optax.softmax_cross_entropy_with_integer_labels(_logits(params, pictures), labels)
        return each.mean(0).sum()

    params, moments = state
    updates, moments = tx.update(jax.grad(loss)(params), moments)
    return optax.apply_updates(params, updates), moments


def _named(params: Any, pictures: np.ndarray, rows: int = 256) -> np.ndarray:
    """The likeliest value of each variable in every picture."""
    compiled = jax.jit(lambda params, part: _logits(params, part).argmax(-1))
    return np.concatenate([np.asarray(compiled(params, pictures[i : i + rows])) for i in range(0, len(pictures), rows)])


def _save(path: pathlib.Path, state: Any, seen: Sequence[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name("." + path.name)
    leaves: dict[str, Any] = {
        f"leaf{number:03d}": np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(state))
    }
    np.savez(part, seen=np.stack(seen), **leaves)
    part.rename(path)


def _load(path: pathlib.Path, like: Any) -> tuple[Any, list[np.ndarray]]:
    with np.load(path) as stored:
        leaves = [jnp.asarray(stored[name]) for name in sorted(stored.files) if name.startswith("leaf")]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), list(stored["seen"])
