"""The same export opened by transformers from before version 5, in an environment of its own.

python3.11 -m venv t4 && t4/bin/pip install torch 'transformers>=4.50,<5'
VMAE_TRANSFORMERS4_PYTHON=t4/bin/python python -m pytest -m slow tests/interop
"""

import json
import os
import subprocess

import numpy as np
import pytest

from vmae_jax.exchange import export_checkpoint, import_weights
from vmae_jax.exchange.source import read_checkpoint
from vmae_jax.exchange.subject import normalized, outputs, probe, subject
from vmae_jax.interop import verify

pytestmark = [pytest.mark.slow, pytest.mark.torch]

SCRIPT = """
import json, sys
import numpy as np, torch, transformers
folder, kind, pixels, out, saved = sys.argv[1:]
assert transformers.__version__.startswith("4."), transformers.__version__
name = {"pretraining": "VideoMAEForPreTraining", "classifier": "VideoMAEForVideoClassification"}[kind]
model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
model.eval()
for norm in (getattr(model, "fc_norm", None), getattr(getattr(model, "decoder", None), "norm", None)):
    if norm is not None:
        norm.eps = 1e-6
data = np.load(pixels)
video = torch.from_numpy(data["pixels"])
result = {"tokens": model.videomae(video).last_hidden_state}
if kind == "classifier":
    result["logits"] = model(video).logits
else:
    answer = model(video, bool_masked_pos=torch.from_numpy(data["hidden"]))
    result |= {"prediction": answer.logits, "loss": answer.loss}
processor = transformers.VideoMAEImageProcessor.from_pretrained(folder)
frames = [list(clip) for clip in data["video"]]
result["pixels"] = processor(frames, return_tensors="pt").pixel_values
np.savez(out, **{key: value.detach().numpy() for key, value in result.items()})
model.save_pretrained(saved)
"""


@pytest.fixture(scope="module")
def python4():
    python = os.environ.get("VMAE_TRANSFORMERS4_PYTHON", "")
    if not os.path.exists(python):
        pytest.skip("VMAE_TRANSFORMERS4_PYTHON names no Python with transformers 4.50 to 4.57 and torch")
    return python


@pytest.mark.parametrize("kind", ["pretraining", "classifier"])
def test_before_version_5(python4, runs, tmp_path, kind):
    export_checkpoint(runs[kind], format="hf", out=tmp_path / "hf")
    source = read_checkpoint(runs[kind])
    one = subject(source.config)
    batch = probe(one.model)
    ours, hidden = outputs(one, source.params, batch)
    pixels = normalized(one.model, batch["video"])
    np.savez(tmp_path / "in.npz", pixels=pixels, video=batch["video"], **({} if hidden is None else {"hidden": hidden}))
    arguments = [tmp_path / "hf", kind, tmp_path / "in.npz", tmp_path / "out.npz", tmp_path / "saved"]
    environment = os.environ | {"USE_TF": "0", "USE_FLAX": "0", "HF_HUB_OFFLINE": "1"}
    answer = subprocess.run(
        [python4, "-c", SCRIPT, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    theirs = dict(np.load(tmp_path / "out.npz"))
    # Its processor, read from our preprocessor_config.json, normalises as the model does here.
    np.testing.assert_allclose(theirs.pop("pixels"), pixels, atol=1e-5)
    assert verify.gate(verify.differences(ours, theirs), "float32") <= 1e-5
    # What version 4 writes comes back.
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["transformers_version"].startswith("4.")
    import_weights(tmp_path / "saved", out=tmp_path / "back", config=source.config)
    back = read_checkpoint(tmp_path / "back")
    again, _ = outputs(subject(back.config), back.params, batch)
    assert verify.gate(verify.differences(ours, again), "float32") <= 1e-6
