"""The same outputs in PyTorch: transformers as installed, and the official architecture."""

import json
import pathlib

import jax
import numpy as np
import pytest

import vmae_jax
from vmae_jax.patches import Patch
from vmae_jax.spec import ConfigError
from vmae_jax.weights import export_checkpoint, import_weights, torch_network, verify
from vmae_jax.weights.checkpoint import read_checkpoint
from vmae_jax.weights.formats import torch_file
from vmae_jax.weights.layouts.fit import sinusoid
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.layouts.videomae import Facts, to_official
from vmae_jax.weights.subject import normalized, outputs, probe, subject

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def transformers():
    module = pytest.importorskip("transformers")
    module.logging.set_verbosity_error()
    module.logging.disable_progress_bar()
    return module


def video_of(numbers):
    pixels = (numbers["video"].astype(np.float32) / 255 - MEAN) / STD
    return np.ascontiguousarray(pixels.transpose(0, 4, 1, 2, 3))


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDENS.glob("*.pth")))
def test_our_pytorch_network_is_the_official_one(name):
    """The check of exports is itself checked, against the official code's numbers."""
    numbers = np.load(GOLDENS / f"{name}.npz")
    dims = json.loads((GOLDENS / f"pretrain_{name.partition('_')[2]}.json").read_text())
    contents = torch_file.read_pth(GOLDENS / f"{name}.pth")
    state = {key: torch.from_numpy(array) for key, array in contents.get("model", contents.get("module")).items()}
    tokens = dims["all_frames"] // dims["tubelet_size"] * (dims["img_size"] // dims["patch_size"]) ** 2
    facts = Facts(
        patch=Patch(dims["tubelet_size"], dims["patch_size"], dims["patch_size"]),
        channels=3,
        heads=dims["encoder_num_heads"],
        decoder_heads=dims["decoder_num_heads"],
        tables={name: sinusoid(tokens, dims[f"{name}_embed_dim"]) for name in ("encoder", "decoder")},
    )
    hidden = numbers["encoder_mask"][0] if "encoder_mask" in numbers else None
    found = torch_network.outputs(state, video_of(numbers), facts=facts, hidden=hidden)
    if hidden is None:
        np.testing.assert_allclose(found["features"], numbers["features"], atol=1e-5)
        np.testing.assert_allclose(found["logits"], numbers["logits"], atol=1e-5)
    else:
        np.testing.assert_allclose(found["prediction"], numbers["pred_no_decoder_mask"], atol=1e-5)
    with pytest.raises(MismatchError, match="no place for extra"):
        torch_network.outputs(state | {"extra": torch.zeros(1)}, video_of(numbers), facts=facts, hidden=hidden)


@pytest.mark.parametrize("kind", ["pretraining", "classifier"])
def test_transformers_gives_our_outputs(transformers, runs, tmp_path, kind):
    report = export_checkpoint(runs[kind], format="hf", out=tmp_path / "hf")
    assert report["checked_by"].startswith("transformers")
    assert report["largest_difference"] <= 1e-5
    expected = {"pretraining": {"tokens", "prediction", "loss"}, "classifier": {"tokens", "features", "logits"}}[kind]
    assert set(report["differences"]) == expected
    # transformers fixes two eps at 1e-5; the difference that a user sees is reported, and another one is limited.
    assert max(report["differences_as_loaded"].values()) <= 1e-2
    back = import_weights(tmp_path / "hf", out=tmp_path / "back")
    assert back["checked_by"].startswith("PyTorch")
    assert back["largest_difference"] <= 1e-5
    jax.tree.map(
        np.testing.assert_array_equal, read_checkpoint(tmp_path / "back").params, read_checkpoint(runs[kind]).params
    )


def test_a_real_clip_is_compared_too(transformers, runs, clips, tmp_path):
    import av

    with av.open(str(clips / "turned.mp4")) as container:
        frames = [
            f.to_ndarray(width=16, height=16, format="rgb24") for _, f in zip(range(4), container.decode(video=0))
        ]
    report = export_checkpoint(runs["pretraining"], format="hf", out=tmp_path / "hf", clip=np.stack(frames))
    assert report["compared_on"] == ["a random clip", "a real clip"]
    assert report["largest_difference"] <= 1e-5


