"""RAFT-small in both layouts: imports for guides, and what is refused."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from raft_weights import state_of

from vmae_jax.commands.begin_from import begin_from
from vmae_jax.commands.config import load_config
from vmae_jax.commands.experiment import experiment
from vmae_jax.commands.restore import restore
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding
from vmae_jax.weights import import_weights, load, read_resized
from vmae_jax.weights.flow import params_of
from vmae_jax.weights.formats.tensors import File, write_safetensors
from vmae_jax.weights.layouts.raft import to_raft


def written(path, state):
    write_safetensors(path, {name: np.ascontiguousarray(array) for name, array in state.items()}, {})
    return path


@pytest.mark.parametrize("layout", ["raft", "torchvision"])
def test_there_and_back(layout, tmp_path):
    state = state_of(layout)
    given = {f"module.{name}" if layout == "raft" else name: array for name, array in state.items()}
    found = import_weights(written(tmp_path / "raft.safetensors", given), out=tmp_path / "run")
    assert (found["family"], found["kind"], found["used"], found["parameters"]) == ("raft", "guide", 106, 990_162)
    tree, _ = read_resized(tmp_path / "run", ConfigDict({"method": {}}))
    back = to_raft(tree, layout)
    assert back.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(back[name], array)


def test_a_kernel_is_read_in_its_directions():
    """Rows, columns, inputs, outputs: names of parts that have equal shapes are not exchanged, either."""
    state = state_of("raft")
    params = params_of(File(state, {}))
    kernel = state["update_block.gru.convr.weight"]
    assert params["update"]["reset"]["kernel"][0, 2, 5, 7] == kernel[7, 5, 0, 2]
    np.testing.assert_array_equal(
        params["features"]["layer1_first"]["shortcut"]["bias"], state["fnet.layer2.0.downsample.0.bias"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fnet.layer2.0.downsample.0.bias": None}, r"downsample\.0\.bias is missing from the weights"),
        ({"update_block.mask.0.weight": np.zeros((256, 128, 3, 3))}, r"no place for update_block\.mask\.0\.weight"),
        ({"cnet.conv1.weight": np.zeros((64, 3, 7, 7))}, r"cnet\.conv1\.weight gives .* the small one"),
        ({"fnet.conv2.bias": np.full(128, np.nan)}, r"fnet\.conv2\.bias has 128 values that are not finite"),
        ({"fnet.conv2.weight": np.zeros(7)}, r"fnet\.conv2\.weight gives"),
        ({"module.fnet.conv2.bias": np.zeros(128)}, "two tensors have one name"),
    ],
)
def test_a_part_of_the_weights_or_others_are_one_line(change, message, tmp_path):
    state = {name: array for name, array in {**state_of("raft"), **change}.items() if array is not None}
    with pytest.raises(ConfigError, match=message) as error:
        import_weights(written(tmp_path / "raft.safetensors", state), out=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_what_takes_a_method_refuses_a_guide(tmp_path):
    path = written(tmp_path / "raft.safetensors", state_of("raft"))
    with pytest.raises(ConfigError, match="--fresh and --resize are not possible for weights in RAFT"):
        import_weights(path, out=tmp_path / "run", resize=True)
    import_weights(path, out=tmp_path / "run")
    for use in (restore, load):
        with pytest.raises(ConfigError):
            use(str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="a frozen network without a method: init_from takes them"):
        restore(str(tmp_path / "run"))


@pytest.mark.slow
def test_a_training_begins_with_imported_flow(tmp_path):
    import_weights(written(tmp_path / "raft.safetensors", state_of("torchvision")), out=tmp_path / "run")
    config = load_config(f"configs/mgmae.py:smoke,flow={tmp_path / 'run'}", [("data.source.path", "videos")])
    made = experiment(config, trains=True)
    mesh = sharding.make_mesh({"data": 1}, devices=jax.devices()[:1])
    state, _ = sharding.create(made.make_init(made.optimizer_without_data()), jax.random.key(0), made.batch_spec, mesh)
    state, reports = begin_from(state, made.init_from, config)
    assert len(reports[0].loaded) == 106
    assert not reports[0].kept
    np.testing.assert_array_equal(
        state.frozen["flow"]["features"]["stem"]["bias"], state_of("torchvision")["feature_encoder.convnormrelu.0.bias"]
    )
