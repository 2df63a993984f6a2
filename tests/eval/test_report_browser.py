"""The report in a real browser: nothing fails, nothing is requested from a network, all of it is readable."""

import base64
import json
import os
import pathlib
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest

from vmae_jax.eval import reconstruction, report
from vmae_jax.types import Pictures

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"]


class Browser:
    """Headless Chromium, driven by its DevTools protocol over a pipe."""

    def __init__(self, profile: pathlib.Path):
        assert CHROMIUM is not None
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()
        arguments = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]

        # The protocol speaks on descriptors 3 and 4.
        shell = f'exec 3<&{to_child} 4>&{from_child}; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *arguments],
            pass_fds=(to_child, from_child),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        self._buffer, self._number = b"", 0
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets", session=False)["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self.call("Target.attachToTarget", session=False, targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, *, session: bool = True, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._in, 1 << 20)
            assert part, "the browser ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, url: str, width: int, *, dark: bool) -> None:
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def js(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def screenshot(self, path: pathlib.Path) -> None:
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))

    def errors(self) -> list[Any]:
        outcome = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
        return [event for event in self.events if event.get("method") in outcome]

    def requests(self) -> list[str]:
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        urls = [event["params"]["request"]["url"] for event in sent]
        return [url for url in urls if not url.startswith("data:")]

    def close(self) -> None:
        os.close(self._out)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = Browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> pathlib.Path:
    """The report of a run with everything in it, also what tries to break a page."""
    run = tmp_path_factory.mktemp("runs") / "vit-b <b>&quot;"
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    rows: list[dict[str, Any]] = [{"kind": "event", "step": 0, "event": "started", "steps": 500, "devices": evil}]
    rng = np.random.default_rng(0)
    for step in range(1, 401):
        row = {"kind": "train", "step": step, "loss": 1 / step + 0.4, "loss/pixels": 0.3, "loss/motion": 0.1 + 1 / step}
        row |= {"learning_rate": 1.5e-4, "grad_norm": rng.random(), "clips_per_second": 31.4, "data_wait_fraction": 0.2}
        rows.append(row | {"examples_seen": step * 64, "step_seconds": 0.7, evil: 1.0, "time": 1.795e9 + step})
    rows.append({"kind": "eval", "step": 400, "knn/top1": 0.5})
    rows.append({"kind": "event", "step": 400, "event": evil, "why": evil})
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "quarantine.jsonl").write_text(json.dumps({"path": evil * 5, "reason": "x" * 400}) + "\n")
    (run / "config.json").write_text(json.dumps({evil: evil, "long": ["y" * 300]}))
    video = rng.integers(0, 255, (2, 8, 32, 32, 3), dtype=np.uint8)
    pictures = Pictures.of({"original": video, f"reconstructed {evil}": video}, borrowed=(f"reconstructed {evil}",))
    reconstruction.save(pictures, run / "media" / "reconstruction_400.png")
    return pathlib.Path(report.write(run))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_opens(browser, page, width, dark, tmp_path):
    browser.open(page.as_uri(), width, dark=dark)
    assert browser.js("document.title") == "vit-b <b>&quot; · vmae report"
    assert browser.js("document.images.length") == 1
    assert browser.js("[...document.images].every(image => image.complete && image.naturalWidth > 100)")
    assert browser.js("document.documentElement.scrollWidth") <= width
    outside = "[...document.querySelectorAll('main *')].filter(e => !e.closest('pre, .pan, svg') && "
    outside += "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + '.' + e.className)"
    assert browser.js(outside) == []
    browser.js("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert browser.js("document.documentElement.scrollWidth") <= width
    paper, ink = browser.js("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    bright = [sum(map(int, colour[4:-1].split(","))) for colour in (paper, ink)]
    assert (bright[0] < bright[1]) == dark
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000
    assert browser.requests() == [page.as_uri()]
    assert browser.errors() == []


def test_values_under_the_pointer(browser, page):
    browser.open(page.as_uri(), 1280, dark=False)
    box = browser.js(
        "(r => [r.x, r.y, r.width, r.height])((document.querySelector('.plot').scrollIntoView({block: 'center'}), "
        "document.querySelector('.plot')).getBoundingClientRect())"
    )
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tip = "document.querySelector('.plot .tip')"
    assert browser.js(f"{tip}.hidden") is False
    first, second = browser.js(f"{tip}.textContent").split("\n")
    assert 195 <= int(first.removeprefix("step ")) <= 206
    assert second.startswith("0.40")
    browser.js("document.querySelectorAll('.plot')[1].focus()")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft")
    terms = browser.js("document.querySelectorAll('.plot .tip')[1].textContent")
    assert terms.startswith("step 400\n")
    assert "pixels: 0.3" in terms
    assert "motion: 0.1025" in terms
    assert browser.errors() == []


def test_an_empty_run_opens(browser, tmp_path):
    page = pathlib.Path(report.write(tmp_path))
    browser.open(page.as_uri(), 390, dark=False)
    assert "no metrics yet" in browser.js("document.body.innerText")
    assert browser.requests() == [page.as_uri()]
    assert browser.errors() == []
