"""The reference in PyTorch, a separate program with the design of the authors.

It is built from the modules of transformers' VideoMAE: all tokens are embedded and then
dropped, targets are computed for all tokens, pixels are normalized floating point, and the
decoder reads the visible tokens and the mask tokens of the plan. It reads weights, clips and masks
from a folder that our side wrote, so both sides do the same work on the same numbers:

    config.json          the model, as transformers opens it
    model.safetensors    its weights; without them they are random
    batch.npz            video [b t h w c] uint8; visible [b v], decode [b k], weight [b k]

    python -m vmae_jax.bench.reference FOLDER --attention=eager --dtype=float32 [--compile]

For each line of standard input it takes a step and prints a JSON line
{"seconds", "loss", "peak_bytes"}; it exits at the end of its input. It does not import JAX.
"""

# pyright: reportMissingImports=false
# PyTorch and transformers are optional.

import argparse
import json
import pathlib
import resource
import sys
import time
from typing import Any

import numpy as np

__all__ = ["main"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Reference:
    """A pre-training step of VideoMAE V2 in PyTorch.

    Attributes:
      attention: "eager" (softmax of a matrix product) or "sdpa" (fused).
      dtype: "float32", or "bfloat16": autocast over float32 parameters.
    """

    def __init__(self, folder: pathlib.Path, *, attention: str, dtype: str, compiled: bool) -> None:
        import torch
        import transformers

        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any
        if (folder / "model.safetensors").exists():
            model = transformers.VideoMAEForPreTraining.from_pretrained(folder, attn_implementation=attention)
        else:  # random weights are as fast
            config = transformers.VideoMAEConfig.from_pretrained(folder)
            config._attn_implementation = attention
            model = transformers.VideoMAEForPreTraining(config)
        model.decoder.norm.eps = 1e-6  # as the official code has it
        for layer in model.decoder.decoder_layers:
            layer.layernorm_before.eps = layer.layernorm_after.eps = 1e-6
        self.model = model.to(self.device).train()
        self.amp = torch.bfloat16 if dtype == "bfloat16" else None
        rates = {"lr": 1e-4, "betas": (0.9, 0.95), "weight_decay": 0.05, "fused": True}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **rates)
        self.forward = torch.compile(self._loss) if compiled else self._loss
        batch = np.load(folder / "batch.npz")
        # The last axis of `normalised` is the channels, as in the batches of such a loader.
        normalised = (batch["video"].astype(np.float32) / 255.0 - np.array(MEAN, np.float32)) / np.array(
            STD, np.float32
        )
        self.pixels = torch.from_numpy(normalised.transpose(0, 1, 4, 2, 3).copy()).to(self.device)
        self.masked = torch.ones(batch["video"].shape[0], model.videomae.embeddings.num_patches, dtype=torch.bool)
        self.masked.scatter_(1, torch.from_numpy(batch["visible"].astype(np.int64)), value=False)
        self.masked = self.masked.to(self.device)
        self.decode = torch.from_numpy(batch["decode"].astype(np.int64)).to(self.device)
        self.weight = torch.from_numpy(batch["weight"].astype(np.float32)).to(self.device)
        self.table = model.position_embeddings.to(self.device)

    def _loss(self) -> Any:
        model, torch = self.model, self.torch
        rows, width = self.masked.shape[0], self.table.shape[-1]
        with torch.autocast(self.device, dtype=self.amp or torch.bfloat16, enabled=self.amp is not None):
            visible = model.encoder_to_decoder(
                model.videomae(self.pixels, bool_masked_pos=self.masked).last_hidden_state
            )
            places = self.table.expand(rows, -1, -1)
            seen = places[~self.masked].reshape(rows, -1, width)
            hidden = places.gather(1, self.decode[..., None].expand(-1, -1, width))
            tokens = torch.cat([visible + seen, model.mask_token + hidden], dim=1)
            prediction = model.decoder(tokens, self.decode.shape[1]).logits
        labels = self._labels().gather(1, self.decode[..., None].expand(-1, -1, prediction.shape[-1]))
        error = (prediction.float() - labels).square().mean(-1)
        return (error * self.weight).sum() / self.weight.sum()

    def _labels(self) -> Any:
        """Return the normalized pixels of every token, as in transformers' own forward."""
        torch, config = self.torch, self.model.config
        with torch.no_grad():
            mean = torch.tensor(MEAN, device=self.device)[None, None, :, None, None]
            std = torch.tensor(STD, device=self.device)[None, None, :, None, None]
            frames = self.pixels * std + mean
            b, t, c, h, w = frames.shape
            p, q = config.tubelet_size, config.patch_size
            frames = frames.view(b, t // p, p, c, h // q, q, w // q, q).permute(0, 1, 4, 6, 2, 5, 7, 3)
            frames = frames.reshape(b, -1, p * q * q, c)
            deviation = frames.var(dim=-2, unbiased=True, keepdim=True).sqrt() + 1e-6
            return ((frames - frames.mean(dim=-2, keepdim=True)) / deviation).flatten(2)

    def step(self) -> float:
        """Take one step of AdamW; return the loss before it."""
        loss = self.forward()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())  # waits for the device

    def peak_bytes(self) -> int:
        """Return the peak memory of this process or its GPU."""
        if self.device == "cuda":
            return self.torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Take a step for every line of standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--attention", choices=("eager", "sdpa"), default="eager")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    if args.threads:
        torch.set_num_threads(args.threads)
    reference = Reference(args.folder, attention=args.attention, dtype=args.dtype, compiled=args.compile)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({"threads": torch.get_num_threads(), **versions}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        loss = reference.step()
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "loss": loss, "peak_bytes": reference.peak_bytes()}), flush=True)


if __name__ == "__main__":
    main()
