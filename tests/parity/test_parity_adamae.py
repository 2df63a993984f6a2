"""AdaMAE against its official code: probabilities, both losses, their gradients, training."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from recorded import FOLDER, rows, trained, widths

from vmae_jax.masking.core import Masker
from vmae_jax.methods.adamae import PROBABILITIES, SMALLEST, Adaptive
from vmae_jax.models import sampler
from vmae_jax.models.sampler import Sampler
from vmae_jax.models.variants import Model, vit
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Context, Grid
from vmae_jax.weights.formats import torch_file
from vmae_jax.weights.layouts import rules, videomae
from vmae_jax.weights.layouts.rules import FUSED, TABLE, Rule, Tower, linear, norm

SETS = sorted((FOLDER / "adamae").glob("*.pth"))
CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
PREFIX = "encoder.get_token_probs."
SAMPLER = Tower(
    "sampler",
    "",
    [
        Rule("positions", "encoder.pos_embed_probs", TABLE),
        *norm("norm1", f"{PREFIX}0.norm1"),
        *norm("norm2", f"{PREFIX}0.norm2"),
        Rule("attention/qkv/kernel", f"{PREFIX}0.attn.qkv.weight", FUSED),
        *linear("attention/proj", f"{PREFIX}0.attn.proj"),
        *linear("mlp/fc1", f"{PREFIX}0.mlp.fc1"),
        *linear("mlp/fc2", f"{PREFIX}0.mlp.fc2"),
        *linear("head", f"{PREFIX}1"),
    ],
)


@dataclasses.dataclass
class Golden:
    """A set: the official numbers, and our method of the same dims."""

    numbers: dict[str, np.ndarray]
    dims: dict
    state: dict[str, np.ndarray]
    model: Model

    def adaptive(self) -> Adaptive:
        """Ours, with the recorded draws as its mask, and no dropout."""
        kept = self.numbers["vis_idx"].shape[-1]
        mask = Masker(keep=lambda grid: kept, score=lambda keys, batch, grid: jnp.asarray(batch["kept"]))
        network = Sampler(self.model.encoder.width, self.dims["sampler"]["num_heads"], dropout=0.0)
        weight = self.dims["loss"]["sampling_weight"]
        return Adaptive(self.model, mask, None, {"pixels": objective(pixels())}, sampler=network, weight=weight)

    def batch(self, step: int = 0) -> dict[str, np.ndarray]:
        video = self.numbers["video"]
        kept = np.zeros((len(video), self.model.grid.size), np.float32)
        np.put_along_axis(kept, self.numbers["vis_idx"][step], 1.0, axis=1)
        return {"video": video, "kept": kept, **rows(len(video))}

    def towers(self, tree) -> list[Tower]:
        facts = videomae.Facts(
            patch=self.model.patch,
            channels=3,
            heads=self.dims["encoder_num_heads"],
            decoder_heads=self.dims["decoder_num_heads"],
        )
        return [*videomae.towers(tree, facts), SAMPLER]

    def params(self, state=None):
        """Official weights, or anything else of their names, as our parameters."""
        template = jax.eval_shape(lambda: meta.unbox(self.adaptive().init(jax.random.key(0), self.batch())[0]))
        return rules.from_state(self.state if state is None else state, self.towers(template), template)


def golden(path: pathlib.Path) -> Golden:
    dims = json.loads(path.with_suffix(".json").read_text())
    t, h, w = dims["grid"]
    model = vit(
        frames=dims["num_frames"],
        resolution=h * dims["patch_size"],
        **widths(dims),
        dtype="float32",
    )
    grid = Grid(t, h, w)  # not always square
    decoder = {**model.decoder, "grid": grid}
    model = dataclasses.replace(model, grid=grid, encoder=model.encoder.clone(grid=grid), decoder=decoder)
    return Golden(dict(np.load(path.with_suffix(".npz"))), dims, dict(torch_file.read_pth(path)["model"]), model)


@pytest.fixture(scope="module", params=SETS, ids=lambda path: path.stem)
def one(request: pytest.FixtureRequest) -> Golden:
    return golden(request.param)


def test_both_sets_are_there():
    assert {path.stem for path in SETS} >= {"plain", "peaked"}


def test_forward(one):
    adaptive, params, numbers = one.adaptive(), one.params(), one.numbers
    done = jax.jit(lambda p, b: adaptive.forward(p, b, CONTEXT))(params, one.batch())
    found = np.asarray(done.batch[PROBABILITIES])
    np.testing.assert_allclose(found, numbers["probs"], rtol=0, atol=1e-5)
    logs = np.log(np.clip(found / found.sum(-1, keepdims=True), SMALLEST, 1 - SMALLEST))
    np.testing.assert_allclose(logs, numbers["log_probs"], rtol=0, atol=5e-5)
    np.testing.assert_array_equal(done.masks.visible, np.sort(numbers["vis_idx"][0], axis=1))
    np.testing.assert_allclose(done.encoded, numbers["latent"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(done.predictions["pixels"], numbers["pred"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(jax.jit(adaptive.errors)(done)["pixels"], numbers["error_per_token"], rtol=0, atol=1e-5)
    per_clip = jax.jit(adaptive.sampling_losses)(done)
    np.testing.assert_allclose(per_clip, numbers["loss_sampling_per_clip"], rtol=0, atol=5e-5)
    terms = jax.jit(adaptive.loss)(params, one.batch(), CONTEXT).terms
    mean = {name: float(term.total / term.count) for name, term in terms.items()}
    assert mean["pixels"] == pytest.approx(float(numbers["loss_reconstruction"]), abs=1e-5)
    weighted = float(terms["sampling"].weight) * mean["sampling"]
    assert weighted == pytest.approx(float(numbers["loss_sampling"]), abs=1e-8)


def test_dropout_of_the_sampler(one, monkeypatch):
    """With the recorded draws: after the attention and after the MLP, what is kept scaled up."""
    tokens = (len(one.numbers["video"]), one.model.grid.size, one.model.encoder.width)

    def recorded(x, keys, name, rate):
        packed = one.numbers[{"attention": "dropout_keep_attn", "mlp": "dropout_keep_mlp"}[name]]
        kept = np.unpackbits(packed, axis=-1, count=tokens[-1]).astype(bool).reshape(tokens)
        return jnp.where(kept, x / (1 - rate), 0)

    monkeypatch.setattr(sampler, "dropped", recorded)
    adaptive = one.adaptive()
    adaptive = dataclasses.replace(adaptive, sampler=adaptive.sampler.clone(dropout=0.1))
    found = adaptive.probabilities(one.params(), one.batch(), train=True)
    np.testing.assert_allclose(found, one.numbers["probs_with_dropout"], rtol=0, atol=1e-5)


def same(ours, theirs, skipped=()):
    ours = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(ours)}
    for path, array in jax.tree_util.tree_leaves_with_path(theirs):
        name = jax.tree_util.keystr(path)
        if name not in skipped:
            assert np.abs(np.asarray(ours[name]) - array).max() <= 2e-5 * np.abs(array).max(), name


# A constant added to all logits changes nothing, so these have no gradient.
WITHOUT = ("['sampler']['head']['bias']", "['sampler']['mlp']['fc2']['bias']")


def test_gradients(one):
    adaptive = one.adaptive()

    def loss(params):
        terms = adaptive.loss(params, one.batch(), CONTEXT).terms
        return sum(term.weight * term.total / term.count for term in terms.values())

    given = {k.removeprefix("grad/"): v for k, v in one.numbers.items() if k.startswith("grad/")}
    same(jax.jit(jax.grad(loss))(one.params()), one.params(given), WITHOUT)


def test_the_sampling_loss_reaches_the_sampler_and_the_patch_embedding_alone(one):
    adaptive = one.adaptive()

    def loss(params):
        term = adaptive.loss(params, one.batch(), CONTEXT).terms["sampling"]
        return term.total / term.count

    given = {k.removeprefix("grad_sampling/"): v for k, v in one.numbers.items() if k.startswith("grad_sampling/")}
    everywhere = {name: given.get(name, np.zeros_like(array)) for name, array in one.state.items()}
    ours, theirs = jax.jit(jax.grad(loss))(one.params()), one.params(everywhere)
    same(ours, theirs, WITHOUT)
    reached = {jax.tree_util.keystr(p[:2]) for p, leaf in jax.tree_util.tree_leaves_with_path(ours) if np.any(leaf)}
    assert reached >= {"['encoder']['embed']", "['sampler']['positions']"}
    assert all(name.startswith(("['sampler']", "['encoder']['embed']")) for name in reached)


@pytest.mark.slow
def test_training(one):
    train, adaptive = one.dims["train"], one.adaptive()
    options = {
        "b1": train["betas"][0],
        "b2": train["betas"][1],
        "eps": train["eps"],
        "weight_decay": train["weight_decay"],
    }
    params = trained(adaptive.method(), one.params(), one.batch, one.numbers, **options)
    final = rules.to_state(params, one.towers(params))
    norms = {k.removeprefix("final_norm/"): v for k, v in one.numbers.items() if k.startswith("final_norm/")}
    assert len(norms) > 20
    for name, value in norms.items():
        assert np.linalg.norm(final[name]) == pytest.approx(float(value), rel=1e-5), name