def test_encoders_alone(transformers, runs, tmp_path):
    for kind in ("pretraining", "classifier"):  # with the final norm, and without one
        report = export_checkpoint(runs[kind], format="hf", out=tmp_path / kind, part="encoder")
        assert list(report["differences"]) == ["tokens"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_has_its_own_bound(transformers, runs, tmp_path, dtype):
    report = export_checkpoint(runs["pretraining"], format="hf", out=tmp_path / "hf", dtype=dtype)
    assert 0 < report["largest_difference"] <= verify.BOUNDS[dtype]
    model = transformers.VideoMAEForPreTraining.from_pretrained(tmp_path / "hf", dtype="auto")
    assert model.dtype == getattr(torch, dtype)


def test_raw_targets_and_another_normalisation(transformers, small, tmp_path):
    for name, options in (
        ("raw", {"normalize": False}),
        ("grey", {"channels": 1}),
        ("own", {"mean": [0.5] * 3, "std": [0.5] * 3}),
    ):
        config = small.config_of(**options)
        workdir = small.write_run(tmp_path / name, config, small.random_params(config))
        report = export_checkpoint(workdir, format="hf", out=tmp_path / f"{name}_hf")
        assert ("loss" in report["differences"]) == (name == "raw")
    config = small.config_of(channels=1, normalize=False)
    workdir = small.write_run(tmp_path / "no", config, small.random_params(config))
    with pytest.raises(ConfigError, match="no loss for raw pixels"):
        export_checkpoint(workdir, format="hf", out=tmp_path / "no_hf")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_the_official_layout(small, tmp_path, name):
    config = small.config_of(cosine_attention=True, layer_scale=0.1)
    workdir = small.write_run(tmp_path / "run", config, small.random_params(config))
    report = export_checkpoint(workdir, format="videomae", out=tmp_path / name)
    assert report["checked_by"].startswith("PyTorch")
    assert set(report["differences"]) == {"tokens", "prediction"}
    assert report["largest_difference"] <= 1e-5


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDENS.glob("*.pth")))
def test_official_weights_in_and_out(small, tmp_path, name):
    """An official file, imported and exported, is that file: names, shapes, order of axes, bits."""
    kind, _, variant = name.partition("_")
    dims = json.loads((GOLDENS / f"pretrain_{variant}.json").read_text())
    config = small.config_of(
        "classifier" if kind == "finetune" else "pretraining",
        classes=7,
        frames=dims["all_frames"],
        resolution=dims["img_size"],
        patch=dims["patch_size"],
        width=dims["encoder_embed_dim"],
        depth=dims["encoder_depth"],
        heads=dims["encoder_num_heads"],
        mlp_ratio=float(dims["mlp_ratio"]),
        decoder_width=dims["decoder_embed_dim"],
        decoder_depth=dims["decoder_depth"],
        decoder_heads=dims["decoder_num_heads"],
        cosine_attention=dims["cos_attn"],
        layer_scale=dims["init_values"] or None,
    )
    report = import_weights(GOLDENS / f"{name}.pth", out=tmp_path / "run", config=config)
    assert report["largest_difference"] <= 1e-5
    assert not report["dropped"]
    export_checkpoint(tmp_path / "run", format="videomae", out=tmp_path / "x.pth")
    theirs = torch.load(GOLDENS / f"{name}.pth", weights_only=True)
    ours = torch.load(tmp_path / "x.pth", weights_only=True)
    key = "module" if kind == "finetune" else "model"
    assert {n: t.shape for n, t in ours[key].items()} == {n: t.shape for n, t in theirs[key].items()}
    assert all(torch.equal(ours[key][n], tensor) for n, tensor in theirs[key].items())


def test_trained_further_by_transformers_and_back(transformers, runs, tmp_path):
    """Exported, fine-tuned a few steps in plain PyTorch, imported again: equal at each border."""
    export_checkpoint(runs["pretraining"], format="hf", out=tmp_path / "hf")
    model = transformers.VideoMAEForPreTraining.from_pretrained(tmp_path / "hf")
    source = read_checkpoint(runs["pretraining"])
    one = subject(source.config)
    batch = probe(one)
    pixels = torch.from_numpy(normalized(one.model, batch["video"]))
    _, hidden = outputs(one, source.params, batch)
    mask = torch.from_numpy(hidden)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = model(pixels, bool_masked_pos=mask).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path / "tuned")
    import_weights(tmp_path / "tuned", out=tmp_path / "back", config=one.config)
    tuned = read_checkpoint(tmp_path / "back")
    theirs = verify.in_transformers(tmp_path / "tuned", normalized(one.model, batch["video"]), hidden, our_epsilon=True)
    ours, _ = outputs(subject(tuned.config), tuned.params, batch)
    assert verify.gate(verify.differences(ours, theirs), "float32") <= 1e-4
    before = to_official(source.params, one.facts)
    after = to_official(tuned.params, one.facts)
    assert not np.array_equal(before["encoder.blocks.0.attn.q_bias"], after["encoder.blocks.0.attn.q_bias"])


def test_features_agree_in_jax_and_pytorch(transformers, runs, tmp_path):
    """The README's twenty lines: a video's features in JAX, in PyTorch, in transformers."""
    export_checkpoint(runs["pretraining"], format="hf", out=tmp_path / "hf")
    export_checkpoint(runs["pretraining"], format="videomae", out=tmp_path / "x.pth")
    method, params = vmae_jax.load(tmp_path / "hf")
    video = np.random.default_rng(1).integers(0, 256, (1, 4, 16, 16, 3), np.uint8)
    with jax.default_matmul_precision("highest"):
        in_jax = np.asarray(method.features(params, {"video": video}))
    pixels = torch.from_numpy(((video / 255 - MEAN) / STD).astype(np.float32)).permute(0, 1, 4, 2, 3)
    model = transformers.VideoMAEForPreTraining.from_pretrained(tmp_path / "hf")
    in_transformers = model.videomae(pixels).last_hidden_state.mean(1).detach().numpy()
    state = torch.load(tmp_path / "x.pth", weights_only=True)["model"]
    only = {name: tensor for name, tensor in state.items() if name.startswith("encoder.")}
    in_pytorch = torch_network.outputs(only, pixels.permute(0, 2, 1, 3, 4).numpy(), heads=2)["tokens"].mean(1)
    np.testing.assert_allclose(in_transformers, in_jax, atol=1e-5)
    np.testing.assert_allclose(in_pytorch, in_jax, atol=1e-5)
