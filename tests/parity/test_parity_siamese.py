"""SiamMAE and CropMAE against CropMAE's code, which has both: masks, tokens, gradients, training steps, crops."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from recorded import FOLDER, rows, trained

from vmae_jax.data.scaling import View, shown
from vmae_jax.masking.core import Masker
from vmae_jax.masking.random import random
from vmae_jax.methods.siamese import Siamese, views
from vmae_jax.models.classifier import everything
from vmae_jax.models.positions import sincos_2d
from vmae_jax.models.variants import Model, vit
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import Pixels, pixels
from vmae_jax.train.schedule import Clock, warmup_cosine
from vmae_jax.types import Context
from vmae_jax.weights.formats import torch_file
from vmae_jax.weights.layouts.cropmae import from_cropmae, to_cropmae
from vmae_jax.weights.layouts.videomae import Facts
from vmae_jax.weights.subject import fixed_positions

NAMES = ("siammae", "cropmae")
SETS = sorted(path.relative_to(FOLDER) for name in NAMES for path in (FOLDER / name).glob("*.pth"))
CONTEXT = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
KEY_BIAS = ("attn.qkv.bias", "in_proj_bias")


@dataclasses.dataclass
class Golden:
    """A set: the official numbers, and our method of the same dims."""

    numbers: dict[str, np.ndarray]
    dims: dict
    state: dict[str, np.ndarray]
    model: Model
    facts: Facts
    target: Pixels

    def siamese(self) -> Siamese:
        """Ours, with the masks of a batch, and no dropout."""
        kept = self.numbers["ids_keep"].shape[1]
        mask = Masker(keep=lambda grid: kept, score=lambda keys, batch, grid: jnp.asarray(batch["kept"]))
        hidden = self.dims["dim_feedforward"]
        return Siamese(self.model, mask, None, {"pixels": objective(self.target)}, hidden=hidden, dropout=0.0)

    def batch(self, step: int = 0) -> dict[str, np.ndarray]:
        pair, noise = self.numbers["pair"], self.numbers["noise"][step]
        kept = np.stack([np.zeros_like(noise), -noise], axis=1)  # of the second views the smallest are kept
        video = pair.reshape(-1, 1, *pair.shape[2:])
        return {"video": video, "kept": kept.reshape(len(video), -1), **rows(len(video))}

    def params(self, state: dict[str, np.ndarray] | None = None):
        """Official weights, or anything else of their names, as our parameters."""
        template = jax.eval_shape(lambda: meta.unbox(self.siamese().init(jax.random.key(0), self.batch())[0]))
        return from_cropmae(self.state if state is None else state, self.facts, template)


def golden(path: pathlib.Path) -> Golden:
    dims = json.loads((FOLDER / path).with_suffix(".json").read_text())
    mean, std = dims["input_mean"], dims["input_std"]
    model = vit(
        frames=1,
        tubelet=1,
        resolution=dims["img_size"],
        patch=dims["patch_size"],
        width=dims["embed_dim"],
        depth=dims["depth"],
        heads=dims["num_heads"],
        mlp_ratio=dims["mlp_ratio"],
        decoder_width=dims["decoder_embed_dim"],
        decoder_depth=dims["decoder_depth"],
        decoder_heads=dims["decoder_num_heads"],
        positions=sincos_2d(),
        prefix=1,
        decoder_prefix="kept",
        project_bias=True,
        mean=mean,
        std=std,
        dtype="float32",
    )
    tables = {name: table for name in ("encoder", "decoder") if (table := fixed_positions(model, name)) is not None}
    facts = Facts(patch=model.patch, channels=3, heads=dims["num_heads"], tables=tables)
    target = pixels(dims["norm_pix_loss"], mean=mean, deviation=std, joint=True)
    state = dict(torch_file.read_pth((FOLDER / path).with_suffix(".pth"))["model"])
    return Golden(dict(np.load((FOLDER / path).with_suffix(".npz"))), dims, state, model, facts, target)


@pytest.fixture(scope="module", params=SETS, ids=str)
def one(request: pytest.FixtureRequest) -> Golden:
    return golden(request.param)


def test_both_methods_are_there():
    assert {path.parts[0] for path in SETS} == set(NAMES)
    assert len(SETS) >= 4


def test_masks(one):
    grid, kept = one.model.grid, one.numbers["ids_keep"]
    assert random(one.dims["mask_ratio"], rounded_down="visible").keep(grid) == one.dims["kept"] == kept.shape[1]
    masks = one.siamese().plan(views(one.batch())[1])
    np.testing.assert_array_equal(masks.visible, np.sort(kept, axis=1))
    np.testing.assert_array_equal(masks.decode, np.nonzero(one.numbers["mask"])[1].reshape(len(kept), -1))


@pytest.mark.slow
def test_the_first_view(one):
    siamese, numbers = one.siamese(), one.numbers
    first, _ = views(one.batch())
    whole = everything(len(numbers["pair"]), one.model.grid.size)
    tokens = jax.jit(lambda p: siamese.encode(p, first, whole, train=False))(one.params())
    np.testing.assert_allclose(tokens, numbers["latent_visible"], rtol=0, atol=1e-5)
    found = siamese.features(one.params(), {"video": first["video"]}, pool=False)
    np.testing.assert_allclose(found, numbers["latent_visible"][:, 1:], rtol=0, atol=1e-5)


def test_forward(one):
    numbers, siamese, params = one.numbers, one.siamese(), one.params()
    done = jax.jit(lambda p, b: siamese.forward(p, b, CONTEXT))(params, one.batch())
    latent, theirs, order = np.asarray(done.encoded), numbers["latent_masked"], np.argsort(numbers["ids_keep"], axis=1)
    np.testing.assert_allclose(latent[:, 0], theirs[:, 0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(latent[:, 1:], np.take_along_axis(theirs[:, 1:], order[..., None], 1), rtol=0, atol=1e-5)
    hidden = np.asarray(done.masks.decode)[..., None]
    target = one.target(done.batch, done.masks.decode, one.model.patch)
    for ours, name, limit in ((done.predictions["pixels"], "pred", 6e-6), (target, "target", 1e-5)):
        np.testing.assert_allclose(ours, np.take_along_axis(numbers[name], hidden, 1), rtol=0, atol=limit)
    each = np.take_along_axis(numbers["loss_per_patch"], hidden[..., 0], 1)
    np.testing.assert_allclose(siamese.errors(done)["pixels"], each, rtol=0, atol=1e-5)


def test_gradients(one):
    siamese = one.siamese()

    def loss(params):
        term = siamese.loss(params, one.batch(), CONTEXT).terms["pixels"]
        return term.total / term.count

    value, ours = jax.jit(jax.value_and_grad(loss))(one.params())
    np.testing.assert_allclose(value, one.numbers["loss"], rtol=0, atol=1e-5)
    given = {k.removeprefix("grad/"): np.asarray(v) for k, v in one.numbers.items() if k.startswith("grad/")}
    theirs = one.params(given)
    for path, array in jax.tree_util.tree_leaves_with_path(theirs):
        found = np.asarray(dict(jax.tree_util.tree_leaves_with_path(ours))[path])
        assert np.abs(found - array).max() <= 2e-5 * np.abs(array).max(), jax.tree_util.keystr(path)


@pytest.mark.slow
def test_training(one):
    train = one.dims["train"]
    options = {
        "b1": train["betas"][0],
        "b2": train["betas"][1],
        "eps": train["eps"],
        "weight_decay": train["weight_decay"],
        "clip_norm": train["clip_grad"],
        "also_decay": ["*_token"],
    }
    params = trained(one.siamese().method(), one.params(), one.batch, one.numbers, **options)
    final = to_cropmae(params, one.facts)
    compared = 0
    for name, norm in one.numbers.items():
        kind, _, of = name.partition("/")
        if kind in ("final_norm", "final_norm_qv"):  # of q and v without the keys, whose bias we have not
            assert np.linalg.norm(final[of]) == pytest.approx(float(norm), rel=1e-5), of
            compared += 1
    assert compared > 40


def test_the_layout_both_ways(one):
    """All comes back but the biases of the keys, which are not zero in these files."""
    written = to_cropmae(one.params(), one.facts)
    assert written.keys() == one.state.keys()
    for name, array in one.state.items():
        theirs = np.array(array)
        if name.endswith(KEY_BIAS):
            keys = np.split(theirs, 3)[1]
            assert np.abs(keys).max() > 0
            keys[:] = 0
        np.testing.assert_allclose(written[name], theirs, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_learning_rates(name):
    """The official loop sets each rate after the update: the first step has the full rate, and all others are late."""
    for one in json.loads((FOLDER / name / "lr_schedule.json").read_text()):
        schedule = warmup_cosine(
            one["blr"], min_rate=one["min_lr"], warmup={"epochs": one["warmup_epochs"]}, open_ended=True
        )
        steps = one["epochs"] * one["steps_per_epoch"]
        rate = schedule.at(Clock(steps, one["steps_per_epoch"], one["batch"]))
        ours = [rate.value(step) for step in range(steps - 1)]
        np.testing.assert_allclose(ours, one["lr_of_each_step"][1:], rtol=1e-12, atol=1e-18)
        assert one["lr_of_each_step"][0] == pytest.approx(rate.peak, rel=1e-12)


def view(box, size: int, **more) -> View:
    """A box (top, left, height, width), scaled to a square."""
    return View(*(int(side) for side in box), size, size, interpolation="exact_bilinear", **more)


def test_crops_of_siammae():
    """One crop and one flip for both frames."""
    given = np.load(FOLDER / "siammae" / "crops.npz")
    size = given["views"].shape[2]
    for frames, box, flip, theirs in zip(given["frames"], given["boxes"], given["flips"], given["views"], strict=True):
        ours = shown(frames, view(box, size, mirrored=bool(flip)))
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_crops_of_cropmae():
    """The local view is scaled twice, as it is a part of the scaled global view."""
    given = np.load(FOLDER / "cropmae" / "crops.npz")
    size = given["global_views"].shape[1]
    for number, image in enumerate(given["images"]):
        outer = view(given["global_boxes"][number], size)
        inner = view(given["local_boxes"][number], size, inside=outer)
        for name, crop in (("global", outer), ("local", inner)):
            ours = shown(image[None], crop)[0].astype(int)
            for suffix in ("", "_tensor"):
                assert np.abs(ours - given[f"{name}_views{suffix}"][number]).max() <= 1, (name, suffix)
