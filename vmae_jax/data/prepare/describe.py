"""What a prepared dataset holds, from its own metadata; no record is read."""

import os
from typing import Any

from vmae_jax.data.prepare.metadata import manifests
from vmae_jax.data.records import from_directory

__all__ = ["describe", "in_words"]


def describe(directory: str) -> dict[str, Any]:
    """The name, format, features, classes and splits of a prepared TFDS dataset.

    Raises:
      ConfigError: the folder holds none.
    """
    info = from_directory(directory).info
    made = manifests(os.path.expanduser(directory))
    labels = [info.features[name] for name in info.features if name == "label"]
    return {
        "directory": os.path.abspath(os.path.expanduser(directory)),
        "name": info.full_name,
        "format": info.file_format.value if info.file_format else "tfrecord",
        "features": {name: _in_short(feature) for name, feature in sorted(info.features.items())},
        "classes": sum(len(getattr(label, "names", None) or ()) for label in labels) or None,
        "splits": {
            name: {"examples": split.num_examples, "bytes": split.num_bytes, "shards": split.num_shards}
            | _prepared(made.get(name))
            for name, split in sorted(info.splits.items())
        },
    }


def _prepared(manifest: dict[str, Any] | None) -> dict[str, Any]:
    """What only `vmae data prepare` writes down."""
    if manifest is None:
        return {}
    return {
        "videos": manifest["videos"],
        "rejected": len(manifest["rejected"]),
        "hours": round(manifest["seconds"] / 3600, 4),
        "options": manifest["identity"]["options"],
    }


def in_words(found: dict[str, Any]) -> str:
    """`describe`'s answer for people."""
    lines = [f"{found['name']} ({found['format']}) in {found['directory']}"]
    for name, split in found["splits"].items():
        size = f"{split['bytes'] / 2**30:.2f} GiB"
        lines.append(f"  {name}: {split['examples']} examples, {size} in {split['shards']} shards")
        if "options" in split:
            chosen = ", ".join(f"{key} {value}" for key, value in split["options"].items() if value is not None)
            lines.append(
                f"    of {split['videos']} videos, {split['hours']:.2f} h, {split['rejected']} rejected; {chosen}"
            )
    if found["classes"]:
        lines.append(f"  {found['classes']} classes")
    return "\n".join([*lines, *(f"  feature {name}: {text}" for name, text in found["features"].items())])


def _in_short(feature: Any) -> str:
    shape = getattr(feature, "shape", None)
    kind = type(feature).__name__
    if kind not in ("Tensor", "Scalar"):
        return kind
    name = feature.tf_dtype.name
    return f"{name} {list(shape)}" if shape else name
