"""Common HTML of the sections of a report; everything from a run is escaped here."""

import datetime
import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from vmae_jax.eval.charts import compact

__all__ = ["card", "escape", "moment", "section", "short", "table"]


def escape(text: object) -> str:
    """Return text as HTML shows it, also inside an attribute."""
    return html.escape(str(text), quote=True)


def section(title: str, content: str, *, name: str = "", intro: str = "") -> str:
    """Return a section with a heading; "" without content.

    Args:
      title: plain text.
      content: escaped HTML.
      name: of the anchor, for links.
      intro: plain text below the heading.
    """
    if not content:
        return ""
    anchor = f' id="{escape(name)}"' if name else ""
    shown = f'<p class="sub">{escape(intro)}</p>' if intro else ""
    return f"<section{anchor}><h2>{escape(title)}</h2>{shown}{content}</section>"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[int] = (), kind: str = "") -> str:
    """Return a table of plain text; "" without rows.

    Args:
      head: the names of the columns; the table has no head if they are all empty.
      rows: their cells.
      numbers: columns that hold numbers.
      kind: a CSS class of the table.
    """
    body = ""
    for row in rows:
        cells = (
            f'<td class="num">{escape(cell)}</td>' if i in numbers else f"<td>{escape(cell)}</td>"
            for i, cell in enumerate(row)
        )
        body += f"<tr>{''.join(cells)}</tr>"
    if not body:
        return ""
    top = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>" if any(head) else ""
    return f'<div class="wrap"><table class="{escape(kind)}">{top}{body}</table></div>'


def card(name: str, value: str, note: str, *, extra: str = "", link: str = "") -> str:
    """Return a figure with its name above and a note below; `extra` is HTML, `link` an anchor of the page."""
    small = f"<small>{escape(note)}</small>" if note else ""
    shown = f'<a href="#{escape(link)}">{escape(value)}</a>' if link else escape(value)
    return f'<div class="card"><dt>{escape(name)}</dt><dd>{shown}{small}{extra}</dd></div>'


def short(value: Any, most: int = 160) -> str:
    """Return a JSON value as text of at most `most` characters."""
    if isinstance(value, float):
        return compact(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else text[: most - 1] + "…"


def moment(value: Any) -> str:
    """Return seconds since 1970 as a date and time, or ""."""
    try:
        return f"{datetime.datetime.fromtimestamp(float(value), datetime.UTC):%Y-%m-%d %H:%M:%S}"
    except (TypeError, ValueError, OverflowError, OSError):
        return ""
