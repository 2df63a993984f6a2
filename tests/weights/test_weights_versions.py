"""One export, opened by five versions of transformers, each in a folder of packages of its own.

The packages are installed with pip, once a machine: into $VMAE_TRANSFORMERS, or a private folder under the
temporary directory. PyTorch is installed there too where this Python has none.
"""

import getpass
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from test_weights_towers import mae_of_images

from vmae_jax.weights import export_checkpoint, import_weights, verify
from vmae_jax.weights.checkpoint import read_checkpoint
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.subject import normalized, outputs, probe, subject

ROOT = pathlib.Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
# Up to 5.5.0 the biases are q_bias and v_bias; 5.5.1 to 5.17 read query.bias and value.bias only; later ones both.
VERSIONS = ("4.57.1", "5.4.0", "5.8.1", "5.17.0", "5.23.0")
ZERO_BIASES = ("5.8.1", "5.17.0")
KINDS = ("pretraining", "classifier")
TORCH = "torch==2.13.0"

SCRIPT = """
import json, pathlib, sys
import numpy as np, torch, transformers
folder, = map(pathlib.Path, sys.argv[1:])
transformers.logging.set_verbosity_error()
report = {"version": transformers.__version__}
for kind in ("pretraining", "classifier"):
    data = np.load(folder / f"{kind}.npz")
    video = torch.from_numpy(data["pixels"])
    for name in (kind, f"{kind}-old"):
        cls = {"pretraining": "VideoMAEForPreTraining", "classifier": "VideoMAEForVideoClassification"}[kind]
        model, info = getattr(transformers, cls).from_pretrained(folder / name, output_loading_info=True)
        report[name] = {key: sorted(map(str, info.get(key) or ())) for key in
                        ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")}
        model.eval()
        for norm in (getattr(model, "fc_norm", None), getattr(getattr(model, "decoder", None), "norm", None)):
            if norm is not None:
                norm.eps = 1e-6
        with torch.no_grad():
            result = {"tokens": model.videomae(video).last_hidden_state}
            if kind == "classifier":
                result["logits"] = model(video).logits
            else:
                answer = model(video, bool_masked_pos=torch.from_numpy(data["hidden"]))
                result |= {"prediction": answer.logits, "loss": answer.loss}
        if name == kind:
            processor = transformers.VideoMAEImageProcessor.from_pretrained(folder / name)
            result["pixels"] = processor([list(clip) for clip in data["video"]], return_tensors="pt").pixel_values
            model.save_pretrained(sys.argv[1] + f"/{kind}-saved")
        np.savez(folder / f"{name}-out.npz", **{key: value.numpy() for key, value in result.items()})
(folder / "report.json").write_text(json.dumps(report))
"""


def install(target, requirement, failures):
    """Install a package and what it needs into a folder; skip where pip cannot, which is tried once."""
    if not failures:
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile"]
        command += ["--retries=1", f"--target={target}", requirement]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
        if answer.returncode == 0:
            return
        lines = [line for line in answer.stderr.splitlines() if line.startswith("ERROR")] or ["ERROR: pip failed"]
        failures.append(f"pip cannot install {requirement} here: {lines[-1][:200]}")
    pytest.skip(failures[0])


@pytest.fixture(scope="module")
def packages():
    """Gives the folders of packages of a version, installing what is not there yet."""
    default = pathlib.Path(tempfile.gettempdir()) / f"vmae-transformers-{getpass.getuser()}"
    root = pathlib.Path(os.environ.get("VMAE_TRANSFORMERS") or default)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    assert root.stat().st_uid == os.getuid(), f"{root} belongs to another user"
    failures: list[str] = []

    def folder(requirement):
        made = root / requirement.replace("==", "-")
        if not made.exists():
            half = tempfile.mkdtemp(dir=root)
            install(half, requirement, failures)
            os.rename(half, made)
        return made

    def folders(version):
        torch = [] if importlib.util.find_spec("torch") else [folder(TORCH)]
        return [folder(f"transformers=={version}"), *torch]

    return folders


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    """The exports, the same with the old spelling alone, clips and masks, and our outputs."""
    folder, ours = tmp_path_factory.mktemp("exported"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "has_torch", lambda: False)  # the versions installed here are not the subject
        for kind in KINDS:
            export_checkpoint(runs[kind], format="hf", out=folder / kind)
            shutil.copytree(folder / kind, folder / f"{kind}-old")
            path = folder / f"{kind}-old" / "model.safetensors"
            state = tensors.read_file(path).state
            old = {n: a for n, a in state.items() if not n.endswith(("query.bias", "key.bias", "value.bias"))}
            assert len(old) < len(state)
            tensors.write_safetensors(path, old, {})
            source = read_checkpoint(runs[kind])
            one = subject(source.config)
            batch = probe(one)
            ours[kind], hidden = outputs(one, source.params, batch)
            pixels = normalized(one.model, batch["video"])
            arrays = {"pixels": pixels, "video": batch["video"]} | ({} if hidden is None else {"hidden": hidden})
            np.savez(folder / f"{kind}.npz", **arrays)
    return folder, ours


