"""Opens files that may be videos, in the named containers alone, and names what is valid and not read.

A file is read through a Python file object, so a name can never be taken for a URL.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

import av
import av.logging
from av.container import InputContainer
from av.error import FFmpegError

from vmae_jax.data.video import AUDIO_CODECS, CODECS, CONTAINERS, SOUND_CONTAINERS, BadVideo, open_regular, unreadable

__all__ = ["Slice", "opened", "opened_sound", "reason"]

_OPTIONS = {"format_whitelist": CONTAINERS, "codec_whitelist": CODECS}
_SOUND = {"format_whitelist": f"{CONTAINERS},{SOUND_CONTAINERS}", "codec_whitelist": AUDIO_CODECS}
_BUFFER = 1 << 16
_HEAD = 16  # bytes that signatures need
_SIGNATURES = (
    (0, b"GIF8", "a GIF animation"),
    (0, b"\x06\x0e\x2b\x34\x02\x05\x01\x01", "an MXF file"),
    (0, b".RMF", "a RealMedia file"),
    (0, b"FWS", "a Flash file"),
    (0, b"CWS", "a Flash file"),
    (0, b"ZWS", "a Flash file"),
    (0, b"DKIF", "an IVF file"),
    (0, b"YUV4MPEG2 ", "a YUV4MPEG2 file"),
    (0, b"nut/multimedia", "a NUT file"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (8, b"WEBP", "a WebP picture"),
    (8, b"WAVE", "a WAV sound file"),
    (0, b"ID3", "an MP3 sound file"),
    (0, b"fLaC", "a FLAC sound file"),
)


av.logging.set_level(av.logging.PANIC)  # a broken file is reported once, by BadVideo


def opened(source: bytes | str, span: tuple[int, int] | None = None) -> tuple[InputContainer, Any]:
    """Return the container of a file (its bytes, a local path, or a span of one), and the open file behind it.

    Raises:
      BadVideo: if it is not there, cannot be opened, or is no container of a named format.
      MachineFault: if this machine cannot open any file.
    """
    file = _file(source, span)
    try:
        return _container(file), file
    except BaseException:
        file.close()
        raise


@contextlib.contextmanager
def opened_sound(source: bytes | str, span: tuple[int, int] | None = None) -> Iterator[InputContainer]:
    """Open the sound of a file (its bytes, a local path, or a span of one), a video or sound alone.

    Raises:
      BadVideo: if it is not there, or is no container of a named format.
      MachineFault: if this machine cannot open any file.
    """
    file = _file(source, span)
    try:
        try:
            container = av.open(file, mode="r", options=_SOUND, buffer_size=_BUFFER)
        except (FFmpegError, OSError, ValueError) as error:
            raise BadVideo(f"cannot be opened ({reason(error)})") from error
        assert isinstance(container, InputContainer)
        with container:
            yield container
    finally:
        file.close()


def _file(source: bytes | str, span: tuple[int, int] | None) -> Any:
    try:
        if isinstance(source, bytes):
            return io.BytesIO(source)
        return Slice(source, *span) if span else open_regular(source)
    except OSError as error:
        raise unreadable(error) from error


def reason(error: Exception) -> str:
    """Return an error's message in one short line."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())[:200]


def _container(file: Any) -> InputContainer:
    try:
        head = file.read(_HEAD)
        file.seek(0)
    except OSError as error:
        raise unreadable(error) from error
    if not head:
        raise BadVideo("is an empty file")
    try:
        container = av.open(file, mode="r", options=_OPTIONS, buffer_size=_BUFFER)
    except (FFmpegError, OSError, ValueError) as error:
        name = next((name for at, magic, name in _SIGNATURES if head[at : at + len(magic)] == magic), None)
        if name:
            raise BadVideo(f"is {name}, which is not decoded", "unsupported") from error
        raise BadVideo(f"is no readable video ({reason(error)})") from error
    assert isinstance(container, InputContainer)
    return container


class Slice(io.RawIOBase):
    """Bytes `start` to `start + size` of the file `path`, seekable and read-only."""

    def __init__(self, path: str, start: int, size: int) -> None:
        super().__init__()
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self._start = start
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(f"a place before the start of the file: {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        wanted = max(0, min(len(view), self._size - self._at))
        self._file.seek(self._start + self._at)
        count = self._file.readinto(view[:wanted]) or 0
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
