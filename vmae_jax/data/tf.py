"""TensorFlow, imported late, quietly, and with no accelerator: those belong to JAX."""

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from vmae_jax.data.streams.core import ArraySpec

__all__ = ["ensured", "tensor_types", "tensorflow", "tensorflow_datasets"]


@functools.cache
def tensorflow() -> ModuleType:
    """The module `tensorflow`, with GPUs and TPUs hidden from it before it can take their memory."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_start():
        import tensorflow as tf

        for kind in ("GPU", "TPU"):
            try:
                tf.config.set_visible_devices([], kind)
            except RuntimeError as error:  # the user's own code has started TensorFlow before us
                if tf.config.get_visible_devices(kind):
                    raise RuntimeError(
                        f"TensorFlow already holds the {kind}s that JAX needs: import vmae_jax's data first, or "
                        f"call tf.config.set_visible_devices([], {kind!r}) at the start of the program"
                    ) from error
    return tf


@functools.cache
def tensorflow_datasets() -> ModuleType:
    """The module `tensorflow_datasets`, after `tensorflow` as above."""
    tensorflow()
    import tensorflow_datasets as tfds

    return tfds


def tensor_types(specs: Mapping[str, ArraySpec]) -> list[Any]:
    """The dtypes of arrays, as a graph's function that gives them needs them."""
    return [tensorflow().as_dtype(spec.dtype) for spec in specs.values()]


def ensured(tensors: Sequence[Any], specs: Mapping[str, ArraySpec], *, clips: bool) -> dict[str, Any]:
    """Tensors by name, with their shapes; with `clips` each has a first dimension of clips."""
    tf, first = tensorflow(), [None] if clips else []
    pairs = zip(specs.items(), tensors, strict=True)
    return {name: tf.ensure_shape(tensor, [*first, *spec.shape]) for (name, spec), tensor in pairs}


@contextlib.contextmanager
def _quiet_start() -> Iterator[None]:
    """Keep back what TensorFlow's C++ writes to standard error while it starts, unless it fails.

    Those lines come before its logging can be configured, and speak of drivers that a CPU machine
    need not have.
    """
    with tempfile.TemporaryFile() as held:
        kept, failed = os.dup(2), True
        os.dup2(held.fileno(), 2)
        try:
            yield
            failed = False
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            if failed:
                held.seek(0)
                os.write(2, held.read())
