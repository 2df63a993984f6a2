"""A preempted run ends with 75, and a person who sees only standard error reads how to continue."""

import json

from vmae_jax.cli import main
from vmae_jax.commands import train


def test_a_preempted_run_names_its_step_and_what_resumes_it(monkeypatch, tmp_path, capsys):
    ended = {"status": "preempted", "step": 96, "metrics": {}, "workdir": str(tmp_path)}
    monkeypatch.setattr(train, "run", lambda *args, **options: dict(ended))
    assert main(["train", "--config=configs/quickstart.py:smoke", f"--workdir={tmp_path}/run"]) == 75
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == "vmae: preempted at step 96; the same command resumes"
    assert json.loads(out.splitlines()[-1])["error"] == "preempted; the same command resumes"
