"""What strangers put beside videos: a small good file of each kind, crafted ones, and what damage makes of them."""

import functools
import io
import random
import struct
import wave
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.attacks.files import clips

__all__ = ["GIANTS", "KINDS", "NPY", "damaged", "files_of", "wav"]

GIANTS = (
    "1e308", "1e400", "-inf", "nan", "9" * 400, "1_0", "0x10", "", "٣", '"', "\0", "\ud83d", "1" * 5000, "-1", " ",
)  # fmt: skip
SRT = "1\n00:00:00,000 --> 00:00:09,000\n<i>spoken</i> words\n\n2\n00:00:09,000 --> 00:00:10,000\nmore\n"
BOXES = "frame,id,x0,y0,x1,y1\n" + "".join(f"{n},{n},1,1,20,20\n" for n in range(24))
IMU = "time,x\n" + "".join(f"{n / 10},{n}\n" for n in range(30))


def _npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def _shape(shape: str, dtype: str = "'<f8'") -> str:
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}"


NPY = [
    *(_npy(_shape(shape)) for shape in ("(4611686018427387904,)", "(-1,)", f"({'1, ' * 70})", "(2**99,)", "(True,)")),
    *(_npy(_shape("(1,)", dtype), bytes(8)) for dtype in ("'|O'", "'<U2'", "[('a', '<f8')]", "'<M8[s]'", "'|V8'")),
    *(_npy(_shape("(1,)"), struct.pack("<d", value)) for value in (float("nan"), float("inf"), 1e308)),
    *map(_npy, ("(" * 5000, "{" * 500, "9" * 60_000, "", _shape("(0, 4611686018427387904)"), _shape("(1,)", "'<f99'"))),
    b"\x93NUMPY\x03\x00", b"\x93NUMPY",
]  # fmt: skip


