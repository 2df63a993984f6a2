"""`vmae reconstruct`: original, masked and reconstructed videos, side by side in time."""

import dataclasses
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vmae_jax.commands.named_videos import name_of
from vmae_jax.commands.restore import restore
from vmae_jax.commands.streams import check_streams, check_views, only_video, rows_of_views
from vmae_jax.data import sources
from vmae_jax.data.faults import TooManyBadVideos
from vmae_jax.data.files import holds_videos
from vmae_jax.data.opened import Opened, open_loader
from vmae_jax.eval import reconstruction
from vmae_jax.runtime.cache import enable_cache
from vmae_jax.spec import ConfigError
from vmae_jax.train import sharding
from vmae_jax.train.on_mesh import on_mesh

__all__ = ["run", "sample"]

log = logging.getLogger(__name__)


def run(
    checkpoint: str,
    *,
    out: str,
    videos: Sequence[str] | None = None,
    clips: int = 4,
    seed: int = 0,
    ema: bool = False,
) -> dict[str, Any]:
    """Draw a sheet and an animation of `clips` videos.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      out: folder for `reconstruction.png` and `reconstruction.webp`.
      videos: files or folders; None takes the run's held-out data, or its training data.
      clips: number of videos.
      seed: of the choice of videos, clips and masks.
      ema: use the averaged parameters.

    Raises:
      ConfigError: if there is no such checkpoint or video, no video can be read, or the method reconstructs nothing.
    """
    enable_cache()
    if clips < 1:
        raise ConfigError(f"--clips={clips}: expected at least 1")
    trained = restore(checkpoint, ema=ema)
    method = trained.made.method
    if method.reconstruct is None:
        raise ConfigError(f"{checkpoint} was trained by a method that reconstructs no pixels")
    batch, names = sample(trained.made, videos, clips, seed, masked=True)
    context = trained.carried().context(jax.random.key(seed), trained.step)
    mesh = sharding.make_mesh({"data": 1}, devices=jax.local_devices()[:1])  # one device is enough for a few clips
    pictures = jax.device_get(on_mesh(method.reconstruct, mesh)(trained.params, batch, context))
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    shown = len(pictures.videos[0])
    sheet = reconstruction.save(pictures, folder / "reconstruction.png", clips=shown, videos=names)
    animation = reconstruction.animate(pictures, folder / "reconstruction.webp", clips=shown)
    borrowed = list(pictures.borrowed)
    if borrowed:
        log.info("rows that use the true mean and std of each hidden cube: %s", ", ".join(borrowed))
    return {"step": trained.step, "clips": shown, "pictures": [str(sheet), str(animation)], "borrowed": borrowed}


def sample(
    made: Any, videos: Sequence[str] | None, clips: int, seed: int, *, masked: bool = False
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return one clip of each of `clips` videos, by the experiment's own sampler and transforms, and their names.

    Args:
      made: the experiment.
      videos: files or folders; None takes the experiment's own data.
      clips: number of videos.
      seed: of the choice of videos, clips and masks.
      masked: whether masks are drawn on them, so that the streams that masks read are required as well.
    """
    loader = made.eval.data or made.loader
    where = "config.eval.data" if made.eval.data else "config.data"
    check_streams(made.method, loader.spec(), where, trains=masked)
    if masked:
        check_views(made.method, loader.views, where)
    if videos:
        only_video(made.method, loader.spec(), "--videos", trains=masked)
        pictures = loader.spec()["video"].shape[1] == 1 and not any(map(holds_videos, videos))
        loader = dataclasses.replace(loader, source=sources.paths(list(videos), pictures), labels={})
    opened = open_loader(loader)
    count = min(clips, len(opened))
    # One clip per video, and all videos in one batch.
    loader = dataclasses.replace(loader, global_batch=count, shuffle=not videos)
    views = made.method.views if masked else 1
    rows = rows_of_views(loader.clips_per_video, count, views)
    stream = Opened(loader, opened.source).batches(rows=rows, seed=seed)
    try:
        batch = next(stream)
        for fault in stream.faults():
            name = name_of(opened.source, fault.index)
            log.warning("%s: %s; a neighbour is used instead", name, fault.reason)
        return batch, [name_of(opened.source, int(index)) for index in batch["index"][::views]]
    except TooManyBadVideos as error:
        if not videos:
            raise
        raise ConfigError(
            f"--videos: {error}"
        ) from error  # the user chose these, so it is not a fault of the run's data
    finally:
        stream.close()
