"""What the reading of a video passes around: where it is, what it holds, why it cannot be read.

Files come from strangers: what is not named here as a kind that is opened is refused.

This module and those that decode (`decode`, `containers`, `readers`, `clips`, `process`) import
neither TensorFlow nor JAX: they run in small worker processes.
"""

import dataclasses
import errno
import os
import stat
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, BinaryIO, Literal

import numpy as np

__all__ = [
    "ADVICE",
    "AUDIO_CODECS",
    "CODECS",
    "CONTAINERS",
    "PICTURE_SUFFIXES",
    "SOUND_CONTAINERS",
    "VIDEO_SUFFIXES",
    "BadVideo",
    "Encoded",
    "Kind",
    "Limits",
    "MachineFault",
    "Side",
    "VideoInfo",
    "open_regular",
    "unreadable",
    "unsupported",
]

Kind = Literal["broken", "unsupported", "missing"]
ADVICE: Mapping[Kind, str] = {
    "broken": "fetch or export the file again, or take it out",
    "unsupported": "convert it, for example with: ffmpeg -i IN -c:v libx264 -c:a aac OUT.mp4",
    "missing": "put the file where it is listed, or take it out of the list",
}
# Demuxers and decoders that may be opened, in FFmpeg's names. Playlists, pictures, text and
# devices are not among them: those can make FFmpeg read other files or invent frames.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf"
CODECS = (
    "h264,hevc,mpeg4,msmpeg4v1,msmpeg4v2,msmpeg4,msmpeg4v3,mpeg1video,mpeg2video,h263,flv,flv1,vp8,vp9,"
    "libvpx,libvpx-vp9,av1,libdav1d,libaom-av1,theora,mjpeg,wmv1,wmv2,wmv3,vc1,prores"
)
# fmt: off
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob",
    ".ogv", ".ogg", ".flv", ".wmv", ".asf",
)
# fmt: on
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
AUDIO_CODECS = (
    "aac,mp1,mp1float,mp2,mp2float,mp3,mp3float,opus,libopus,vorbis,flac,alac,ac3,eac3,wmav1,wmav2,amrnb,amrwb,"
    "pcm_s16le,pcm_s16be,pcm_s24le,pcm_u8,pcm_f32le,pcm_mulaw,pcm_alaw"
)
SOUND_CONTAINERS = "wav,flac,mp3,aac"  # of sound alone, beside the containers of videos
_MOVING = (
    ".gif", ".apng", ".mxf", ".rm", ".rmvb", ".swf", ".dv", ".y4m", ".yuv", ".ivf", ".nut", ".wtv", ".m1v", ".m2v",
    ".h264", ".264", ".hevc", ".265", ".av1", ".obu", ".r3d", ".braw", ".bik", ".fli", ".flc", ".amv", ".nsv",
)  # fmt: skip
_SOUND = (".mp3", ".wav", ".m4a", ".aac", ".flac", ".opus", ".oga", ".wma", ".aiff", ".aif", ".ac3", ".amr", ".mka")


class BadVideo(ValueError):  # noqa: N818 - reads as what it is
    """A video that cannot be read; the message is the reason, in one line.

    Attributes:
      kind: "broken" (damaged, cut off, or beyond the limits), "unsupported" (a valid file of a format
        that is not decoded) or "missing" (listed, and not there). `ADVICE` has what to do about each.
    """

    def __init__(self, reason: str, kind: Kind = "broken") -> None:
        super().__init__(reason)
        self.kind: Kind = kind


class MachineFault(RuntimeError):  # noqa: N818 - reads as what it is
    """This machine cannot read videos now (a full disk, a resource limit); no video is to blame."""


_OF_THE_MACHINE = {  # errors of its limits, and not of a file's contents
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EROFS,
}  # fmt: skip


