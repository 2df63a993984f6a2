"""The matrix products of a compiled program: their operations, and those of the matrix unit with padding.

A TPU stores arrays in tiles of 8 rows by 128 lanes, and its matrix unit takes 128 (or 256) rows of
the weights at once. A dimension that does not fill them is padded with zeros, which cost as much
as numbers. XLA writes products for TPUs as convolutions whose "spatial" dimensions are the batch,
further rows or columns, or further summands; they are distinguished here by their sizes.
"""

import math
import re
from typing import NamedTuple

from vmae_jax.plan.program import Array, Computation, Instruction

__all__ = ["Product", "product"]

ROWS = 8  # of a tile

Loop = tuple[str, int, int]  # role: batch, row, column or sum; its size; its size with whole tiles


class Product(NamedTuple):
    """Operations of one product, a multiply and an add counted as two.

    Attributes:
      flops: from its dimensions.
      padded: with whole tiles and a full matrix unit.
    """

    flops: float
    padded: float


def product(line: Instruction, here: Computation, unit: int = 128) -> Product | None:
    """Return the operations of an instruction, or None if it is no product.

    Args:
      line: the instruction.
      here: its computation, with its operands.
      unit: rows of the matrix unit.
    """
    if line.op not in ("convolution", "dot") or len(line.operands) < 2:
        return None
    left, right = (here[name].arrays[0] for name in line.operands[:2])
    loops = (_of_convolution if line.op == "convolution" else _of_dot)(line, left, right, line.arrays[0])
    sizes = {role: math.prod(size for r, size, _ in loops if r == role) for role in ("batch", "row", "column", "sum")}
    wide = {role: math.prod(size for r, _, size in loops if r == role) for role in sizes}
    outputs = min(
        _up(wide["row"], ROWS) * _up(wide["column"], unit), _up(wide["row"], unit) * _up(wide["column"], ROWS)
    )
    return Product(2.0 * math.prod(sizes.values()), 2.0 * wide["batch"] * _up(wide["sum"], unit) * outputs)


def _of_dot(line: Instruction, left: Array, right: Array, out: Array) -> list[Loop]:
    def axes(name: str) -> list[int]:
        return [int(n) for n in (line.attribute(name) or "").split(",") if n]

    batch, summed = (axes("lhs_batch_dims"), axes("rhs_batch_dims")), (
        axes("lhs_contracting_dims"), axes("rhs_contracting_dims"),
    )  # fmt: skip
    whole = [array.tiled for array in (left, right, out)]
    loops = [
        (role, left.shape[i], max(whole[0][i], whole[1][j]))
        for role, pairs in (("batch", batch), ("sum", summed))
        for i, j in zip(*pairs, strict=True)
    ]
    at = len(batch[0])
    for role, array, size, used in (("row", left, whole[0], 0), ("column", right, whole[1], 1)):
        for i in range(len(array.shape)):
            if i not in batch[used] and i not in summed[used]:
                loops.append((role, array.shape[i], max(size[i], whole[2][at])))
                at += 1
    return loops


def _of_convolution(line: Instruction, left: Array, right: Array, out: Array) -> list[Loop]:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.text)
    if labels is None:
        raise ValueError(f"a convolution without dim_labels: {line.text[:200]}")
    names = labels.groups()
    arrays = left, right, out
    whole = [array.tiled for array in arrays]

    def size(letters: str) -> tuple[int, int]:
        """Return the size of a dimension that is `letters[k]` in array k, or absent from it (" ")."""
        at = [(k, names[k].index(letter)) for k, letter in enumerate(letters) if letter != " "]
        return arrays[at[0][0]].shape[at[0][1]], max(whole[k][i] for k, i in at)

    loops: list[Loop] = [("row", *size("b b")), ("column", *size(" of")), ("sum", *size("fi "))]
    window = _window(line)
    for digit in sorted(set(names[0]) - {"b", "f"}):
        sizes = [arrays[k].shape[names[k].index(digit)] for k in range(3)]
        loops += _spatial(sizes, [whole[k][names[k].index(digit)] for k in range(3)], window[int(digit)])
    return loops


def _spatial(sizes: list[int], whole: list[int], window: dict[str, int]) -> list[Loop]:
    """Return the loops of a spatial dimension of sizes (left, window, result)."""
    left, taps, out = sizes
    met = _meetings(left, out, window)
    if left == taps == out == met:
        return [("batch", met, max(whole))]
    if met == out == left and taps == 1:
        return [("row", met, max(whole[0], whole[2]))]
    if met == out == taps and left == 1:
        return [("column", met, max(whole[1:]))]
    if met == left == taps and out == 1:
        return [("sum", met, max(whole[:2]))]
    return [("row", out, whole[2]), ("sum", met // out or 1, met // out or 1)]  # a true convolution


def _meetings(left: int, out: int, window: dict[str, int]) -> int:
    """Return the number of pairs of a result and a tap of the window that meet an element, not padding."""
    dilate, hole = window["rhs_dilate"], window["lhs_dilate"]
    end = (left - 1) * hole
    met = 0
    for tap in range(window["size"]):
        shift = tap * dilate - window["pad"]
        met += sum(1 for at in range(shift, shift + out * window["stride"], window["stride"])
                   if 0 <= at <= end and at % hole == 0)  # fmt: skip
    return met


def _window(line: Instruction) -> list[dict[str, int]]:
    """Return size, stride, low padding and dilations of each spatial dimension."""
    text = line.attribute("window") or ""
    given = dict(part.split("=") for part in text.split())
    count = len(given["size"].split("x")) if "size" in given else 0
    found: list[dict[str, int]] = [{} for _ in range(count)]
    for key in ("size", "stride", "pad", "lhs_dilate", "rhs_dilate"):
        default = "0" if key == "pad" else "1"
        for at, value in enumerate(given.get(key, "x".join([default] * count)).split("x") if count else []):
            found[at][key] = int(value.partition("_")[0])
    return found


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
