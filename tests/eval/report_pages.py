"""Runs to report on, and the pages made of them, taken apart."""

import html.parser
import json

from vmae_jax.eval import report

EVIL = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;"


class Outline(html.parser.HTMLParser):
    """Tags, attributes and text of a page; unbalanced tags fail."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "line", "path", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def run(path, *, steps=30, length=60, events=(), **more):
    path.mkdir(parents=True, exist_ok=True)
    rows = [{"kind": "event", "step": 0, "event": "started", "devices": "8 x TPU v5e", "steps": length}]
    for step in range(1, steps + 1):
        row = {
            "kind": "train",
            "step": step,
            "loss": 1 / step,
            "loss/pixels": 1 / step,
            "learning_rate": 1e-4,
            "grad_norm": 1.0,
        }
        row |= {
            "clips_per_second": 1234.5,
            "data_wait_fraction": 0.02,
            "examples_seen": 64 * step,
            "step_seconds": 0.25,
        }
        rows.append(row | more)
    rows += events
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def opened(path) -> Outline:
    return Outline(report.write(path).read_text())
