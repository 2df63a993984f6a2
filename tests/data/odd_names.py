"""A folder of small videos under names that people, and people who mean harm, give files."""

import os
import pathlib

from numbered_videos import numbered_frames

from vmae_jax.data.encode import encode_h264

NAMES = [
    b"caf\xe9.mp4",
    rb"caf\xe9.mp4",
    b"two\nlines.mp4",
    b"tab\there.mp4",
    b"comma, and; more.mp4",
    b"quote\"s 'n `tick.mp4",
    b"bell\x07\x1b[31mred.mp4",
    b"\xed\xa0\x80.mp4",
    "right\u202eleft\u2028.mp4".encode(),
    b"up\\..\\..\\up.mp4",
    b" space .mp4",
    b"<img src=x onerror=alert(1)>.mp4",
    b"=cmd|' !A0.mp4",
    "視頻 café.mp4".encode(),
    b"\xd0\xe5\xec" * 50 + b".mp4",  # 154 bytes, three times as long as text
]


def odd_folder(folder: pathlib.Path, *, broken: bool = False) -> pathlib.Path:
    """A video of every name, in two class folders that are named oddly too; or files that are none."""
    content = b"no video" if broken else encode_h264(numbered_frames(24))
    for number, name in enumerate(NAMES):
        inside = os.path.join(os.fsencode(folder), b"cl\xe4ss" if number % 2 else b"a\nb")
        os.makedirs(inside, exist_ok=True)
        with open(os.path.join(inside, name), "wb") as file:
            file.write(content)
    return folder
