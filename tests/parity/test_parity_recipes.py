"""The official recipes: learning rate of every step, layer decay and weight decay of every parameter,
and whole steps of the official optimizer."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from flax.traverse_util import flatten_dict

from vmae_jax.interop import videomae
from vmae_jax.masking.core import Masker
from vmae_jax.methods import classify, masked
from vmae_jax.models.variants import vit
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.train.optim import adamw, decays, layer_scales
from vmae_jax.train.schedule import Clock, warmup_cosine
from vmae_jax.train.state import TrainState
from vmae_jax.train.step import make_step

# Official name of a parameter of a block -> ours.
BLOCK = {
    "gamma_1": "scale1/gamma",
    "gamma_2": "scale2/gamma",
    "norm1.weight": "norm1/scale",
    "norm1.bias": "norm1/bias",
    "norm2.weight": "norm2/scale",
    "norm2.bias": "norm2/bias",
    "attn.scale": "attention/logit_scale",
    "attn.q_bias": "attention/qkv/q_bias",
    "attn.v_bias": "attention/qkv/v_bias",
    "attn.qkv.weight": "attention/qkv/kernel",
    "attn.proj.weight": "attention/proj/kernel",
    "attn.proj.bias": "attention/proj/bias",
    "mlp.fc1.weight": "mlp/fc1/kernel",
    "mlp.fc1.bias": "mlp/fc1/bias",
    "mlp.fc2.weight": "mlp/fc2/kernel",
    "mlp.fc2.bias": "mlp/fc2/bias",
}
OTHER = {
    "patch_embed.proj.weight": "encoder/embed/kernel",
    "patch_embed.proj.bias": "encoder/embed/bias",
    "fc_norm.weight": "fc_norm/scale",
    "fc_norm.bias": "fc_norm/bias",
    "head.weight": "head/kernel",
    "head.bias": "head/bias",
}


@pytest.fixture
def recipes(goldens):
    return json.loads((goldens / "recipes.json").read_text())


def test_learning_rates(recipes):
    for name, golden in recipes["lr_schedules"].items():
        args = golden["args"]
        per_epoch, steps = args["niter_per_ep"], args["epochs"] * args["niter_per_ep"]
        schedule = warmup_cosine(
            args["base_value"],
            final=args["final_value"],
            start=args["start_warmup_value"],
            warmup={"epochs": args["warmup_epochs"]},
            batch_unit=None,
        )
        rate = schedule.at(Clock(steps=steps, steps_per_epoch=per_epoch, global_batch=1))
        np.testing.assert_allclose(
            [rate.value(i) for i in range(steps)], golden["lr"], rtol=0, atol=1e-12, err_msg=name
        )
        np.testing.assert_allclose(jax.vmap(rate)(np.arange(steps)), golden["lr"], rtol=2e-6, err_msg=name)


def test_layer_decay_and_decay_groups(recipes):
    for key, golden in recipes["layer_decay"].items():
        depth, decay, cosine = re.fullmatch(r"depth(\d+)_decay([\d.]+)_cos(True|False)", key).groups()
        params = classifier_params(int(depth), cosine == "True", scaled="blocks.0.gamma_1" in golden)
        scales, decayed = (
            flatten_dict(layer_scales(params, float(decay)), sep="/"),
            flatten_dict(decays(params), sep="/"),
        )
        seen = set()
        for name, expected in golden.items():
            path, scale = ours(name, scales)
            seen.add(path)
            np.testing.assert_allclose(scale, expected["lr_scale"], rtol=1e-6, err_msg=f"{key} {name}")
            assert decayed[path] == (expected["weight_decay"] > 0), f"{key} {name}"
        assert seen == set(scales)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_training_steps(pretrain, accumulate):
    """Losses, gradient norms and final parameters of the official training, masks and rates as recorded."""
    numbers = pretrain.numbers
    if numbers["video"].shape[0] % accumulate:
        pytest.skip(f"{numbers['video'].shape[0]} clips do not divide into {accumulate} micro-batches")
    method = masked.build(
        pretrain.model, given(numbers, "encoder_mask"), {"pixels": objective(pixels())}, given(numbers, "decoder_mask")
    )
    optimizer = adamw(
        Recorded(numbers["train_lrs"]), weight_decay=float(numbers["wd"]), clip_norm=float(numbers["clip"])
    )
    batches = [
        {**pretrain.batch(), "encoder_mask": numbers["encoder_mask"][i], "decoder_mask": numbers["decoder_mask"][i]}
        for i in range(len(numbers["train_lrs"]))
    ]
    state, step = begin(method, optimizer, pretrain.params(pretrain.method()), accumulate)
    losses, norms = [], []
    for batch in batches:
        state, metrics = step(state, batch)
        losses.append(metrics["loss"])
        norms.append(metrics["grad_norm"])
    np.testing.assert_allclose(losses, numbers["train_losses"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(norms, numbers["train_grad_norms"], rtol=1e-5)
    final = videomae.to_official(jax.device_get(state.params), pretrain.layout)
    golden = {k.removeprefix("final_norm/"): v for k, v in numbers.items() if k.startswith("final_norm/")}
    assert set(golden) == set(final)
    for name, expected in golden.items():
        np.testing.assert_allclose(np.linalg.norm(final[name]), expected, rtol=1e-5, err_msg=name)


class Recorded:
    """A schedule, and its rate, that gives recorded values."""

    def __init__(self, values):
        self.values = values

    def at(self, clock):
        del clock
        return self

    def value(self, step):
        return float(self.values[step])

    def __call__(self, step):
        return jnp.asarray(self.values, jnp.float32)[step]


def given(numbers, name):
    """A masker that keeps what the mask in the batch leaves (True is hidden, or dropped)."""
    kept = int((~numbers[name][0, 0]).sum())
    return Masker(keep=lambda grid: kept, score=lambda keys, batch, grid: (~batch[name]).astype(jnp.float32))


def begin(method, optimizer, params, accumulate):
    tx, _ = optimizer.build(params, Clock(steps=1, steps_per_epoch=1, global_batch=1))
    state = TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=tx.init(params),
        extra={"method": None},
        frozen={},
        first_bad_step=jnp.int32(-1),
    )
    return state, jax.jit(make_step(method, tx, accumulate=accumulate))


def ours(name, scales):
    """Our path for an official name, and its scale there."""
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if not block:
        return OTHER[name], float(scales[OTHER[name]])
    path = f"encoder/blocks/{BLOCK[block[2]]}"
    return path, scales[path][int(block[1])].item()


def classifier_params(depth, cosine, scaled):
    model = vit(
        "micro", frames=2, resolution=32, depth=depth, cosine_attention=cosine, layer_scale=0.1 if scaled else None
    )
    batch = {
        "video": jax.ShapeDtypeStruct((1, *model.video_shape), np.uint8),
        "seed": jax.ShapeDtypeStruct((1, 2), np.uint32),
        "index": jax.ShapeDtypeStruct((1,), np.int32),
        "valid": jax.ShapeDtypeStruct((1,), bool),
    }
    method = classify.build(model, classes=7)
    return meta.unbox(jax.eval_shape(lambda b: method.init(jax.random.key(0), b)[0], batch))
