"""Pictures of reconstructions: a sheet of labelled rows, or an animation side by side."""

import io
import json
import os
from collections.abc import Sequence

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from vmae_jax.types import Pictures

__all__ = ["KEY", "NOTE", "animate", "draw", "save", "write_whole"]

KEY = "vmae"  # of the text in a PNG: {"rows": names, "borrowed": names}, and "videos" where they have names
NOTE = "uses the true patch mean and std"  # at every row that uses statistics of hidden pixels
_PAPER, _INK, _FAINT, _WARN = (22, 24, 29), (232, 234, 238), (140, 146, 156), (255, 190, 92)
_MARGIN, _GAP, _BLOCK = 16, 3, 22
_TEXT = 15


def draw(
    pictures: Pictures, *, frames: int = 8, clips: int = 4, size: int = 112, videos: Sequence[str] = ()
) -> Image.Image:
    """Draw one sheet: for each clip a block of rows, original first; time runs from left to right.

    Each row has its name above it, and a note if it uses statistics of hidden pixels.

    Args:
      pictures: uint8 videos [b t h w c] by name, of one or three channels; their strips are drawn below, each over the
        whole width.
      frames: number of frames per clip, evenly spaced, including the first and last.
      clips: maximum number of clips.
      size: approximate shortest side of a frame, in pixels; small frames are enlarged by integer
        factors, frames of more than 1.5 times the size are reduced.
      videos: names of the videos, each written above its block, or above those of its views.

    Raises:
      ValueError: if the rows are not videos of one shape, or frames or clips are below 1.
    """
    rows = _rows(pictures)
    if frames < 1 or clips < 1:
        raise ValueError(f"frames and clips must be at least 1, got {frames} and {clips}")
    first = next(iter(rows.values()))
    times = _times(first.shape[1], frames)
    height, width = _size(first.shape[2:4], size)
    font, line = _font(_TEXT), _TEXT + 9
    across = len(times) * width + (len(times) - 1) * _GAP
    least = max(_text_width(font, name + (f"   {NOTE}" if name in pictures.borrowed else "")) for name in rows)
    shown = min(clips, first.shape[0])
    names = [_shortened(name, font, max(across, least)) for name in _titles(videos, first.shape[0])[:shown]]
    block = len(rows) * (line + height + _GAP * 2) + (line if names else 0)
    strips = dict(zip(pictures.strip_names, map(np.asarray, pictures.strips), strict=True))
    block += len(strips) * (line + height + _GAP * 2)
    least = max(least, *(_text_width(font, name) for name in strips)) if strips else least
    sheet = Image.new(
        "RGB", (2 * _MARGIN + max(across, least), 2 * _MARGIN + shown * block + (shown - 1) * _BLOCK), _PAPER
    )
    pen = ImageDraw.Draw(sheet)
    y = _MARGIN
    for clip in range(shown):
        if names:
            pen.text((_MARGIN, y), names[clip] if clip < len(names) else "", fill=_FAINT, font=font)
            y += line
        for name, row in rows.items():
            _label(pen, (_MARGIN, y), name, name in pictures.borrowed, font)
            y += line
            for place, time in enumerate(times):
                sheet.paste(_picture(row[clip, time], (height, width)), (_MARGIN + place * (width + _GAP), y))
            y += height + 2 * _GAP
        for name, strip in strips.items():
            _label(pen, (_MARGIN, y), name, name in pictures.borrowed, font)
            sheet.paste(_picture(strip[clip], (height, across)), (_MARGIN, y + line))
            y += line + height + 2 * _GAP
        y += _BLOCK
    return sheet


def _titles(videos: Sequence[str], blocks: int) -> list[str]:
    """Return a name for each block: where there are several of each video, they are its views, one after the other."""
    views = blocks // len(videos) if videos else 0
    if views < 2:
        return list(videos)
    return [f"{name}, view {view + 1}" for name in videos for view in range(views)]


def save(
    pictures: Pictures,
    path: epath.PathLike,
    *,
    frames: int = 8,
    clips: int = 4,
    size: int = 112,
    videos: Sequence[str] = (),
) -> epath.Path:
    """Draw the sheet (see `draw`), write it as PNG, and create the folder.

    Returns:
      the path of the file.
    """
    buffer = io.BytesIO()
    about = PngImagePlugin.PngInfo()  # describes the picture for the report
    shown = {"videos": _titles(videos, len(pictures.videos[0]))[:clips]} if videos else {}
    about.add_itxt(
        KEY, json.dumps({"rows": [*pictures.rows, *pictures.strip_names], "borrowed": list(pictures.borrowed)} | shown)
    )
    sheet = draw(pictures, frames=frames, clips=clips, size=size, videos=videos)
    sheet.save(buffer, "PNG", pnginfo=about)
    return write_whole(path, buffer.getvalue())


