"""MAE and MAE-ST against their official code: masks, latents, predictions, targets, losses, gradients, training."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from recorded import FOLDER, rows, trained

from vmae_jax.masking.core import Masker
from vmae_jax.masking.random import random
from vmae_jax.methods.masked import Masked
from vmae_jax.models.positions import learned, separable, sincos_2d
from vmae_jax.models.variants import Model, vit
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import Pixels, pixels
from vmae_jax.train.schedule import Clock, warmup_cosine
from vmae_jax.types import Context
from vmae_jax.weights.formats import torch_file
from vmae_jax.weights.formats.tensors import File
from vmae_jax.weights.layouts import mae
from vmae_jax.weights.layouts.fit import fit
from vmae_jax.weights.layouts.names import official
from vmae_jax.weights.layouts.videomae import Facts, to_official
from vmae_jax.weights.subject import fixed_positions

SETS = sorted(path.relative_to(FOLDER) for name in ("mae", "mae_st") for path in (FOLDER / name).glob("*.pth"))


@dataclasses.dataclass
class Golden:
    """A set: the official numbers, and our model of the same dims."""

    numbers: dict[str, np.ndarray]
    dims: dict
    state: dict[str, np.ndarray]
    model: Model
    facts: Facts
    target: Pixels

    @property
    def image(self) -> bool:
        return self.dims["method"] == "mae"

    def masked(self) -> Masked:
        """Ours, with the masks of a batch."""
        kept = self.numbers["ids_keep"].shape[1]
        mask = Masker(keep=lambda grid: kept, score=lambda keys, batch, grid: jnp.asarray(batch["kept"]))
        return Masked(self.model, mask, None, {"pixels": objective(self.target)})

    def method(self):
        return self.masked().method()

    def batch(self, step: int = 0) -> dict[str, np.ndarray]:
        video = self.numbers["image"][:, None] if self.image else self.numbers["video"]
        return {
            "video": video,
            "kept": -self.numbers["noise"][step],  # the smallest are kept
            **rows(len(video)),
        }

    def params(self, state: dict[str, np.ndarray] | None = None):
        """Official weights, or anything else of their names, as our parameters."""
        template = jax.eval_shape(lambda: meta.unbox(self.method().init(jax.random.key(0), self.batch())[0]))
        template = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), template)
        given = self.state if state is None else state
        # Without biases of q and v in the model, there are none in the file.
        return fit(official(File(given, {})), self.facts, template, self.model.grid)[0]


def golden(path: pathlib.Path) -> Golden:
    dims = json.loads((FOLDER / path).with_suffix(".json").read_text())
    image = dims["method"] == "mae"
    cls = image or dims["cls_embed"]
    mean, std = dims["input_mean"], dims["input_std"]
    separated = not image and dims["sep_pos_embed"]
    model = vit(
        frames=1 if image else dims["num_frames"],
        tubelet=1 if image else dims["t_patch_size"],
        resolution=dims["img_size"],
        patch=dims["patch_size"],
        width=dims["embed_dim"],
        depth=dims["depth"],
        heads=dims["num_heads"],
        mlp_ratio=dims["mlp_ratio"],
        decoder_width=dims["decoder_embed_dim"],
        decoder_depth=dims["decoder_depth"],
        decoder_heads=dims["decoder_num_heads"],
        positions=sincos_2d() if image else separable() if separated else learned(),
        prefix=int(cls),
        prefix_positions=cls and not image,
        decoder_prefix="kept" if image else "own",
        project_bias=True,
        qkv_bias=image or not dims["no_qkv_bias"],
        mean=mean,
        std=std,
        dtype="float32",
    )
    frames = {} if image or dims["pred_t_dim"] == dims["num_frames"] else {"frames": dims["pred_t_dim"]}
    facts = Facts(
        patch=model.patch,
        channels=3,
        heads=dims["num_heads"],
        decoder_heads=dims["decoder_num_heads"],
        tables={name: table for name in ("encoder", "decoder") if (table := fixed_positions(model, name)) is not None},
        keeps_prefix=image,
    )
    target = pixels(dims["norm_pix_loss"], mean=mean, deviation=std, joint=True, **frames)
    state = dict(torch_file.read_pth((FOLDER / path).with_suffix(".pth"))["model"])
    return Golden(dict(np.load((FOLDER / path).with_suffix(".npz"))), dims, state, model, facts, target)


@pytest.fixture(scope="module", params=SETS, ids=str)
def one(request: pytest.FixtureRequest) -> Golden:
    return golden(request.param)


def test_both_codes_are_there():
    assert {path.parts[0] for path in SETS} == {"mae", "mae_st"}
    assert len(SETS) >= 6


def test_masks(one):
    """How many are kept, and that the smallest noise is."""
    grid, kept = one.model.grid, one.numbers["ids_keep"]
    assert random(one.dims["mask_ratio"], rounded_down="visible").keep(grid) == one.dims["kept"] == kept.shape[1]
    masks = one.masked().plan(one.batch())
    np.testing.assert_array_equal(masks.visible, np.sort(kept, axis=1))
    np.testing.assert_array_equal(masks.decode, np.nonzero(one.numbers["mask"])[1].reshape(len(kept), -1))


def test_forward(one):
    numbers, masked, params = one.numbers, one.masked(), one.params()
    context = Context(key=jax.random.key(0), step=jnp.int32(0), train=False)
    done = jax.jit(lambda p, b: masked.forward(p, b, context))(params, one.batch())
    latent = np.asarray(done.encoded)
    theirs, order = numbers["latent"], np.argsort(numbers["ids_keep"], axis=1)
    if one.image:  # with the class token
        np.testing.assert_allclose(latent[:, 0], theirs[:, 0], rtol=0, atol=1e-5)
    latent, theirs = latent[:, one.model.encoder.prefix :], theirs[:, int(one.image) :]
    np.testing.assert_allclose(latent, np.take_along_axis(theirs, order[..., None], 1), rtol=0, atol=1e-5)
    hidden = np.asarray(done.masks.decode)[..., None]
    target = one.target(done.batch, done.masks.decode, one.model.patch)
    for ours, name in ((done.predictions["pixels"], "pred"), (target, "target")):
        np.testing.assert_allclose(ours, np.take_along_axis(numbers[name], hidden, 1), rtol=0, atol=1e-5)
    each = numbers["loss_per_patch" if one.image else "loss_per_token"]
    np.testing.assert_allclose(
        jax.jit(masked.errors)(done)["pixels"], np.take_along_axis(each, hidden[..., 0], 1), rtol=0, atol=1e-5
    )


def test_target_frames(one):
    if one.image:
        return
    frames = np.arange(one.dims["num_frames"])
    video = jnp.broadcast_to(frames[None, :, None, None, None], (1, len(frames), 8, 8, 1))
    shown, _ = one.target.shown(video, one.model.patch)
    np.testing.assert_array_equal(shown[0, :, 0, 0, 0], one.numbers["target_frames"])


def test_all_published_lists_of_target_frames():
    for name, frames in json.loads((FOLDER / "mae_st" / "target_frames.json").read_text()).items():
        whole, count = map(int, name.split("->"))
        video = jnp.arange(whole).reshape(1, whole, 1, 1, 1)
        shown, _ = pixels(frames=count).shown(video, vit("micro").patch._replace(t=whole // count))
        np.testing.assert_array_equal(shown.ravel(), frames)


def test_gradients(one):
    method, context = one.method(), Context(key=jax.random.key(0), step=jnp.int32(0))

    def loss(params):
        term = method.loss(params, one.batch(), context).terms["pixels"]
        return term.total / term.count

    value, ours = jax.jit(jax.value_and_grad(loss))(one.params())
    np.testing.assert_allclose(value, one.numbers["loss"], rtol=0, atol=1e-5)
    given = {k.removeprefix("grad/"): v for k, v in one.numbers.items() if k.startswith("grad/")}
    theirs = one.params({name: np.asarray(array, np.float32) for name, array in given.items()})
    for path, array in jax.tree_util.tree_leaves_with_path(theirs):
        found = np.asarray(dict(jax.tree_util.tree_leaves_with_path(ours))[path])
        assert np.abs(found - array).max() <= 2e-5 * np.abs(array).max(), jax.tree_util.keystr(path)


@pytest.mark.slow
def test_training(one):
    train, prefix = one.dims["train"], ["*prefix_*"] if one.model.encoder.prefix else []
    options = {
        "b1": train["betas"][0],
        "b2": train["betas"][1],
        "eps": train["eps"],
        "weight_decay": train["weight_decay"],
        "clip_norm": train["clip_grad"],
        "also_decay": ["*_token"] if one.image else ["*mask_token", "*table", *prefix],
    }
    params = trained(one.method(), one.params(), one.batch, one.numbers, **options)
    final = mae.to_state(to_official(params, one.facts), one.facts, image=one.image, fused=one.image)
    compared = 0
    for name, norm in one.numbers.items():
        kind, _, of = name.partition("/")
        if kind in ("final_norm", "final_norm_qv"):  # of q and v without the keys, whose bias we have not
            assert np.linalg.norm(final[of]) == pytest.approx(float(norm), rel=1e-5), of
            compared += 1
    assert compared > 20


@pytest.mark.parametrize("name", ["mae", "mae_st"])
def test_learning_rates(name):
    for one in json.loads((FOLDER / name / "lr_schedule.json").read_text()):
        schedule = warmup_cosine(
            one["blr"], min_rate=one["min_lr"], warmup={"epochs": one["warmup_epochs"]}, open_ended=True
        )
        steps = one["epochs"] * one["steps_per_epoch"]
        rate = schedule.at(Clock(steps, one["steps_per_epoch"], one["batch"]))
        ours = [rate.value(step) for step in range(steps)]
        np.testing.assert_allclose(ours, one["lr_of_each_step"], rtol=1e-12, atol=1e-18)
        np.testing.assert_allclose([float(rate(jnp.int32(s))) for s in range(steps)], ours, rtol=1e-5, atol=1e-9)
