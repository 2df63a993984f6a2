"""Files of weights: what is written is read back, and nothing that is damaged or hostile gets in."""

import io
import json
import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from vmae_jax.weights.formats import tensors, torch_file
from vmae_jax.weights.formats.atomic import NotWrittenError, replaced
from vmae_jax.weights.formats.torch_write import write_pth

STATE = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.ones((2, 1, 3), np.float16),
    "brain": np.full((4,), 1.5, ml_dtypes.bfloat16),
    "scalar": np.array(7, np.float32),
    "none": np.zeros((0, 3), np.float32),
    "count": np.arange(3),
}


def assert_same(state, expected):
    assert set(state) == set(expected)
    for name, array in expected.items():
        assert state[name].dtype == array.dtype
        np.testing.assert_array_equal(state[name], array)


def test_pth_there_and_back(tmp_path):
    transposed = {**STATE, "strided": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    write_pth(
        tmp_path / "x.pth", {"model": transposed, "epoch": 3, "big": 1 << 40, "vmae_jax": {"heads": 2, "name": "é"}}
    )
    contents = torch_file.read_pth(tmp_path / "x.pth")
    assert_same(contents["model"], transposed)
    assert (contents["epoch"], contents["big"], contents["vmae_jax"]) == (3, 1 << 40, {"heads": 2, "name": "é"})
    file = tensors.read_file(tmp_path / "x.pth")
    assert file.other == ("epoch", "big")
    assert file.about == {"heads": 2, "name": "é"}


@pytest.mark.torch
def test_pytorch_reads_it_safely_and_we_read_pytorchs(tmp_path):
    torch = pytest.importorskip("torch")
    write_pth(tmp_path / "x.pth", {"model": STATE})
    state = torch.load(tmp_path / "x.pth", weights_only=True)["model"]
    assert_same(
        {k: v.numpy() for k, v in state.items() if k != "brain"}, {k: v for k, v in STATE.items() if k != "brain"}
    )
    assert state["brain"].dtype == torch.bfloat16
    torch.save({"module": state, "optimizer": {}, "epoch": 1}, tmp_path / "y.pth")
    assert_same(tensors.read_file(tmp_path / "y.pth").state, STATE)


def test_safetensors_there_and_back(tmp_path):
    tensors.write_safetensors(tmp_path / "x.safetensors", STATE, {"heads": 2})
    file = tensors.read_file(tmp_path / "x.safetensors")
    assert_same(file.state, STATE)
    assert file.about == {"format": "pt", "heads": 2}


def shards(folder, **places):
    tensors.write_safetensors(folder / "1.safetensors", {"a": STATE["a.weight"]}, {})
    tensors.write_safetensors(folder / "2.safetensors", {"b": STATE["half"]}, {})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"} | places}))
    return index


def test_shards(tmp_path):
    index = shards(tmp_path)
    expected = {"a": STATE["a.weight"], "b": STATE["half"]}
    assert_same(tensors.read_file(index).state, expected)
    assert_same(tensors.read_file(tmp_path).state, expected)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"b": "../2.safetensors"}, "not a plain file"),
        ({"b": "/etc/passwd"}, "not a plain file"),
        ({"b": ".."}, "not a plain file"),
        ({"b": "link.safetensors"}, "link out of its folder"),
        ({"c": "2.safetensors"}, "c is in none of its files"),
        ({"b": "1.safetensors"}, "b is in none of its files"),
        ({"b": "3.safetensors"}, "no such file"),
    ],
)
def test_an_index_stays_in_its_folder(tmp_path, places, message):
    (tmp_path / "in").mkdir()
    tensors.write_safetensors(tmp_path / "2.safetensors", {"b": STATE["half"]}, {})
    (tmp_path / "in" / "link.safetensors").symlink_to(tmp_path / "2.safetensors")
    with pytest.raises(tensors.UnreadableFileError, match=message):
        tensors.read_file(shards(tmp_path / "in", **places))


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["VMAE_TEST_EVIL"],)


