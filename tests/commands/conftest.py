"""Labelled videos that any network can distinguish."""

import pathlib

import numpy as np
import pytest


@pytest.fixture(scope="session")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Twelve videos in folders of three classes that differ in colour, and two lists of them."""
    import av

    folder = tmp_path_factory.mktemp("videos")
    random = np.random.default_rng(0)
    rows = []
    for i in range(12):
        name = ("blue", "green", "red")[i % 3]
        (folder / "all" / name).mkdir(parents=True, exist_ok=True)
        colour = np.float32([[0, 0, 200], [0, 200, 0], [200, 0, 0]])[i % 3]
        with av.open(str(folder / "all" / name / f"{i:02}.mp4"), "w") as out:
            stream = out.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
            for _ in range(9):
                picture = np.clip(colour + random.normal(20, 10, (32, 32, 3)), 0, 255).astype(np.uint8)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            out.mux(stream.encode())
        rows.append(f"all/{name}/{i:02}.mp4 {i % 3}\n")
    (folder / "train.csv").write_text("".join(rows[:9]))
    (folder / "test.csv").write_text("".join(rows[9:]))
    return folder
