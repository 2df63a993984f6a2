"""Checkpoints: exact on every mesh, whole or absent, damage seen and passed over."""

import contextlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import struct
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vmae_jax.io import checkpoint, layout, steps
from vmae_jax.io.checkpoint import (
    Checkpoints,
    DamagedCheckpointError,
    NotFiniteError,
    SaveError,
    locate,
    read_meta,
    read_tree,
)
from vmae_jax.spec import ConfigError

# Reads that Orbax started and nobody awaits end after its event loop did.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@struct.dataclass
class State:
    """The fields of the trainer's state."""

    step: Any
    params: Any
    opt_state: Any
    extra: Any
    frozen: Any
    first_bad_step: Any


def make(step: int = 3, width: int = 16) -> State:
    rng = np.random.default_rng(step)
    params = {
        "encoder": {"kernel": rng.standard_normal((width, 8)).astype(np.float32), "bias": np.ones(8, np.float32)},
        "half": jnp.asarray(rng.standard_normal(24), jnp.bfloat16),
        "nothing": np.zeros((0, 4), np.float32),
    }
    params = jax.tree.map(jnp.asarray, params)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    extra = {
        "ema": params,
        "queue": [jnp.int8(3), jnp.arange(5)],
        "key": jax.random.key(step),
        "none": None,
        "empty": {},
    }
    return State(jnp.int32(step), params, tx.init(params), extra, None, jnp.int32(-1))


def mesh_of(*sizes: int) -> jax.sharding.Mesh:
    devices = jax.devices()[: int(np.prod(sizes))]
    return jax.make_mesh(sizes, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=devices)


def on(mesh: jax.sharding.Mesh, state: State) -> State:
    def place(leaf):
        spec = P(("data", "fsdp"), "tensor") if leaf.ndim == 2 and leaf.size else P()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, state)


def abstract(state: State) -> State:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def data(leaf) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def assert_equal(one: State, other: State) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(data(a), data(b))


def saved(path: pathlib.Path, *steps: int, **options) -> Checkpoints:
    checkpoints = Checkpoints(path, **options)
    for step in steps:
        assert checkpoints.save(step, make(step), {"position": step})
    checkpoints.wait()
    return checkpoints


def payload(step: pathlib.Path) -> list[pathlib.Path]:
    """The files that hold the arrays, the largest first."""
    files = [file for file in step.glob("state/d/*") if file.is_file()]
    return sorted(files, key=lambda file: -file.stat().st_size)


def flip(file: pathlib.Path, *, seed: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 0x10
    file.write_bytes(content)


def test_round_trip_over_meshes(tmp_path):
    state = make()
    with_mesh = on(mesh_of(4, 2, 1), state)
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.latest() is None
    assert not (tmp_path / "c").exists()
    checkpoints.save(3, with_mesh, {"position": 12, "name": "ü"})
    assert checkpoints.wait() == [3]
    assert checkpoints.wait() == []
    for mesh in (mesh_of(1, 1, 1), mesh_of(2, 2, 2), mesh_of(1, 8, 1)):
        target = on(mesh, jax.tree.map(lambda x: x, state))
        restored = Checkpoints(tmp_path / "c").restore(abstract(target))
        assert_equal(restored.state, state)
        assert (restored.step, restored.meta, restored.skipped) == (3, {"position": 12, "name": "ü"}, [])
        for got, want in zip(jax.tree.leaves(restored.state), jax.tree.leaves(target), strict=True):
            assert got.sharding.is_equivalent_to(want.sharding, got.ndim)
    plain = jax.eval_shape(lambda: state)  # no shardings: this process's first device
    assert_equal(Checkpoints(tmp_path / "c").restore(plain).state, state)
    checkpoints.close()


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (4, 1, 1), (1, 2, 2), (2, 2, 1)])
def test_saved_on_eight_devices_restored_on_fewer(eight, sizes):
    """fsdp x data x tensor on 8 devices -> 1, 2 and 4, every leaf and its fingerprint."""
    path, state = eight
    target = on(mesh_of(*sizes), state)
    restored = Checkpoints(path).restore(abstract(target))
    assert_equal(restored.state, state)
    for got, want in zip(jax.tree.leaves(restored.state), jax.tree.leaves(target), strict=True):
        assert got.sharding.is_equivalent_to(want.sharding, got.ndim)


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    path = tmp_path_factory.mktemp("eight")
    state = make()
    checkpoints = Checkpoints(path)
    checkpoints.save(3, on(mesh_of(2, 2, 2), state), {})
    checkpoints.close()
    return path, state


