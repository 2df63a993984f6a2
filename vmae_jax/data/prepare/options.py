"""How videos are prepared: the options, checked when they are made."""

import dataclasses
from typing import Any

from vmae_jax.spec import ConfigError

__all__ = ["CODECS", "FORMATS", "Options", "check_timeout", "options"]

CODECS = ("keep", "h264", "jpeg")
FORMATS = ("array_record", "tfrecord")
_GOP = 12
_QUALITY = {"keep": 0, "h264": 23, "jpeg": 85}
_QUALITIES = {"keep": (0, 0), "h264": (1, 51), "jpeg": (1, 95)}


@dataclasses.dataclass(frozen=True)
class Options:
    """See `options`; what shows in the records, and nothing else."""

    codec: str
    quality: int
    short_side: int | None
    rate: float | None
    seconds: float | None
    gop: int
    sound: bool
    file_format: str

    def asdict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


def options(
    *,
    codec: str = "keep",
    quality: int | None = None,
    short_side: int | None = None,
    rate: float | None = None,
    seconds: float | None = None,
    gop: int | None = None,
    sound: bool = True,
    file_format: str = "array_record",
) -> Options:
    """The options of a preparation.

    Args:
      codec: "keep" stores the original bytes; "h264" re-encodes; "jpeg" stores every frame as a picture.
      quality: of h264, x264's constant rate factor (lower is better; default 23); of jpeg, 1 to 95 (default 85).
      short_side: pixels that the shorter side is shrunk to; smaller videos stay as they are.
      rate: frames a second, taken by the real time stamps; by default every frame, at its own time.
      seconds: that a record holds at most: longer videos are cut into equal parts.
      gop: frames from one key frame of h264 to the next (default 12).
      sound: store the sound beside the video (with "keep" it is in the original bytes).
      file_format: "array_record" (random access) or "tfrecord" (for tf.data).

    Raises:
      ConfigError: a value that is not possible, or one that the codec has no use for.
    """
    for name, given, known in (("codec", codec, CODECS), ("format", file_format, FORMATS)):
        if given not in known:
            raise ConfigError(f"{name}={given!r}: it is {' or '.join(known)}")
    if codec == "keep" and (quality, short_side, rate, seconds) != (None, None, None, None):
        raise ConfigError(
            "codec=keep stores videos as they are: quality, short side, rate and seconds need h264 or jpeg"
        )
    if codec == "keep" and not sound:
        raise ConfigError("codec=keep stores videos as they are, with their sound: --no-sound needs h264 or jpeg")
    if codec != "h264" and gop is not None:
        raise ConfigError(f"gop={gop}: only codec=h264 has key frames to set, not {codec}")
    chosen = _QUALITY[codec] if quality is None else quality
    lowest, highest = _QUALITIES[codec]
    if not lowest <= chosen <= highest:
        raise ConfigError(f"quality={chosen}: of {codec} it is {lowest} to {highest}")
    for name, value, least in (
        ("short side", short_side, 16),
        ("rate", rate, 0.1),
        ("seconds", seconds, 0.1),
        ("gop", gop, 1),
    ):
        if value is not None and not least <= value < 1e6:
            raise ConfigError(f"{name}={value}: at least {least}")
    return Options(codec, chosen, short_side, rate, seconds, _GOP if gop is None else gop, sound, file_format)


def check_timeout(timeout: float) -> None:
    """Raises ConfigError for a limit of no time, which `produce.alarm` would take for none at all."""
    if timeout <= 0:
        raise ConfigError(f"timeout={timeout:g}: above 0, in seconds")
