"""A teacher is stored once for all checkpoints, found by its bits, and read back wherever a step is."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vmae_jax.io import shared
from vmae_jax.io.checkpoint import Checkpoints, DamagedCheckpointError, read_tree


def state(step, teacher=0):
    random = np.random.default_rng(teacher)
    weights = {"kernel": random.normal(size=(64, 256)).astype(np.float32), "nothing": np.zeros((0, 2), np.float32)}
    return {
        "step": jnp.int32(step),
        "params": {"kernel": jnp.full((8, 4), float(step))},
        "frozen": {"teacher": jax.tree.map(jnp.asarray, weights)},
    }


def save(folder, *states):
    saver = Checkpoints(folder, keep_last=9, asynchronous=False)
    for one in states:
        saver.save(int(one["step"]), one, {})
    saver.close()


def folders(path):
    root = pathlib.Path(path) / "shared"
    return sorted(entry.name for entry in root.iterdir()) if root.exists() else []


def size(path):
    return sum(file.stat().st_size for file in pathlib.Path(path).rglob("*") if file.is_file())


def test_once_for_all_steps_and_read_from_each(tmp_path):
    save(tmp_path, state(1), state(2))
    [one] = folders(tmp_path)
    assert size(tmp_path / "shared" / one) > 60_000 > size(tmp_path / "1")  # the teacher alone has 65,536 bytes
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    place = lambda leaf: NamedSharding(mesh, P("data") if leaf.ndim and leaf.shape[0] % 8 == 0 and leaf.size else P())  # noqa: E731
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place(leaf)), state(0))
    for step in (1, 2):
        found = Checkpoints(tmp_path).restore(target, step).state
        jax.tree.map(np.testing.assert_array_equal, found, state(step))
        kernel = found["frozen"]["teacher"]["kernel"]
        assert kernel.sharding == place(kernel)
    part = read_tree(tmp_path, select="frozen/teacher", step=1)
    np.testing.assert_array_equal(part["kernel"], state(1)["frozen"]["teacher"]["kernel"])
    assert set(read_tree(tmp_path, select="")) == {"step", "params", "frozen"}


def test_another_teacher_is_another_folder_and_no_teacher_none(tmp_path):
    save(tmp_path / "a", state(1))
    save(tmp_path / "a", state(1, teacher=1))  # the abandoned step is set aside
    assert len(folders(tmp_path / "a")) == 2
    np.testing.assert_array_equal(
        read_tree(tmp_path / "a", select="frozen/teacher/kernel"), state(1, teacher=1)["frozen"]["teacher"]["kernel"]
    )
    save(tmp_path / "b", state(1) | {"frozen": {}})
    assert folders(tmp_path / "b") == []


def test_a_teacher_that_is_damaged_or_gone_is_reported(tmp_path):
    save(tmp_path, state(1))
    [one] = folders(tmp_path)
    data = max((tmp_path / "shared" / one).rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2] + bytes(64) + whole[len(whole) // 2 + 64 :])
    with pytest.raises(DamagedCheckpointError):
        Checkpoints(tmp_path).restore(state(0))
    np.testing.assert_array_equal(read_tree(tmp_path, select="params/kernel"), np.full((8, 4), 1.0))  # of no concern
    shutil.rmtree(tmp_path / "shared")
    with pytest.raises(DamagedCheckpointError, match=r"shared/\w+, with the frozen networks, is missing"):
        Checkpoints(tmp_path).restore(state(0))


def test_a_checkpoint_that_holds_its_teacher_itself_is_read(tmp_path, monkeypatch):
    """As they were written before."""
    with monkeypatch.context() as patch:
        patch.setattr(shared, "holder", lambda step, table: (step.parent / "shared" / "none", []))
        save(tmp_path, state(1))
    assert folders(tmp_path) == []
    jax.tree.map(np.testing.assert_array_equal, Checkpoints(tmp_path).restore(state(0)).state, state(1))
