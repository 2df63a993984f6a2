"""`vmae reconstruct` on videos that the user names."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from vmae_jax.cli import main
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.spec import call, to_json
from vmae_jax.weights.subject import fresh_params, subject


@pytest.fixture
def workdir(tmp_path):
    """A masked autoencoder at step 0."""
    model = call("models.variants.vit", size="micro", frames=4, resolution=16, decoder_depth=1, dtype="float32")
    pixels = call("targets.core.objective", target=call("targets.pixels"))
    mask = call("masking.tube", ratio=0.5)
    method = call("methods.masked.build", model=model, encoder_mask=mask, objectives={"pixels": pixels})
    config = ConfigDict({"method": method}, convert_dict=False)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(to_json(config))
    saver = Checkpoints(folder / "checkpoints", asynchronous=False)
    saver.save(0, {"params": fresh_params(subject(config))}, {})
    saver.close()
    return folder


def write_video(path):
    import av

    random = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(20):
            picture = random.integers(0, 256, (32, 32, 3), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())


def test_a_file_that_cannot_be_read_is_the_user_s_mistake_in_one_line(workdir, tmp_path, capsys, caplog):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "notes.mp4").write_text("no video at all")
    command = ["reconstruct", f"--workdir={workdir}", f"--videos={videos / 'notes.mp4'}", f"--out={tmp_path}/out"]
    assert main(command) == 2
    out, err = capsys.readouterr()
    error = json.loads(out.splitlines()[-1])["error"]
    assert error.startswith("--videos: none of the 1 videos can be read: ")
    assert "notes.mp4" in error
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()

    write_video(videos / "one.mp4")  # beside one that can be read, it is replaced
    command = ["reconstruct", f"--workdir={workdir}", f"--videos={videos}", f"--out={tmp_path}/out", "--clips=2"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["clips"] == 2
    assert f"{videos}/notes.mp4: is no readable video" in caplog.text


def test_a_workdir_that_does_not_exist_is_named(tmp_path, capsys):
    assert main(["reconstruct", f"--workdir={tmp_path}/none", f"--out={tmp_path}/out"]) == 2
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert error == f"checkpoint {tmp_path}/none: there is no such folder"
