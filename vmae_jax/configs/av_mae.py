"""AV-MAE (Georgescu et al. 2023), a masked autoencoder of video and sound: `configs/av_mae.py:L,audioset`.

    configs/av_mae.py:L,audioset    22 blocks for each modality and 2 for both, 10 seconds of sound
    configs/av_mae.py:L,vggsound    an encoder for each modality, 8 seconds of sound
    configs/av_mae.py:L,audioset,finetune,weights=WORKDIR    a classifier of both, or of `video` or `audio` alone

Both modalities share the blocks of one decoder. Name your own videos, with sound: `--config.data.source.path=FOLDER`.
Fine-tuning takes lists with labels, `--config.data.source.path=train.csv --config.eval.data.source.path=test.csv`.
The figures, with their origin, are in `recipes.csv`. The spectrogram follows the paper where it is public.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, mbt, recipes
from vmae_jax.spec import ConfigError, call

JOINT = 2  # of the 24 blocks of an encoder, those that see both modalities [code]
MEAN, DEVIATION = 1.102, 2.762  # of MBT's spectrograms [code], here of both stages [inferred]
BOTTLENECKS = {"audioset": 18, "vggsound": 16}  # the first block of fine-tuning that has them [code]
SOUND = {"audioset": (10.0, 0.7), "vggsound": (8.0, 0.5)}  # seconds, and the share that is hidden [code]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments,
        size=("L",),
        data=("audioset", "vggsound"),
        stage=("pretrain", "finetune"),
        modalities=("both", "video", "audio"),
        weights=None,
        smoke=False,
    )
    if args.stage == "finetune":
        return finetune(args, recipes.recipe(f"av_mae:{args.size},{args.data},finetune"))
    if args.modalities != "both" or args.weights is not None:
        raise ConfigError(
            "configs/av_mae.py: weights= and one modality alone are for finetune; add it, or leave them out"
        )
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


def finetune(args: Any, recipe: Any) -> ConfigDict:
    """Return the classifier of MBT, of encoders that were pre-trained together."""
    fused = args.data == "audioset"
    seconds, _ = SOUND[args.data]
    network = {"size": args.size, "drop_path": recipe.drop_path, "initial": "scenic", "remat": "full"}
    config: Any = mbt.classifier(
        args,
        recipe,
        video=network,
        audio={**network, "frames": int(seconds * 100) // 16 * 16},
        fuse=call("models.fusion.bottleneck", start=BOTTLENECKS[args.data], count=mbt.COUNT),
        sound={"seconds": seconds, "mean": MEAN, "deviation": DEVIATION},
        augment={"frequency": 36, "frequencies": 2, "shift": True} if fused else {},
        pool="modalities",
    )
    if args.weights != "none":
        more = {"then": "params/fusion"} if fused else {}  # each encoder goes on with a copy of the joint blocks [code]
        places = {f"params/{one}": common.begin(args.weights, select=f"params/{one}", **more) for one in mbt.read(args)}
        if fused:
            places["params/norm"] = common.begin(args.weights, select="params/fusion/norm")
        config.init_from = ConfigDict(places, sort_keys=False)
    if not args.smoke:
        return config
    config = mbt.smoke(config)
    for one in config.method.modalities.values() if fused else ():
        one.model.depth = 3  # the two blocks of a tiny encoder and the joint one
    return config


def networks(size: str, recipe: Any, fused: bool) -> dict[str, Any]:
    """Return what the networks of both modalities have in common."""
    own = {"depth": 24 - JOINT} if fused else {}
    dims = recipes.decoder(recipe)
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
