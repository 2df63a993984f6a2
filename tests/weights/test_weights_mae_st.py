"""MAE-ST's and HVM-1's weights: the whole model, class token and decoder, computes what theirs computes."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.special import erf

from vmae_jax.spec import ConfigError, call
from vmae_jax.weights.formats.tensors import File
from vmae_jax.weights.infer import config_of
from vmae_jax.weights.layouts.fit import fit
from vmae_jax.weights.layouts.names import official
from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.subject import fresh_params, normalized, outputs, probe, subject

WIDTH, NARROW, HEADS = 24, 16, 2
DIMS = {"prefix": 1, "positions": call("models.positions.separable"), "mean": [0.45] * 3, "std": [0.225] * 3}


def their_state():
    """Random weights under the names and in the shapes of mae_st/models_mae.py (2x2x2 tokens of 2x8x8)."""
    rng = np.random.default_rng(3)
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "decoder_cls_token": (1, 1, NARROW),
        "mask_token": (1, 1, NARROW),
        "patch_embed.proj.weight": (WIDTH, 3, 2, 8, 8),
        "patch_embed.proj.bias": (WIDTH,),
        "decoder_embed.weight": (NARROW, WIDTH),
        "decoder_embed.bias": (NARROW,),
        "decoder_pred.weight": (2 * 8 * 8 * 3, NARROW),
        "decoder_pred.bias": (2 * 8 * 8 * 3,),
        **{f"{norm}.{leaf}": (w,) for norm, w in (("norm", WIDTH), ("decoder_norm", NARROW)) for leaf in LEAVES},
    }
    for before, w in (("", WIDTH), ("decoder_", NARROW)):
        for name, n in (("spatial", 4), ("temporal", 2), ("class", 1)):
            shapes[f"{before}pos_embed_{name}"] = (1, n, w)
        for i in range(2 if not before else 1):
            block = f"{before}blocks.{i}"
            shapes |= {f"{block}.attn.{part}.weight": (w, w) for part in ("q", "k", "v", "proj")}
            shapes |= {f"{block}.attn.{part}.bias": (w,) for part in ("q", "k", "v", "proj")}
            shapes |= {f"{block}.{norm}.{leaf}": (w,) for norm in ("norm1", "norm2") for leaf in LEAVES}
            shapes |= {f"{block}.mlp.fc1.weight": (4 * w, w), f"{block}.mlp.fc1.bias": (4 * w,)}
            shapes |= {f"{block}.mlp.fc2.weight": (w, 4 * w), f"{block}.mlp.fc2.bias": (w,)}
    return {name: (0.2 * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


LEAVES = ("weight", "bias")


class Theirs:
    """Their forward pass in NumPy, step by step as mae_st has it; double precision."""

    def __init__(self, state):
        self.state = {name: array.astype(np.float64) for name, array in state.items()}

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def block(self, x, name):
        b, n, width = x.shape
        y = self.norm(x, f"{name}.norm1")
        q, k, v = (self.linear(y, f"{name}.attn.{part}").reshape(b, n, HEADS, -1).swapaxes(1, 2) for part in "qkv")
        logits = q @ k.swapaxes(2, 3) * (width // HEADS) ** -0.5
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        y = weights / weights.sum(-1, keepdims=True) @ v
        x = x + self.linear(y.swapaxes(1, 2).reshape(b, n, width), f"{name}.attn.proj")
        y = self.linear(self.norm(x, f"{name}.norm2"), f"{name}.mlp.fc1")
        return x + self.linear(0.5 * y * (1 + erf(y / np.sqrt(2))), f"{name}.mlp.fc2")

    def positions(self, before):
        space, time = self.state[f"{before}pos_embed_spatial"], self.state[f"{before}pos_embed_temporal"]
        return np.tile(space, (1, time.shape[1], 1)) + np.repeat(time, space.shape[1], axis=1)

    def encode(self, pixels, seen):
        """Tokens of the places `seen` [b v], without the class token's."""
        b = len(pixels)
        cubes = pixels.reshape(b, 2, 2, 3, 2, 8, 2, 8).transpose(0, 1, 4, 6, 3, 2, 5, 7).reshape(b, 8, -1)
        kernel = self.state["patch_embed.proj.weight"].reshape(WIDTH, -1)
        x = cubes @ kernel.T + self.state["patch_embed.proj.bias"] + self.positions("")
        x = np.take_along_axis(x, seen[..., None], axis=1)
        first = self.state["cls_token"] + self.state["pos_embed_class"]
        x = np.concatenate([np.repeat(first, b, axis=0), x], axis=1)
        for i in range(2):
            x = self.block(x, f"blocks.{i}")
        return self.norm(x, "norm")[:, 1:]

    def predict(self, encoded, seen):
        """Their prediction at all places [b 8 p]."""
        b = len(encoded)
        x = np.repeat(np.repeat(self.state["mask_token"], b, axis=0), 8, axis=1)
        np.put_along_axis(x, seen[..., None], self.linear(encoded, "decoder_embed"), axis=1)
        x = np.concatenate([np.repeat(self.state["decoder_cls_token"], b, axis=0), x], axis=1)
        positions = [self.state["decoder_pos_embed_class"], self.positions("decoder_")]
        x = self.block(x + np.concatenate(positions, axis=1), "decoder_blocks.0")
        return self.linear(self.norm(x, "decoder_norm"), "decoder_pred")[:, 1:]


