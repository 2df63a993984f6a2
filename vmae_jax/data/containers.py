"""Video files, read with PyAV: only named containers and codecs, by real time stamps.

How frames are counted. A header's number of frames is not believed (a cut made by copying the
stream announces frames that no decoder gives; Matroska announces none). The packets are read
through without decoding, about a twentieth of the time of decoding, and every packet that is to
be shown is a frame; its time stamp orders it. Where a container's time stamps cannot be trusted
(AVI has none, transport streams wrap), frames are numbered in the order they come out of the
decoder, from the start.

How frames are read. Seek to the key frame at or before the first wanted frame, decode, stop after
the last; frames on the way that nothing refers to are skipped. A wanted frame that the decoder
does not give (the tail of a copied cut) is what a player would show at that moment: the frame
before it. If that happens to more than half of the wanted frames the video is broken.

Frames are shown as a player shows them (`display`): with square pixels, upright by quarter turns (any other angle
is refused), and at the size that the video begins with.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame

from vmae_jax.data.display import OPTIONS, Vectors, ascending, pictures, seconds, square, stamped, vectors_of
from vmae_jax.data.opening import opened, reason
from vmae_jax.data.video import CODECS, BadVideo, Limits, VideoInfo

__all__ = ["Video", "open_video"]

_T = TypeVar("_T")
_SKIPPING = {"h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video"}  # decoders that can skip from packet to packet
_TIMED = {"mov", "matroska"}  # containers whose time stamps and key frames can be trusted


def open_video(
    source: bytes | str, *, span: tuple[int, int] | None = None, limits: Limits, motion: bool = False
) -> "Video":
    """Opens a video file (its bytes, or a local path, or a span of one) and counts its frames.

    Raises:
      BadVideo: if it cannot be opened, is of a format that is not decoded, or is beyond the limits.
      MachineFault: if this machine cannot open any file.
    """
    container, file = opened(source, span)
    try:
        return Video(container, file, limits, motion=motion)
    except (FFmpegError, OSError) as error:
        container.close()
        file.close()
        raise BadVideo(f"cannot be read ({reason(error)})") from error
    except BaseException:
        container.close()
        file.close()
        raise


class Video:
    """An open video file: `info`, and frames by number (see `decode.Reader`)."""

    def __init__(self, container: InputContainer, file: io.IOBase, limits: Limits, *, motion: bool = False) -> None:
        self._container = container
        self._file = file
        if not container.streams.video:
            raise BadVideo("has no video stream", "unsupported")
        self._stream = container.streams.video[0]
        codec = self._stream.codec_context
        if codec is None or codec.name not in CODECS.split(","):
            name = f"as {codec.name}" if codec else "in an unknown format"
            raise BadVideo(f"is coded {name}, which is not decoded", "unsupported")
        if not 0 < codec.width * codec.height <= limits.pixels:
            raise BadVideo(f"has {codec.width}x{codec.height} pixels; the limit is {limits.pixels}")
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        self._size = width, height = square(codec.width, codec.height, aspect)
        if not 0 < width * height <= limits.pixels:
            raise BadVideo(f"is shown at {width}x{height} pixels; the limit is {limits.pixels}")
        codec.thread_type = "NONE"  # measured: threads cost CPU; clips are what runs in parallel
        codec.options = OPTIONS if motion else {}
        self._shown: dict[int, VideoFrame | None] | None = {} if motion else None  # of the last `pictures`, by number
        self._limits = limits
        self._timed = container.format.name.split(",")[0] in _TIMED
        self._pts, self._keys = self._scan()
        times, rate = self._times()
        origin = self._pts[0] if self._timed else self._stream.start_time or 0
        self.stamps: Sequence[int] = self._pts
        self.time_base = (self._timed and self._stream.time_base) or 1 / Fraction(rate).limit_denominator(1001)
        self.info = VideoInfo(
            num_frames=len(times),
            rate=rate,
            times=times,
            height=height,
            width=width,
            pixel_aspect=aspect,
            codec=codec.name,
            container=container.format.name,
            origin=float(origin * (self._stream.time_base or 1)),
        )

    def close(self) -> None:
        self._container.close()
        self._file.close()

    def pictures(self, indices: Sequence[int], channels: int) -> Iterator[np.ndarray]:
        """The frames `indices`, ascending and distinct, each uint8 [h w c].

        All are decoded before the first is given, but each is turned into a picture only then.

        Raises:
          BadVideo: the decoder fails, or gives fewer than half of what was asked.
        """
        try:
            wanted = [self._pts[index] for index in indices]
            chosen = self._decode(wanted)
        except (FFmpegError, OSError) as error:
            raise BadVideo(f"cannot be decoded ({reason(error)})") from error
        missing = sum(frame is None for frame in chosen)
        if 2 * missing > len(chosen):
            raise BadVideo(f"{missing} of the {len(chosen)} frames asked for cannot be decoded")
        if self._shown is not None:
            self._shown = dict(zip(indices, chosen, strict=True))
        return pictures(chosen, channels, self._size)

    def motion(self, index: int) -> Vectors | None:
        """Return the motion vectors of a frame that `pictures` gave last; None where the codec has none for it."""
        frame = (self._shown or {}).get(index)
        return None if frame is None else vectors_of(frame)

    def frames(self, first: int = 0) -> Iterator[tuple[int, VideoFrame]]:
        """Every frame from number `first` that the decoder gives, as it is stored, with its number; numbers ascend.

        A file with damaged time stamps may give frames in another order than they are to be shown in; they are put
        in order, within `stamps.REORDER` frames.

        Raises:
          BadVideo: a frame cannot be decoded (the message has its number), or more than half are missing.
        """
        given, last = 0, first - 1
        try:
            for number, frame in ascending(self._numbered(first), first):
                if frame.is_corrupt:
                    raise BadVideo(f"frame {number} is damaged")
                given, last = given + 1, number
                yield number, frame
        except (FFmpegError, OSError) as error:
            raise BadVideo(f"frame {last + 1} cannot be decoded ({reason(error)})") from error
        wanted = len(self._pts) - first
        if 2 * given < wanted:
            raise BadVideo(f"{wanted - given} of its {wanted} frames cannot be decoded")

    def _numbered(self, first: int) -> Iterator[tuple[int, VideoFrame]]:
        """Frames from number `first` in the decoder's order; what an edit list hides is left out."""
        number_of = {stamp: number for number, stamp in enumerate(self._pts)}
        for stamp, frame in self._frames_from(self._pts[first]):
            number = number_of.get(stamp, -1)
            if number >= first:
                yield number, frame

    def _scan(self) -> tuple[list[int], list[int]]:
        """Reads through the packets: the time stamp of every frame to be shown, and of key frames.

        Without trustworthy time stamps the frames are numbered 0, 1, 2, … instead.
        """
        stamps: list[int] = []
        keys: list[int] = []
        packets, latest = 0, -(1 << 63)
        for packet in self._container.demux(self._stream):
            if packet.size == 0:
                continue  # the flush at the end
            packets += 1
            if packet.is_corrupt:
                raise BadVideo(f"is damaged or cut off at frame {packets}")
            if packet.pts is None:
                self._timed = False
            else:
                if packet.is_keyframe and packet.pts > latest:  # else frames that it comes before were stored earlier
                    keys.append(packet.pts)
                latest = max(latest, packet.pts)
            if not packet.is_discard:  # what an edit list hides is decoded but never shown
                stamps.append(len(stamps) if packet.pts is None else packet.pts)
            if packets > self._limits.frames:
                break
        if packets > self._limits.frames:
            raise BadVideo(f"has more than {self._limits.frames} frames")
        if not stamps:
            raise BadVideo("has no frame")
        self._check_whole(packets)
        if self._timed and len(set(stamps)) == len(stamps):
            return sorted(stamps), sorted(keys)
        self._timed = False
        return list(range(len(stamps))), []

    def _check_whole(self, packets: int) -> None:
        """A file that ends before its own index does was cut off (a download that broke)."""
        announced = len(self._stream.index_entries) or self._stream.frames
        slack = 0 if self._timed else announced // 20
        if packets < announced - slack:
            raise BadVideo(f"is cut off: {packets} of {announced} frames are there")

    def _times(self) -> tuple[np.ndarray, float]:
        announced = self._stream.average_rate or self._stream.guessed_rate
        count = len(self._pts)
        if self._timed and self._stream.time_base:
            times = (np.asarray(self._pts, np.float64) - self._pts[0]) * float(self._stream.time_base)
            span = float(times[-1])
            rate = (count - 1) / span if span > 0 else float(announced or 1)
        else:
            rate = float(announced) if announced else 25.0
            times = np.arange(count) / rate
        self._check_length(2 / rate)
        if times[-1] > self._limits.seconds:
            raise BadVideo(f"lasts {times[-1]:.0f} s; the limit is {self._limits.seconds:.0f} s")
        return times, rate

    def _check_length(self, slack: float) -> None:
        """Matroska has the second in which a stream ends, counted as its time stamps are: from before its start."""
        ends = seconds(self._stream.metadata.get("DURATION", "")) if self._timed else None
        last = float(self._pts[-1] * (self._stream.time_base or 1))
        if ends and last + slack < 0.95 * ends:
            raise BadVideo(f"is cut off: it ends after {last:.1f} of {ends:.1f} s")

    def _decode(self, wanted: Sequence[int]) -> list[VideoFrame | None]:
        """The decoded frame of each time stamp (or number) in `wanted`, None where there is none."""
        place = {stamp: row for row, stamp in enumerate(wanted)}
        chosen: list[VideoFrame | None] = [None] * len(wanted)
        missing = len(wanted)
        for stamp, frame in self._needed(wanted) if self._timed else self._frames_from(wanted[0]):
            if frame.is_corrupt:
                raise BadVideo(f"the frame at {stamp} is damaged")
            row = place.get(stamp)
            if row is not None:
                chosen[row] = frame
                missing -= 1
            if not missing or (stamp >= wanted[-1] and not self._timed):
                break
        return chosen

    def _needed(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """The frames of time stamps `wanted`, and as few others as the decoder can do with.

        Frames that no other refers to (most B-frames) are skipped unless they are wanted, and
        once the last wanted packet is in, the decoder is asked for what it holds instead of
        being fed until it comes out. Measured: a quarter of the processor time.
        """
        missing = set(wanted)
        decoder = self._stream.codec_context
        try:
            for packet in self._packets_from(wanted[0]):
                if decoder.name in _SKIPPING:
                    decoder.skip_frame = "DEFAULT" if packet.pts in missing else "NONREF"
                yield from stamped(iter(packet.decode()))
                missing.discard(packet.pts)
                if not missing:
                    yield from stamped(iter(decoder.decode(None)))
                    return
        finally:
            decoder.skip_frame = "DEFAULT"

    def _packets_from(self, first: int) -> Iterator[Packet]:
        """Packets from the key frame at or before time stamp `first`, or from the start."""
        return self._from_key(first, lambda: self._container.demux(self._stream), lambda packet: packet.pts)

    def _frames_from(self, first: int) -> Iterator[tuple[int, VideoFrame]]:
        """Decoded frames with their time stamps, starting at or before `first`."""
        if not self._timed:
            self._rewind()
            return enumerate(self._container.decode(self._stream))
        decoded = lambda: stamped(self._container.decode(self._stream))  # noqa: E731
        return self._from_key(first, decoded, lambda frame: frame[0])

    def _from_key(self, first: int, read: Callable[[], Iterator[_T]], stamp: Callable[[_T], Any]) -> Iterator[_T]:
        key = max((one for one in self._keys if one <= first), default=None)
        if key is not None and key > self._keys[0]:
            self._container.seek(key, stream=self._stream)
            found = read()
            start = next(found, None)
            if start is not None and stamp(start) in self._keys and stamp(start) <= first:
                yield start
                yield from found
                return
        self._rewind()  # nothing to gain, or the seek went too far
        yield from read()

    def _rewind(self) -> None:
        start = self._stream.start_time
        self._container.seek(min(start, 0) if start is not None else 0, stream=self._stream)
