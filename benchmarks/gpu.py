"""How close one GPU comes to its limit, size by size, ours against PyTorch: one script, one JSON file.

    python -m benchmarks.gpu --out=gpu.json                       # S, B, L, H, g: ours, PyTorch eager and compiled
    python -m benchmarks.gpu --out=gpu.json --sizes=L --sides=ours
    python -m benchmarks.gpu --out=gpu.json --table               # prints what is there

Each measurement is a process of its own with a time limit, and is written down when it ends: run
again, the script goes on where it was. For each size and side it doubles the batch until the rate
no longer grows or the memory is full; the best batch counts. Rates are of whole training steps
(bfloat16 matrix products, float32 parameters, AdamW, dual masking) on random clips.

Needs jax, flax, optax, einops and jaxtyping; PyTorch's sides need torch and transformers.
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import types
from typing import Any

SIZES = ("S", "B", "L", "H", "g")
SIDES = {
    "ours": "this project",
    "torch": "PyTorch eager, autocast, plain attention: the path as its users have it",
    "torch-compiled": "PyTorch compiled, autocast, fused attention",
}
GROWS = 1.02  # a batch twice as large is worth trying further while the rate grows by this
START = {"S": 64, "B": 32, "L": 16, "H": 8, "g": 8}
LARGEST = 2048

FLAGS = {
    # Collectives and copies run beside the arithmetic instead of between it.
    "--xla_gpu_enable_latency_hiding_scheduler": "true",
    # Matrix products pick among Triton's kernels as well as cuBLAS's, by measuring.
    "--xla_gpu_autotune_level": "4",
}


def environment(side: str) -> dict[str, str]:
    """Of a measurement's process."""
    flags = " ".join(f"{name}={value}" for name, value in FLAGS.items())
    cuda = side == "ours" and os.environ.get("JAX_PLATFORMS", "cuda") != "cpu"
    return os.environ | ({"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()} if cuda else {})


def build(size: str, batch: int, remat: str) -> Any:
    """The method of VideoMAE V2 and the shapes of its batch."""
    import jax
    import numpy as np

    from vmae_jax.masking.running_cell import running_cell
    from vmae_jax.masking.tube import tube
    from vmae_jax.methods.masked import build
    from vmae_jax.models.variants import vit
    from vmae_jax.targets.core import objective
    from vmae_jax.targets.pixels import pixels

    small: Any = {"frames": 4, "resolution": 32} if size in ("micro", "tiny") else {}
    model = vit(size, dtype="bfloat16", remat=remat, **small)
    method = build(model, tube(0.9 if not small else 0.5), {"pixels": objective(pixels())}, running_cell(0.5))
    spec = {
        "video": jax.ShapeDtypeStruct((batch, *model.video_shape), np.uint8),
        "seed": jax.ShapeDtypeStruct((batch, 2), np.uint32),
        "index": jax.ShapeDtypeStruct((batch,), np.int32),
        "valid": jax.ShapeDtypeStruct((batch,), np.bool_),
    }
    return model, method, spec


def measure_ours(size: str, batch: int, remat: str, rounds: int) -> dict[str, Any]:
    """Our step, in turns with the machine's matrix-product peak."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from vmae_jax.bench.step import interleaved, matmul_peak, random_batch
    from vmae_jax.plan import flops
    from vmae_jax.train import sharding
    from vmae_jax.train.optim import adamw
    from vmae_jax.train.schedule import Clock, constant
    from vmae_jax.train.state import make_init
    from vmae_jax.train.step import compile_step, make_step
    from vmae_jax.types import Context

    _, method, spec = build(size, batch, remat)
    mesh = sharding.make_mesh({"data": 1}, devices=jax.devices()[:1])
    params = sharding.abstract(lambda key, b: method.init(key, b)[0], spec)
    tx = adamw(constant(1e-4), b2=0.95).build(params, Clock(1000, 1000.0, batch))[0]
    state, placement = sharding.create(make_init(method, tx), jax.random.key(0), spec, mesh)
    data = jax.device_put(random_batch(spec), sharding.batch_sharding(mesh))
    began = time.perf_counter()
    program = compile_step(make_step(method, tx), placement, mesh, spec).lower(state, data).compile()
    compiled = time.perf_counter() - began
    held = [state]

    def take() -> float:
        began = time.perf_counter()
        held[0], metrics = program(held[0], data)
        loss = float(metrics["loss"])
        if not np.isfinite(loss):
            raise ValueError(f"the loss is {loss}")
        return time.perf_counter() - began

    took = interleaved({"ours": take, "peak": matmul_peak(jnp.bfloat16)}, rounds=rounds, warmup=3)
    # Model FLOPs follow from the dims: counted with the plain form of attention.
    _, plain, _ = build(size, batch, "none")
    context = Context(key=jax.random.key(0), step=jnp.zeros((), jnp.int32))
    work = flops.of_training(lambda p, b: plain.loss(p, b, context), sharding.unbox(params), spec)
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "seconds": took["ours"].median,
        "spread": took["ours"].spread,
        "model_tflops": work / took["ours"].median / 1e12,
        "peak_tflops": 1 / took["peak"].median,
        "share_of_peak": work / took["ours"].median * took["peak"].median / 1e12,
        "peak_bytes": stats.get("peak_bytes_in_use"),
        "compile_seconds": compiled,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


def measure_torch(side: str, size: str, batch: int, rounds: int) -> dict[str, Any]:
    """The reference path in PyTorch, on random weights."""
    import jax
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]

    from vmae_jax.bench.reference import Reference
    from vmae_jax.bench.step import interleaved, random_batch
    from vmae_jax.weights.layouts import huggingface
    from vmae_jax.weights.layouts.dims import Dims

    model, _, spec = build(size, batch, "none")
    data = random_batch(spec)
    masks = jax.device_get(jax.jit(functools.partial(_plan, size))(data))
    encoder, decoder, patch = model.encoder, model.decoder, model.patch
    dims = Dims(
        kind="pretraining", patch=patch.h, tubelet=patch.t, channels=model.channels,
        width=encoder.width, depth=encoder.blocks["depth"], hidden=encoder.blocks["hidden"],
        decoder_width=decoder["width"], decoder_depth=decoder["blocks"]["depth"],
        decoder_hidden=decoder["blocks"]["hidden"],
    )  # fmt: skip
    frames, height, width, _ = model.video_shape
    config = huggingface.config(
        dims, heads=encoder.blocks["heads"], decoder_heads=decoder["blocks"]["heads"],
        frames=frames, size=(height, width),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "config.json").write_text(huggingface.as_text(config))
        np.savez(
            folder / "batch.npz", video=data["video"], visible=masks.visible, decode=masks.decode, weight=masks.weight
        )
        compiled = side == "torch-compiled"
        attention = "sdpa" if compiled else "eager"
        reference = Reference(folder, attention=attention, dtype="bfloat16", compiled=compiled)

    def take() -> float:
        began = time.perf_counter()
        reference.step()
        return time.perf_counter() - began

    took = interleaved({side: take}, rounds=rounds, warmup=3)[side]
    return {
        "seconds": took.median,
        "spread": took.spread,
        "peak_bytes": reference.peak_bytes(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
    }


def _plan(size: str, data: Any) -> Any:
    """The masks that our side would draw."""
    from vmae_jax.masking.core import plan
    from vmae_jax.masking.running_cell import running_cell
    from vmae_jax.masking.tube import tube
    from vmae_jax.types import row_keys, stream

    model, _, _ = build(size, 1, "none")
    ratio = 0.5 if size in ("micro", "tiny") else 0.9
    return plan(stream(row_keys(data["seed"]), "mask"), data, model.grid, tube(ratio), running_cell(0.5))


def child(task: dict[str, Any]) -> None:
    """One measurement; its result is the last line."""
    try:
        import ml_collections  # noqa: F401
    except ImportError:  # configs are not needed here, only that the module is there
        stub = types.ModuleType("ml_collections")
        stub.ConfigDict = dict  # pyright: ignore[reportAttributeAccessIssue]
        sys.modules["ml_collections"] = stub
    side, size, batch = task["side"], task["size"], task["batch"]
    if side == "ours":
        result = measure_ours(size, batch, task["remat"], task["rounds"])
    else:
        result = measure_torch(side, size, batch, task["rounds"])
    print(json.dumps(result | {"clips_per_second": batch / result["seconds"]}), flush=True)


def attempt(task: dict[str, Any], *, limit: float) -> dict[str, Any]:
    """A measurement in a process of its own: its result, or {"error": …}."""
    command = [sys.executable, "-m", "benchmarks.gpu", f"--child={json.dumps(task)}"]
    try:
        done = subprocess.run(command, env=environment(task["side"]), capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not done within {limit:.0f} s"}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        memory = [line for line in lines if "RESOURCE_EXHAUSTED" in line or "out of memory" in line.lower()]
        return {"error": (memory or lines or [f"exit status {done.returncode}"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def climb(side: str, size: str, results: dict[str, Any], save: Any, *, rounds: int, limit: float, start: int) -> None:
    """Doubles the batch while the rate grows; what was measured before is not measured again."""
    best, batch = 0.0, start
    remats = ("none", "full") if side == "ours" else ("none",)
    while batch <= LARGEST:
        rates = []
        for remat in remats:
            key = f"{size}/{side}/{batch}/{remat}"
            if key not in results:
                task = {"side": side, "size": size, "batch": batch, "remat": remat, "rounds": rounds}
                results[key] = task | attempt(task, limit=limit)
                save()
                print(key, {k: v for k, v in results[key].items() if k not in task}, file=sys.stderr, flush=True)
            if "error" not in results[key]:
                rates.append(results[key]["clips_per_second"])
                break  # recomputing is for what does not fit
        if not rates or max(rates) < GROWS * best:
            return
        best, batch = max(best, *rates), batch * 2


def table(results: dict[str, Any]) -> str:
    """Each size's best batch on each side, and our ratio to the others."""
    lines = ["| size | side | batch | clips/s | of the measured peak | memory GiB | ours is |", "|" + "---|" * 7]
    for size in dict.fromkeys(one["size"] for one in results.values()):
        best = {}
        for one in (one for one in results.values() if one["size"] == size and "error" not in one):
            if one["clips_per_second"] > best.get(one["side"], {}).get("clips_per_second", 0.0):
                best[one["side"]] = one
        for side, one in best.items():
            share = f"{100 * one['share_of_peak']:.1f}%" if "share_of_peak" in one else ""
            ratio = f"{best['ours']['clips_per_second'] / one['clips_per_second']:.2f}×" if "ours" in best else ""
            memory = f"{(one['peak_bytes'] or 0) / 2**30:.1f}"
            remat = "" if one["remat"] == "none" else f" ({one['remat']} remat)"
            lines.append(
                f"| {size} | {side}{remat} | {one['batch']} | {one['clips_per_second']:.1f} | {share} | {memory} | "
                f"{ratio if side != 'ours' else ''} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measures what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gpu.json"))
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--sides", default=",".join(SIDES), help="; ".join(f"{k}: {v}" for k, v in SIDES.items()))
    parser.add_argument("--start", type=int, default=0, help="first batch (default: by the size)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for one measurement")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which no further one is begun")
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child)
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    until = time.monotonic() + 60 * args.minutes

    def save() -> None:
        args.out.write_text(json.dumps(results, indent=1) + "\n")

    for size in () if args.table else args.sizes.split(","):
        for side in args.sides.split(","):
            if side not in SIDES:
                sys.exit(f"--sides={side}: there are {', '.join(SIDES)}")
            if time.monotonic() < until:
                climb(
                    side, size, results, save, rounds=args.rounds, limit=args.limit,
                    start=args.start or START.get(size, 2),
                )  # fmt: skip
    print(table(results))


if __name__ == "__main__":
    main()
