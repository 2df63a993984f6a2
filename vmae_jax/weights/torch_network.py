"""VideoMAE in plain PyTorch functions, straight from a state dict: the check of our exports.

Written from the official architecture for its names, it uses every tensor once and reports those that it
did not use, so it loads as strictly as the official code. Callers import PyTorch.
"""

# pyright: reportMissingImports=false
# PyTorch and transformers are optional.

from collections.abc import Mapping
from typing import Any

import numpy as np

from vmae_jax.weights.layouts.rules import MismatchError
from vmae_jax.weights.layouts.videomae import Facts

__all__ = ["outputs"]

EPSILON = 1e-6
MAX_LOGIT_SCALE = 4.6052  # log 100


def outputs(
    state: Mapping[str, Any],
    pixels: np.ndarray,
    *,
    facts: Facts,
    hidden: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """What the official model computes, float32.

    Args:
      state: torch tensors in the official names.
      pixels: normalised, [b c t y x].
      facts: of the model.
      hidden: for pre-training weights, bool [b n]; True is hidden from the encoder.

    Returns:
      "tokens" [b n d] after the last block (and norm, in pre-training) of whole clips; and
      "features" and "logits" of a classifier, or "prediction" [b k p] of the hidden cubes.

    Raises:
      MismatchError: tensors that nothing used.
    """
    import torch

    used: set[str] = set()
    network = _Network({name: tensor.float() for name, tensor in state.items()}, used, facts)
    result = {}
    with torch.no_grad():
        video = torch.from_numpy(np.ascontiguousarray(pixels))
        classifier = "head.weight" in state
        prefix = "" if classifier else "encoder."
        tokens = network.embed(video, prefix)
        encoded = network.stack(tokens, f"{prefix}blocks", facts.heads)
        if "encoder.norm.weight" in state:
            encoded = network.norm(encoded, "encoder.norm")
        first = 1 if f"{prefix}cls_token" in state else 0
        encoded = encoded[:, first:]
        result["tokens"] = encoded
        if classifier:
            result["features"] = network.norm(encoded.mean(1), "fc_norm")
            result["logits"] = network.linear(result["features"], "head")
        elif hidden is not None and "mask_token" in state:
            mask = torch.from_numpy(hidden)
            result["prediction"] = network.predict(tokens, mask)
    left = sorted(set(state) - used)
    if left:
        raise MismatchError(f"the official model has no place for {left[0]} ({len(left)} tensors are left over)")
    return {name: value.numpy() for name, value in result.items()}


class _Network:
    """The layers, over a dict of tensors; notes which it used."""

    def __init__(self, state: Mapping[str, Any], used: set[str], facts: Facts):
        self.state, self.used, self.facts = state, used, facts

    def get(self, name: str) -> Any:
        if name not in self.state:
            raise MismatchError(f"{name} is missing from the weights")
        self.used.add(name)
        return self.state[name]

    def linear(self, x: Any, name: str) -> Any:
        x = x @ self.get(f"{name}.weight").T
        return x + self.get(f"{name}.bias") if f"{name}.bias" in self.state else x

    def norm(self, x: Any, name: str) -> Any:
        from torch.nn import functional

        return functional.layer_norm(x, x.shape[-1:], self.get(f"{name}.weight"), self.get(f"{name}.bias"), EPSILON)

    def embed(self, video: Any, prefix: str) -> Any:
        from torch.nn import functional

        kernel = self.get(f"{prefix}patch_embed.proj.weight")
        x = functional.conv3d(video, kernel, self.get(f"{prefix}patch_embed.proj.bias"), stride=kernel.shape[2:])
        x = x.flatten(2).transpose(1, 2)
        return self.with_token(x + self.positions(prefix, *x.shape[1:]), prefix)

    def with_token(self, x: Any, prefix: str) -> Any:
        """The tokens behind a class token with its position, where there is one."""
        import torch

        name, position = f"{prefix}cls_token", f"{prefix}pos_embed_class"
        if name not in self.state:
            return x
        token = self.get(name) + (self.get(position) if position in self.state else 0)
        return torch.cat([token.expand(len(x), -1, -1), x], 1)

    def positions(self, prefix: str, n: int, width: int) -> Any:
        """[1 n width]: a table, places plus times, or what the model computes."""
        import torch

        if f"{prefix}pos_embed" in self.state:
            return self.get(f"{prefix}pos_embed")
        if f"{prefix}pos_embed_spatial" in self.state:
            space, time = self.get(f"{prefix}pos_embed_spatial"), self.get(f"{prefix}pos_embed_temporal")
            return (time[:, :, None] + space[:, None]).reshape(1, n, width)
        return torch.tensor(self.facts.tables["decoder" if prefix == "decoder." else "encoder"])[None]

    def predict(self, tokens: Any, mask: Any) -> Any:
        import torch

        first = int("encoder.cls_token" in self.state)
        before, tokens = tokens[:, :first], tokens[:, first:]
        batch, n, width = tokens.shape
        visible = torch.cat([before, tokens[~mask].reshape(batch, -1, width)], 1)
        encoded = self.norm(self.stack(visible, "encoder.blocks", self.facts.heads), "encoder.norm")
        given = self.linear(encoded, "encoder_to_decoder")
        before, visible = given[:, :first], given[:, first:]
        positions = self.positions("decoder.", n, visible.shape[-1]).expand(batch, -1, -1)
        seen = visible + positions[~mask].reshape(visible.shape)
        unseen = self.get("mask_token") + positions[mask].reshape(batch, -1, visible.shape[-1])
        x = torch.cat([seen, unseen], 1)
        x = torch.cat([before, x], 1) if self.facts.keeps_prefix else self.with_token(x, "decoder.")
        x = self.stack(x, "decoder.blocks", self.facts.decoder_heads)
        return self.linear(self.norm(x[:, -unseen.shape[1] :], "decoder.norm"), "decoder.head")

    def stack(self, x: Any, name: str, heads: int) -> Any:
        depth = len({key.removeprefix(f"{name}.").split(".")[0] for key in self.state if key.startswith(f"{name}.")})
        for i in range(depth):
            x = self.block(x, f"{name}.{i}", heads)
        return x

    def block(self, x: Any, name: str, heads: int) -> Any:
        from torch.nn import functional

        y = self.attend(self.norm(x, f"{name}.norm1"), f"{name}.attn", heads)
        x = x + self.scaled(y, f"{name}.gamma_1")
        y = functional.gelu(self.linear(self.norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
        return x + self.scaled(self.linear(y, f"{name}.mlp.fc2"), f"{name}.gamma_2")

    def scaled(self, y: Any, name: str) -> Any:
        return y * self.get(name) if name in self.state else y

    def attend(self, x: Any, name: str, heads: int) -> Any:
        import torch
        from torch.nn import functional

        batch, n, width = x.shape
        qkv = x @ self.get(f"{name}.qkv.weight").T
        if f"{name}.q_bias" in self.state:
            q_bias, v_bias = self.get(f"{name}.q_bias"), self.get(f"{name}.v_bias")
            qkv = qkv + torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
        q, k, v = qkv.reshape(batch, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
        if f"{name}.scale" in self.state:
            scale = self.get(f"{name}.scale").clamp(max=MAX_LOGIT_SCALE).exp()
            q, k = functional.normalize(q, dim=-1) * scale, functional.normalize(k, dim=-1)
        else:
            q = q * q.shape[-1] ** -0.5
        x = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.linear(x.transpose(1, 2).reshape(batch, n, width), f"{name}.proj")
