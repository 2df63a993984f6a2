"""Beginning from other weights: every array is loaded, kept or unused, and reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_method import spec_of, toy, toy_batch, toy_tx

from vmae_jax import spec
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding
from vmae_jax.train.init_from import Change, apply, graft, weights
from vmae_jax.train.state import make_init

PARAMS = {
    "encoder": {"embed": {"kernel": np.zeros((2, 3), np.float32)}, "norm": {"scale": np.zeros(3, np.float32)}},
    "head": {"kernel": np.zeros((3, 4), np.float32)},
}


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def test_every_array_is_accounted_for():
    tree = {"embed": {"kernel": ones(2, 3, dtype=np.float64)}, "cls": {"token": ones(3)}}
    params, report = graft({"params": PARAMS}, "params/encoder", tree)
    new = params["params"]
    assert new["encoder"]["embed"]["kernel"].dtype == np.float32
    assert new["encoder"]["embed"]["kernel"].all()
    assert new["encoder"]["norm"]["scale"] is PARAMS["encoder"]["norm"]["scale"]
    assert new["head"] == PARAMS["head"]
    assert report.loaded == ("embed/kernel",)
    assert report.kept == {"norm/scale": "not in the weights"}
    assert report.unused == {"cls/token": "not in the model"}
    assert str(report).splitlines() == [
        "params/encoder: 1 arrays loaded, 1 as initialized, 1 unused",
        "  as initialized: norm/scale",
        "  unused: cls/token",
    ]
    assert report.record() == {
        "weights": None,
        "arrays": {"embed/kernel": {"became": "as is"}, "norm/scale": {"became": "fresh", "how": "not in the weights"}},
        "unused": {"cls/token": "not in the model"},
    }


def test_the_whole_tree_at_the_root():
    params, report = graft(PARAMS, "", jax.tree.map(np.ones_like, PARAMS))
    assert all(leaf.all() for leaf in jax.tree.leaves(params))
    assert len(report.loaded) == 3
    assert not report.kept
    assert not report.unused


def test_other_shapes_are_an_error_and_can_be_skipped():
    tree = {**jax.tree.map(np.ones_like, PARAMS), "head": {"kernel": ones(3, 7)}}
    with pytest.raises(ConfigError, match=r"head/kernel is float32\[3, 7\], the model's float32\[3, 4\] \(skip"):
        graft(PARAMS, "", tree)
    _, report = graft(PARAMS, "", tree, skip=["head"])
    assert report.kept == report.unused == {"head/kernel": "left out by skip"}
    with pytest.raises(ConfigError, match="skip='tail' matches nothing"):
        graft(PARAMS, "", tree, skip=["tail"])


def test_many_offenders_are_counted():
    params = {f"w{i}": ones(2) for i in range(9)}
    with pytest.raises(ConfigError, match=r"w4 is .* and 4 more"):
        graft(params, "", {name: ones(3) for name in params})
    with pytest.raises(ConfigError, match=r"w0 is int32\[2\], the model's float32\[2\]"):
        graft(params, "", {"w0": np.ones(2, np.int32)})


def test_nothing_that_fits_is_an_error():
    with pytest.raises(ConfigError, match=r"nothing at 'params/enc'; there are params/encoder, params/head"):
        graft({"params": PARAMS}, "params/enc", {"embed": {"kernel": ones(2, 3)}})
    with pytest.raises(ConfigError, match=r"nothing fits at 'encoder'.*encoder/embed/kernel.*select"):
        graft(PARAMS, "encoder", PARAMS)


@pytest.mark.parametrize("ici", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_a_state_begins_from_weights_where_it_lives(ici):
    method, batch = toy(), toy_batch()

    def teacher(key, batch):
        return {"teacher": method.init(key, batch)[0]}

    init = make_init(method, toy_tx(method, batch), ema=True, frozen=teacher)
    abstract = sharding.abstract(init, spec_of(batch))
    placement = sharding.shardings(abstract, sharding.make_mesh(ici))
    zeros = jax.jit(lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sharding.unbox(abstract)))()
    state = jax.device_put(zeros, placement.shardings)
    full = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), state.params)
    asked = []

    def read(record):
        asked.append(record)
        tree = full["encoder"] if record.select == "params/encoder" else full
        return tree, {"embed/kernel": Change("resized", "from a to b"), "elsewhere": Change("resized", "")}

    wanted = {"params/encoder": weights("a", select="params/encoder"), "frozen/teacher": weights("b", ema=True)}
    new, reports = apply(state, wanted, read)
    assert asked == list(wanted.values())
    assert [report.at for report in reports] == list(wanted)
    assert reports[0].record()["arrays"]["embed/kernel"] == {"became": "resized", "how": "from a to b"}
    assert reports[0].record()["weights"] == {"path": "a", "select": "params/encoder"} | {
        "ema": False, "skip": (), "old_labels": None, "new_labels": None, "channels": "cycle",
        "then": None,
    }  # fmt: skip
    assert not reports[1].changed
    jax.tree.map(np.testing.assert_array_equal, new.params["encoder"], full["encoder"])
    jax.tree.map(np.testing.assert_array_equal, new.extra["ema"], new.params)
    jax.tree.map(np.testing.assert_array_equal, new.frozen["teacher"], full)
    assert not np.any(new.params["head"]["kernel"])
    there = jax.tree.map(lambda x, place: x.sharding.is_equivalent_to(place, x.ndim), new, placement.shardings)
    assert all(jax.tree.leaves(there))
    kernel, average = (tree["encoder"]["embed"]["kernel"] for tree in (new.params, new.extra["ema"]))
    kernel.delete()  # the average is a copy: the step gives both away
    assert not average.is_deleted()


def test_places_and_arguments():
    with pytest.raises(ConfigError, match="there is no place 'extra/x'"):
        apply(make_state(), {"extra/x": weights("a")}, lambda record: (PARAMS, {}))
    with pytest.raises(ConfigError, match="nothing at 'frozen/teacher'"):
        apply(make_state(), {"frozen/teacher": weights("a")}, lambda record: (PARAMS, {}))
    for arguments, message in (
        ({"path": ""}, "path"),
        ({"path": "a", "select": "opt_state"}, "select"),
        ({"path": "a", "then": "opt_state"}, "then must be a part"),
        ({"path": "a", "skip": "head"}, "list of patterns"),
        ({"path": "a", "channels": "odd"}, "channels='odd': expected one of cycle, keep"),
    ):
        with pytest.raises(ValueError, match=message):
            weights(**arguments)
    config = spec.call("train.init_from.weights", path="runs/a", skip=["head"])
    assert spec.build(spec.from_json(spec.to_json(config))) == weights("runs/a", skip=["head"])


def make_state():
    method, batch = toy(), toy_batch()
    state = jax.eval_shape(make_init(method, toy_tx(method, batch)), jax.random.key(0), batch)
    return sharding.unbox(state)