@pytest.fixture(scope="module", params=VERSIONS)
def opened(request, exported, packages, tmp_path_factory):
    """A folder in which one version has opened the exports, its report, and the version."""
    folder = tmp_path_factory.mktemp("opened") / "here"
    shutil.copytree(exported[0], folder)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, packages(request.param))),
        "USE_TF": "0",
        "USE_FLAX": "0",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert answer.returncode == 0, answer.stderr[-2000:]
    report = json.loads((folder / "report.json").read_text())
    assert report["version"] == request.param
    return folder, report, request.param


@pytest.mark.parametrize("kind", KINDS)
def test_every_version_reads_our_export(opened, exported, kind):
    folder, report, version = opened
    found = report[kind]
    assert [found[key] for key in ("missing_keys", "mismatched_keys", "error_msgs")] == [[], [], []]
    assert all(name.endswith(("_bias", "query.bias", "key.bias", "value.bias")) for name in found["unexpected_keys"])
    theirs = dict(np.load(folder / f"{kind}-out.npz"))
    # Its processor, read from our preprocessor_config.json, normalises as the model does here.
    np.testing.assert_allclose(theirs.pop("pixels"), np.load(folder / f"{kind}.npz")["pixels"], atol=1e-5)
    differences = verify.differences(exported[1][kind], theirs)
    print(f"transformers {version}, {kind}: {differences}")
    assert len(differences) == {"pretraining": 3, "classifier": 2}[kind]
    assert verify.gate(differences, "float32") <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_the_old_spelling_alone_is_what_goes_wrong(opened, exported, kind):
    """Which versions `vmae doctor` warns of: they open a checkpoint of the old layout with zero biases."""
    folder, report, version = opened
    found = verify.differences(exported[1][kind], dict(np.load(folder / f"{kind}-old-out.npz")))
    assert (max(found.values()) > 1e-3) == (version in ZERO_BIASES) == bool(report[f"{kind}-old"]["missing_keys"])


@pytest.mark.parametrize("kind", KINDS)
def test_what_every_version_saves_comes_back(opened, exported, runs, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(verify, "has_torch", lambda: False)
    folder, _, version = opened
    saved = folder / f"{kind}-saved"
    assert json.loads((saved / "config.json").read_text())["transformers_version"] == version
    report = import_weights(saved, out=tmp_path / "back")
    assert not report["dropped"]
    back = read_checkpoint(tmp_path / "back").params
    original = read_checkpoint(runs[kind]).params
    for name, array in tensors_of(original).items():
        np.testing.assert_array_equal(tensors_of(back)[name], array)


def tensors_of(params, prefix=""):
    """The leaves by path."""
    flat = {}
    for name, value in params.items():
        flat |= tensors_of(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return flat


@pytest.mark.parametrize("version", ["4.57.1", "5.23.0"])
def test_vit_mae_computes_there_what_it_does_here(version, small, packages, tmp_path):
    """The export's own comparison of tokens, predictions and loss, in a process that has this version."""
    run, _ = mae_of_images(small, tmp_path)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*map(str, packages(version)), str(ROOT)]),
        "USE_TF": "0",
        "HF_HUB_OFFLINE": "1",
    }
    command = [
        sys.executable,
        "-m",
        "vmae_jax",
        "export",
        f"--checkpoint={run}",
        "--format=hf",
        f"--out={tmp_path / 'x'}",
    ]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert answer.returncode == 0, answer.stderr[-2000:]
    report = json.loads(answer.stdout.splitlines()[-1])
    assert report["checked_by"] == f"transformers {version}"
    assert set(report["differences"]) == {"tokens", "prediction", "loss"}
    assert report["largest_difference"] <= 1e-5
    assert not report["not_checked"]
