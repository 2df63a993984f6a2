"""V-JEPA 2.1 against its code: levels, predictions of hidden and visible tokens, losses, gradients, training steps."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from recorded import FOLDER, Recorded, rows
from vjepa_sets import Given, final_norms, gradients, model_of

from vmae_jax.methods.latent import normalized
from vmae_jax.methods.latent_dense import LatentDense, distances, warmed
from vmae_jax.models.rotary import rotary
from vmae_jax.models.variants import Model
from vmae_jax.targets.core import l1
from vmae_jax.train.adamw import global_norm
from vmae_jax.train.optim import adamw
from vmae_jax.train.schedule import Clock
from vmae_jax.train.sharding import unbox
from vmae_jax.train.state import make_init
from vmae_jax.train.step import make_step
from vmae_jax.types import Context
from vmae_jax.weights.formats import torch_file
from vmae_jax.weights.layouts.videomae import Facts
from vmae_jax.weights.layouts.vjepa import read_network, stripped, write_network
from vmae_jax.weights.vjepa import joined, network

pytestmark = pytest.mark.slow

SETS = sorted(path.relative_to(FOLDER) for path in (FOLDER / "vjepa2_1").glob("pretrain_*.json"))
IMAGES = 2  # beside each video; the last ones pad


@dataclasses.dataclass
class Golden:
    """A set: the official numbers, and our method of the same dims."""

    numbers: dict[str, np.ndarray]
    dims: dict
    states: dict[str, dict[str, np.ndarray]]
    model: Model
    facts: Facts

    def latent(self, step: int = 0) -> LatentDense:
        weight = self.dims["lambdas"][step]
        nearness = self.dims["weight_distance_loss"]
        about = {
            "context_weight": lambda step: jnp.float32(weight),
            "nearness": nearness,
            "images": self.masks("image", step),
        }
        return LatentDense(self.model, self.masks("video", step), None, l1(), True, **about)

    def masks(self, stream: str, step: int) -> dict[str, Given]:
        count = self.dims["num_masks" if stream == "video" else "num_masks_image"]
        found = {}
        for j in range(count):
            given = [self.numbers[f"{stream}/masks_{kind}/{step}/{j}"] for kind in ("enc", "pred")]
            found[f"mask_{j}"] = Given(*(_padded(one, self.slots) if stream == "image" else one for one in given))
        return found

    @property
    def slots(self) -> int:
        return IMAGES * len(self.numbers["video"])

    def batch(self) -> dict[str, np.ndarray]:
        video, image = self.numbers["video"], self.numbers["image"]
        real = np.arange(self.slots) < len(image)
        images = _padded(image[:, 0], self.slots).reshape(len(video), IMAGES, *image.shape[2:])
        return {"video": video, "image": images, "image_valid": real.reshape(len(video), -1), **rows(len(video))}

    def shapes(self):
        return jax.eval_shape(lambda: meta.unbox(self.latent().init(jax.random.key(0), self.batch())[0]))

    def params(self, states=None):
        """Both networks, official weights or anything else of their names, as our parameters."""
        given = self.states if states is None else states
        return joined({name: self.read(given[name], name) for name in ("encoder", "predictor")})

    def average(self):
        """The parameters with the target encoder in place of the encoder."""
        given = {"encoder": self.read(self.states["target_encoder"], "encoder")}
        return joined({**given, "predictor": self.read(self.states["predictor"], "predictor")})

    def read(self, state, name: str):
        return read_network(state, self.facts, network(self.shapes(), name))[0]

    def context(self, average=None) -> Context:
        average = self.average() if average is None else average
        return Context(key=jax.random.key(0), step=jnp.int32(0), train=False, average=average)


def _padded(array: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[:1], count - len(array), axis=0)])


def golden(path: pathlib.Path) -> Golden:
    dims = json.loads((FOLDER / path).read_text())
    side = dims["pretrained_grid_size"] if dims["encoder"].get("interpolate_rope") else None
    model = model_of(dims, rotary(side=side), levels=dims["hierarchical_layers"], modality=True)
    facts = Facts(patch=model.patch, channels=model.channels, heads=dims["encoder"]["num_heads"])
    states = torch_file.read_pth((FOLDER / path).with_suffix(".pth"))
    return Golden(dict(np.load((FOLDER / path).with_suffix(".npz"))), dims, states, model, facts)


@pytest.fixture(scope="module", params=SETS, ids=str)
def one(request: pytest.FixtureRequest) -> Golden:
    return golden(request.param)


def test_there_are_sets():
    assert SETS


@pytest.mark.parametrize("stream", ["video", "image"])
def test_targets_and_predictions(one, stream):
    numbers, latent, batch = one.numbers, one.latent(), one.batch()
    params, average = one.params(), one.average()
    if stream == "image":
        params, average = latent.image_params(params), latent.image_params(average)
        latent, batch = latent.of_images(), latent.image_batch(batch)
    count = len(numbers[stream])
    raw = jax.jit(latent.targets)(average["encoder"], batch)[:count]
    width = one.model.encoder.width
    np.testing.assert_allclose(normalized(raw, width), numbers[f"{stream}/target_output"], rtol=0, atol=1e-5)

    @jax.jit
    def predictions(params, batch):
        plans = list(latent.plans(batch).values())
        return plans, [latent.predictions(params, batch, plan, j, train=False) for j, plan in enumerate(plans)]

    for j, (plan, found) in enumerate(zip(*predictions(params, batch), strict=True)):
        for name, key in (("features", "predictor_output"), ("context", "predictor_context_output")):
            np.testing.assert_allclose(found[name][:count], numbers[f"{stream}/{key}/{j}"], rtol=0, atol=1e-5)
        near = np.sqrt(distances(plan, latent.model.grid))[:count]
        np.testing.assert_allclose(near, numbers[f"{stream}/context_distance/{j}"], rtol=1e-6)


def test_losses_and_gradients(one):
    numbers, latent = one.numbers, one.latent()

    def loss(params):
        terms = latent.loss(params, one.batch(), one.context()).terms
        return sum(term.weight * term.total / term.count for term in terms.values()), terms

    (value, terms), ours = jax.jit(jax.value_and_grad(loss, has_aux=True))(one.params())
    np.testing.assert_allclose(value, numbers["loss"], rtol=0, atol=1e-5)
    means = {name: term.total / term.count for name, term in terms.items()}
    for stream, start in (("video", "mask"), ("image", "image_mask")):
        for key, ends in (("loss_pred", False), ("loss_context_weighted", True)):
            own = [v for name, v in means.items() if name.startswith(start) and name.endswith("context") == ends]
            np.testing.assert_allclose(np.mean(own), numbers[f"{stream}/{key}"], rtol=0, atol=1e-5)
    theirs = one.params({name: gradients(numbers, one.states[name], name) for name in ("encoder", "predictor")})
    found = dict(jax.tree_util.tree_leaves_with_path(ours))
    for path, array in jax.tree_util.tree_leaves_with_path(theirs):
        error, largest = np.abs(np.asarray(found[path]) - array).max(), np.abs(array).max()
        assert error <= 2e-5 * largest, jax.tree_util.keystr(path)


def test_unweighted_context_loss(one):
    latent = dataclasses.replace(one.latent(), nearness=False)
    terms = jax.jit(lambda params: latent.loss(params, one.batch(), one.context()).terms)(one.params())
    own = [t.total / t.count for name, t in terms.items() if name.startswith("mask") and name.endswith("context")]
    np.testing.assert_allclose(np.mean(own), one.numbers["video/loss_context"], rtol=0, atol=1e-5)


def test_training(one):
    """Steps of AdamW with the recorded weights of the context loss, then the average."""
    train, numbers = one.dims["train"], one.numbers
    options = {"b1": train["betas"][0], "b2": train["betas"][1], "eps": train["eps"]}
    options["weight_decay"] = Recorded(np.asarray(train["weight_decays"]))
    optimizer = adamw(Recorded(np.asarray(train["lrs"])), also_decay=["*mask_token", "*modality"], **options)
    method, params, average = one.latent().method(), one.params(), one.average()
    boxed = jax.eval_shape(lambda: method.init(jax.random.key(0), one.batch())[0])
    tx, _ = optimizer.build(boxed, Clock(train["steps"], 1.0, 1))
    params, begun = (jax.tree.map(jnp.asarray, tree) for tree in (params, average))
    state = jax.eval_shape(lambda: unbox(make_init(method, tx, ema=True)(jax.random.key(0), one.batch())))
    extra = {"method": None, "ema": begun}
    state = state.replace(step=jnp.int32(0), params=params, opt_state=tx.init(params), extra=extra)
    state = state.replace(first_bad_step=jnp.int32(-1))
    for i in range(train["steps"]):
        step = make_step(one.latent(i).method(), tx, ema_decay=Recorded(np.asarray(train["momentum"])))
        state, metrics = jax.jit(step)(state, one.batch())
        np.testing.assert_allclose(metrics["loss"], numbers["train_losses"][i], rtol=0, atol=1e-5)
        norm = np.hypot(*(numbers[f"train_grad_norms_{name}"][i] for name in ("encoder", "predictor")))
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=5e-5)
        target = network(state.extra["ema"], "encoder")
        assert float(global_norm(target)) == pytest.approx(numbers["train_target_norm"][i], rel=1e-5)
        drift = jax.tree.map(jnp.subtract, target, network(begun, "encoder"))
        assert float(global_norm(drift)) == pytest.approx(numbers["train_target_drift"][i], rel=1e-5)
    networks = {name: network(state.params, name) for name in ("encoder", "predictor")}
    final_norms(one.numbers, one.facts, {**networks, "target_encoder": network(state.extra["ema"], "encoder")})


def test_the_layout_both_ways(one):
    trees = {"encoder": one.params(), "target_encoder": one.average(), "predictor": one.params()}
    for name, tree in trees.items():
        own = "predictor" if name == "predictor" else "encoder"
        given = stripped(one.states[name])
        tokens = sum(key.startswith("mask_tokens.") for key in given)
        written = write_network(network(tree, own), one.facts, tokens=tokens)
        assert written.keys() == given.keys()
        for key, array in given.items():
            unused = key.startswith("mask_tokens") and int(key[-1]) not in one.dims["mask_index"]
            np.testing.assert_array_equal(written[key], np.zeros_like(array) if unused else array, err_msg=key)


def test_the_weight_of_the_context_loss():
    recipe = json.loads((FOLDER / "vjepa2_1" / "recipes.json").read_text())["vjepa2_1_lambda"]
    weight = warmed(recipe["lambda_value"], recipe["start_iter"], recipe["end_iter"])
    for step, value in recipe["values"].items():
        assert float(weight(jnp.int32(int(step)))) == pytest.approx(value, abs=1e-7)
    assert float(warmed(0.5, 0, 0)(jnp.int32(0))) == 0.5
