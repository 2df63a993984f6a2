"""`vmae bench step`: how fast the training step is, against the machine's limit and against PyTorch."""

import contextlib
import dataclasses
import pathlib
import resource
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vmae_jax import spec
from vmae_jax.bench.against import Against
from vmae_jax.bench.profile import by_part, trace
from vmae_jax.bench.step import Timing, interleaved, matmul_peak, random_batch
from vmae_jax.commands.experiment import Experiment, experiment
from vmae_jax.commands.streams import only_video
from vmae_jax.plan import flops
from vmae_jax.spec import ConfigError, calls
from vmae_jax.train import sharding
from vmae_jax.train.step import compile_step
from vmae_jax.weights import subject
from vmae_jax.weights.formats import tensors
from vmae_jax.weights.layouts import huggingface
from vmae_jax.weights.layouts.dims import dims_of
from vmae_jax.weights.layouts.videomae import to_official

__all__ = ["Running", "resized", "run_step"]

COSTLIEST = 10


@dataclasses.dataclass
class Running:
    """A compiled step with a state and a batch, to be timed.

    Attributes:
      compile_seconds, first_seconds: of compilation, and of the first step after it.
      memory: bytes of the compiled program on one device, by kind.
    """

    made: Experiment
    step: Any
    state: Any
    batch: Any
    program: Any
    compile_seconds: float
    first_seconds: float = 0.0
    first_loss: float = 0.0

    @classmethod
    def start(cls, made: Experiment) -> "Running":
        """Create the state and compile the step, on this machine's devices."""
        tx = made.optimizer_without_data()
        state, placement = sharding.create(made.make_init(tx), jax.random.key(made.seed), made.batch_spec, made.mesh)
        compiled = compile_step(made.make_step(tx), placement, made.mesh, made.batch_spec)
        batch = jax.device_put(random_batch(made.batch_spec), sharding.batch_sharding(made.mesh))
        began = time.perf_counter()
        program = compiled.lower(state, batch).compile()
        return cls(made, compiled, state, batch, program, time.perf_counter() - began)

    def take(self) -> float:
        """Take one step, wait for it, and return its seconds."""
        began = time.perf_counter()
        self.state, metrics = self.program(self.state, self.batch)
        loss = float(metrics["loss"])
        seconds = time.perf_counter() - began
        if not self.first_seconds:
            self.first_seconds, self.first_loss = seconds, loss
        return seconds

    @property
    def memory(self) -> dict[str, int]:
        """Bytes on one device: of the arguments (state and batch), and of temporary arrays."""
        found = self.program.memory_analysis()
        return {"arguments": found.argument_size_in_bytes, "temporaries": found.temp_size_in_bytes}

    @property
    def dtype(self) -> Any:
        """The dtype of the matrix products."""
        return subject.compute_dtype(self.made.config)


def resized(config: ConfigDict, clips: int | None) -> ConfigDict:
    """Return the config with this many clips per step, one per video, and sources that are never read."""
    for node in calls(config):
        if str(node.call).startswith("data.sources.") and "path" in node:
            node.path = "unread"
    data: Any = config.data
    if clips is not None:
        data.global_batch = clips
        if "repeat" in data:
            data.repeat = 1
    return config


def run_step(
    config: ConfigDict,
    *,
    clips: int | None = None,
    rounds: int = 10,
    against: tuple[str, ...] = (),
    threads: int = 0,
    profile: str | None = None,
) -> dict[str, Any]:
    """Time the training step of `config` on random clips, on this machine's devices.

    Each round times one step of each contender in turn: ours, each of `against`, and a chain of large matrix
    products, which measures the machine's peak.

    Args:
      config: any.
      clips: per step; None takes the config's.
      rounds: that are measured.
      against: names of `bench.against.CONTENDERS`; they need PyTorch and transformers.
      threads: of PyTorch on a CPU; 0 leaves the choice to PyTorch.
      profile: a folder for a trace, whose most expensive operations are listed.

    Raises:
      ConfigError: if `experiment` refuses the config, or the reference has no counterpart of the method.
    """
    made = experiment(resized(config, clips), trains=True)
    running = Running.start(made)
    took: dict[str, Timing]
    compared: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if against:
            _write_reference(running, folder)
        dtype = np.dtype(running.dtype).name
        others = {name: stack.enter_context(Against(name, folder, dtype=dtype, threads=threads)) for name in against}
        contenders = {"ours": running.take, **{name: other.step for name, other in others.items()}}
        first = {name: _first(other) for name, other in others.items()}
        took = interleaved({**contenders, "peak": matmul_peak(running.dtype)}, rounds=rounds)
        for name, other in others.items():
            compared[name] = _compared(took, name, other) | {"first_loss": first[name]}
    report = _report(running, took) | compared
    if against:
        report["ratio"] = report[against[0]]["ratio"]
    if profile is not None:
        report |= _profiled(running, pathlib.Path(profile))
    print(_table(report, against), file=sys.stderr)
    return report


def _first(other: Against) -> float:
    other.step()
    return other.last["loss"]