def test_read_tree_of_any_part(tmp_path):
    state = on(mesh_of(2, 2, 2), make())
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(7, state, {"a": 1})
    checkpoints.close()
    for path in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "7"):
        encoder = read_tree(path, select="params/encoder")
        assert encoder.keys() == {"kernel", "bias"}
        assert isinstance(encoder["kernel"], np.ndarray)
        np.testing.assert_array_equal(encoder["kernel"], state.params["encoder"]["kernel"])
        assert read_meta(path) == {"a": 1}
    params = read_tree(tmp_path)
    assert params["half"].dtype == jnp.bfloat16
    assert params["nothing"].shape == (0, 4)
    np.testing.assert_array_equal(read_tree(tmp_path, select="extra/key"), jax.random.key_data(state.extra["key"]))
    assert read_tree(tmp_path, select="").keys() == {"step", "params", "opt_state", "extra", "first_bad_step"}
    with pytest.raises(ConfigError, match=r"no 'params/enc'; it has .*params/encoder"):
        read_tree(tmp_path, select="params/enc")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no checkpoint"):
        read_tree(tmp_path / "empty")
    with pytest.raises(ConfigError, match="there is no such folder"):
        read_tree(tmp_path / "nowhere")


def test_retention_and_deletion(tmp_path):
    checkpoints = saved(tmp_path, 1, 2, 4, 5, 6, 8, 9, keep_last=2, keep_every=4)
    assert checkpoints.steps() == [4, 8, 9]
    assert not (tmp_path / "trash").exists()
    checkpoints.close()
    assert Checkpoints(tmp_path).latest() == 9


def test_a_step_is_saved_once(tmp_path):
    checkpoints = saved(tmp_path, 5)
    assert not checkpoints.save(5, make(5), {})
    assert checkpoints.wait() == []
    checkpoints.close()


def test_what_was_restored_need_not_be_saved(tmp_path):
    saved(tmp_path, 5).close()
    again = Checkpoints(tmp_path)
    again.restore(jax.eval_shape(lambda: make()))
    assert not again.save(5, make(5), {})
    assert again.save(6, make(6), {})
    again.close()
    assert again.steps() == [5, 6]
    assert not (tmp_path / "aside").exists()


def test_numbers_and_host_arrays(tmp_path):
    state = {"temperature": 0.1, "count": 3, "host": np.arange(4.0), "yes": True}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {})
    checkpoints.close()
    restored = Checkpoints(tmp_path).restore(state).state
    assert {name: str(leaf.dtype) for name, leaf in restored.items()} == {
        "temperature": "float32", "count": "int32", "host": "float32", "yes": "bool",
    }  # fmt: skip
    np.testing.assert_array_equal(restored["host"], np.arange(4.0))
    assert read_tree(tmp_path, select="temperature") == np.float32(0.1)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_are_found_and_passed_over(tmp_path, seed):
    saved(tmp_path, 10, 20).close()
    flip(payload(tmp_path / "20")[0], seed=seed)
    target = jax.eval_shape(lambda: make())
    reader = Checkpoints(tmp_path)
    restored = reader.restore(target)
    assert restored.step == 10
    assert [step for step, _ in restored.skipped] == [20]
    assert_equal(restored.state, make(10))
    with pytest.raises(DamagedCheckpointError, match="step 20"):
        reader.restore(target, step=20)
    np.testing.assert_array_equal(read_tree(tmp_path)["half"], make(10).params["half"])
    with pytest.raises(DamagedCheckpointError):
        read_tree(tmp_path / "20", select="")


def test_going_on_after_damage_moves_it_aside(tmp_path):
    saved(tmp_path, 10, 20).close()
    flip(payload(tmp_path / "20")[0])
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore(jax.eval_shape(lambda: make())).step == 10
    checkpoints.save(15, make(15), {})
    checkpoints.save(20, make(20), {})
    checkpoints.close()
    assert checkpoints.steps() == [10, 15, 20]
    assert [entry.name for entry in (tmp_path / "aside").iterdir()] == ["20-0"]
    assert Checkpoints(tmp_path).restore(jax.eval_shape(lambda: make())).step == 20


