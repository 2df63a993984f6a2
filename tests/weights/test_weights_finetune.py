"""Beginning from a run of other clips: resized where they differ, the same bits where not."""

import jax
import numpy as np
import pytest

from vmae_jax.spec import ConfigError, build, call
from vmae_jax.weights import read_resized
from vmae_jax.weights.checkpoint import read_checkpoint
from vmae_jax.weights.subject import fresh_params, subject


def shapes(tree):
    return jax.tree.map(lambda a: a.shape, tree)


def test_the_native_size_is_exact(runs, small):
    params = read_checkpoint(runs["pretraining"]).params
    tree, changed = read_resized(runs["pretraining"], small.config_of())
    jax.tree.map(np.testing.assert_array_equal, tree, params)
    tree, _ = read_resized(runs["pretraining"], small.config_of("classifier"), select="params/encoder")
    jax.tree.map(np.testing.assert_array_equal, tree, params["encoder"])
    assert not changed


@pytest.mark.parametrize("positions", [None, "learned", "separable"])
@pytest.mark.parametrize("new", [{"frames": 8}, {"resolution": 32}, {"patch": 4, "channels": 4}, {"tubelet": 4}])
def test_other_clips(small, tmp_path, caplog, new, positions):
    caplog.set_level("INFO")
    options = {"positions": call(f"models.positions.{positions}")} if positions else {}
    config = small.config_of(**options)
    run = small.write_run(tmp_path / "run", config, small.random_params(config))
    target = small.config_of(**options | new)
    want = fresh_params(subject(target), None)
    tree, changed = read_resized(run, target)
    assert shapes(tree) == shapes(want)
    grids = [build(one.method.model).grid for one in (config, target)]
    computed = positions is None and grids[0] != grids[1]
    assert ("encoder's fixed positions are computed for a grid" in caplog.text) == computed
    cubes_differ = bool({"patch", "channels", "tubelet"} & set(new))
    assert ("encoder/embed/kernel" in changed) == cubes_differ
    assert ("decoder/head_pixels/kernel" in changed) == ("decoder/head_pixels/bias" in changed) == cubes_differ
    encoder, same = read_resized(run, target, select="params/encoder")
    jax.tree.map(np.testing.assert_array_equal, encoder, tree["encoder"])
    assert same == {name.removeprefix("encoder/"): how for name, how in changed.items() if name.startswith("encoder/")}
    for part, (root, name) in {
        "params/encoder/embed": ("encoder", "embed"),
        "params/decoder/head_pixels": ("decoder", "head_pixels"),
    }.items():
        deep, _ = read_resized(run, target, select=part)
        jax.tree.map(np.testing.assert_array_equal, deep, tree[root][name])


def test_one_array_alone_is_reported(runs, small):
    with pytest.raises(ConfigError, match="'params/encoder/embed/kernel' is one array; select 'params/encoder/embed'"):
        read_resized(runs["pretraining"], small.config_of(), select="params/encoder/embed/kernel")


def test_the_average_and_a_bad_rule(small, tmp_path):
    config = small.config_of()
    plain, average = small.random_params(config, 1), small.random_params(config, 2)
    run = small.write_run(tmp_path / "run", config, plain, ema=average)
    tree, _ = read_resized(run, config, select="params/encoder", ema=True)
    jax.tree.map(np.testing.assert_array_equal, tree, average["encoder"])
    with pytest.raises(ConfigError, match="channel rule 'odd'"):
        read_resized(run, small.config_of(channels=4), channels="odd")