def _write_reference(running: Running, folder: pathlib.Path) -> None:
    """Write our weights, clips and masks for `bench.reference`."""
    config = running.made.config
    one = subject.subject(config)
    subject.published(one, "--against: PyTorch's model is transformers' VideoMAE")
    blocks = one.model.encoder.blocks
    method: Any = config.method
    other = blocks["cosine"] or blocks["layer_scale"] or blocks["biases"] != "qv" or one.model.encoder.prefix
    other = other or one.model.encoder.causal or one.model.decoder["project_bias"]
    other = other or not subject.sinusoidal(one) or method.get("guides")
    if one.masked is None or one.pixels is None or other or one.masked.objectives[one.pixels].target.joint:
        raise ConfigError(
            "--against: transformers' VideoMAE predicts pixels, as methods.masked.build does, without cosine "
            "attention, layer scale, class token, guides, or positions and targets of other methods; this config has "
            "another method or model"
        )
    only_video(one.method, running.made.batch_spec, "--against: PyTorch's model")
    state = to_official(jax.tree.map(np.asarray, jax.device_get(running.state.params)), one.facts)
    dims, (frames, height, width, _) = dims_of(state), one.model.video_shape
    theirs = huggingface.config(
        dims, heads=one.facts.heads, decoder_heads=one.facts.decoder_heads, frames=frames, size=(height, width)
    )
    tensors.write_safetensors(folder / "model.safetensors", huggingface.to_state(state, dims.kind), {})
    (folder / "config.json").write_text(huggingface.as_text(theirs))
    masks = {name: spec.build(method[name], "mask") for name in ("encoder_mask", "decoder_mask") if method.get(name)}
    masked = dataclasses.replace(one.masked, **masks)
    plan = jax.device_get(jax.jit(masked.plan)(running.batch))
    video = np.asarray(running.batch["video"])
    np.savez(folder / "batch.npz", video=video, visible=plan.visible, decode=plan.decode, weight=plan.weight)


def _compared(took: dict[str, Timing], name: str, other: Against) -> dict[str, Any]:
    ours, theirs = took["ours"], took[name]
    return {
        "seconds": theirs.median,
        "spread": theirs.spread,
        "ratio": theirs.median / ours.median,
        "ratio_of_best": theirs.best / ours.best,
        "peak_bytes": other.last["peak_bytes"],
        **other.about,
    }


def _report(running: Running, took: dict[str, Timing]) -> dict[str, Any]:
    made, ours = running.made, took["ours"]
    clips, work = made.loader.clips_per_step, made.model_flops()
    devices = len(made.mesh.devices.flat)
    rate = work / ours.median
    # Compare each step with the peak of the same round: a machine that slows down slows both.
    shares = [work * peak / 1e12 / step for step, peak in zip(ours.seconds, took["peak"].seconds, strict=True)]
    return {
        "device": jax.devices()[0].device_kind,
        "devices": devices,
        "jax": jax.__version__,
        "dtype": np.dtype(running.dtype).name,
        "clips_per_step": clips,
        "rounds": len(ours.seconds),
        "seconds": ours.median,
        "best_seconds": ours.best,
        "spread": ours.spread,
        "clips_per_second": clips / ours.median,
        "model_flops_per_clip": work / clips,
        "model_tflops": rate / 1e12,
        "peak_tflops": 1 / took["peak"].median,
        "share_of_peak": float(np.median(shares)) / devices,
        "data_sheet_peak_tflops": None if (sheet := flops.peak(jax.devices())) is None else sheet / 1e12,
        "memory_bytes": running.memory | {"peak": _peak_bytes()},
        "compile_seconds": running.compile_seconds,
        "first_step_seconds": running.first_seconds,
        "first_loss": running.first_loss,
    }


def _peak_bytes() -> int:
    """Return the peak memory so far: of a device, or of this process where the device is the CPU."""
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _profiled(running: Running, folder: pathlib.Path) -> dict[str, Any]:
    ops = trace(running.take, running.program.as_text(), folder=folder)
    total = sum(op.seconds for op in ops)
    return {
        "parts": {name: seconds / total for name, seconds in by_part(ops).items()},
        "costliest": [
            {"name": op.name, "scope": op.scope, "share": op.seconds / total, "count": op.count}
            for op in ops[:COSTLIEST]
        ],
        "trace": str(folder),
    }


def _table(report: dict[str, Any], against: tuple[str, ...]) -> str:
    """The report for a terminal."""
    memory = report["memory_bytes"]
    rows = [
        ("machine", f"{report['devices']} × {report['device']}, jax {report['jax']}, {report['dtype']}"),
        ("step", f"{1000 * report['seconds']:.1f} ms ± {100 * report['spread']:.1f}%, median of {report['rounds']} "
                 f"(best {1000 * report['best_seconds']:.1f})"),
        ("rate", f"{report['clips_per_second']:.2f} clips/s of {report['clips_per_step']} a step, "
                 f"{report['model_tflops']:.3f} model TFLOP/s"),
        ("share of peak", f"{100 * report['share_of_peak']:.1f}% of {report['peak_tflops']:.3f} TFLOP/s, measured in "
                          f"turns with it"),
        ("memory", ", ".join(f"{kind} {size / 2**30:.2f} GiB" for kind, size in memory.items())),
        ("compile", f"{report['compile_seconds']:.1f} s, first step {report['first_step_seconds']:.2f} s"),
    ]  # fmt: skip
    for name in against:
        other = report[name]
        rows.append((name, f"{1000 * other['seconds']:.1f} ms ± {100 * other['spread']:.1f}%: ours is "
                           f"{other['ratio']:.2f} times as fast; first loss {other['first_loss']:.6f}, ours "
                           f"{report['first_loss']:.6f}"))  # fmt: skip
    rows += [(f"part: {name}", f"{100 * share:.1f}%") for name, share in report.get("parts", {}).items()]
    for op in report.get("costliest", ()):
        rows.append((f"{100 * op['share']:.1f}%", f"{op['name']} × {op['count']:.0f}: {op['scope']}"))
    wide = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{wide}}  {value}" for name, value in rows)
