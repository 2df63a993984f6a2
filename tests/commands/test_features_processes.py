"""`vmae features` as one job of two real processes, which share the videos."""

import json

import numpy as np
import pytest
from real_processes import run
from small_runs import config_of, save_run, write_videos

pytestmark = pytest.mark.slow


def test_two_processes_write_what_one_does(tmp_path, forks):
    videos = tmp_path / "videos"
    write_videos(videos)
    (videos / "broken.mp4").write_bytes(b"no video")
    save_run(tmp_path / "run", config_of(videos))
    command = ["features", f"--checkpoint={tmp_path}/run", f"--videos={videos}", "--fps=8", "--batch=2"]
    [alone] = run(forks, 1, *command, f"--out={tmp_path}/alone")
    pod = run(forks, 2, *command, f"--out={tmp_path}/pod")
    assert (alone["videos"], alone["broken"], alone["complete"]) == (7, ["broken"], True)
    assert [answer["shard"] for answer in pod] == ["0/2", "1/2"]
    assert all(0 < answer["videos"] < 7 for answer in pod)
    assert sum(answer["videos"] for answer in pod) == 7
    assert all(answer["complete"] for answer in pod), "they end together, and see the whole"
    files = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
             for folder in (tmp_path / "alone", tmp_path / "pod")]  # fmt: skip
    assert files[0] == files[1]
    for name in files[0]:
        one, other = tmp_path / "alone" / name, tmp_path / "pod" / name
        if name.endswith(".npz"):
            for key, array in np.load(one).items():
                np.testing.assert_allclose(np.load(other)[key], array, atol=1e-5)
        else:
            assert other.read_bytes() == one.read_bytes()
    assert json.loads((tmp_path / "pod" / "complete.json").read_text()) == {"videos": 8, "broken": ["broken"]}
    [again] = run(forks, 1, *command, f"--out={tmp_path}/pod")
    assert (again["videos"], again["already"]) == (0, 7), "the number of processes may change"
