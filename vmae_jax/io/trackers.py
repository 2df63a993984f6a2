"""Writers for experiment trackers: Weights & Biases and trackio, each an optional package.

A service is opened with the first metrics. If that fails, it is not tried again, so an unreachable service costs
one timeout and one warning, never the run (see `io.writers.Writers`).
"""

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["TrackioWriter", "WandbWriter"]

log = logging.getLogger(__name__)
_SECONDS = 30.0  # that opening a service may take


class _Tracker:
    """The common part of both services.

    Args:
      project: of the service.
      name: of the run.
      identity: returns the id of the run, which a resumed run keeps; called when the service is opened.
      config: of the run, as plain values.
    """

    def __init__(self, project: str, *, name: str, identity: Callable[[], str], config: Mapping[str, Any]):
        self._project, self._name, self._identity, self._config = project, name, identity, dict(config)
        self._run: Any = None
        self._failed = False

    def scalars(self, step: int, values: Mapping[str, Any], *, kind: str = "train") -> None:
        """Log metrics as KIND/NAME."""
        self._send(step, lambda: {f"{kind}/{name}": float(value) for name, value in values.items()})

    def images(self, step: int, images: Mapping[str, Any]) -> None:
        """Log pictures by name."""
        self._send(step, lambda: {name: self._image(_picture(image)) for name, image in images.items()})

    def event(self, step: int, name: str, **details: Any) -> None:
        """Do nothing: events are in `metrics.jsonl`."""

    def truncate_after(self, step: int) -> None:
        """Do nothing: a service cannot forget rows, and a repeated step has the same values."""

    def flush(self) -> None:
        """Do nothing: both services send in the background."""

    def close(self) -> None:
        """Send the rest and end the run of the service."""
        if self._run is not None:
            with _quietly():
                self._finish()
            self._run = None

    def _send(self, step: int, values: Callable[[], dict[str, Any]]) -> None:
        if self._failed:
            return
        with _quietly():
            if self._run is None:
                try:
                    self._run = self._open()
                except Exception:
                    self._failed = True
                    raise
            self._log(step, values())

    def _open(self) -> Any:
        """Open the run of the service."""
        raise NotImplementedError

    def _log(self, step: int, values: dict[str, Any]) -> None:
        """Log values of a step."""
        raise NotImplementedError

    def _image(self, picture: Image.Image) -> Any:
        """Return a picture in the form of the service."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Send the rest and end the run of the service."""
        self._run.finish()


class WandbWriter(_Tracker):
    """Metrics and pictures for Weights & Biases; `WANDB_MODE=offline` keeps them on the disk.

    Args:
      project, name, identity, config: see `_Tracker`.
      folder: for the files of the service; None is its own default.
    """

    def __init__(self, project: str, *, folder: str | None, **about: Any):
        super().__init__(project, **about)
        self._folder = folder

    def _open(self) -> Any:
        import wandb  # pyright: ignore[reportMissingImports]

        os.environ.setdefault("WANDB_SILENT", "true")  # it writes to standard error even before its settings apply
        settings = wandb.Settings(silent=True, console="off", init_timeout=_SECONDS, login_timeout=_SECONDS)
        run = wandb.init(
            project=self._project,
            name=self._name,
            id=self._identity() or None,
            resume="allow",
            dir=self._folder,
            config=self._config,
            settings=settings,
        )
        # A step of our own: the service's must grow, and a resumed run starts again at its checkpoint.
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        log.info("Weights & Biases: %s", run.url or f"offline, in {run.dir}; `wandb sync` uploads it")
        return run

    def _log(self, step: int, values: dict[str, Any]) -> None:
        self._run.log(values | {"step": step})

    def _image(self, picture: Image.Image) -> Any:
        import wandb  # pyright: ignore[reportMissingImports]

        return wandb.Image(picture)


class TrackioWriter(_Tracker):
    """Metrics and pictures for trackio, which keeps them on this machine (`trackio show`)."""

    def _open(self) -> Any:
        import trackio  # pyright: ignore[reportMissingImports]

        name = "-".join(filter(None, (self._name, self._identity())))
        run = trackio.init(project=self._project, name=name, resume="allow", config=self._config, embed=False)
        log.info("trackio: run %s; `trackio show --project %s` shows it", name, self._project)
        return run

    def _log(self, step: int, values: dict[str, Any]) -> None:
        self._run.log(values, step=step)

    def _image(self, picture: Image.Image) -> Any:
        import trackio  # pyright: ignore[reportMissingImports]

        return trackio.Image(picture)

    def _finish(self) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        trackio.finish()  # after the run's own `finish` it would be ended again, with text on standard output


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Redirect the output of a service away from standard output, whose last line is the result."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            log.debug("%s", line)


def _picture(image: Any) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image, np.uint8))