def read(state):
    return official(File(dict(state), {}))


def test_the_whole_model_computes_what_theirs_does(small):
    one, state = subject(small.config_of(**DIMS, normalize=False)), their_state()
    params, account = fit(read(state), one.facts, fresh_params(one, None), one.model.grid)
    assert all(name.endswith("attn.k.bias") or "attn" in name for name in account.dropped)  # the keys' biases alone
    batch = probe(one)
    ours, hidden = outputs(one, params, batch)
    theirs, pixels = Theirs(state), normalized(one.model, batch["video"]).astype(np.float64)
    everywhere = np.arange(8)[None].repeat(len(pixels), axis=0)
    np.testing.assert_allclose(ours["tokens"], theirs.encode(pixels, everywhere), atol=2e-4)
    seen = np.stack([np.flatnonzero(~row) for row in hidden])
    prediction = theirs.predict(theirs.encode(pixels, seen), seen)
    expected = np.stack([row[mask] for row, mask in zip(prediction, hidden, strict=True)])
    np.testing.assert_allclose(ours["prediction"], expected, atol=2e-4)


def test_a_config_made_from_the_weights():
    state = their_state()
    # Heads of widths that nobody published cannot be known.
    wide = {"num_attention_heads": HEADS, "decoder_num_attention_heads": HEADS}
    config = config_of(official(File(dict(state), wide)))
    model = config.method.model
    assert (model.frames, model.resolution, model.prefix, model.heads, model.mean) == (4, 16, 1, 2, [0.45] * 3)
    one = subject(config)
    fit(read(state), one.facts, fresh_params(one, None), one.model.grid)


def test_a_decoder_of_every_second_frame_is_left_out(small):
    one, state = subject(small.config_of(**DIMS)), their_state()
    for leaf in LEAVES:
        state[f"decoder_pred.{leaf}"] = state[f"decoder_pred.{leaf}"][: 8 * 8 * 3]
    with pytest.raises(MismatchError, match="--fresh=decoder"):
        fit(read(state), one.facts, fresh_params(one, None), one.model.grid)
    params, account = fit(read(state), one.facts, fresh_params(one, None), one.model.grid, fresh=["decoder"])
    assert "decoder.head.weight" in account.dropped
    token = params["encoder"]["prefix_token"]
    np.testing.assert_allclose(token, (state["cls_token"] + state["pos_embed_class"])[0], rtol=1e-6)


def test_a_model_without_a_class_token_states_that_it_left_it_out(small):
    one, state = subject(small.config_of(**{**DIMS, "prefix": 0})), their_state()
    params, account = fit(read(state), one.facts, fresh_params(one, None), one.model.grid)
    assert {name for name in account.dropped if "cls_token" in name} == {"encoder.cls_token", "decoder.cls_token"}
    assert "prefix_token" not in params["encoder"]
    jax.tree.map(np.isfinite, params)


def test_a_dtype_that_is_a_call_is_refused(small):
    config = small.config_of(**DIMS)
    with config.method.model.ignore_type():
        config.method.model.dtype = ConfigDict({"call": "evil.run"})
    with pytest.raises(ConfigError, match=r"evil\.run"):
        subject(config)