def pickled(path, value):
    data = io.BytesIO()
    pickle.dump(value, data, protocol=2)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data.getvalue())
    return path


def test_a_pickle_that_would_run_code_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("VMAE_TEST_EVIL", str(tmp_path / "made"))
    with pytest.raises(tensors.UnreadableFileError, match=r"posix\.mkdir.*nothing was run") as error:
        tensors.read_file(pickled(tmp_path / "x.pth", {"model": Evil()}))
    assert not (tmp_path / "made").exists()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated(tmp_path, suffix, share):
    path = tmp_path / f"x.{suffix}"
    if suffix == "pth":
        write_pth(path, {"model": STATE})
    else:
        tensors.write_safetensors(path, STATE, {})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(tensors.UnreadableFileError) as error:
        tensors.read_file(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_which_entry(tmp_path):
    average = {"a.weight": STATE["a.weight"] + 1}
    write_pth(tmp_path / "x.pth", {"model": {"a.weight": STATE["a.weight"]}, "model_ema": average})
    assert_same(tensors.read_file(tmp_path / "x.pth").state, {"a.weight": STATE["a.weight"]})
    assert_same(tensors.read_file(tmp_path / "x.pth", key="model_ema").state, average)
    with pytest.raises(tensors.UnreadableFileError, match="no weights under 'teacher'; it has model, model_ema"):
        tensors.read_file(tmp_path / "x.pth", key="teacher")
    write_pth(tmp_path / "y.pth", {"epoch": 3})
    with pytest.raises(tensors.UnreadableFileError, match="no tensors in it"):
        tensors.read_file(tmp_path / "y.pth")
    with pytest.raises(tensors.UnreadableFileError, match="no such file"):
        tensors.read_file(tmp_path / "z.pth")


def fail(out, error):
    with replaced(out) as new:
        new.mkdir()
        (new / "file").write_text("half")
        raise error


def test_replaced_is_whole_or_absent(tmp_path):
    out = tmp_path / "export"
    for text in ("one", "two"):
        with replaced(out) as new:
            new.mkdir()
            (new / "file").write_text(text)
        assert (out / "file").read_text() == text
    with pytest.raises(RuntimeError):
        fail(out, RuntimeError())
    for error in (OSError(28, "No space left on device"), ValueError("I/O error: No space left (os error 28)")):
        with pytest.raises(NotWrittenError, match="the disk is full; what was there before is as it was"):
            fail(out, error)
    assert (out / "file").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    with pytest.raises(NotWrittenError, match="local path"), replaced("gs://bucket/export"):
        pass


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_replaced_files_have_the_mode_of_new_ones(tmp_path, mask):
    """Also those that a library wrote through a private temporary file."""
    before = os.umask(mask)
    try:
        with replaced(tmp_path / "folder") as new:
            (new / "deep").mkdir(parents=True)
            for name in ("private", "deep/open"):
                (new / name).write_text("x")
                (new / name).chmod(0o600 if name == "private" else 0o777)
        with replaced(tmp_path / "file") as new:
            new.write_text("x")
            new.chmod(0o600)
    finally:
        os.umask(before)
    for name in ("folder/private", "folder/deep/open", "file"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_reference_library_reads_ours_and_we_read_its(tmp_path):
    tensors.write_safetensors(tmp_path / "ours.safetensors", STATE, {"heads": 2})
    assert_same(safetensors.numpy.load_file(tmp_path / "ours.safetensors"), STATE)
    safetensors.numpy.save_file(STATE, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert_same(tensors.read_file(tmp_path / "theirs.safetensors").state, STATE)
    with pytest.raises(ValueError, match="no dtype complex64"):
        tensors.write_safetensors(tmp_path / "no.safetensors", {"a": np.zeros(1, np.complex64)}, {})
