"""The frame of the report: style, script, and a policy that blocks all other scripts and requests."""

import base64
import hashlib
import html
import importlib.resources

__all__ = ["document"]


def document(title: str, body: str) -> str:
    """Return a whole HTML page, whose policy allows our style, our script and inlined pictures, and no request.

    Args:
      title: plain text.
      body: escaped HTML.
    """
    folder = importlib.resources.files("vmae_jax.eval")
    style, script = (folder.joinpath(name).read_text("utf-8") for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>\n"
        f"<body><main>{body}</main><script>{script}</script></body></html>\n"
    )
