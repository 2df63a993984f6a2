"""Weights to and from other programs, as commands and scripts use it: `load`, export, import."""

from vmae_jax.exchange.exporting import export_checkpoint
from vmae_jax.exchange.importing import import_weights
from vmae_jax.exchange.resizing import read_resized
from vmae_jax.exchange.source import load

__all__ = ["export_checkpoint", "import_weights", "load", "read_resized"]
