"""Checks that a loader provides the streams that a method needs."""

from collections.abc import Mapping
from typing import Any

import jax

from vmae_jax.errors import did_you_mean
from vmae_jax.spec import ConfigError
from vmae_jax.types import Method

__all__ = ["check_expected", "check_streams", "check_views", "only_video", "rows_of_views"]

_OF_EVERY_BATCH = ("seed", "index", "valid")


def check_streams(method: Method, spec: Mapping[str, Any], where: str, *, trains: bool = False) -> None:
    """Raise ConfigError if a loader lacks a stream that the method reads.

    Args:
      method: that reads the batches.
      spec: of the loader's batches.
      where: option of the loader in the config.
      trains: whether the loss is computed, which also needs `Method.supervision`.
    """
    needed = (*method.inputs, *(method.supervision if trains else ()))
    missing = [name for name in needed if name not in spec]
    if missing:
        has = [name for name in spec if name not in _OF_EVERY_BATCH]
        hint = f"; set {where}.labels=True" if missing[0] == "label" else ""
        raise ConfigError(
            f"config.method reads {missing[0]!r}, which {where} does not provide: its batches have "
            f"{', '.join(has) or 'no streams'}{did_you_mean(missing[0], has)}{hint}"
        )


def check_expected(method: Method, loader: Any, where: str) -> None:
    """Raise ConfigError if a stream of a loader is made in another way than the method reads it.

    Args:
      method: that reads the batches.
      loader: with its streams.
      where: option of the loader in the config.
    """
    for name, values in (method.expects or {}).items():
        if name not in loader.streams and name not in method.inputs:
            continue  # of the loss alone, which is not computed on these data
        for attribute, value in values.items():
            given = getattr(loader.streams.get(name), attribute, None)
            if given != value:
                raise ConfigError(
                    f"config.method reads {name!r} with {attribute}={value}, and {where}.streams.{name} has "
                    f"{attribute}={given}: set one of them"
                )


def check_views(method: Method, views: int, where: str) -> None:
    """Raise ConfigError if a loader gives another number of views of each video than the method's loss reads.

    Args:
      method: that reads the batches.
      views: of the loader's sampler.
      where: option of the loader in the config.
    """
    if method.views > 1 and views != method.views:
        raise ConfigError(
            f"config.method reads {method.views} views of each video, and {where}.sampler gives {views}: use a sampler "
            f"of {method.views} views, such as call('data.clips.pair')"
        )


def only_video(method: Method, spec: Mapping[str, Any], command: str, *, trains: bool = False) -> jax.ShapeDtypeStruct:
    """Return shape and dtype of the clips for a command that reads only videos.

    Args:
      method: of the run.
      spec: of the batches that the method was trained on.
      command: for the message.
      trains: whether `Method.supervision` is read as well.

    Raises:
      ConfigError: if the method reads other streams than the video.
    """
    read = (*method.inputs, *(method.supervision if trains else ()))
    if set(read) != {"video"}:
        reads = ", ".join(map(repr, read))
        raise ConfigError(
            f"{command} reads video files only, but the method of this run reads {reads}: call its functions from "
            "Python, on batches with these streams"
        )
    return spec["video"]


def rows_of_views(clips_per_video: int, videos: int, views: int) -> list[int]:
    """Return the rows of a batch that have the first `views` clips of each of its first videos."""
    return [video * clips_per_video + view for video in range(videos) for view in range(views)]
