"""What a config reads at `smoke` size instead of its own data: a few drawn clips, made when they are first read."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vmae_jax.spec import call

__all__ = ["drawn_clips", "tiny_loader"]


def drawn_clips(arguments: Mapping[str, Any] | None = None) -> ConfigDict:
    """Return the call of the source that replaces any other; `arguments` of the other are not used."""
    del arguments
    settings = call("data.synthetic.moving_shapes.settings", train=16, validation=8, test=8, size=48, frames=16)
    return call("data.synthetic.moving_shapes", settings=settings)


def tiny_loader(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a loader's arguments at `smoke` size, of which the drawn clips have one label."""
    tiny: dict[str, Any] = {"global_batch": 8, "repeat": min(arguments["repeat"], 2), "workers": 1}
    labels = arguments["labels"]
    return tiny if isinstance(labels, bool) else tiny | {"labels": {"label": next(iter(labels.values()))}}
