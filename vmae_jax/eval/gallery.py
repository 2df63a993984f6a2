"""The pictures of a report: reconstructions, and those of evaluations."""

import base64
import html

from vmae_jax.eval.records import Picture, Run

__all__ = ["judgement", "reconstructions"]

_PICTURES = 8  # maximum of inlined pictures: the first and the newest


def reconstructions(run: Run) -> str:
    """Return the sheets of `media/`: the newest visible, the others folded."""
    pictures, rest = run.pictures(_PICTURES)
    if not pictures and not rest:
        return ""
    parts = [_picture(picture) for picture in pictures[:1]]
    if len(pictures) > 1:
        earlier = "".join(_picture(picture) for picture in pictures[1:])
        parts.append(f"<details><summary>{len(pictures) - 1} earlier</summary>{earlier}</details>")
    if rest:
        shown = ", ".join(rest[:12]) + (", …" if len(rest) > 12 else "")
        parts.append(f'<p class="sub">{len(rest)} more in media/: {_e(shown)}</p>')
    return f'<section id="pictures"><h2>Reconstructions</h2>{"".join(parts)}</section>'


def _picture(picture: Picture) -> str:
    title = f"Step {picture.step:,}" if picture.step is not None else picture.name
    tags = [
        f'<span class="tag">“{_e(name)}” uses the true mean and std of each hidden patch</span>'
        for name in picture.borrowed
    ]
    honest = [name for name in picture.rows if name.startswith("reconstructed") and name not in picture.borrowed]
    tags += [f'<span class="tag good">“{_e(name)}” uses nothing hidden</span>' for name in honest]
    alt = f"Rows: {', '.join(picture.rows)}." if picture.rows else f"{picture.name}."
    image = _image(picture, f"Reconstructions at {title}. {alt}")
    videos = f'<p class="sub">From the top: {_e(", ".join(picture.videos))}</p>' if picture.videos else ""
    caption = f"<figcaption><h3>{_e(title)}</h3>{''.join(tags)}{videos}</figcaption>"
    return f'<figure class="picture">{caption}<div class="pan" tabindex="0">{image}</div></figure>'


def judgement(run: Run) -> str:
    """Return the pictures of the last `vmae eval`: confusion and calibration."""
    name, pictures, tables = run.judgement()
    if not pictures:
        return ""
    shown = "".join(
        f'<figure class="picture"><figcaption><h3>{_e(picture.name.removesuffix(".png").replace("_", " "))}</h3>'
        f'</figcaption><div class="pan" tabindex="0">{_image(picture, picture.name)}</div></figure>'
        for picture in pictures[:_PICTURES]
    )
    beside = f'<p class="sub">Tables in eval/{_e(name)}/: {_e(", ".join(tables))}</p>' if tables else ""
    return f"<section><h2>Mistakes and confidence</h2>{shown}{beside}</section>"


def _image(picture: Picture, alt: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(picture.content).decode()}"
    return f'<img src="{source}" width="{picture.size[0]}" height="{picture.size[1]}" alt="{_e(alt)}">'


def _e(text: str) -> str:
    return html.escape(text, quote=True)
