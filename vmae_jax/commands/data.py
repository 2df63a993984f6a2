"""`vmae data …`: from videos to records, and what is in them."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["add_commands"]


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the subcommands of `vmae data`; `command(commands, name, function, text)` makes one."""
    info = command(commands, "info", _info, "say what a prepared dataset holds")
    info.add_argument("directory", metavar="DIR", help="the folder with its dataset_info.json")


def _info(args: argparse.Namespace) -> dict[str, Any]:
    from vmae_jax.data.prepare import describe

    told = describe.describe(args.directory)
    print(describe.in_words(told), file=sys.stderr)
    return told
