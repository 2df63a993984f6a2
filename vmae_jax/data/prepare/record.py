"""How videos are stored: the options of a preparation, and what a record holds, in bytes and for TFDS.

This is the one place that defines the format of a record:

    video       the encoded clip: a video file, or (codec jpeg) one JPEG a frame
    key         its name; parts of a longer video end in #0, #1, …
    num_frames  frames that a decoder gives
    rate        frames a second, on average
    height, width   of the picture as it is shown
    times_us    when each frame is shown, in microseconds from the first
    start_us    where in the original video the clip begins
    audio       the sound of the clip as a Matroska file, empty where there is none; with keep, of records that had it
    label, …    the labels of the video
    text        its caption, where the dataset has captions
    text, …     what is beside it (see `data.sides`): the bytes of the file, empty where there is none
    frame_numbers   (with something beside it) the number of each frame in the original video

Records are `tf.train.Example`s, written here without TensorFlow: the processes that prepare stay small.
"""

import dataclasses
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vmae_jax.data.video import Side
from vmae_jax.spec import ConfigError

__all__ = [
    "CODECS",
    "FIELDS",
    "FORMATS",
    "SIDE_BYTES",
    "LabelKind",
    "Options",
    "check_timeout",
    "features",
    "label_kind",
    "options",
    "serialize",
    "stored_label",
    "stored_sides",
]

FIELDS = ("video", "key", "num_frames", "rate", "height", "width", "times_us", "start_us", "audio", "frame_numbers")
LabelKind = str  # "class", "classes", "numbers" or "text"; or "side": bytes of what is beside a video
NO_CLASS = -1
SIDE_BYTES = 64 << 20  # of what is beside a video, at most
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


def serialize(fields: Mapping[str, Any]) -> bytes:
    """A `tf.train.Example` of values: bytes, text, a whole number, a float, or a sequence of one of these.

    The same values give the same bytes.
    """
    entries = []
    for name in sorted(fields):
        key = name.encode()
        feature = _feature(fields[name])
        entry = [b"\n", _varint(len(key)), key, b"\x12", _varint(_size(feature)), *feature]
        entries += [b"\n", _varint(_size(entry)), *entry]
    return b"".join([b"\n", _varint(_size(entries)), *entries])


def features(options: Options, labels: Mapping[str, LabelKind], label_names: Mapping[str, Sequence[str]]) -> Any:
    """The features that plain TFDS reads the records with."""
    from vmae_jax.data.tf import tensorflow, tensorflow_datasets

    tf, tfds = tensorflow(), tensorflow_datasets().features
    if options.codec == "jpeg":
        video: Any = tfds.Video(shape=(None, None, None, 3), encoding_format="jpeg")
    else:
        video = tfds.Tensor(shape=(), dtype=tf.string)
    made = {
        "video": video,
        "key": tfds.Text(),
        "num_frames": tf.int64,
        "rate": tf.float32,
        "height": tf.int64,
        "width": tf.int64,
        "times_us": tfds.Tensor(shape=(None,), dtype=tf.int64),
        "start_us": tf.int64,
    }
    if options.sound and options.codec != "keep":
        made["audio"] = tfds.Tensor(shape=(), dtype=tf.string)
    if "side" in labels.values():
        made["frame_numbers"] = tfds.Tensor(shape=(None,), dtype=tf.int64)
    for name, kind in labels.items():
        if kind == "text":
            made[name] = tfds.Text()
            continue
        if kind == "side":
            made[name] = tfds.Tensor(shape=(), dtype=tf.string)
            continue
        names = label_names.get(name)
        one = tfds.ClassLabel(names=list(names)) if names else tfds.Scalar(dtype=tf.int64)
        if kind == "numbers":
            made[name] = tfds.Tensor(shape=(None,), dtype=tf.float32)
        else:
            made[name] = tfds.Sequence(one) if kind == "classes" else one
    return tfds.FeaturesDict(made)


def label_kind(name: str, values: Iterable[Any]) -> LabelKind | None:
    """How a label is stored; None where no video has it.

    Raises:
      ConfigError: a label under the name of another field.
    """
    if name in FIELDS:
        raise ConfigError(f"a label cannot be called {name!r}: records have a field of that name")
    given = [value for value in values if value is not None]
    several = [value for value in given if not isinstance(value, int)]
    if not several:
        return "class" if given else None
    flat = [part for value in several for part in (value if isinstance(value, Sequence) else (value,))]
    return "numbers" if any(isinstance(part, float) for part in flat) else "classes"


def stored_label(kind: LabelKind, value: Any) -> Any:
    """Return a label's value as a record holds it: -1 is no class, and [] none of several."""
    if kind == "class":
        return NO_CLASS if value is None else int(value)
    many = () if value is None else value if isinstance(value, Sequence) else (value,)
    return tuple(float(part) for part in many) if kind == "numbers" else tuple(int(part) for part in many)


def stored_sides(fields: Mapping[str, Any], *, but: Sequence[str]) -> dict[str, Side]:
    """Return what a record holds beside its video: every feature of bytes, other than those of the names in `but`.

    The sound of a part of a video was cut with it; everything else keeps the clock and the frame numbers of the whole.

    Args:
      fields: features of a parsed `tf.train.Example`.
      but: names of the video and the key.
    """
    started = fields["start_us"].int64_list.value if "start_us" in fields else ()
    numbers = tuple(fields["frame_numbers"].int64_list.value) if "frame_numbers" in fields else ()
    found = {}
    for name in sorted(set(fields) - set(but)):
        values = fields[name].bytes_list.value
        if name == "audio" and len(values) == 1:
            found[name] = Side(data=values[0])  # empty bytes: the video has no sound
        elif len(values) == 1 and values[0]:
            found[name] = Side(data=values[0], start=started[0] / 1e6 if started else 0.0, frames=numbers or None)
    return found


def _feature(value: Any) -> list[bytes]:
    """A `tf.train.Feature`: field 1 holds bytes, 2 floats, 3 whole numbers."""
    values = value if isinstance(value, tuple | list) else (value,)
    first = values[0] if values else 0
    if isinstance(first, bytes | str):
        data = [part.encode() if isinstance(part, str) else part for part in values]
        body = [piece for part in data for piece in (b"\n", _varint(len(part)), part)]
        return [b"\n", _varint(_size(body)), *body]
    if isinstance(first, float):
        packed, kind = struct.pack(f"<{len(values)}f", *values), b"\x12"
    else:
        packed, kind = b"".join(_varint(part & (1 << 64) - 1) for part in values), b"\x1a"
    body = [b"\n", _varint(len(packed)), packed] if values else []
    return [kind, _varint(_size(body)), *body]


def _size(pieces: Iterable[bytes]) -> int:
    return sum(map(len, pieces))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
