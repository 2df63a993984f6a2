"""V-JEPA and V-JEPA 2 against their code: targets, predictions, gradients, training steps, schedules, names."""

import collections
import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from recorded import FOLDER, Recorded, rows
from vjepa_sets import Given, final_norms, gradients, model_of

from vmae_jax.configs.vjepa2 import COUNTS
from vmae_jax.masking.multiblock import multiblock
from vmae_jax.methods.latent import Latent, normalized
from vmae_jax.models import positions, rotary
from vmae_jax.models.pooling import deep_attentive
from vmae_jax.models.variants import Model
from vmae_jax.targets.core import l1, l2
from vmae_jax.train.adamw import global_norm
from vmae_jax.train.optim import adamw
from vmae_jax.train.schedule import Clock, ramp, warmup_cosine
from vmae_jax.train.sharding import unbox
from vmae_jax.train.state import make_init
from vmae_jax.train.step import make_step
from vmae_jax.types import Context, Grid
from vmae_jax.weights.formats import torch_file
from vmae_jax.weights.layouts.videomae import Facts
from vmae_jax.weights.layouts.vjepa import is_vjepa, read_network, stripped, write_network
from vmae_jax.weights.subject import fixed_positions

SETS = sorted(path.relative_to(FOLDER) for path in (FOLDER / "vjepa2").glob("pretrain_*.json"))
NETWORKS = {"encoder": "encoder", "predictor": "predictor"}


@dataclasses.dataclass
class Golden:
    """A set: the official numbers, and our method of the same dims."""

    numbers: dict[str, np.ndarray]
    dims: dict
    states: dict[str, dict[str, np.ndarray]]
    model: Model
    facts: Facts

    def latent(self, step: int = 0, penalty=None) -> Latent:
        masks = {}
        for j in range(self.dims["num_masks"]):
            given = [self.numbers[f"video/masks_{kind}/{step}/{j}"] for kind in ("enc", "pred")]
            masks[f"mask_{j}"] = Given(*given)
        return Latent(self.model, masks, None, penalty or l1(), True)

    def batch(self) -> dict[str, np.ndarray]:
        video = self.numbers["video"]
        return {"video": video, **rows(len(video))}

    def params(self, states=None):
        """The encoder and the predictor, official weights or anything else of their names, as our parameters."""
        shapes = jax.eval_shape(lambda: meta.unbox(self.latent().init(jax.random.key(0), self.batch())[0]))
        given = self.states if states is None else states
        return {ours: read_network(given[theirs], self.facts, shapes[ours])[0] for ours, theirs in NETWORKS.items()}

    def target(self):
        shapes = jax.eval_shape(lambda: meta.unbox(self.latent().init(jax.random.key(0), self.batch())[0]))
        return read_network(self.states["target_encoder"], self.facts, shapes["encoder"])[0]

    def context(self) -> Context:
        average = {"encoder": self.target()}
        return Context(key=jax.random.key(0), step=jnp.int32(0), train=False, average=average)


def golden(path: pathlib.Path) -> Golden:
    dims = json.loads((FOLDER / path).read_text())
    encoder = dims["encoder"]
    places = rotary.rotary("tiled") if encoder.get("use_rope") else positions.sincos_3d(cut=True)
    model = model_of(dims, places)
    tables = {name: table for name in ("encoder", "decoder") if (table := fixed_positions(model, name)) is not None}
    facts = Facts(patch=model.patch, channels=model.channels, heads=encoder["num_heads"], tables=tables)
    states = torch_file.read_pth((FOLDER / path).with_suffix(".pth"))
    return Golden(dict(np.load((FOLDER / path).with_suffix(".npz"))), dims, states, model, facts)


@pytest.fixture(scope="module", params=SETS, ids=str)
def one(request: pytest.FixtureRequest) -> Golden:
    return golden(request.param)


def test_both_methods_are_there():
    methods = {json.loads((FOLDER / path).read_text())["method"] for path in SETS}
    assert methods == {"vjepa", "vjepa2"}


