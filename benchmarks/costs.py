"""What a clip costs, counted: operations and bytes by part, ours and in the published code's order of work.

    python -m benchmarks.costs                 # the tables of docs/performance.md, from dimensions alone (seconds)
    python -m benchmarks.costs --memory        # compiles training steps on a CPU, for their memory (minutes)

Nothing is run and no device is needed. Operations count a multiply and an add as two; the paper's
"FLOPs" count them as one, so its tables stand beside multiply-adds.
"""

import argparse
import dataclasses
import os
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vmae_jax.masking.running_cell import running_cell
from vmae_jax.masking.tube import tube
from vmae_jax.methods.masked import Masked
from vmae_jax.models.variants import vit
from vmae_jax.plan import flops
from vmae_jax.plan.reference import reference
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.train.sharding import unbox
from vmae_jax.types import Context, Method

SIZES = ("S", "B", "L", "H", "g")
PARTS = (
    "encoder embed", "encoder qkv", "encoder scores", "encoder proj", "encoder mlp",
    "decoder project", "decoder qkv", "decoder scores", "decoder proj", "decoder mlp", "decoder head",
)  # fmt: skip
PAPER = {("B", True): 25.87, ("B", False): 35.48, ("g", True): 241.61, ("g", False): 263.93}
SPEED_UP = {"B": 1.79, "g": 1.48}


def masked(size: str, *, dual: bool, dtype: str = "bfloat16", attention: str = "plain", **model: Any) -> Masked:
    """VideoMAE V2 of a size, or V1 where the decoder predicts all that is hidden."""
    return Masked(
        vit(size, dtype=dtype, attention=attention, **model),
        tube(0.9),
        running_cell(0.5) if dual else None,
        {"pixels": objective(pixels())},
    )


def batch(model: Any, clips: int = 1) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch."""
    return {
        "video": jax.ShapeDtypeStruct((clips, *model.video_shape), jnp.uint8),
        "seed": jax.ShapeDtypeStruct((clips, 2), jnp.uint32),
        "index": jax.ShapeDtypeStruct((clips,), jnp.int32),
        "valid": jax.ShapeDtypeStruct((clips,), bool),
    }


def forms(size: str, *, dual: bool, **model: Any) -> tuple[Any, Method, Method]:
    """The model, ours, and the published code's order of work."""
    ours = masked(size, dual=dual, **model)
    return ours.model, Method(init=ours.init, loss=ours.loss, features=ours.features), reference(ours)


class Counted(NamedTuple):
    """A network's forward pass over a batch.

    Attributes:
      params: their shapes.
      parts: its cost by part.
    """

    model: Any
    params: Any
    parts: dict[str, flops.Cost]


def counted(size: str, *, dual: bool, published: bool, clips: int = 1, **model: Any) -> Counted:
    """Traces the forward pass of `clips` clips and counts it."""
    made, *both = forms(size, dual=dual, **model)
    method, shapes = both[published], batch(made, clips)
    params = unbox(jax.eval_shape(lambda b: method.init(jax.random.key(0), b)[0], shapes))
    context = Context(key=jax.random.key(0), step=jnp.int32(0))
    return Counted(made, params, flops.by_part(lambda p, b: method.loss(p, b, context), params, shapes))


def cost(size: str, *, dual: bool, published: bool) -> dict[str, flops.Cost]:
    """Of one clip's forward pass, by part."""
    return counted(size, dual=dual, published=published).parts


def total(parts: dict[str, flops.Cost]) -> flops.Cost:
    return flops.Cost(sum(c.flops for c in parts.values()), sum(c.bytes for c in parts.values()))


def by_part() -> str:
    """Markdown: operations and bytes of a clip's forward pass by part, for every size and form."""
    lines = []
    for size in SIZES:
        kinds = [(dual, published) for dual in (True, False) for published in (False, True)]
        costs = [cost(size, dual=dual, published=published) for dual, published in kinds]
        unknown = {part for parts in costs for part in parts} - set(PARTS)
        assert not unknown, unknown
        lines += [
            f"**ViT-{size}**, a clip's forward pass: GFLOPs, and MB that its products read and write in bfloat16",
            "",
            "| part | ours, dual masking | reference, dual masking | ours, all hidden | reference, all hidden |",
            "|---|---|---|---|---|",
        ]
        for part in (*PARTS, "sum"):
            each = [total(parts) if part == "sum" else parts.get(part, flops.Cost(0, 0)) for parts in costs]
            lines.append(f"| {part} | " + " | ".join(f"{c.flops / 1e9:.2f}, {c.bytes / 1e6:.0f}" for c in each) + " |")
        lines.append("")
    return "\n".join(lines)


