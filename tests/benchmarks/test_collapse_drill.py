"""The drill of collapse: what its arms are, and how their results are counted."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import collapse
from benchmarks.collapse_methods import Other
from vmae_jax.commands.collapse import check_watched
from vmae_jax.commands.experiment import experiment
from vmae_jax.masking.multiblock import multiblock
from vmae_jax.methods.latent import Latent
from vmae_jax.models.variants import vit
from vmae_jax.plugins import allow_plugins
from vmae_jax.spec import ConfigError, build, call
from vmae_jax.targets.core import l1
from vmae_jax.train import sharding


@pytest.mark.parametrize("arm", collapse.ARMS)
def test_every_arm_is_an_experiment_that_is_watched(arm):
    allow_plugins(["benchmarks"])
    config = collapse.config(arm, 3)
    config.train.on_collapse = "stop"
    made = experiment(config, trains=True)
    check_watched(made)
    assert (made.seed, made.eval.ema) == (3, arm == "average")
    assert sorted(made.eval.evaluators) == [
        "knn_appearance", "knn_motion", "probe_appearance", "probe_motion", "spectrum",
    ]  # fmt: skip
    assert {"label", "form"} <= made.eval.data.spec().keys()


def test_gradients_reach_the_target_of_one_arm_alone():
    model = vit("micro", frames=4, resolution=16, patch=8, depth=1, decoder_depth=1, dtype="float32")
    parts = (model, {"blocks": multiblock(count=1, scale=0.5, context=0.4, targets=0.4)}, None, l1(), False)
    random = np.random.default_rng(0)
    batch = {"video": jnp.asarray(random.integers(0, 256, (2, 4, 16, 16, 3), np.uint8)),
             "seed": jnp.zeros((2, 2), jnp.uint32), "valid": jnp.ones(2, bool)}  # fmt: skip
    own = Other(*parts)

    @jax.jit
    def slopes():
        weights = sharding.unbox(own.init(jax.random.key(0), batch)[0])["encoder"]
        loss = lambda w, one: jnp.square(one.targets(w, batch)[..., :3]).sum()  # noqa: E731
        found = [jax.grad(loss)(weights, one) for one in (own, Latent(*parts))]
        return [jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(one)]).max() for one in found]

    into_own, into_average = slopes()
    assert float(into_own) > 0
    assert float(into_average) == 0


def test_there_is_no_other_source():
    allow_plugins(["benchmarks"])
    model = call("models.variants.vit", size="micro", frames=4, resolution=16, patch=8)
    masks = {"blocks": call("masking.multiblock", count=1, scale=0.5, context=0.4, targets=0.4)}
    with pytest.raises(ConfigError, match="source must be one of own, fixed"):
        build(call("benchmarks.collapse_methods.build", model=model, masks=masks, source="mine"), "method")


def write(folder, collapsed):
    folder.mkdir()
    rows = [{"kind": "eval", "step": step, "spectrum/std": 1.0} for step in range(0, 1001, 100)]
    rows += [{"kind": "event", "event": "collapse", "step": step} for step in collapsed]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_table_counts_by_the_registered_rule(tmp_path):
    write(tmp_path / "own-0", range(600, 1001, 100))
    write(tmp_path / "own-1", range(700, 1001, 100))  # too late
    write(tmp_path / "own-2", [500, 600, 800, 900, 1000])  # not at every evaluation after the first
    write(tmp_path / "own-3", [])
    write(tmp_path / "average-0", [])
    write(tmp_path / "average-1", [200])
    found = [line.split("|")[1:5] for line in collapse.table(tmp_path).splitlines()[2:]]
    assert [[cell.strip() for cell in row] for row in found] == [
        ["average-0", "1000", "–", "yes"],
        ["average-1", "1000", "200", "no"],
        ["own-0", "1000", "600", "yes"],
        ["own-1", "1000", "700", "no"],
        ["own-2", "1000", "500", "no"],
        ["own-3", "1000", "–", "no"],
    ]
