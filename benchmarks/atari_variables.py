"""Where the memory of an Atari game holds what is on its screen, and the figures that were published for it.

The addresses are facts about the games, as "Unsupervised State Representation Learning in Atari" (Anand et al. 2019,
https://arxiv.org/abs/1906.08226) identified them. Addresses and figures were read in the authors' repository,
https://github.com/mila-iqia/atari-representation-learning (MIT licence): the addresses in `ram_annotations.py`, the
figures in the outputs of `notebooks/summarize_results.ipynb` before its commit fc1b592 (Table 2 of the paper, and its
tables of each game, for data of a random agent).
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np

__all__ = [
    "ADDRESSES",
    "CATEGORIES",
    "PUBLISHED",
    "PUBLISHED_VARIABLES",
    "ROMS",
    "across_categories",
    "by_category",
    "categories",
    "labels",
]

# A name followed by several addresses is as many variables: NAME_0, NAME_1, …
_TABLES: Mapping[str, Mapping[str, int | range]] = {
    "breakout": {
        "ball_x": 99, "ball_y": 101, "player_x": 72, "blocks_hit_count": 77, "block_bit_map": range(30), "score": 84,
    },
    "freeway": {"player_y": 14, "score": 103, "enemy_car_x": range(108, 118)},
    "montezumarevenge": {
        "room_number": 3, "player_x": 42, "player_y": 43, "player_direction": 52, "enemy_skull_x": 47,
        "enemy_skull_y": 46, "key_monster_x": 44, "key_monster_y": 45, "level": 57, "num_lives": 58,
        "items_in_inventory_count": 61, "room_state": 62, "score_0": 19, "score_1": 20, "score_2": 21,
    },
    "mspacman": {
        "enemy_sue_x": 6, "enemy_inky_x": 7, "enemy_pinky_x": 8, "enemy_blinky_x": 9, "enemy_sue_y": 12,
        "enemy_inky_y": 13, "enemy_pinky_y": 14, "enemy_blinky_y": 15, "player_x": 10, "player_y": 16, "fruit_x": 11,
        "fruit_y": 17, "ghosts_count": 19, "player_direction": 56, "dots_eaten_count": 119, "player_score": 120,
        "num_lives": 123,
    },
    "pong": {
        "player_y": 51, "player_x": 46, "enemy_y": 50, "enemy_x": 45, "ball_x": 49, "ball_y": 54, "enemy_score": 13,
        "player_score": 14,
    },
}  # fmt: skip
ROMS: Mapping[str, str] = MappingProxyType(
    {"breakout": "breakout", "freeway": "freeway", "montezumarevenge": "montezuma_revenge", "mspacman": "ms_pacman",
     "pong": "pong"}
)  # fmt: skip
ADDRESSES: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        game: {
            name if isinstance(at, int) else f"{name}_{number}": address
            for name, at in table.items()
            for number, address in enumerate([at] if isinstance(at, int) else at)
        }
        for game, table in _TABLES.items()
    }
)

# F1 by game: the mean of the categories' means.
PUBLISHED: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        game: dict(zip(("majority", "random", "vae", "pixel-pred", "cpc", "st-dim", "supervised"), row, strict=True))
        for game, row in {
            "breakout": (0.17, 0.51, 0.57, 0.70, 0.74, 0.88, 0.94),
            "freeway": (0.01, 0.50, 0.01, 0.81, 0.47, 0.81, 0.98),
            "montezumarevenge": (0.08, 0.68, 0.38, 0.74, 0.75, 0.78, 0.87),
            "mspacman": (0.10, 0.49, 0.56, 0.74, 0.65, 0.72, 0.87),
            "pong": (0.10, 0.17, 0.09, 0.70, 0.71, 0.81, 0.87),
        }.items()
    }
)
# F1 of each variable that passed the filter: (majority, random network, supervised).
PUBLISHED_VARIABLES: Mapping[str, Mapping[str, tuple[float, float, float]]] = MappingProxyType(
    {
        "breakout": {
            "ball_x": (0.00, 0.03, 0.77), "ball_y": (0.00, 0.16, 0.85), "blocks_hit_count": (0.19, 0.94, 1.00),
            "player_x": (0.05, 0.05, 0.97), "score": (0.19, 0.94, 1.00),
        },
        "montezumarevenge": {
            "enemy_skull_x": (0.00, 0.66, 0.84), "items_in_inventory_count": (0.33, 0.57, 0.91),
            "num_lives": (0.02, 0.99, 1.00), "player_direction": (0.03, 0.49, 0.71), "player_x": (0.37, 0.69, 0.91),
            "player_y": (0.01, 0.66, 0.94), "room_state": (0.01, 0.16, 0.54),
        },
        "mspacman": {
            "dots_eaten_count": (0.00, 0.31, 0.99), "enemy_blinky_x": (0.03, 0.27, 0.70),
            "enemy_blinky_y": (0.08, 0.31, 0.74), "enemy_inky_x": (0.05, 0.43, 0.74),
            "enemy_inky_y": (0.08, 0.44, 0.77), "enemy_pinky_x": (0.05, 0.42, 0.74),
            "enemy_pinky_y": (0.08, 0.36, 0.76), "enemy_sue_y": (0.03, 0.30, 0.74),
            "num_lives": (0.10, 0.98, 1.00), "player_direction": (0.25, 0.48, 0.92), "player_score": (0.02, 0.47, 1.00),
            "player_x": (0.03, 0.41, 0.73), "player_y": (0.28, 0.51, 0.85),
        },
        "pong": {
            "ball_x": (0.13, 0.15, 0.91), "ball_y": (0.15, 0.17, 0.94), "enemy_score": (0.01, 0.41, 1.00),
            "enemy_y": (0.01, 0.00, 0.93), "player_score": (0.51, 0.59, 0.97), "player_y": (0.02, 0.01, 0.65),
        },
    }
)  # fmt: skip

CATEGORIES = ("small objects", "agent", "other objects", "score, clock, lives", "miscellaneous")
_COORDINATES, _SMALL, _AGENT = ("_x", "_y", "_z", "_column"), ("ball", "missile"), ("agent", "player")
_DISPLAYED = ("score", "clock", "lives", "lifes", "meter", "display")
_OTHER = ("count", "bit_map", "existence", "level", "room", "game_state", "direction")


def categories(variable: str) -> tuple[str, ...]:
    """Return the categories of a variable, which follow from its name; some names belong to two or to none."""
    has = lambda words: any(word in variable for word in words)  # noqa: E731
    placed = has(_COORDINATES)
    found = (
        placed and has(_SMALL),
        placed and has(_AGENT) and not has(_SMALL),
        placed and not has(_AGENT) and not has(_SMALL),
        has(_DISPLAYED),
        has(_OTHER),
    )
    return tuple(name for name, belongs in zip(CATEGORIES, found, strict=True) if belongs)


def by_category(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of the scores of each category that has variables."""
    found = {name: [score for key, score in scores.items() if name in categories(key)] for name in CATEGORIES}
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def across_categories(scores: Mapping[str, float]) -> float:
    """Return the score of a game: the mean of the categories' means."""
    return float(np.mean(list(by_category(scores).values())))


def labels(game: str, memory: np.ndarray, variables: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Return the value of each variable in every frame.

    Args:
      memory: uint8 [n 128], the console's RAM.
      variables: all of the game by default.

    Returns:
      int32 [n] by variable, in the order of the table.
    """
    table = ADDRESSES[game]
    return {name: memory[:, table[name]].astype(np.int32) for name in (table if variables is None else variables)}
