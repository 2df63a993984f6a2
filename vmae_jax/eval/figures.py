"""Pictures of errors: confusion matrices, reliability diagrams, and errors of regressions."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vmae_jax.eval import charts
from vmae_jax.eval.scores import Bins, calibration

__all__ = ["confusion", "png", "regression", "reliability"]

_PAPER, _INK, _FAINT, _GRID = (255, 255, 255), (32, 36, 44), (110, 118, 130), (222, 226, 232)
_BAR, _GAP_LOW, _LINE = (66, 133, 190), (226, 120, 88), (32, 36, 44)
# Shares 0 to 1, light to dark: equal steps look equal (ColorBrewer's "Blues").
_SHADES = np.array(
    [(247, 251, 255), (222, 235, 247), (198, 219, 239), (158, 202, 225), (107, 174, 214), (66, 146, 198),
     (33, 113, 181), (8, 81, 156), (8, 48, 107)], np.float64
)  # fmt: skip
_SIDE = 760  # approximate width of the matrix
_NAMED = 60  # maximum number of classes that are named
_PANELS = 16  # of a regression
_WRITTEN = 16  # maximum number of classes whose shares are written into the cells


def png(image: Image.Image) -> bytes:
    """Return the image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def confusion(counts: np.ndarray, names: Sequence[str] = (), title: str = "Confusion") -> Image.Image:
    """Draw true classes in rows and predicted ones in columns; the shade is the share of the row.

    Args:
      counts: videos, int [classes classes]; of many classes only those that occur are drawn.
      names: of the classes, or their numbers.
      title: of the picture.
    """
    everyone = len(counts)
    occur = (counts.sum(axis=0) + counts.sum(axis=1)) > 0
    numbers = np.flatnonzero(occur) if occur.any() and everyone > _WRITTEN else np.arange(everyone)
    counts = counts[np.ix_(numbers, numbers)]
    classes = len(counts)
    cell = max(1, min(64, _SIDE // classes))
    totals = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(totals, 1)
    font, small = _font(14), _font(max(9, min(13, cell)))
    named = [names[i] if i < len(names) and names[i] else str(i) for i in numbers.tolist()]
    named = [name if len(name) <= 28 else f"{name[:27]}…" for name in named]
    step = 1 if classes <= _NAMED else next(s for s in (10, 20, 50, 100, 200, 500) if classes / s <= 16)
    shown = range(0, classes, step)
    labels = [named[i] if step == 1 else str(numbers[i]) for i in shown]
    margin = int(max(small.getlength(text) for text in labels)) + 14
    left, top, side = margin + 26, 62, cell * classes
    image = Image.new("RGB", (left + side + 96, top + side + margin + 34), _PAPER)
    pen = ImageDraw.Draw(image)
    matrix = Image.fromarray(_shade(share)).resize((side, side), Image.Resampling.NEAREST)
    image.paste(matrix, (left, top))
    if cell >= 6:
        for i in range(classes + 1):
            pen.line([(left + i * cell, top), (left + i * cell, top + side)], fill=_GRID)
            pen.line([(left, top + i * cell), (left + side, top + i * cell)], fill=_GRID)
    pen.rectangle([left, top, left + side, top + side], outline=_FAINT)
    for i, text in zip(shown, labels, strict=True):
        middle = i * cell + cell / 2
        pen.text((left - 8, top + middle), text, fill=_INK, font=small, anchor="rm")
        _upright(image, text, (left + middle, top + side + 8), small)
    if classes <= _WRITTEN:
        for (row, column), value in np.ndenumerate(share):
            if counts[row, column]:
                ink = _PAPER if value > 0.55 else _INK
                place = (left + (column + 0.5) * cell, top + (row + 0.5) * cell)
                pen.text(place, f"{value * 100:.0f}", fill=ink, font=small, anchor="mm")
    pen.text((left, 14), title, fill=_INK, font=_font(17))
    note = f"{int(counts.sum()):,} videos; each row adds up to 100%"
    note += f"; {classes} of {everyone} classes occur" if classes < everyone else ""
    pen.text((left, 38), note, fill=_FAINT, font=_font(13))
    pen.text((left + side / 2, image.height - 12), "predicted", fill=_INK, font=font, anchor="mb")
    _sideways(image, "true", (12, top + side / 2), font)
    _scale(image, pen, (left + side + 22, top, 16, min(side, 240)))
    return image


def reliability(bins: Bins, title: str = "Calibration", what: str = "accuracy") -> Image.Image:
    """Draw accuracy over confidence in equal bins, the ideal as a diagonal, and the videos per bin.

    Args:
      bins: from `scores.reliability`.
      title: of the picture.
      what: label of the vertical axis.
    """
    n, scale = len(bins.count), 2  # drawn at twice the size: lines come out smooth
    side, left, top, low = 420 * scale, 70 * scale, 66 * scale, 110 * scale
    image = Image.new("RGB", (left + side + 24 * scale, top + side + low + 92 * scale), _PAPER)
    pen = ImageDraw.Draw(image)
    font, small = _font(14 * scale), _font(12 * scale)
    for tick in range(0, 11, 2):
        y = top + side * (1 - tick / 10)
        pen.line([(left, y), (left + side, y)], fill=_GRID, width=scale)
        pen.text((left - 8 * scale, y), f"{tick * 10}%", fill=_FAINT, font=small, anchor="rm")
    most = max(int(bins.count.max()), 1)
    base = top + side + 26 * scale + low
    for i in range(n):
        x0, x1 = left + side * i / n + scale, left + side * (i + 1) / n - scale
        height = low * bins.count[i] / most
        if bins.count[i]:
            pen.rectangle([x0, base - max(height, scale), x1, base], fill=_FAINT)
            right, sure = (top + side * (1 - value) for value in (bins.accuracy[i], bins.confidence[i]))
            pen.rectangle([x0, right, x1, top + side], fill=_BAR)
            pen.rectangle([x0, min(right, sure), x1, max(right, sure)], outline=_GAP_LOW, width=2 * scale)
    pen.line([(left, top + side), (left + side, top)], fill=_LINE, width=scale)
    pen.rectangle([left, top, left + side, top + side], outline=_FAINT, width=scale)
    pen.line([(left, base), (left + side, base)], fill=_FAINT, width=scale)
    for tick in range(0, 11, 2):
        pen.text((left + side * tick / 10, base + 8 * scale), f"{tick * 10}%", fill=_FAINT, font=small, anchor="mt")
    pen.text((left - 8 * scale, base - low), f"{most:,}", fill=_FAINT, font=small, anchor="rm")
    pen.text((left + side / 2, image.height - 20 * scale), "confidence", fill=_INK, font=font, anchor="mm")
    _sideways(image, what, (16 * scale, top + side / 2), font)
    _sideways(image, "count", (16 * scale, base - low / 2), font)
    pen.text((left, 14 * scale), title, fill=_INK, font=_font(17 * scale))
    note = f"expected calibration error {calibration(bins) * 100:.1f}%; framed in red: confidence less {what}"
    pen.text((left, 40 * scale), note, fill=_FAINT, font=small)
    return image.resize((image.width // scale, image.height // scale), Image.Resampling.LANCZOS)


def regression(predicted: np.ndarray, true: np.ndarray, title: str = "Regression") -> Image.Image:
    """Draw the predictions of each output over the truth, one dot per video, the ideal as a diagonal.

    Args:
      predicted, true: [videos outputs]; the first sixteen outputs are drawn.
      title: what is drawn.
    """
    outputs = min(predicted.shape[1], _PANELS)
    across = min(outputs, 4)
    side, gap, top = 240, 74, 66
    down = -(-outputs // across)
    image = Image.new("RGB", (gap + across * (side + gap), top + down * (side + gap)), _PAPER)
    pen = ImageDraw.Draw(image, "RGBA")
    small = _font(12)
    for i in range(outputs):
        left, up = gap + i % across * (side + gap), top + i // across * (side + gap)
        both = np.concatenate([predicted[:, i], true[:, i]])
        ticks = charts.ticks(float(both.min()), float(both.max()), 4)
        low, high = ticks[0], ticks[-1]
        at = lambda value: side * (value - low) / ((high - low) or 1.0)  # noqa: B023, E731
        for tick in ticks:
            pen.line([(left + at(tick), up), (left + at(tick), up + side)], fill=_GRID)
            pen.line([(left, up + side - at(tick)), (left + side, up + side - at(tick))], fill=_GRID)
            pen.text((left + at(tick), up + side + 6), charts.compact(tick), fill=_FAINT, font=small, anchor="mt")
            pen.text((left - 6, up + side - at(tick)), charts.compact(tick), fill=_FAINT, font=small, anchor="rm")
        pen.line([(left, up + side), (left + side, up)], fill=_LINE)
        for x, y in zip(at(true[:, i]), side - at(predicted[:, i]), strict=True):
            pen.ellipse((left + x - 3, up + y - 3, left + x + 3, up + y + 3), fill=(*_BAR, 150))
        pen.rectangle([left, up, left + side, up + side], outline=_FAINT)
        pen.text((left + side / 2, up + side + 38), f"true, output {i}", fill=_INK, font=small, anchor="mm")
        _sideways(image, "predicted", (left - 48, up + side / 2), small)
    pen.text((gap, 14), title, fill=_INK, font=_font(17))
    rest = f", the first {outputs} of {predicted.shape[1]} outputs" if outputs < predicted.shape[1] else ""
    pen.text((gap, 38), f"{len(true):,} videos{rest}", fill=_FAINT, font=_font(13))
    return image


def _shade(share: np.ndarray) -> np.ndarray:
    """Colours of shares, uint8 [… 3]."""
    at = np.clip(share, 0.0, 1.0) * (len(_SHADES) - 1)
    below = np.minimum(at.astype(int), len(_SHADES) - 2)
    mixed = _SHADES[below] + (at - below)[..., None] * (_SHADES[below + 1] - _SHADES[below])
    return np.round(mixed).astype(np.uint8)


def _scale(image: Image.Image, pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int]) -> None:
    """The shades beside their shares."""
    x, y, width, height = box
    bar = _shade(np.repeat(np.linspace(1, 0, height)[:, None], width, axis=1))
    image.paste(Image.fromarray(bar), (x, y))
    pen.rectangle([x, y, x + width, y + height], outline=_FAINT)
    for share in (0.0, 0.5, 1.0):
        place = (x + width + 6, y + height * (1 - share))
        pen.text(place, f"{share * 100:.0f}%", fill=_FAINT, font=_font(12), anchor="lm")


def _upright(image: Image.Image, text: str, top: tuple[float, float], font: ImageFont.FreeTypeFont) -> None:
    """Draw vertical text that ends at `top`."""
    turned = _turned(text, font)
    image.paste(turned, (round(top[0] - turned.width / 2), round(top[1])))


def _sideways(image: Image.Image, text: str, middle: tuple[float, float], font: ImageFont.FreeTypeFont) -> None:
    turned = _turned(text, font)
    image.paste(turned, (round(middle[0] - turned.width / 2), round(middle[1] - turned.height / 2)))


def _turned(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    left, top, right, bottom = (round(side) for side in font.getbbox(text))
    page = Image.new("RGB", (right - left + 2, bottom - top + 2), _PAPER)
    ImageDraw.Draw(page).text((1 - left, 1 - top), text, fill=_INK, font=font)
    return page.rotate(90, expand=True)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