def unreadable(error: OSError) -> BadVideo | MachineFault:
    """Return what to raise for a video file that the system cannot open or read."""
    reason = error.strerror or str(error)
    if error.errno in _OF_THE_MACHINE:
        return MachineFault(f"this machine cannot read videos: {reason}")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return BadVideo("does not exist", "missing")
    return BadVideo(f"cannot be read: {reason}")


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading; a pipe or a device is refused at once, where reading would wait or never end.

    Raises:
      BadVideo: if it is no regular file.
      OSError: if it cannot be opened.
    """
    if "\0" in path:
        raise BadVideo("does not exist", "missing")
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(number).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            raise BadVideo("is no regular file")
        return open(number, "rb")
    except BaseException:
        os.close(number)
        raise


@dataclasses.dataclass(frozen=True)
class Side:
    """Something stored beside a video, such as sound, captions or sensor readings: exactly one of `data` and `path`.

    Attributes:
      data: its bytes.
      path: a local file.
      start: second of its own clock at which the video's file begins.
      frames: of a record, the number that each frame has in the file that this was made for; by default its own.
    """

    data: bytes | None = None
    path: str | None = None
    start: float = 0.0
    frames: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if (self.data is None) == (self.path is None):
            raise ValueError("a side is exactly one of data and path")

    def read(self, limit: int) -> bytes | None:
        """Return its bytes, or None if the file does not exist.

        Raises:
          BadVideo: if there are more than `limit` bytes, or the file cannot be read.
          MachineFault: if this machine cannot open any file.
        """
        if self.path is None:
            data = self.data or b""
        else:
            try:
                with open_regular(self.path) as file:
                    data = file.read(limit + 1)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise unreadable(error) from error
        if len(data) > limit:
            raise BadVideo(f"has more than {limit >> 10} KiB")
        return data


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One example as it is stored. Exactly one of `data`, `path` and `frames` is given.

    Attributes:
      data: the bytes of a video file.
      path: a local video file.
      span: where in `path` the video is, (first byte, bytes); by default the whole file.
      moment: seconds of the video at `path`, (first, last, shorter side or None), read as a video of its own; what
        is stored of it is shrunk to the shorter side.
      frames: still pictures in order, each a local file or the bytes of one.
      rate: frames a second of `frames`, where it is known (a video file has its own).
      stride: frames from one that is seen to the next, in place of the sampler's (a mixture's parts may differ).
      labels: what the source has of it, by name: "label" or others (see `data.labels`).
      sides: what is stored beside it, by name (see `data.streams`).
      key: a name for people: in messages and in the list of broken files.
    """

    data: bytes | None = None
    path: str | None = None
    span: tuple[int, int] | None = None
    moment: tuple[float, float, int | None] | None = None
    frames: tuple[str | bytes, ...] | None = None
    rate: float | None = None
    stride: int | None = None
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sides: Mapping[str, Side] = dataclasses.field(default_factory=dict)
    key: str = ""

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.data, self.path, self.frames)) != 1:
            raise ValueError("an encoded example is exactly one of data, path and frames")


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video holds, counted from its packets and not believed from its header.

    Attributes:
      num_frames: the frames that can be asked for.
      rate: the mean frames a second.
      times: when each frame is shown, in seconds from the first, float64 [num_frames].
      height: of a frame in square pixels (frames that carry a quarter turn come out turned).
      width: of a frame in square pixels.
      codec: the codec's name.
      container: the container's name.
      pixel_aspect: width of a stored pixel over its height.
      origin: second of the container's clock at which the file's first frame is shown.
      start: second of the file at which the first frame is shown, where the video is a part of a longer one.
      first: number of that frame in the file.
    """

    num_frames: int
    rate: float
    times: np.ndarray
    height: int
    width: int
    codec: str = ""
    container: str = ""
    pixel_aspect: Fraction = Fraction(1)
    origin: float = 0.0
    start: float = 0.0
    first: int = 0


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a video may take of this machine; beyond it, it is a `BadVideo`.

    Attributes:
      pixels: of one picture (the default is 4096x2304).
      seconds: of the whole video (the default is six hours).
      frames: of the whole video.
    """

    pixels: int = 4096 * 2304
    seconds: float = 6 * 3600.0
    frames: int = 1_000_000


def unsupported(name: str) -> str | None:
    """Return why a file of this name is not read as a video, where its suffix is one of moving pictures or sound.

    Returns:
      A reason for a `BadVideo` of kind "unsupported"; None for videos that are read and for all other files.
    """
    suffix = os.path.splitext(name)[1].lower()
    if suffix in _MOVING:
        return f"is a {suffix} file, a format that is not decoded"
    return f"is a {suffix} file: sound without pictures" if suffix in _SOUND else None