def animate(
    pictures: Pictures, path: epath.PathLike, *, clips: int = 4, size: int = 160, rate: float = 6.0
) -> epath.Path:
    """Write an animation in a loop: the rows side by side, one clip below the other.

    Args:
      pictures: as in `draw`.
      path: ends in .webp (smaller, full colour) or .gif.
      clips: maximum number of clips.
      size: the shortest side of a frame, in pixels.
      rate: frames per second.

    Raises:
      ValueError: if the ending is another, or the pictures are not valid.
    """
    path = epath.Path(path)
    kind = {".gif": "GIF", ".webp": "WEBP"}.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: the name of an animation must end in .webp or .gif")
    rows = _rows(pictures)
    first = next(iter(rows.values()))
    count, length = min(clips, first.shape[0]), first.shape[1]
    height, width = _size(first.shape[2:4], size)
    names = {name: _wrapped(name, NOTE if name in pictures.borrowed else "", width) for name in rows}
    head = max(len(lines) for lines in names.values()) * (_TEXT + 3) + 8
    shape = (
        2 * _MARGIN + len(rows) * width + (len(rows) - 1) * 2 * _GAP,
        _MARGIN + head + count * (height + 2 * _GAP) + _MARGIN,
    )
    pages = []
    for time in range(length):
        page = Image.new("RGB", shape, _PAPER)
        pen = ImageDraw.Draw(page)
        for column, (name, videos) in enumerate(rows.items()):
            x = _MARGIN + column * (width + 2 * _GAP)
            for number, (text, colour) in enumerate(names[name]):
                pen.text((x, _MARGIN + number * (_TEXT + 3)), text, fill=colour, font=_font(_TEXT - 2))
            for clip in range(count):
                y = _MARGIN + head + clip * (height + 2 * _GAP)
                page.paste(_picture(videos[clip, time], (height, width)), (x, y))
        pages.append(page)
    buffer = io.BytesIO()
    options = {"quality": 85, "method": 4} if kind == "WEBP" else {"optimize": True}
    pages[0].save(buffer, kind, save_all=True, append_images=pages[1:], duration=round(1000 / rate), loop=0, **options)
    return write_whole(path, buffer.getvalue())


def _rows(pictures: Pictures) -> dict[str, np.ndarray]:
    rows = {name: np.asarray(video) for name, video in pictures.rows.items()}
    if not rows:
        raise ValueError("there are no rows to draw")
    first = next(iter(rows.values()))
    for name, video in rows.items():
        good = video.ndim == 5 and video.dtype == np.uint8 and video.shape[-1] in (1, 3) and video.size
        if not good or video.shape != first.shape:
            raise ValueError(
                f"row {name!r} is {video.dtype}{list(video.shape)}; uint8 [b t h w c] with one or three channels, "
                f"the same for all rows, is needed (the first is {first.dtype}{list(first.shape)})"
            )
    return rows


def _times(length: int, frames: int) -> list[int]:
    return sorted({round(time) for time in np.linspace(0, length - 1, min(frames, length))})


def _size(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Return the height and width at which to draw a frame of `shape`."""
    short = min(shape)
    if short > 1.5 * size:
        return round(shape[0] * size / short), round(shape[1] * size / short)
    factor = max(1, round(size / short))
    return shape[0] * factor, shape[1] * factor


def _picture(frame: np.ndarray, size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).convert("RGB")
    if size == frame.shape[:2]:
        return picture
    # Enlarged without smoothing, so that the seams of the patches stay visible.
    how = Image.Resampling.NEAREST if size[0] > frame.shape[0] else Image.Resampling.LANCZOS
    return picture.resize((size[1], size[0]), how)


def _label(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], name: str, borrowed: bool, font: ImageFont.FreeTypeFont
) -> None:
    pen.text(place, name, fill=_INK, font=font)
    if borrowed:
        pen.text((place[0] + _text_width(font, f"{name}   "), place[1]), NOTE, fill=_WARN, font=font)


def _wrapped(name: str, note: str, width: int) -> list[tuple[str, tuple[int, int, int]]]:
    """Return `name` and `note` in lines that fit `width` pixels, with their colours."""
    font, lines = _font(_TEXT - 2), []
    for text, colour in ((name, _INK), (note, _WARN)):
        current = ""
        for word in text.split():
            if current and _text_width(font, f"{current} {word}") > width:
                lines.append((current, colour))
                current = word
            else:
                current = f"{current} {word}".strip()
        if current:
            lines.append((current, colour))
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _shortened(name: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Shorten a path to `width` pixels, keeping its end, which identifies the file."""
    name = "".join(character if character.isprintable() else "?" for character in name)
    if _text_width(font, name) <= width:
        return name
    while name and _text_width(font, f"…{name}") > width:
        name = name[1:]
    return f"…{name}"


def _text_width(font: ImageFont.FreeTypeFont, text: str) -> int:
    return int(font.getlength(text)) + 1


def write_whole(path: epath.PathLike, content: bytes) -> epath.Path:
    """Write a file atomically: through a rename on a disk, directly in a bucket."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if "://" in os.fspath(path):
        path.write_bytes(content)
        return path
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        temporary.write_bytes(content)
        os.replace(os.fspath(temporary), os.fspath(path))
    finally:
        temporary.unlink(missing_ok=True)
    return path
