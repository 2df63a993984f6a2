"""What a preparation came to, and what a prepared dataset holds by its own metadata, for people and for scripts."""

import collections
import os
import re
from typing import Any

from vmae_jax.data.prepare.shards import manifests
from vmae_jax.data.records import from_directory
from vmae_jax.data.video import ADVICE

__all__ = ["describe", "described", "in_short", "in_words"]

_SHOWN = 10
# Reasons that differ in a number count as one; a digit inside a name ("ffv1", "h264") is no number.
_NUMBER = re.compile(r"(?<![A-Za-z\d.])\d+(\.\d+)?(?=x\d|\b)|(?<=\dx)\d+\b")


def in_short(manifest: dict[str, Any], out: str) -> dict[str, Any]:
    """The numbers."""
    return {
        "directory": out,
        "split": manifest["split"],
        "videos": manifest["videos"],
        "rejected": len(manifest["rejected"]),
        "examples": manifest["examples"],
        "frames": manifest["frames"],
        "hours": round(manifest["seconds"] / 3600, 4),
        "bytes": manifest["bytes"],
        "shards": len(manifest["shards"]),
        "manifest": f"{out}/prepared/{manifest['split']}.json",
    }


def in_words(manifest: dict[str, Any], out: str) -> str:
    """The numbers, and the rejected videos with their reasons: the kinds of them, and the first few."""
    short = in_short(manifest, out)
    rate = manifest["bytes"] / max(manifest["seconds"], 1e-9) * 3600
    lines = [
        f"{out}, split {short['split']}: {short['videos']} videos, {short['examples']} records, "
        f"{short['hours']:.2f} h, {short['bytes'] / 2**30:.3f} GiB "
        f"({rate / 2**30:.2f} GiB an hour) in {short['shards']} shards"
    ]
    if manifest["rejected"]:
        reasons = collections.Counter(_NUMBER.sub("N", reason) for _, _, reason in manifest["rejected"])
        lines.append(
            f"{len(manifest['rejected'])} rejected: "
            + "; ".join(f"{n} x {reason}" for reason, n in reasons.most_common(_SHOWN))
        )
        lines += [f"  {key}: {kind}: {reason}" for key, kind, reason in manifest["rejected"][:_SHOWN]]
        kinds = {kind for _, kind, _ in manifest["rejected"]}
        lines += [f"  {kind} files: {advice}" for kind, advice in ADVICE.items() if kind in kinds]
        if len(manifest["rejected"]) > _SHOWN:
            lines.append(f"  … {short['manifest']} has them all")
    lines += [f"note: {note}" for note in manifest["notes"][:_SHOWN]]
    return "\n".join(lines)


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


def described(found: dict[str, Any]) -> str:
    """Return what `describe` found, for people."""
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