def test_the_target(one):
    latent = one.latent()
    raw = jax.jit(latent.targets)(one.target(), one.batch())
    np.testing.assert_allclose(raw, one.numbers["target_raw"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(normalized(raw, latent.model.encoder.width), one.numbers["target_output"], atol=1e-5)
    pooled = jax.jit(latent.features)({"encoder": one.target()}, one.batch())
    np.testing.assert_allclose(pooled, one.numbers["target_raw"].mean(axis=1), rtol=0, atol=1e-5)


def test_predictions(one):
    latent, params = one.latent(), one.params()

    @jax.jit
    def predictions(params, batch):
        plans = list(latent.plans(batch).values())
        return [latent.predictions(params, batch, plan, j, train=False)["features"] for j, plan in enumerate(plans)]

    for j, found in enumerate(predictions(params, one.batch())):
        np.testing.assert_allclose(found, one.numbers[f"predictor_output/{j}"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_loss_and_gradients(one):
    def loss(params, penalty):
        terms = one.latent(penalty=penalty).loss(params, one.batch(), one.context()).terms
        return sum(term.weight * term.total / term.count for term in terms.values())

    value, ours = jax.jit(jax.value_and_grad(functools.partial(loss, penalty=l1())))(one.params())
    np.testing.assert_allclose(value, one.numbers["loss"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        jax.jit(functools.partial(loss, penalty=l2()))(one.params()) / 2, one.numbers["loss_exp2"], rtol=0, atol=1e-5
    )
    theirs = one.params({name: gradients(one.numbers, one.states[name], name) for name in NETWORKS.values()})
    found = dict(jax.tree_util.tree_leaves_with_path(ours))
    for path, array in jax.tree_util.tree_leaves_with_path(theirs):
        error, largest = np.abs(np.asarray(found[path]) - array).max(), np.abs(array).max()
        assert error <= 2e-5 * largest, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_training(one):
    """Four steps of AdamW with the recorded schedules, each network clipped by itself, then the average."""
    train, numbers = one.dims["train"], one.numbers
    clip = train["clip_grad"]
    options = {"b1": train["betas"][0], "b2": train["betas"][1], "eps": train["eps"], "clip_norm": clip}
    tokens = {"also_decay": ["*mask_token"], "clip_each": clip is not None}
    decay = Recorded(np.asarray(train["weight_decays"]))
    method = one.latent().method()
    shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), one.batch())[0])
    optimizer = adamw(Recorded(np.asarray(train["lrs"])), weight_decay=decay, **options, **tokens)
    tx, _ = optimizer.build(shapes, Clock(train["steps"], 1.0, 1))
    params = jax.tree.map(jnp.asarray, one.params())
    begun = {**params, "encoder": jax.tree.map(jnp.asarray, one.target())}
    state = jax.eval_shape(lambda: unbox(make_init(method, tx, ema=True)(jax.random.key(0), one.batch())))
    state = state.replace(
        step=jnp.int32(0),
        params=params,
        opt_state=tx.init(params),
        extra={"method": None, "ema": begun},
        first_bad_step=jnp.int32(-1),
    )
    for i in range(train["steps"]):
        step = make_step(one.latent(i).method(), tx, ema_decay=Recorded(np.asarray(train["momentum"])))
        state, metrics = jax.jit(step)(state, one.batch())
        np.testing.assert_allclose(metrics["loss"], numbers["train_losses"][i], rtol=0, atol=1e-5)
        norm = np.hypot(*(numbers[f"train_grad_norms_{name}"][i] for name in ("encoder", "predictor")))
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
        target = state.extra["ema"]["encoder"]
        drift = jax.tree.map(jnp.subtract, target, begun["encoder"])
        rest, before = _rest(one, i + 1), _rest(one, 0)
        norm = np.hypot(global_norm(target), np.linalg.norm(rest))
        assert norm == pytest.approx(numbers["train_target_norm"][i], rel=1e-5)
        norm = np.hypot(global_norm(drift), np.linalg.norm(rest - before))
        assert norm == pytest.approx(numbers["train_target_drift"][i], rel=1e-5)
    final = {"encoder": state.params["encoder"], "predictor": state.params["predictor"]}
    final_norms(one.numbers, one.facts, {**final, "target_encoder": state.extra["ema"]["encoder"]})


def _rest(one: Golden, steps: int) -> np.ndarray:
    """What the official target encoder has and ours has not, after some steps: fixed positions and biases of keys.

    Keys without rotation have no gradient but rounding noise, so they only become those of the encoder by averaging.
    """
    encoder, target = (stripped(one.states[name]) for name in ("encoder", "target_encoder"))
    if "pos_embed" not in target:
        return np.zeros(1)
    kept = np.prod(one.dims["train"]["momentum"][:steps])
    keys = [
        kept * np.split(target[name], 3)[1] + (1 - kept) * np.split(encoder[name], 3)[1]
        for name in target
        if name.endswith("attn.qkv.bias")
    ]
    return np.concatenate([target["pos_embed"].ravel(), *keys])


def test_the_layout_both_ways(one):
    for name in ("encoder", "target_encoder", "predictor"):
        network = "predictor" if name == "predictor" else "encoder"
        params = {"encoder": one.target()} if name == "target_encoder" else one.params()
        tokens = sum(".mask_tokens." in key for key in one.states[name])
        written = write_network(params[network], one.facts, tokens=tokens)
        given = stripped(one.states[name])
        assert written.keys() == given.keys()
        assert is_vjepa(one.states[name]) == (name == "predictor")
        for key, array in given.items():
            theirs = np.array(array)
            if key.endswith("qkv.bias") and "k_bias" not in params[network]["blocks"]["attention"]["qkv"]:
                np.split(theirs, 3)[1][:] = 0
            if key.startswith("mask_tokens") and int(key[-1]) not in one.dims["mask_index"]:
                theirs[:] = 0
            np.testing.assert_allclose(written[key], theirs, rtol=0, atol=1e-6, err_msg=key)


PUBLISHED = json.loads((FOLDER / "vjepa2" / "masks.json").read_text())["configs"]
BLOCKS = [
    (name, kind) for name, one in PUBLISHED.items() for kind in ("short_range", "long_range") if "sizes" in one[kind]
]


@pytest.mark.parametrize(("name", "kind"), BLOCKS)
def test_sizes_of_blocks(name, kind):
    """The sizes that the published settings give, how often, and in how many places."""
    one, grid = PUBLISHED[name][kind], Grid(*PUBLISHED[name]["grid"])
    mask = multiblock(one["num_blocks"], one["spatial_scale"], one["aspect_ratio"])
    aspects = np.linspace(*one["aspect_ratio"], 100_001)
    found = collections.Counter(zip(*(np.asarray(side).tolist() for side in mask.sizes(aspects, grid)), strict=True))
    known = {(size["h"], size["w"]): size for size in one["sizes"]}
    assert found.keys() == known.keys()
    for (height, width), size in known.items():
        assert found[height, width] / len(aspects) == pytest.approx(size["probability"], abs=1e-3)
        assert [grid.h - height + 1, grid.w - width + 1] == size["offsets"]


def test_counts_of_the_configs():
    """The configs have the mean counts that were measured with the official generator."""
    one = PUBLISHED["224px_16f"]
    for kind, (context, targets) in COUNTS[14].items():
        measured = one[f"{kind}_range"]["measured"]
        assert (round(measured["context_per_slot"][1]), round(measured["target_per_slot"][1])) == (context, targets)


RECIPES = [
    (folder, name)
    for folder in ("vjepa2", "vjepa2_1")
    for name, one in json.loads((FOLDER / folder / "recipes.json").read_text()).items()
    if "T_max" in one or "total" in one
]


@pytest.mark.parametrize(("folder", "name"), RECIPES)
def test_schedules(folder, name):
    """Learning rates, weight decays and momenta of published recipes: those of a run a quarter longer."""
    one = json.loads((FOLDER / folder / "recipes.json").read_text())[name]
    length, more = one.get("T_max", one.get("total")), {"stretch": 1.25, "ahead": 1}
    if one["kind"] == "warmup_cosine":
        warmup = {"warmup": {"steps": one["warmup_steps"]}, "start": one["start_lr"], "open_ended": True}
        schedule = warmup_cosine(one["ref_lr"], final=one["final_lr"], batch_unit=None, **warmup, **more)
    else:
        ends = {key.partition("_")[0]: value for key, value in one.items()}
        start = ends.get("ref", ends.get("start"))
        # A momentum has its first value at the first step; all others are moved before an update.
        more |= {"ahead": 0} if "start" in ends else {}
        schedule = ramp(start, ends.get("final", ends.get("end")), shape=one["kind"], **more)
    rate = schedule.at(Clock(round(length / 1.25), 1.0, 1))
    ours = [rate.value(int(i) - 1) for i in one["values"]]
    np.testing.assert_allclose(ours, list(one["values"].values()), rtol=1e-12)


def pool_of(state, width):
    """The official classifier's pool and its linear layer, of one set's file, as our parameters."""
    tensor = lambda name: np.asarray(state[f"module.{name}"], np.float32)  # noqa: E731
    dense = lambda name: {"kernel": tensor(f"{name}.weight").T, "bias": tensor(f"{name}.bias")}  # noqa: E731
    norm = lambda name: {"scale": tensor(f"{name}.weight"), "bias": tensor(f"{name}.bias")}  # noqa: E731
    cross = "pooler.cross_attention_block"
    both = dense(f"{cross}.xattn.kv")
    halves = [{key: value[..., part] for key, value in both.items()} for part in (slice(width), slice(width, None))]

    def block(name):
        q, k, v = np.split(tensor(f"{name}.attn.qkv.weight"), 3)
        biases = np.split(tensor(f"{name}.attn.qkv.bias"), 3)
        qkv = {"kernel": np.stack([q.T, k.T, v.T])} | dict(zip(("q_bias", "k_bias", "v_bias"), biases, strict=True))
        attention = {"qkv": qkv, "proj": dense(f"{name}.attn.proj")}
        mlp = {layer: dense(f"{name}.mlp.{layer}") for layer in ("fc1", "fc2")}
        return {"norm1": norm(f"{name}.norm1"), "norm2": norm(f"{name}.norm2"), "attention": attention, "mlp": mlp}

    depth = len({key.split(".")[3] for key in state if key.startswith("module.pooler.blocks.")})
    blocks = [block(f"pooler.blocks.{number}") for number in range(depth)]
    pool = {
        "query": tensor("pooler.query_tokens").reshape(-1),
        "norm1": norm(f"{cross}.norm1"), "norm2": norm(f"{cross}.norm2"),
        "q": dense(f"{cross}.xattn.q"), "k": halves[0], "v": halves[1],
        "mlp": {layer: dense(f"{cross}.mlp.{layer}") for layer in ("fc1", "fc2")},
    }  # fmt: skip
    return pool | ({"blocks": jax.tree.map(lambda *each: np.stack(each), *blocks)} if blocks else {}), dense("linear")


PROBED = [path for path in SETS if json.loads((FOLDER / path).read_text()).get("probe")]


@pytest.mark.parametrize("path", PROBED or [None], ids=str)
def test_the_attentive_probe(path):
    if path is None:
        pytest.skip("no set has a probe")
    one = golden(path)
    about = one.dims["probe"]
    tokens = jnp.asarray(one.numbers["target_raw"])
    pool, linear = pool_of(one.states["classifiers"][0], tokens.shape[-1])
    made = deep_attentive(about["num_probe_blocks"], about["num_heads"], about["mlp_ratio"])(tokens.shape[-1])
    boxed = jax.eval_shape(lambda: meta.unbox(made.init(jax.random.key(0), tokens)["params"]))
    assert jax.tree.map(np.shape, pool) == jax.tree.map(lambda leaf: leaf.shape, boxed)
    logits = made.apply({"params": pool}, tokens) @ linear["kernel"] + linear["bias"]
    np.testing.assert_allclose(logits, one.numbers["probe_logits"], rtol=0, atol=1e-5)
