"""Miniatures of data sets as their owners hand them out: one small video, encoded once and copied."""

import functools
import json
import pathlib

from numbered_videos import numbered_frames, write_video

from vmae_jax.data.encode import encode_h264


@functools.cache
def small_video(container: str = "mp4") -> bytes:
    if container == "mp4":
        return encode_h264(numbered_frames(6, size=16))
    codec = {"webm": "libvpx", "avi": "mpeg4"}[container]
    return write_video(numbered_frames(6, size=16), container=container, codec=codec)


def place(root: pathlib.Path, *names: str) -> None:
    """Videos of these names, in the container of their suffix."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix[1:].lower()
        path.write_bytes(small_video(suffix if suffix in ("webm", "avi") else "mp4"))


def write(root: pathlib.Path, name: str, content: object) -> None:
    """A text file of lines, or one of JSON."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".json"):
        path.write_text(json.dumps(content))
    else:
        assert isinstance(content, list)
        path.write_text("\n".join(content) + "\n")


def kinetics(root: pathlib.Path, train: list[str], validation: list[str], absent: tuple[str, ...] = ()) -> pathlib.Path:
    """`train` and `validation` are "label/youtube_id" each; the clip of every id starts at second 3."""
    for name, rows in (("train", train), ("validate", validation)):
        lines = [f'"{label}",{video},3,13,{name}' for label, video in (row.split("/") for row in rows)]
        write(root, f"annotations/{name}.csv", ["label,youtube_id,time_start,time_end,split", *lines])
        place(root, *(f"{name}/{v}_000003_000013.mp4" for _, v in (r.split("/") for r in rows) if v not in absent))
    return root