def test_abandoned_steps_are_moved_aside_and_can_be_saved_again(tmp_path):
    with contextlib.closing(saved(tmp_path, 10, 20, 30)) as checkpoints:
        assert [checkpoints.latest(before=step) for step in (10, 11, 20, 99)] == [None, 10, 10, 30]
        checkpoints.abandon(20)
        assert checkpoints.steps() == [10]
        assert sorted(entry.name for entry in (tmp_path / "aside").iterdir()) == ["20-0", "30-0"]
        assert checkpoints.restore(abstract(make())).step == 10
        assert checkpoints.save(20, make(21), {"position": 20})
        checkpoints.wait()
        assert_equal(checkpoints.restore(abstract(make())).state, make(21))


def test_going_on_from_an_earlier_step_keeps_the_later_ones_aside(tmp_path):
    checkpoints = saved(tmp_path, 10, 20, 30)
    checkpoints.restore(jax.eval_shape(lambda: make()), step=10)
    assert checkpoints.save(20, make(20), {})
    checkpoints.close()
    assert checkpoints.steps() == [10, 20]
    assert sorted(entry.name for entry in (tmp_path / "aside").iterdir()) == ["20-0", "30-0"]


@pytest.mark.parametrize(
    "victim",
    ["_CHECKPOINT_METADATA", "meta/metadata", "state/_METADATA", "state/manifest.ocdbt", "state", "meta", "payload"],
)
def test_half_deleted_steps(tmp_path, victim):
    saved(tmp_path, 1, 2).close()
    gone = payload(tmp_path / "2")[0] if victim == "payload" else tmp_path / "2" / victim
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    reader = Checkpoints(tmp_path)
    restored = reader.restore(jax.eval_shape(lambda: make()))
    listed = 2 in reader.steps()
    assert restored.step == (2 if victim == "_CHECKPOINT_METADATA" else 1)  # not needed to read it
    assert_equal(restored.state, make(restored.step))
    assert listed == (victim in ("_CHECKPOINT_METADATA", "payload"))


def test_truncated_and_edited_documents_are_damage(tmp_path):
    saved(tmp_path, 1, 2, 3).close()
    target = jax.eval_shape(lambda: make())
    document = tmp_path / "3" / "meta" / "metadata"
    text = document.read_text()
    assert json.loads(text)["meta"] == {"position": 3}
    document.write_text(text.replace('"position": 3', '"position": 4').replace('"position":3', '"position":4'))
    file = payload(tmp_path / "2")[0]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    restored = Checkpoints(tmp_path).restore(target)
    assert restored.step == 1
    assert "digest" in restored.skipped[0][1]
    flip(payload(tmp_path / "1")[0])
    with pytest.raises(DamagedCheckpointError, match=r"no readable checkpoint.*step 3.*step 2.*step 1"):
        Checkpoints(tmp_path).restore(target)


def test_another_config_is_distinguished_from_damage(tmp_path):
    saved(tmp_path, 1, 2).close()
    reader = Checkpoints(tmp_path)
    with pytest.raises(ConfigError, match=r"params/encoder/kernel is float32\[16, 8\] there, float32\[32, 8\] here"):
        reader.restore(jax.eval_shape(lambda: make(width=32)))
    half = jax.eval_shape(lambda: make())
    half = half.replace(params=half.params | {"half": jax.ShapeDtypeStruct((24,), jnp.float32)})
    with pytest.raises(ConfigError, match=r"params/half is bfloat16\[24\] there, float32\[24\] here"):
        reader.restore(half)
    more = half.replace(params=half.params | {"more": jax.ShapeDtypeStruct((2,), jnp.float32)})
    with pytest.raises(ConfigError, match="params/more is missing there"):
        reader.restore(more)
    less = half.replace(extra={})
    with pytest.raises(ConfigError, match=r"extra/ema/.* is not known here.*more"):
        reader.restore(less)
    with pytest.raises(ConfigError, match="no checkpoint 9; it has 1, 2"):
        reader.restore(half, step=9)
    with pytest.raises(ConfigError, match="has no checkpoint"):
        Checkpoints(tmp_path / "none").restore(half)


def test_nothing_that_is_not_finite_is_written(tmp_path):
    checkpoints = saved(tmp_path, 1)
    state = make(2)
    bad = state.replace(extra=state.extra | {"ema": {"x": jnp.array([1.0, jnp.nan])}})
    with pytest.raises(NotFiniteError, match=r"step 2 .*extra/ema/x has 1 values"):
        checkpoints.save(2, bad, {})
    assert checkpoints.steps() == [1]
    checkpoints.close()
    loose = Checkpoints(tmp_path, check_finite=False)
    assert loose.save(2, bad, {})
    assert loose.wait() == [2]
    loose.close()


