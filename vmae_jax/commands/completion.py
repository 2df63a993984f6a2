"""`vmae completion bash|zsh`: a script that completes commands, options and configs, generated from the parser."""

import argparse
from collections.abc import Iterator

from vmae_jax.commands.config import packaged

__all__ = ["SHELLS", "script"]

SHELLS = ("bash", "zsh")

_SCRIPT = r"""# Completion of the vmae command for {shell}. To have it in every new shell:
#   {use}
_vmae() {{
  [ -n "${{ZSH_VERSION-}}" ] && emulate -L sh
  local line=${{COMP_LINE:0:$COMP_POINT}} at="" choices="" word cur IFS=$' \t\n'
  COMPREPLY=()
  cur=${{line##*[[:space:]]}}
  for word in ${{line%"$cur"}}; do
    case "$at $word" in
{known}
        at="$at $word" ;;
    esac
  done
  IFS=$'\n'
  case $cur in
    --config=*) _vmae_reply "$cur" "$(_vmae_configs "${{cur#*=}}")"; return ;;
    --config.*) return ;;
    --*=*) _vmae_reply "$cur" "$(compgen -f -- "${{cur#*=}}")"; return ;;
  esac
  case $at in
{cases}
  esac
  case $cur in
    -*) ;;
    *) case $choices in --*) COMPREPLY=($(compgen -f -- "$cur")) ;; esac ;;
  esac
  IFS=$' \t\n'
  COMPREPLY=("${{COMPREPLY[@]}}" $(compgen -W "$choices" -- "$cur"))
  case "${{COMPREPLY[*]}}" in *=) compopt -o nospace 2>/dev/null ;; esac
  return 0
}}

# Configs: those of the package, and any other Python file or folder.
_vmae_configs() {{
  local file
  for file in {configs}; do
    case $file in
      "$1"*) echo "$file" ;;
    esac
  done
  compgen -f -- "$1" | grep '\.py$'
  compgen -d -S / -- "$1"
}}

# Offer values, one per line. Bash splits words at "=" and takes what comes after it; other shells the whole word.
_vmae_reply() {{
  local value=${{1#*=}} head=""
  case ${{COMP_WORDBREAKS-}} in *=*) ;; *) head=${{1%"$value"}} ;; esac
  COMPREPLY=($(echo "$2" | sort -u | sed -n "s|..*|$head&|p"))
  compopt -o nospace 2>/dev/null
  return 0
}}

complete{option} -F _vmae vmae
"""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the completion script for a shell, one of `SHELLS`.

    Args:
      parser: of the whole command.
      shell: bash, or zsh, which reads the same script through its bashcompinit.
    """
    found = list(_commands(parser, ()))
    cases = []
    for path, node in found:
        words = [*_subcommands(node), *_options(node)]
        cases.append(f'    "{"".join(f" {name}" for name in path)}") choices="{" ".join(words)}" ;;')
    known = " | ".join(f'"{"".join(f" {n}" for n in path[:-1])} {path[-1]}"' for path, _ in found if path)
    option = " -o nospace" if shell == "zsh" else ""  # zsh has no compopt, and "--out= " would be wrong
    use = f"echo 'source <(vmae completion {shell})' >> ~/.{shell}rc"
    configs = " ".join(f"configs/{name}.py" for name in packaged())
    text = _SCRIPT.format(
        shell=shell, use=use, known=f"      {known})", cases="\n".join(cases), option=option, configs=configs
    )
    if shell == "zsh":
        text = f"autoload -U +X compinit && compinit -u\nautoload -U +X bashcompinit && bashcompinit\n{text}"
    return text


def _commands(
    parser: argparse.ArgumentParser, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """The parser of every command, by the words that lead to it."""
    yield path, parser
    for name, child in _subcommands(parser).items():
        yield from _commands(child, (*path, name))


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(actions[0].choices) if actions else {}


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """The long options; those that take a value end in "="."""
    options = []
    for action in parser._actions:
        ending = "" if action.nargs == 0 else "="
        options += [f"{name}{ending}" for name in action.option_strings if name.startswith("--")]
    return options
