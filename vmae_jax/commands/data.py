"""`vmae data …`: videos to records, and their contents."""

import argparse
import collections
import shlex
import sys
from collections.abc import Callable
from typing import Any

from vmae_jax.commands import serve
from vmae_jax.names import json_text
from vmae_jax.spec import ConfigError

__all__ = ["add_commands"]


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the subcommands of `vmae data`; `command(commands, name, function, text)` adds one."""
    _prepare_arguments(command(commands, "prepare", _prepare, "turn videos into sharded records that TFDS opens"))
    serve.add_arguments(command(commands, "serve", serve.run, "decode for trainers on other machines"))
    _validate_arguments(command(commands, "validate", _validate, "decode every video and list the problems"))
    info = command(commands, "info", _info, "describe a prepared dataset")
    info.add_argument("directory", metavar="DIR", help="the folder with its dataset_info.json")


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    _source_arguments(parser)
    add = parser.add_argument
    add("--beside", action="append", default=[], metavar="NAME=SUFFIX", help="store the file beside each video "
        "with its name and this suffix as field NAME, such as text=.txt or imu=_imu.csv; may be repeated")  # fmt: skip
    add("--out", required=True, help="folder of the dataset; the same command resumes an interrupted preparation")
    add("--split", default="train", help="name of the split (default train)")
    add("--name", help="name of the dataset (default: that of --dataset, or videos)")
    add("--codec", default="keep", help="keep (the original bytes, default), h264 (re-encoded) or jpeg (pictures)")
    add("--quality", type=int, help="of h264: 1 to 51, lower is better (23); of jpeg: 1 to 95 (85)")
    add("--short-side", type=int, metavar="PIXELS", help="shrink the shorter side to this")
    add("--rate", type=float, metavar="FPS", help="frames per second (default: all frames at their own times)")
    add("--seconds", type=float, help="cut longer videos into equal parts of at most this")
    add("--gop", type=int, help="frames from one key frame of h264 to the next (default 12)")
    add("--no-sound", action="store_true", help="leave the sound out (keep stores it with the original bytes)")
    add("--format", default="array_record", help="array_record (random access, default) or tfrecord (for tf.data)")
    add("--shards", type=int, help="number of files (default: one per 128 MiB of source videos)")
    _process_arguments(parser)
    add("--beam", nargs="?", const="", metavar="ARGUMENTS", help='run as an Apache Beam pipeline, such as --beam="'
        '--runner=FlinkRunner --flink_master=HOST:8081" (docs/data.md)')  # fmt: skip


def _validate_arguments(parser: argparse.ArgumentParser) -> None:
    _source_arguments(parser)
    add = parser.add_argument
    add("--sample", type=int, metavar="N", help="check N videos instead of all, always the same ones")
    add("--frames", type=int, default=16, help="videos with fewer frames are reported as short (default 16)")
    add("--json", metavar="FILE", help="write all findings to this file")
    _process_arguments(parser)


def _process_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--workers", type=int, help="number of processes (default: one per core)")
    add(
        "--timeout",
        type=float,
        default=60.0,
        help="seconds within which a video must yield its next frame (default 60)",
    )
    add("--quiet", action="store_true", help="no progress bar")


def _source_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", nargs="+", metavar="SOURCE", help="a folder, a list (.csv, .txt), tar files, video files, a prepared "
        "TFDS folder, or tfds:NAME")  # fmt: skip
    add(
        "--labels",
        help="for folders and archives: none (default), or folders: the first folder is the class",
    )
    add("--names", help="a file with the class names, one per line")
    add("--root", help="for a list: the folder of its relative paths (default: its own)")
    add("--columns", help='for a list: its columns, such as "path label", where their number is ambiguous')
    add("--pictures", help="for a list of picture folders: the names of the pictures (default img_{:05}.jpg)")
    add("--source-split", help="for a TFDS dataset: the split to read (default train)")
    add("--dataset", metavar="NAME[:KEY=VALUE,…]", help="SOURCE is a folder in the form "
        "in which this dataset is distributed: kinetics:version=710, … (docs/datasets.md lists all)")  # fmt: skip


def _prepare(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_jax.data.prepare import record, run, runners, shards, summary

    chosen = record.options(
        codec=args.codec,
        quality=args.quality,
        short_side=args.short_side,
        rate=args.rate,
        seconds=args.seconds,
        gop=args.gop,
        sound=not args.no_sound,
        file_format=args.format,
    )
    name = args.name or (args.dataset or "videos").partition(":")[0]
    layout = shards.layout(args.out, name=name, split=args.split, file_format=chosen.file_format)

    def plan() -> run.Plan:
        return run.Plan.of(_origin(args), layout, chosen, shards=args.shards, timeout=args.timeout)

    if args.beam is not None and args.workers is not None:
        raise ConfigError("--workers is for a preparation on this machine; with --beam use the arguments of its runner")
    if args.beam is None:
        runner = runners.local_runner(args.workers, progress=not args.quiet)
    else:
        runner = runners.beam_runner(shlex.split(args.beam))
    manifest = run.prepare(plan, layout, runner)
    print(summary.in_words(manifest, layout.out), file=sys.stderr)
    return summary.in_short(manifest, layout.out)


def _validate(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_jax.data.prepare import validate
    from vmae_jax.io.paths import write_text

    result = validate.validate(
        _origin(args),
        sample=args.sample,
        least=args.frames,
        workers=args.workers,
        timeout=args.timeout,
        progress=not args.quiet,
    )
    print(validate.in_words(result), file=sys.stderr)
    if args.json:
        write_text(args.json, json_text(result, indent=1) + "\n")
    kinds = collections.Counter(entry["kind"] for entry in result["found"])
    counts = {name: result[name] for name in ("videos", "unreadable", *validate.UNREADABLE)}
    summary: dict[str, Any] = {**counts, "found": dict(kinds)}
    if result["unreadable"]:
        summary |= {"exit": 1, "error": f"{result['unreadable']} of {result['videos']} videos cannot be read"}
    return summary


def _origin(args: argparse.Namespace) -> Any:
    from vmae_jax.data.prepare.inputs import Origin

    names = ("labels", "names", "root", "columns", "pictures", "source_split", "dataset")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.dataset and args.source_split is None:
        given["source_split"] = getattr(args, "split", "train")
    if beside := getattr(args, "beside", []):
        given["sides"] = _sides(beside)
    return Origin(tuple(args.source), **given)


def _sides(given: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = [(name, suffix) for name, _, suffix in (text.partition("=") for text in given)]
    wrong = next(
        (text for text, (name, suffix) in zip(given, pairs, strict=True) if not (name.isidentifier() and suffix)), None
    )
    if wrong is not None or len({name for name, _ in pairs}) < len(pairs):
        raise ConfigError(
            f"--beside={wrong or ' '.join(given)}: expected NAME=SUFFIX, such as text=.txt, each name once"
        )
    return tuple(pairs)


def _info(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_jax.data.prepare import summary

    found = summary.describe(args.directory)
    print(summary.described(found), file=sys.stderr)
    return found
