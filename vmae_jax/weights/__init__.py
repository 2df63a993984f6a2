"""Weights for and from other programs, for commands and scripts: `load`, export, import."""

from vmae_jax.weights.exporting import export_checkpoint
from vmae_jax.weights.importing import import_weights
from vmae_jax.weights.loading import load
from vmae_jax.weights.resizing import read_resized

__all__ = ["export_checkpoint", "import_weights", "load", "read_resized"]