def test_a_save_survives_the_donation_of_its_arrays(tmp_path):
    step = jax.jit(lambda x: x * 1.5 + 1.0, donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    x = jnp.arange(1 << 20, dtype=jnp.float32)
    checkpoints.save(1, {"x": x}, {})
    for _ in range(5):
        x = step(x)
    jax.block_until_ready(x)
    checkpoints.close()
    np.testing.assert_array_equal(read_tree(tmp_path, select="x"), np.arange(1 << 20, dtype=np.float32))


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_full_disk_is_reported_and_the_last_good_step_stays(tmp_path, asynchronous):
    """A limit on file sizes replaces a full disk: the same writes fail, also for root."""
    checkpoints = saved(tmp_path, 1, asynchronous=asynchronous)
    big = {"x": jnp.asarray(np.random.default_rng(0).standard_normal(1 << 18), jnp.float32)}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limit[1]))
    try:
        with pytest.raises(SaveError, match="step 2 was not saved"):  # noqa: PT012
            checkpoints.save(2, big, {})
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert checkpoints.steps() == [1]
    assert checkpoints.poll() == []
    assert checkpoints.save(3, big, {})  # there is room again
    assert checkpoints.wait() == [3]
    checkpoints.close()
    assert checkpoints.steps() == [1, 3]
    assert not list(tmp_path.glob("*tmp*"))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    with pytest.raises(SaveError, match=r"step 1 was not saved in .*file/checkpoints"):
        checkpoints.save(1, make(), {})


def test_poll_shows_what_is_committed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make(), {})
    result = []
    for _ in range(500):
        result += checkpoints.poll()
        if result:
            break
        time.sleep(0.01)
    assert result == [1]
    assert checkpoints.steps() == [1]
    checkpoints.close()


def test_a_slow_store_is_reported_at_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(checkpoint, "SLOW", 0.0)
    checkpoints = saved(tmp_path, 1)
    checkpoints.save(2, make(2), {})
    finish = ocp.CheckpointManager.wait_until_finished

    def slow(manager):
        time.sleep(0.3)
        finish(manager)

    monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", slow)
    monkeypatch.setattr(ocp.CheckpointManager, "is_saving_in_progress", lambda manager: True)
    with caplog.at_level("WARNING"):
        checkpoints.save(3, make(3), {})
    assert any("step 2 is still being written after" in record.getMessage() for record in caplog.records)
    checkpoints.close()
    assert checkpoints.steps() == [1, 2, 3]


def test_bad_retention_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="keep_last and keep_every must be at least 1, got 0 and"):
        Checkpoints(tmp_path, keep_last=0)


_SAVER = """
import sys
sys.path[:0] = [{root!r}, {here!r}]
import jax.numpy as jnp
from vmae_jax.io.checkpoint import Checkpoints
c = Checkpoints({path!r}, keep_last=2)
print("ready", flush=True)
for step in range((c.latest() or 0) + 1, 10000):
    c.save(step, {{"x": jnp.full((300, 1000), step, jnp.float32), "y": [jnp.int32(step)] * 20}}, {{"s": step}})
"""


