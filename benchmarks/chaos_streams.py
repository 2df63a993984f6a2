"""A training that reads every stream, for `chaos.py --streams`: a config, its data, and the method of the quick start,
which reports what it reads of each stream.

Drawn clips with sound and everything beside them are mixed with pictures, which have one frame and no stream.
"""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from vmae_jax.registry import register
from vmae_jax.spec import call

__all__ = ["READ", "get_config", "key_of", "make_data", "method_of", "options", "spoilable", "streams"]

CLIPS, PICTURES, SIZE, FRAMES, RATE = 12, 4, 48, 16, 8000
READ = "read/"  # before the name of a stream: the metric of what was read of it


@register("method", method="method")
def method_of(method: Any) -> Any:
    """Return the method with a metric for each stream, in which every value of its arrays and its place counts."""
    import jax.numpy as jnp

    from vmae_jax.types import Mean

    def loss(params: Any, batch: Any, context: Any) -> Any:
        found = method.loss(params, batch, context)
        metrics = {}
        for name in streams():
            values = jnp.abs(batch[name].astype(jnp.float32)).reshape(batch[name].shape[0], -1)
            places = 1 + jnp.arange(values.shape[1]) / values.shape[1]
            metrics[READ + name] = Mean((values * places).mean(1).sum(), jnp.float32(values.shape[0]))
        return found.replace(metrics=found.metrics | metrics)

    return method._replace(loss=loss)


def streams() -> dict[str, ConfigDict]:
    """Return every kind of stream."""
    tokenizer = call("data.streams.tokenizers.utf8")
    return {
        "seconds": call("data.streams.times.seconds"),
        "frames": call("data.streams.times.frames"),
        "audio": call("data.streams.audio", seconds=0.25, rate=RATE),
        "text": call("data.streams.text", tokenizer=tokenizer, length=32),
        "subtitles": call("data.streams.text", tokenizer=tokenizer, length=32),
        "imu": call("data.streams.series", columns=["ax", "ay", "gz"], samples=8),
        "boxes": call("data.streams.boxes", count=2, least=0.0),
        "state": call("data.streams.embeddings", width=7, length=FRAMES),
        "masks": call("data.streams.planes", channels=1, interpolation="nearest"),
        "motion": call("data.streams.motion", cell=8),
    }


def get_config(arguments: str | None = None) -> ConfigDict:
    """Return the quick start at its smallest size, on a mixture of clips with every stream and of pictures."""
    from vmae_jax.configs import common, quickstart
    from vmae_jax.data.synthetic.world import SIDES

    common.parse(arguments)
    config: Any = quickstart.get_config("smoke")
    sides = {name: call("data.sides.sidecar", suffix=suffix) for name, suffix in SIDES.items() if name != "segments"}
    clips = call("data.sides.beside", source=call("data.sources.folder", path=""), sides=sides)
    parts = {"clips": call("data.mixture.part", source=clips)}
    parts["pictures"] = call("data.mixture.part", source=call("data.sources.images", path=""))
    config.method = call("chaos_streams.method_of", method=config.method)
    config.data.source = call("data.mixture", parts=parts)
    config.data.streams = streams()
    return config


def options(folder: pathlib.Path) -> list[str]:
    """Return the options of a command that trains on what `make_data` wrote."""
    source = "--config.data.source.parts"
    return [
        "--config=benchmarks/chaos_streams.py", "--plugins=chaos_streams",
        f"{source}.clips.source.source.path={folder}/clips", f"{source}.pictures.source.path={folder}/pictures",
    ]  # fmt: skip


def spoilable(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Return the videos and pictures, and the files beside videos that a stream reads."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and "_segments" not in file.name)
    whole = [file for file in files if file.suffix in (".mp4", ".png")]
    return whole, [file for file in files if file not in whole]


def key_of(file: pathlib.Path) -> str:
    """Return the name under which a run lists a file, or the video that it is beside."""
    name = file.name if file.suffix == ".png" else f"{file.name.partition('.')[0].partition('_')[0]}.mp4"
    return f"{file.parent.name}/{name}"


def make_data(folder: pathlib.Path) -> None:
    """Write clips with what is beside them, and pictures."""
    import numpy as np
    from PIL import Image

    from vmae_jax.data.synthetic import world

    drawn = world.settings(train=CLIPS, size=SIZE, frames=FRAMES, sound_rate=RATE)
    world.write_folder(str(folder / "clips"), CLIPS, drawn)
    (folder / "pictures").mkdir()
    for number in range(PICTURES):
        pixels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
