"""The commands `vmae bench …` and their options; nothing heavy is imported until one runs."""

import argparse
from collections.abc import Callable
from typing import Any

from vmae_jax.runtime.allocator import keep_freed_memory
from vmae_jax.spec import ConfigError

__all__ = ["add_commands"]


def add_commands(benches: Any, command: Callable[..., Any], config_arguments: Callable[[Any], None]) -> None:
    """Add `input`, `step` and `train` to the group.

    Args:
      benches: the group's subparsers.
      command: (subparsers, name, function, help) -> parser.
      config_arguments: adds --config and --plugins to a parser.
    """
    feeding = command(benches, "input", _input, "clips/s from files to devices, by stage, and the slowest stage")
    config_arguments(feeding)
    feeding.add_argument("--seconds", type=float, default=10.0, help="duration of each measurement (default 10)")
    feeding.add_argument("--step-seconds", type=float, help="duration of a training step, to compare the input with")
    feeding.add_argument("--hosts", type=int, default=1, help="hosts of the pod to project to (default 1)")

    stepping = command(benches, "step", _step, "the training step, compared with the machine's peak and PyTorch")
    config_arguments(stepping)
    stepping.add_argument("--clips", type=int, help="clips per step (default: the config's)")
    stepping.add_argument("--rounds", type=int, default=10, help="measured rounds (default 10)")
    stepping.add_argument("--against", default="", metavar="NAME[,NAME]",
                          help="torch, torch-fused, torch-compiled: the same step in PyTorch, in turns")  # fmt: skip
    stepping.add_argument("--threads", type=int, default=0, help="threads of PyTorch on a CPU (default: PyTorch's)")
    stepping.add_argument("--profile", metavar="DIR", help="write a trace there and list the costliest operations")

    training = command(benches, "train", _train, "training on the config's clips, compared with the step alone")
    config_arguments(training)
    training.add_argument("--rounds", type=int, default=10, help="measured rounds (default 10)")


def _config(args: argparse.Namespace, what: str) -> Any:
    keep_freed_memory()  # before JAX is imported: its threads keep the allocator settings of that moment
    from vmae_jax.commands import config

    if args.config is None:
        raise ConfigError(f"vmae bench {what}: --config is needed")
    return config.load_config(args.config, args.overrides)


def _input(args: argparse.Namespace) -> dict[str, Any]:
    chosen = _config(args, "input")
    from vmae_jax.commands import bench_input

    return bench_input.run_input(chosen, seconds=args.seconds, step_seconds=args.step_seconds, hosts=args.hosts)


def _train(args: argparse.Namespace) -> dict[str, Any]:
    chosen = _config(args, "train")
    from vmae_jax.commands import bench_train

    return bench_train.run_train(chosen, rounds=args.rounds)


def _step(args: argparse.Namespace) -> dict[str, Any]:
    chosen = _config(args, "step")
    from vmae_jax.bench.against import CONTENDERS
    from vmae_jax.commands import bench_step

    against = tuple(filter(None, args.against.split(",")))
    if unknown := set(against) - set(CONTENDERS):
        raise ConfigError(f"--against={','.join(sorted(unknown))}: there are {', '.join(CONTENDERS)}")
    return bench_step.run_step(
        chosen, clips=args.clips, rounds=args.rounds, against=against, threads=args.threads, profile=args.profile
    )
