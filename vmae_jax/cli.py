"""The `vmae` command. Each subcommand is a small function; the work is done in `commands/`.

Progress and logs go to standard error. The last line of standard output is one JSON object,
`{"status": "ok" | "error", …}`; only `vmae completion` prints a script instead. Exit codes: 0 success; 2 a usage or
configuration error, reported in one line; 75 interrupted, and the same command resumes; 1 any other failure.
"""

import argparse
import dataclasses
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from vmae_jax.commands import arguments
from vmae_jax.commands.arguments import check_paths
from vmae_jax.commands.config import overrides
from vmae_jax.commands.parser import Parser
from vmae_jax.names import json_text
from vmae_jax.plugins import allow_plugins
from vmae_jax.runtime import streams
from vmae_jax.runtime.allocator import keep_freed_memory
from vmae_jax.runtime.leaving import leave
from vmae_jax.runtime.virtual_devices import patient
from vmae_jax.spec import ConfigError

__all__ = ["main"]

RESUME = 75


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. Without `argv`, take those of the process and end it on an error."""
    status, error = _run(list(sys.argv[1:] if argv is None else argv))
    if argv is None and status:
        leave(status, failed=error is not None)
    return status


def _run(arguments: list[str]) -> tuple[int, Exception | None]:
    with streams.forgiving():
        return _execute(arguments)


def _execute(arguments: list[str]) -> tuple[int, Exception | None]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    patient()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        parser = command_line()
        args, rest = parser.parse_known_args(arguments)
        if rest and not hasattr(args, "config"):
            raise ConfigError(f"vmae: unexpected argument {rest[0]!r}; --help lists what the command takes")
        args.overrides, args.line = overrides(rest), ["vmae", *arguments]
        _verbosity(args)
        check_paths(args)
        allow_plugins(filter(None, getattr(args, "plugins", "").split(",")))
        result = args.command(args)
        if result is None:  # it has printed all of its output
            return 0, None
    except SystemExit as end:  # --help
        return int(end.code or 0), None
    except Exception as error:
        return _failed(error), error
    status = RESUME if result.pop("resume", False) else result.pop("exit", 0)
    return _finish(status, {"status": "ok" if status == 0 else "error", **result}), None


def _verbosity(args: argparse.Namespace) -> None:
    quiet, verbose = (getattr(args, name, False) for name in ("quiet", "verbose"))
    if quiet and verbose:
        raise ConfigError("vmae: --quiet and --verbose exclude each other; give one of them")
    logging.getLogger("vmae_jax").setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)


def _failed(error: Exception) -> int:
    """Report an error and return its exit status; expected errors are one line without a traceback."""
    from vmae_jax.commands.errors import describe, exit_status, expected

    status = exit_status(error)
    message = describe(error)
    if not expected(error):
        traceback.print_exception(error)
    print(message if message.startswith("vmae") else f"vmae: {message}", file=sys.stderr)
    return _finish(status, {"status": "error", "error": message})


def _finish(status: int, result: dict[str, Any]) -> int:
    print(json_text(result, encoding=sys.stdout.encoding or "utf-8", default=str), flush=True)
    return status


def command_line() -> argparse.ArgumentParser:
    """Return the parser of all commands and their options."""
    parser = Parser(prog="vmae", description="Self-supervised pre-training of video transformers in JAX.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)

    train = _command(commands, "train", _train, "run any stage; the same command resumes an interrupted run")
    arguments.config_arguments(train)
    train.add_argument("--workdir", required=True, help="folder of the run, created if it does not exist")
    train.add_argument("--quiet", action="store_true", help="only warnings, errors and the result")
    train.add_argument("--verbose", action="store_true", help="also the whole config and every parameter")
    arguments.limit_argument(train, "restore, compile, data, step, save, evaluate")

    evaluate = _command(commands, "eval", _eval, "evaluate a checkpoint on held-out videos")
    arguments.checkpoint_arguments(evaluate)
    arguments.config_arguments(evaluate)
    arguments.limit_argument(evaluate, "restore, evaluate (a batch, or what follows from them)")

    pictures = _command(commands, "reconstruct", _reconstruct, "draw original, masked and reconstructed videos")
    arguments.checkpoint_arguments(pictures)
    arguments.plugins_argument(pictures)
    pictures.add_argument("--videos", nargs="+", help="files or folders (default: the run's own data)")
    pictures.add_argument("--out", required=True, help="folder for the pictures")
    pictures.add_argument("--clips", type=int, default=4, help="number of clips (default 4)")
    pictures.add_argument("--seed", type=int, default=0, help="seed of the clips and masks (default 0)")

    plan = _command(commands, "plan", _plan, "compile a config's step for hardware that is not present: memory, FLOPs")
    arguments.config_arguments(plan)
    plan.add_argument("--topology", required=True, help="v5p:4x4x4, v5e:4x4, v4:…, v6e:… or cpu:N")
    plan.add_argument("--largest", action="store_true", help="find the largest batch that fits (six compilations)")
    plan.add_argument("--sweep", action="store_true", help="compare meshes, remat and micro-batches; recommend one")
    plan.add_argument("--tries", type=int, default=12, help="maximum number of compilations of a sweep (default 12)")

    _bench_commands(commands)
    _data_commands(commands)

    export = _command(commands, "export", _export, "write a checkpoint for PyTorch, transformers or StableHLO")
    arguments.checkpoint_arguments(export)
    arguments.plugins_argument(export)
    arguments.export_arguments(export)
    imported = _command(commands, "import", _import, "create a workdir from published weights")
    arguments.config_arguments(imported)
    arguments.import_arguments(imported)

    features = _command(commands, "features", _features, "features of whole videos, in sliding windows")
    arguments.checkpoint_arguments(features)
    arguments.plugins_argument(features)
    features.add_argument(
        "--videos", nargs="+", required=True, help="files, folders, folders of pictures, or lists ending in .csv"
    )
    features.add_argument("--out", required=True, help="folder; existing files are kept")
    arguments.features_arguments(features)

    ttt = _command(commands, "ttt", _ttt, "test-time training: learn from videos while predicting their frames")
    arguments.checkpoint_arguments(ttt)
    arguments.plugins_argument(ttt)
    arguments.ttt_arguments(ttt)

    report = _command(commands, "report", _report, "write one HTML page about a run, or about several side by side")
    report.add_argument("--workdir", action="append", required=True, help="of a run; repeat it to compare runs")
    report.add_argument("--out", help="the file to write (default: report.html in the workdir of a single run)")

    doctor = _command(commands, "doctor", _doctor, "list what this machine has and what is missing")
    doctor.add_argument("--workdir", default=".", help="the folder whose disk is checked")

    completion = _command(commands, "completion", _completion, "print a script for shell completion")
    completion.add_argument("shell", help="bash or zsh")
    return parser


def _command(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    parser.set_defaults(command=function)
    return parser


def _bench_commands(commands: Any) -> None:
    from vmae_jax.commands import bench

    text = "measure how fast this machine runs a config"
    group = commands.add_parser("bench", help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    benches = group.add_subparsers(title="what is measured", metavar="WHAT", required=True, parser_class=Parser)
    bench.add_commands(benches, _command, arguments.config_arguments)


def _data_commands(commands: Any) -> None:
    from vmae_jax.commands import data

    text = "turn videos into records for training, and inspect datasets"
    group = commands.add_parser("data", help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    data.add_commands(
        group.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser), _command
    )


def _train(args: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()  # before JAX is imported: its threads keep the allocator settings of that moment
    from vmae_jax.commands import config, train
    from vmae_jax.io import run_config
    from vmae_jax.io.folders import check_folder
    from vmae_jax.io.paths import Workdir
    from vmae_jax.runtime import watchdog

    check_folder(args.workdir, exists=False, run=args.workdir)
    workdir = Workdir(args.workdir)
    if args.config is not None:
        chosen = config.load_config(args.config, args.overrides)
    elif workdir.config_json.exists():
        chosen = run_config.read_config(workdir)
        config.apply_overrides(chosen, args.overrides)
    else:
        raise ConfigError(f"vmae train: --config is needed, because {workdir.path} is not a workdir yet")
    limits = watchdog.parse_limits(args.limit)
    result = train.run(chosen, workdir, progress=not args.quiet, limits=limits, command=args.line)
    if result.pop("status") == "preempted":
        print(f"vmae: preempted at step {result['step']}; the same command resumes", file=sys.stderr)
        return {"resume": True, "error": "preempted; the same command resumes", **result}
    return result


def _eval(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_jax.commands import evaluate
    from vmae_jax.runtime import watchdog

    limits = watchdog.parse_limits(args.limit, ("restore", "evaluate"))
    return evaluate.run(args.checkpoint, ema=args.ema, config=args.config, overrides=args.overrides, limits=limits)


def _reconstruct(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_jax.commands import reconstruct

    return reconstruct.run(
        args.checkpoint, out=args.out, videos=args.videos, clips=args.clips, seed=args.seed, ema=args.ema
    )


def _plan(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_jax.commands import config, plan, sweep

    if args.config is None:
        raise ConfigError("vmae plan: --config is needed")
    chosen = config.load_config(args.config, args.overrides)
    if args.sweep:
        if args.largest:
            raise ConfigError("vmae plan: --sweep and --largest exclude each other; give one of them")
        return sweep.run(chosen, topology_name=args.topology, tries=args.tries)
    return plan.run(chosen, topology_name=args.topology, largest=args.largest)


def _features(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_jax.commands import features

    names = [field.name for field in dataclasses.fields(features.Options)]
    options = features.Options(**{name: getattr(args, name) for name in names})
    return features.run(args.checkpoint, videos=args.videos, out=args.out, options=options, shard=args.shard)


def _ttt(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_jax.commands import ttt

    options = ttt.Options(**{field.name: getattr(args, field.name) for field in dataclasses.fields(ttt.Options)})
    return ttt.run(args.checkpoint, videos=args.videos, out=args.out, options=options)


def _export(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_jax.commands import weights

    return weights.run_export(args)


def _import(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_jax.commands import weights

    return weights.run_import(args)


def _report(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_jax.eval import report
    from vmae_jax.io.folders import check_folder

    for place in args.workdir:
        check_folder(place)
    return {"report": str(report.write(args.workdir, args.out))}


def _completion(args: argparse.Namespace) -> None:
    from vmae_jax.commands import completion

    if args.shell not in completion.SHELLS:
        raise ConfigError(f"vmae completion: {args.shell!r} is not supported; use {' or '.join(completion.SHELLS)}")
    print(completion.script(command_line(), args.shell))
    return None


def _doctor(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_jax.io.folders import check_folder
    from vmae_jax.runtime import doctor

    check_folder(args.workdir, exists=False)
    checks = doctor.examine(args.workdir)
    print(doctor.format(checks), file=sys.stderr)
    return doctor.report(checks)


if __name__ == "__main__":
    sys.exit(main())
