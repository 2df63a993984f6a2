"""MAViL (Huang et al. 2023), masked learners of video and sound: `configs/mavil.py:B,audioset`.

    configs/mavil.py:B,audioset                             stage 1: reconstruction and contrast
    configs/mavil.py:B,audioset,student,teacher=WORKDIR    stage 2: features of a frozen teacher, and contrast

The teacher is a run of stage 1, or of stage 2 for another iteration. Name your own videos, with sound:
`--config.data.source.path=FOLDER`. The figures, with their origin, are in `recipes.csv`. The authors' code was never
released; networks, kinds of loss and the spectrogram are the paper's, and most figures are ours.
"""

from typing import Any

from ml_collections import ConfigDict

from vmae_jax.configs import common, recipes
from vmae_jax.spec import ConfigError, call

JOINT = 2  # blocks for both modalities [paper]
HIDDEN = 0.8  # of the sound [code, AudioMAE]
SECONDS, FRAMES = 10.0, 1024  # of sound, and of its spectrogram [paper]
INTER, INTRA = 0.1, 0.01  # weights of both contrasts [inferred]
TEMPERATURES = {"inter": 0.1, "intra": 1.0}  # [inferred]
STRIDE = 15  # eight frames of four seconds, of videos with 30 frames a second [inferred]


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse(
        arguments, size=("B",), data=("audioset",), stage=("pretrain", "student"), teacher=None, smoke=False
    )
    student = args.stage == "student"
    if args.teacher is not None and not student:
        raise ConfigError("configs/mavil.py: teacher= is for student; add it, or leave teacher= out")
    recipe = recipes.recipe(f"mavil:{args.size},{args.data}" + ",student" * student)
    learned = (
        {"regress": call("methods.parts.regress")} if student else {"reconstruct": call("methods.parts.reconstruct")}
    )
    config = common.sections(
        method=call(
            "methods.joint.build",
            modalities={"video": video(args.size, recipe, student), "audio": audio(args.size, recipe, student)},
            parts={**learned, **contrasts()},
            fuse=call("models.fusion.joint", depth=JOINT),
        ),
        data=call(
            "data.pipeline.loader",
            source=call("data.sources.folder"),
            # The same frames twice, each with a crop and masks of its own.
            sampler=call("data.clips.pair", frames=8, strides=[STRIDE, STRIDE], gap=[0, 0]),
            transforms=[
                call("data.transforms.random_resized_crop", size=224, area=recipe.area),
                call("data.transforms.flip", probability=recipe.flip),
            ],
            streams={"audio": call("data.streams.audio", seconds=SECONDS, rate=16000)},
            global_batch=recipe.batch,
        ),
        optimizer=recipes.adamw(recipe),
        train={"length": recipe.length},
        checkpoint={"every": {"epochs": 1}, "keep_last": 3},
    )
    if student:
        places = {
            f"frozen/teacher/{one}": common.begin(args.teacher, select=f"params/{one}")
            for one in ("video", "audio", "fusion")
        }
        config.init_from = ConfigDict(places, sort_keys=False)
    if args.smoke:
        config: Any = common.smoke(config)
        settings = call("data.synthetic.world.settings", train=64, validation=8, test=8, size=48, frames=16, silent=0.0)
        config.data.source.otherwise = call("data.synthetic.world", settings=settings)  # other drawn clips are silent
    return config


def contrasts() -> dict[str, ConfigDict]:
    """Return contrast of video and sound, and of two views of each, which count half of `INTRA`."""
    made = {"inter": ("audio", "video", INTER), "audio_views": ("audio", "audio", INTRA / 2)}
    made["video_views"] = ("video", "video", INTRA / 2)
    return {
        name: call(
            "methods.parts.nce",
            first=first,
            second=second,
            temperature=TEMPERATURES["intra" if first == second else "inter"],
            weight=weight,
            paired=True,
        )
        for name, (first, second, weight) in made.items()
    }


def networks(size: str, recipe: Any) -> dict[str, Any]:
    """Return what the networks of both modalities have in common."""
    dims = recipes.decoder(recipe)
    return {"size": size, "project_bias": True, "initial": "mae", **dims}


def video(size: str, recipe: Any, student: bool) -> ConfigDict:
    """Return the pictures as a modality; stage 1 predicts normalised pixels."""
    target = call("targets.core.objective", target=call("targets.pixels", joint=True))
    return call(
        "methods.joint.modality",
        model=call("models.variants.vit", frames=8, **networks(size, recipe)),
        mask=recipes.mask(recipe.encoder_mask),
        read=call("inputs.readers.video"),
        objectives=None if student else {"pixels": target},
    )


def audio(size: str, recipe: Any, student: bool) -> ConfigDict:
    """Return the sound as a modality: Kaldi's log-mel, in stage 1 predicted as normalised patches."""
    target = call("targets.core.objective", target=call("targets.spectrogram", normalize=True))
    return call(
        "methods.joint.modality",
        model=call("models.spectrogram", frames=FRAMES, **networks(size, recipe)),
        mask=call("masking.random", ratio=HIDDEN, rounded_down="visible"),
        read=call(
            "inputs.readers.sound",
            log_mel=call("inputs.log_mel.kaldi"),
            pad=True,
            waveform=call("inputs.waveform"),  # [code, AudioMAE]
        ),
        objectives=None if student else {"log_mel": target},
    )
