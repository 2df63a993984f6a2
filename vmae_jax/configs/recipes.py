"""The figures of every recipe, read from `recipes.csv`: a row for each config, a cell for each figure.

A cell is `value@tag`. The tag is the origin of the figure: `code` (the official scripts), `paper`, or `inferred`
(ours). A config takes its figures from its row, so each is written once. `tests/configs/test_recipes.py` fails where
a row and its config differ.
"""

import csv
import functools
import pathlib
from types import SimpleNamespace
from typing import Any

from ml_collections import ConfigDict

from vmae_jax.spec import ConfigError, call

COUNTS = {"batch", "accumulate", "repeat", "per", "stride", "decoder_width", "decoder_depth", "decoder_heads",
          "classes", "group"}  # fmt: skip
UNITS = ("epochs", "steps")


@functools.cache
def table() -> dict[str, dict[str, str]]:
    """Return the rows as text, by their configs."""
    with pathlib.Path(__file__).with_name("recipes.csv").open(newline="") as file:
        return {row["config"]: row for row in csv.DictReader(file)}


def names(file: str) -> list[str]:
    """Return the arguments of a config file that have a recipe, as in `B,k400`."""
    return [name.partition(":")[2] for name in table() if name.partition(":")[0] == file]


def recipe(config: str) -> Any:
    """Return the figures of a config by the names of their columns, None for empty cells.

    Args:
      config: as in the first column, `finetune:B,k400,v2`.

    Raises:
      ConfigError: if there is no such row.
    """
    if config not in table():
        file, _, arguments = config.partition(":")
        known = "; ".join(names(file))
        raise ConfigError(f"configs/{file}.py: there is no recipe for {arguments}, only for {known}")
    cells = {name: cell for name, cell in table()[config].items() if name not in ("config", "stage", "note")}
    return SimpleNamespace(**{name: figure(name, cell.rpartition("@")[0]) for name, cell in cells.items()})


def mask(cell: list[Any] | None) -> ConfigDict | None:
    """Return the mask of a cell such as `tube 0.9`, or `random 0.9 visible` with the count that is rounded down.

    `units random 0.9 visible` is the same of whole mask units.
    """
    if cell is None:
        return None
    if cell[0] == "units":
        return call("masking.units", mask=mask(cell[1:]))
    name, ratio, *rounded_down = cell
    return call(f"masking.{name}", ratio=ratio, **({"rounded_down": rounded_down[0]} if rounded_down else {}))


def decoder(recipe: Any) -> dict[str, int]:
    """Return the decoder's dimensions as arguments of a model."""
    return {name: getattr(recipe, name) for name in ("decoder_width", "decoder_depth", "decoder_heads")}


def adamw(recipe: Any, **schedule: Any) -> ConfigDict:
    """Return AdamW on a warm-up and a cosine, of a recipe's figures; `schedule` are further arguments of these."""
    rates = {"peak": recipe.rate, "final": recipe.final, "warmup": recipe.warmup}
    return call(
        "train.optim.adamw",
        schedule=call("train.schedule.warmup_cosine", **rates, **schedule),
        b2=recipe.betas[1],
        weight_decay=recipe.weight_decay,
    )


def figure(name: str, text: str) -> Any:
    """Return the value of a cell: a number, a word, a length such as {"epochs": 90}, or a list of them."""
    values = [_value(name, word) for word in text.split()]
    if len(values) == 2 and values[1] in UNITS:
        return {values[1]: int(values[0]) if values[0] == int(values[0]) else values[0]}
    return values if len(values) > 1 else values[0] if values else None


def _value(name: str, word: str) -> Any:
    try:
        return int(word) if name in COUNTS else float(word)
    except ValueError:
        return word