@pytest.mark.slow
def test_kill_at_any_moment_leaves_whole_steps(tmp_path):
    """SIGKILL during saves and deletions: every listed step restores exactly."""
    root = pathlib.Path(checkpoint.__file__).parents[2]
    code = _SAVER.format(root=str(root), here=str(pathlib.Path(__file__).parent), path=str(tmp_path))
    rng = random.Random(0)
    newest = 0
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ.copy())
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        end = time.monotonic() + 120
        while not Checkpoints(tmp_path).steps() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(rng.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        steps = Checkpoints(tmp_path).steps()
        assert steps
        assert max(steps) >= newest
        newest = max(steps)
        for step in steps:
            assert read_meta(tmp_path / str(step)) == {"s": step}
            tree = read_tree(tmp_path / str(step), select="")
            assert (tree["x"] == step).all()
            assert tree["y"]["19"] == step


def forged(path: pathlib.Path, step: int, change) -> None:
    """The signed table of leaves of a step, changed and signed again, as a stranger may."""
    document = path / str(step) / "meta" / "metadata"
    body = json.loads(document.read_text())
    del body["digest"]
    change(body)
    document.write_text(json.dumps(body | {"digest": layout._digest(body)}))


ROWS = {
    "object": ["object", [3], "00000000"],
    "object, empty": ["object", [0, 3], "00000000"],
    "no dtype": ["no such", [3], "00000000"],
    "a list for a dtype": [["float32"], [3], "00000000"],
    "a key, empty": ["key<fry>", [0], "00000000"],
    "huge": ["float32", [1 << 40, 1 << 40], "00000000"],
    "huge, empty": ["float32", [0, 1 << 62], "00000000"],
    "negative": ["float32", [-1], "00000000"],
    "many dimensions": ["float32", [1] * 100, "00000000"],
    "a word for a size": ["float32", ["3"], "00000000"],
    "true for a size": ["float32", [True], "00000000"],
    "no shape": ["float32", 3, "00000000"],
    "a number for a fingerprint": ["float32", [3], 5],
    "too short": ["float32", [3]],
    "no row": 7,
}


@pytest.mark.parametrize("name", ROWS)
def test_a_hostile_row_of_the_table_is_damage(tmp_path, name):
    saved(tmp_path, 1, 2).close()
    forged(tmp_path, 2, lambda body: body["leaves"].update({"params/more": ROWS[name]}))
    restored = Checkpoints(tmp_path).restore(jax.eval_shape(lambda: make()))
    assert (restored.step, [step for step, _ in restored.skipped]) == (1, [2])
    np.testing.assert_array_equal(read_tree(tmp_path)["encoder"]["bias"], np.ones(8, np.float32))
    with pytest.raises(DamagedCheckpointError, match="no readable checkpoint"):
        read_tree(tmp_path / "2")


def test_names_that_contradict_each_other_are_damage(tmp_path):
    saved(tmp_path, 1, 2).close()
    forged(tmp_path, 2, lambda body: body["leaves"].update({"params/half/inside": ["float32", [3], "00000000"]}))
    with pytest.raises(DamagedCheckpointError, match="is inside another leaf"):
        read_tree(tmp_path, step=2)


def test_an_array_larger_than_the_table_has_it_is_not_read(tmp_path):
    """The table has a smaller shape than the store's own files, which decide how much memory is taken."""
    saved(tmp_path, 1).close()
    forged(tmp_path, 1, lambda body: body["leaves"]["params/encoder/kernel"].__setitem__(1, [2, 8]))
    with pytest.raises(DamagedCheckpointError, match=r"stored with the shape \[16, 8\].*saved as float32\[2, 8\]"):
        read_tree(tmp_path)


def test_more_than_the_memory_of_the_machine_is_refused_before_it_is_read(tmp_path):
    saved(tmp_path, 1).close()
    forged(tmp_path, 1, lambda body: body["leaves"]["params/encoder/kernel"].__setitem__(1, [1 << 24, 1 << 24]))
    with pytest.raises(ConfigError, match=r"declares 1048576\.0 GiB of arrays, and this machine has"):
        read_tree(tmp_path)


def test_what_is_not_named_as_a_step_is_in_no_steps_way(tmp_path):
    saved(tmp_path, 1, 2).close()
    for name in ("²", "007", "+5", " 5", "1٣", "3_000", "-1", "9" * 30):
        shutil.copytree(tmp_path / "2", tmp_path / name)
    for name in ("5", "6"):
        (tmp_path / name).write_text("a file in place of a folder")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [1, 2]
    assert checkpoints.restore(jax.eval_shape(lambda: make())).step == 2
    assert locate(tmp_path) == (checkpoints.path, None)
    for step in (5, 9):
        assert checkpoints.save(step, make(step), {})
    assert checkpoints.wait() == [5, 9]
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [2, 5, 9]
    assert (tmp_path / "aside" / "5-0").read_text() == "a file in place of a folder"
    assert (tmp_path / "007" / "meta" / "metadata").exists()
    assert (tmp_path / "aside" / "1٣-0" / "meta" / "metadata").exists()


def test_a_step_that_may_not_be_looked_at_is_passed_over(tmp_path, monkeypatch, caplog):
    saved(tmp_path, 1, 2).close()
    whole = steps._whole

    def look(step):
        if step.name == "2":
            raise PermissionError(13, "Permission denied", str(step))
        return whole(step)

    monkeypatch.setattr(steps, "_whole", look)
    assert Checkpoints(tmp_path).steps() == [1]
    assert "a step is skipped" in caplog.text


def test_a_file_where_the_checkpoints_should_be(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    assert Checkpoints(tmp_path / "checkpoints").steps() == []
    with pytest.raises(ConfigError, match="has no checkpoint"):
        locate(tmp_path)
    with pytest.raises(ConfigError, match=r"checkpoint .*checkpoints is a file: name a folder"):
        locate(tmp_path / "checkpoints")
    with pytest.raises(ConfigError, match=r"checkpoint .*absent: there is no such folder"):
        locate(tmp_path / "absent")