def packed(members: Mapping[str, bytes]) -> bytes:
    """A zip archive, deflated."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@functools.cache
def _bomb() -> bytes:
    """Arrays that unpack to more than any may have."""
    return packed({f"{name}.npy": bytes(80 << 20) for name in ("x", "time", "features", "seconds", "x0")})


@functools.cache
def _many() -> bytes:
    return packed({f"{number}.npy": b"" for number in range(20_000)})


def _arrays(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _png(rows: int, columns: int, content: bytes | None = None, kind: int = 0, depth: int = 8) -> bytes:
    """A PNG of any declared size; its pixels are grey where no content is given."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    data = zlib.compress(bytes(rows * (columns + 1))) if content is None else content
    head = struct.pack(">IIBBBBB", columns, rows, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def wav(seconds: float = 1.0, rate: int = 16000) -> bytes:
    """A tone."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((9000 * np.sin(np.arange(int(seconds * rate)) / 9)).astype("<i2").tobytes())
    return file.getvalue()


def _wav_with(at: int, code: str, value: int) -> bytes:
    data = bytearray(wav())
    struct.pack_into(code, data, at, value)
    return bytes(data)


def _tables(good: str) -> list[bytes]:
    """A table of numbers with crafted fields, and other tables."""
    head, *lines = good.splitlines()
    fields = ["\n".join([head, ",".join([giant] * (head.count(",") + 1)), *lines]) for giant in GIANTS]
    whole = [head * 2, head, "", "\n" * 100_000, head + "\n" + "," * 500_000, head + "\n" + "[" * 100_000]
    whole += [good + '"' + "x" * 300_000, good.replace("\n", "\r"), head + "\n" + "1\n" * 1000, good * 2]
    whole += [",".join(["a"] * 50_000) + "\n" + "1," * 50_000]
    found = [text.encode(errors="surrogatepass") for text in (*fields, *whole)]
    return [*found, good.encode("utf-16"), good.encode("utf-16-le"), good.encode() + b"\xe9"]


def _text() -> tuple[list[bytes], list[bytes]]:
    crafted = [
        b"\xed\xa0\xbd half", "👋\ud83d".encode(errors="surrogatepass"), b"\xff\xfe\x00\xd8", b"Zw\xf6lf", b"",
        b"00:00:00,000 --> " * 200_000, b"00:00:00,000 --> 00:00:09,000\n" * 120_000, "\u2028\x85".encode() * 9,
        b"99:99:99,999 --> 9999:99:99,999\nx\n\n", b"WEBVTT\n\n1:2:3.4 --> " + b":" * 600 + b"\nx",
        "word ".encode("utf-16") * 1000, "word\n".encode("utf-16-le"), bytes(99),
    ]  # fmt: skip
    crafted += [piece * ((4 << 20) // len(piece)) for piece in (b"x", b"\n", b"<", b"{\\", b":", b"<b>", b"-->\n")]
    return [b"a caption\nanother\n", SRT.encode()], [*crafted, b"x" * (5 << 20)]


def _series() -> tuple[list[bytes], list[bytes]]:
    times = np.arange(30) / 10
    members = [packed({"time.npy": one, "x.npy": one}) for one in NPY]
    return [IMU.encode(), _arrays(time=times, x=times)], [*_tables(IMU), *NPY, *members, _bomb(), _many()]


def _boxes() -> tuple[list[bytes], list[bytes]]:
    return [BOXES.encode()], [*_tables(BOXES), _bomb()]


def _embeddings() -> tuple[list[bytes], list[bytes]]:
    good = _arrays(features=np.ones((3, 2), np.float32), seconds=np.ones((3, 2)))
    many = _arrays(features=np.ones((200_000, 2), np.float16), seconds=np.full((200_000, 2), 1e308))
    members = [packed({"features.npy": one, "seconds.npy": one}) for one in NPY]
    return [good], [*NPY, *members, many, _bomb(), _many(), b"PK\x05\x06" + bytes(18)]


def _planes() -> tuple[list[bytes], list[bytes]]:
    planes: Callable[[bytes], bytes] = lambda content: packed({f"{number}.png": content for number in range(24)})  # noqa: E731
    whole = _png(12, 12)
    pictures = [_png(65535, 65535, b""), _png(2**31 - 1, 1, b""), _png(0, 0, b""), _png(9000, 900), b"", b"GIF89a"]
    pictures += [_png(3000, 3000, zlib.compress(bytes(200 << 20))), _png(12, 12, b"x" * 99), _png(12, 12, depth=16)]
    pictures += [_png(12, 12, kind=3), _png(12, 12, kind=6), whole[:-20], bytes(40 << 20)]
    names = [packed({f"{name}.png": whole}) for name in ("٣", "-1", "00", "1e3", "../../0", "9" * 5000)]
    return [planes(whole)], [*map(planes, pictures), *names, _many(), _bomb()]


def _audio() -> tuple[list[bytes], list[bytes]]:
    crafted = [_wav_with(24, "<I", 2**32 - 1), b"#EXTM3U\nhttp://127.0.0.1/x\n", _wav_with(24, "<I", 0)]
    crafted += [_wav_with(22, "<H", 0), _wav_with(22, "<H", 65535), _wav_with(40, "<I", 2**32 - 1)]
    crafted += [_wav_with(34, "<H", 0), _wav_with(20, "<H", 85), wav()[:44], b"", b"RIFF", b"OggS" + bytes(100)]
    crafted += [b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f", b"fLaC" + b"\xff" * 50, *clips(1).values()]
    return [wav(), wav(0.02), wav(1.0, 8000)], crafted


_FILES = {
    "text": _text,
    "series": _series,
    "boxes": _boxes,
    "embeddings": _embeddings,
    "planes": _planes,
    "audio": _audio,
}
KINDS = tuple(_FILES)


def files_of(kind: str) -> tuple[list[bytes], list[bytes]]:
    """Good files of a kind, and crafted ones."""
    return _FILES[kind]()


def damaged(chance: random.Random, content: bytes) -> bytes:
    """Some bytes changed, doubled, removed or overwritten, or the rest cut off."""
    data = bytearray(content or b"x")
    for _ in range(chance.choice([1, 1, 2, 6])):
        at, length, how = chance.randrange(len(data)), chance.randrange(1, 40), chance.randrange(6)
        if how == 0:
            data[at : at + length] = chance.randbytes(length)
        elif how == 1:
            del data[at : at + length]
        elif how == 2:
            data[at:at] = data[at : at + length]
        elif how == 3:
            data[at : at + length] = chance.choice([b"\0", b"\t", b'"', b",", b"9", b"\xff", b"-", b"\n"]) * length
        elif how == 4:
            data[at] ^= 1 << chance.randrange(8)
        else:
            del data[at:]
        data = data or bytearray(b"x")
    return bytes(data)
