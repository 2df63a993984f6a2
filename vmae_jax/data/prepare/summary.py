"""What a preparation came to, for people and for scripts."""

import collections
import re
from typing import Any

from vmae_jax.data.video import ADVICE

__all__ = ["in_short", "in_words"]

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