def efficiency() -> str:
    """Markdown: the paper's efficiency table beside our counts."""
    lines = [
        "| model | decoder masking | paper, G multiply-adds | reference, counted | ours, counted "
        "| ours, ratio without / with | paper's speed-up |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in ("B", "g"):
        ours = {dual: total(cost(size, dual=dual, published=False)).flops / 2e9 for dual in (True, False)}
        theirs = {dual: total(cost(size, dual=dual, published=True)).flops / 2e9 for dual in (True, False)}
        for dual in (False, True):
            ratio = f"{ours[False] / ours[True]:.2f}" if dual else ""
            lines.append(
                f"| {size} | {'yes' if dual else 'no'} | {PAPER[size, dual]} | {theirs[dual]:.2f} | {ours[dual]:.2f} "
                f"| {ratio} | {SPEED_UP[size] if dual else ''} |"
            )
    return "\n".join(lines)


def inputs() -> str:
    """Markdown: bytes of pixels, targets and masks of a clip in both orders of work."""
    lines = [
        "| model | pixels to the device, MB | made float for the encoder, MB | targets, MB |",
        "|---|---|---|---|",
    ]
    for size in ("B", "g"):
        model = vit(size)
        cube = model.patch.t * model.patch.h * model.patch.w * model.channels
        tokens = model.grid.size
        visible, decoded = tube(0.9).keep(model.grid), running_cell(0.5).keep(model.grid)
        for name, pixel, embedded, targets in (
            ("ours", 1, visible, decoded),
            ("reference", 4, tokens, tokens),
        ):
            sizes = (tokens * cube * pixel, embedded * cube * 4, targets * cube * 4)
            lines.append(f"| {size}, {name} | " + " | ".join(f"{n / 1e6:.2f}" for n in sizes) + " |")
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Peak:
    """Bytes of a compiled training step: arguments, temporaries."""

    arguments: int
    temporaries: int


def peak(size: str, *, dual: bool, published: bool, clips: int, remat: str) -> Peak:
    """Of forward, backward and AdamW on one CPU device in float32; the published order with plain attention."""
    attention = "plain" if published else "auto"
    model, *both = forms(size, dual=dual, dtype="float32", remat=remat, attention=attention)
    method, shapes = both[published], batch(model, clips)
    tx = optax.adamw(1e-4)
    params = unbox(jax.eval_shape(lambda b: method.init(jax.random.key(0), b)[0], shapes))
    context = Context(key=jax.random.key(0), step=jnp.int32(0))

    def objective_of(params: Any, data: Any) -> Any:
        (term,) = method.loss(params, data, context).terms.values()
        return term.total / term.count

    def train_step(state: Any, data: Any) -> Any:
        params, moments = state
        grads = jax.grad(objective_of)(params, data)
        updates, moments = tx.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments

    state = (params, jax.eval_shape(tx.init, params))
    memory: Any = jax.jit(train_step, donate_argnums=0).lower(state, shapes).compile().memory_analysis()
    return Peak(int(memory.argument_size_in_bytes), int(memory.temp_size_in_bytes))


def memory(cases: tuple[tuple[str, int, str], ...]) -> str:
    """Markdown: compiled memory of both orders of work at the same batch."""
    lines = [
        "| model, clips, remat | decoder masking | reference, GiB | ours, GiB | reference / ours "
        "| temporaries, reference / ours |",
        "|---|---|---|---|---|---|",
    ]
    for size, clips, remat in cases:
        for dual in (False, True):
            theirs, ours = (
                peak(size, dual=dual, published=published, clips=clips, remat=remat) for published in (True, False)
            )
            sums = [(p.arguments + p.temporaries) / 2**30 for p in (theirs, ours)]
            lines.append(
                f"| {size}, {clips}, {remat} | {'yes' if dual else 'no'} | {sums[0]:.2f} | {sums[1]:.2f} "
                f"| {sums[0] / sums[1]:.2f} | {theirs.temporaries / ours.temporaries:.2f} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true", help="compile steps of B and g for their memory instead")
    args = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    jax.config.update("jax_platforms", "cpu")
    if args.memory:
        print(memory((("B", 8, "none"), ("g", 8, "none"), ("g", 8, "full"))))
        return 0
    print(efficiency(), inputs(), by_part(), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
