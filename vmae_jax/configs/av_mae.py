"""AV-MAE (Georgescu et al. 2023), a masked autoencoder of video and sound: `configs/av_mae.py:L,audioset`.

    configs/av_mae.py:L,audioset    22 blocks for each modality and 2 for both, 10 seconds of sound
    configs/av_mae.py:L,vggsound    an encoder for each modality, 8 seconds of sound

Both modalities share the blocks of one decoder. Name your own videos, with sound: `--config.data.source.path=FOLDER`.
The figures, with their origin, are in `recipes.csv`. The spectrogram follows the paper where it is public.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes
from vmae_jax.spec import call

JOINT = 2  # of the 24 blocks of an encoder, those that see both modalities [code]
MEAN, DEVIATION = 1.102, 2.762  # of MBT's spectrograms [code], here of both stages [inferred]
SOUND = {"audioset": (10.0, 0.7), "vggsound": (8.0, 0.5)}  # seconds, and the share that is hidden [code]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(arguments, size=("L",), data=("audioset", "vggsound"), smoke=False)
    recipe = recipes.recipe(f"av_mae:{args.size},{args.data}")
    fused = args.data == "audioset"
    seconds, hidden = SOUND[args.data]
    config = common.sections(
        method=call(
            "methods.joint.build",
            modalities={
                "video": video(args.size, recipe, fused),
                "audio": audio(args.size, recipe, seconds, hidden, fused),
            },
            parts={"reconstruct": call("methods.parts.reconstruct", shared=True, zeros=True)},
            fuse=call("models.fusion.joint", depth=JOINT) if fused else None,
        ),
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.folder"),
            sampler=call("data.clips.dense", frames=16, stride=recipe.stride),
            transforms=[call("data.transforms.random_resized_crop", size=224, area=recipe.area)],
            streams={"audio": call("data.streams.audio", seconds=seconds, rate=16000)},
            global_batch=recipe.batch,
        ),
        optimizer=recipes.adamw(recipe),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
    )
    if args.smoke:
        config: Any = common.smoke(config)
        settings = call("data.synthetic.world.settings", train=64, validation=8, test=8, size=48, frames=16, silent=0.0)
        config.data.source.otherwise = call("data.synthetic.world", settings=settings)  # other drawn clips are silent
    return config


def networks(size: str, recipe: Any, fused: bool) -> dict[str, Any]:
    """Return what the networks of both modalities have in common."""
    own = {"depth": 24 - JOINT} if fused else {}
    dims = {name: getattr(recipe, name) for name in ("decoder_width", "decoder_depth", "decoder_heads")}
    return {"size": size, **own, **dims, "project_bias": True, "initial": "scenic"}


def video(size: str, recipe: Any, fused: bool) -> ConfigDict:
    """Return the pictures as a modality: pixels between -1 and 1, raw as the target."""
    half = [0.5, 0.5, 0.5]
    return call(
        "methods.joint.modality",
        model=call("models.variants.vit", **networks(size, recipe, fused), mean=half, std=half),
        mask=recipes.mask(recipe.encoder_mask),
        read=call("inputs.readers.video"),
        objectives={
            "pixels": call(
                "targets.core.objective",
                target=call("targets.pixels", normalize=False, mean=0.5, deviation=0.5),
                weight=0.5,
            )
        },
    )


def audio(size: str, recipe: Any, seconds: float, hidden: float, fused: bool) -> ConfigDict:
    """Return the sound as a modality: a log-mel spectrogram of 100 frames a second and 128 bins."""
    frames = int(seconds * 100) // 16 * 16
    return call(
        "methods.joint.modality",
        model=call("models.spectrogram", **networks(size, recipe, fused), frames=frames),
        mask=call("masking.random", ratio=hidden),
        read=call("inputs.readers.sound", log_mel=call("inputs.log_mel.hamming", mean=MEAN, deviation=DEVIATION)),
        objectives={"log_mel": call("targets.core.objective", target=call("targets.spectrogram"), weight=0.5)},
    )
