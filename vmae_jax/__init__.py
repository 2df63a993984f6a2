"""vmae_jax: large-scale self-supervised pre-training of video transformers, in JAX."""

__version__ = "0.1.0"
