"""Options that several commands share, and those of commands with many options."""

import argparse
import os

from vmae_jax.names import as_text
from vmae_jax.spec import ConfigError

__all__ = [
    "check_paths",
    "checkpoint_arguments",
    "config_arguments",
    "export_arguments",
    "features_arguments",
    "import_arguments",
    "limit_argument",
    "plugins_argument",
    "ttt_arguments",
]

_WRITTEN = ("workdir", "checkpoint", "out")


def check_paths(args: argparse.Namespace) -> None:
    """Check that the paths of a run and of outputs are UTF-8: TensorFlow and TensorStore open no others.

    Videos may have any names.

    Raises:
      ConfigError: if a path is not.
    """
    for option in _WRITTEN:
        given = getattr(args, option, None)
        for path in given if isinstance(given, list) else [given] if given else []:
            whole = path if "://" in path else os.path.abspath(path)
            try:
                whole.encode()
            except UnicodeEncodeError:
                raise ConfigError(
                    f"--{option}={as_text(path)}: {as_text(whole)} is not valid UTF-8; use a path that is "
                    "(the names of videos may be anything)"
                ) from None


def config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that take a config."""
    parser.add_argument("--config", help="FILE.py or FILE.py:arguments; --config.a.b=value sets a value")
    plugins_argument(parser)


def plugins_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--plugins`."""
    parser.add_argument("--plugins", default="", help="your packages whose registered components a config may "
                        "name, separated by commas: installed, or in the current folder")  # fmt: skip


def checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that read a checkpoint."""
    parser.add_argument("--checkpoint", "--workdir", dest="checkpoint", required=True,
                        help="a workdir (its newest good step) or WORKDIR/checkpoints/N")  # fmt: skip
    parser.add_argument("--ema", action="store_true", help="use the averaged parameters")


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vmae export`."""
    parser.add_argument("--format", required=True, help="hf, videomae, mae, params or stablehlo")
    parser.add_argument("--out", required=True, help="folder (hf, stablehlo), or .pth or .safetensors file (videomae)")
    parser.add_argument("--dtype", default="float32", help="of the weights: float32, float16, bfloat16")
    parser.add_argument(
        "--part", default="all", help="all, or encoder to leave the decoder out; with --format=params any tower"
    )
    parser.add_argument("--labels", default="", help="a file with a classifier's class names, one a line")
    parser.add_argument("--license", default="", help="for the model card, such as cc-by-nc-4.0")
    parser.add_argument("--video", help="a real video to compare outputs on, in addition to random pixels")
    parser.add_argument("--overwrite", action="store_true", help="replace a file, or an earlier export, at --out")


def import_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vmae import`."""
    parser.add_argument("--weights", required=True, help="a .pth or .safetensors file, an index of shards, or a folder")
    parser.add_argument("--out", required=True, help="the workdir to create")
    parser.add_argument("--key", help="entry of a .pth to take, such as model_ema")
    parser.add_argument(
        "--fresh", default="", help="parts that are initialized instead of imported: decoder,head,norm,positions,prefix"
    )
    parser.add_argument(
        "--resize", action="store_true", help="resample cubes, channels and positions whose sizes differ"
    )
    parser.add_argument(
        "--inflation", default="average", help="how an image model's patches become cubes: average or central"
    )
    parser.add_argument(
        "--channels", default="cycle", help="which kernels another number of channels gets: cycle or keep"
    )


def features_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vmae features`."""
    add = parser.add_argument
    add("--like", default="pretraining", help="pretraining (default), or tad: as the official script "
        "for action detection, consecutive frames, without ImageNet's normalisation")  # fmt: skip
    add("--fps", type=float, help="sample at this many frames per second; --window and --stride then count samples")
    add("--window", type=int, help="frames per window, a multiple of the model's")
    add("--stride", type=int, help="frames from one window to the next")
    add("--tail", help="frames past the last whole window: end (a window that ends with the video), or drop (default: "
        "end; drop with --like=tad)")  # fmt: skip
    add("--layer", type=int, help="output of this block (default: the last)")
    add("--tokens", action="store_true", help="store every token instead of the mean")
    add("--format", default="npz", help="npz (default) or hdf5 (features, frames, seconds), npy or array_record")
    add("--name", default="stem", help="outputs are named after the videos: stem (default), or path, with the suffix")
    add("--half", action="store_true", help="store float16")
    add("--batch", type=int, default=16, help="windows per batch (default 16)")
    add("--rate", type=float, default=25.0, help="frames a second of folders of pictures (default 25)")
    add("--max-bad-fraction", type=float, default=0.05, help="share of unreadable videos above which the command ends "
        "with 1, after all others were written (default 0.05)")  # fmt: skip
    add("--shard", metavar="I/N", help="the I-th of N parts of the videos, from 0; all write to the same --out")


def ttt_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vmae ttt`."""
    add = parser.add_argument
    add("--videos", nargs="+", required=True, help="files, folders, folders of pictures, or lists ending in .csv")
    add("--out", required=True, help="folder for the predictions; existing ones are kept")
    add("--window", type=int, default=16, help="clips that are remembered (default 16)")
    add("--batch", type=int, default=32, help="clips that a step draws from the window (default 32)")
    add("--steps", type=int, default=1, help="steps before each prediction (default 1)")
    add("--accumulate", type=int, default=1, help="micro-batches of a step (default 1)")
    add("--reset", default="video", help="weights return to the checkpoint's at the beginning of each video (default), "
        "before each frame, or never")  # fmt: skip
    add("--learning-rate", type=float, default=1e-4, help="of AdamW (default 1e-4)")
    add("--encoder-share", type=float, default=0.1, help="factor of the encoder's learning rate (default 0.1)")
    add("--weight-decay", type=float, default=0.05, help="of AdamW (default 0.05)")
    add("--clip-norm", type=float, default=0.01, help="largest norm of the gradients (default 0.01)")
    add("--seed", type=int, default=0, help="of the draws and masks (default 0)")
    add("--fps", type=float, help="read this many frames per second (default: all)")
    add("--stride", type=int, default=1, help="frames from one prediction to the next (default 1)")
    add("--name", default="stem", help="outputs are named after the videos: stem (default), or path, with the suffix")
    add("--rate", type=float, default=25.0, help="frames a second of folders of pictures (default 25)")
    add("--max-bad-fraction", type=float, default=0.05, help="share of unreadable videos above which the command ends "
        "with 1, after all others were written (default 0.05)")  # fmt: skip


def limit_argument(parser: argparse.ArgumentParser, phases: str) -> None:
    """Add `--limit`, for phases of a command."""
    parser.add_argument("--limit", action="append", default=[], metavar="PHASE=SECONDS",
                        help=f"limit of {phases}; past it the command ends with 75")  # fmt: skip
