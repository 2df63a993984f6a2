"""Miniatures of benchmarks of label propagation in their owners' layouts."""

import pathlib

import numpy as np
from PIL import Image
from scipy.io import savemat

PALETTE = [number % 256 for number in range(3 * 256)]


def save(path: pathlib.Path, pixels: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if palette:
        picture.putpalette(PALETTE)
    picture.save(path)


def lines(path: pathlib.Path, *texts: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{text}\n" for text in texts))


def moving(frames: int, size: tuple[int, int], *, step: int = 4, side: int = 16) -> np.ndarray:
    """Labels of a square that moves to the right, uint8 [frames h w]."""
    labels = np.zeros((frames, *size), np.uint8)
    for frame in range(frames):
        labels[frame, 16 : 16 + side, 8 + step * frame : 8 + step * frame + side] = 1
    return labels


def picture_of(labels: np.ndarray) -> np.ndarray:
    """A picture in which each label has a grey of its own."""
    return np.repeat((40 + 60 * labels)[..., None], 3, axis=-1).astype(np.uint8)


def davis(root: pathlib.Path, *, videos=("bear", "swing"), frames: int = 6, size=(48, 80)) -> pathlib.Path:
    for video in videos:
        for number, labels in enumerate(moving(frames, size)):
            save(root / "JPEGImages/480p" / video / f"{number:05d}.jpg", picture_of(labels))
            labels[:2] = 255 if number == 1 else 0  # void
            save(root / "Annotations/480p" / video / f"{number:05d}.png", labels, palette=True)
    lines(root / "ImageSets/2017/val.txt", *videos)
    return root


def vip(root: pathlib.Path, *, videos=("videos7", "videos12"), frames: int = 4, size=(64, 128)) -> pathlib.Path:
    for video in videos:
        for number, labels in enumerate(13 * moving(frames, size)):
            # Names whose order as text is another than that of their numbers.
            save(root / "Images" / video / f"{9 + number}.jpg", picture_of(labels // 13))
            save(root / "Annotations/Category_ids" / video / f"{9 + number}.png", labels)
    lines(root / "lists/val_videos.txt", *videos)
    return root


def jhmdb(root: pathlib.Path, *, frames: int = 4, size=(64, 64), joints: int = 15) -> pathlib.Path:
    """A person whose joints are on a diagonal that moves to the right by 4 pixels a frame."""
    for group, video in (("climb", "a_climb_1"), ("climb", "b_climb_2"), ("wave", "c_wave_1")):
        for number, labels in enumerate(moving(frames, size)):
            save(root / f"Rename_Images/{group}/{video}/{number + 1:05d}.png", picture_of(labels))
        across = np.linspace(5, 40, joints)[:, None] + 4 * np.arange(frames)
        down = np.repeat(np.linspace(5, 60, joints)[:, None], frames, axis=1)
        places = np.stack([across, down])
        path = root / f"joint_positions/{group}/{video}/joint_positions.mat"
        path.parent.mkdir(parents=True)
        savemat(path, {"pos_img": places + 1})
    lines(root / "splits/climb_test_split1.txt", "a_climb_1.avi 2", "b_climb_2.avi 1")
    lines(root / "splits/wave_test_split1.txt", "c_wave_1.avi 2")
    return root
