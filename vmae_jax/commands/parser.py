"""The parser of the `vmae` command: errors are `ConfigError`, and mistyped names get the closest match."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from vmae_jax.errors import ConfigError, did_you_mean

__all__ = ["Parser"]

_OVERRIDE = "--config."


class Parser(argparse.ArgumentParser):
    """Raises ConfigError where argparse would print the usage and exit.

    Unknown options and commands are reported before missing ones, so that `--wrkdir=runs/a` is not answered with
    "--workdir is required".
    """

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> Any:
        commands = next((one for one in self._actions if isinstance(one, argparse._SubParsersAction)), None)
        for word in args or ():
            if word == "--":
                break
            if not word.startswith("-"):
                if commands is None:
                    continue
                if word not in commands.choices:
                    known = ", ".join(commands.choices)
                    raise ConfigError(
                        f"{self.prog}: unknown command {word!r}{did_you_mean(word, commands.choices)}; there is {known}"
                    )
                break  # the command's own parser checks the rest
            if word.startswith("--") and not self._knows(word.partition("=")[0]):
                raise _unknown(self, word)
        return super().parse_known_args(args, namespace)

    def _knows(self, option: str) -> bool:
        return option in self._option_string_actions or (
            option.startswith(_OVERRIDE) and "--config" in self._option_string_actions
        )


def _unknown(parser: argparse.ArgumentParser, word: str) -> ConfigError:
    """Return the error for an option, or another word, that a command does not take."""
    option = word.partition("=")[0]
    known = [one for one in parser._option_string_actions if one.startswith("--")]
    if "." in option and "--config" in known:
        return ConfigError(f"{parser.prog}: unknown option {word!r}; values of a config are --config.a.b=value")
    hint = did_you_mean(option, known)
    return ConfigError(f"{parser.prog}: unknown option {word!r}{hint}; {parser.prog} --help lists all")
