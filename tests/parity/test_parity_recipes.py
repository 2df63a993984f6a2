"""The official recipes: the learning rate of every step, layer decay and weight decay of every parameter."""

import json
import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vmae_jax.methods import classify
from vmae_jax.models.variants import vit
from vmae_jax.train.optim import decays, layer_scales
from vmae_jax.train.schedule import Clock, warmup_cosine

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
    assert recipes["lr_schedules"]
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
    assert recipes["layer_decay"]
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
    return jax.eval_shape(lambda b: method.init(jax.random.key(0), b)[0], batch)
