"""The setting of the Atari benchmark, and the config of each of its arms.

Every pre-training is an ordinary config, which `vmae train` would run as well; only its length follows from a number of
model FLOPs, which is the same for all arms.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from benchmarks.atari_play import Play
from benchmarks.atari_probe import Probing
from vmae_jax.commands.experiment import experiment
from vmae_jax.configs import common
from vmae_jax.models.variants import IMAGENET_MEAN, IMAGENET_STD
from vmae_jax.spec import call

__all__ = ["ARMS", "BASELINES", "SALT", "TEACHER", "UNTRAINED", "Setting", "lengthen", "pretraining"]

MAJORITY, RANDOM, SUPERVISED = BASELINES = ("majority", "random", "supervised")  # of the published network
UNTRAINED = "untrained"  # the transformer of the arms, before any training
TEACHER, SALT = "videomae", "salt"
ARMS = (TEACHER, "videomae_v2", "mae", "siammae", "vjepa", SALT, "byol")
_PAIRS, _IMAGES = ("siammae",), ("mae", "siammae")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all arms share.

    Attributes:
      games: that are reported.
      search: the game on which each arm's learning rate is chosen; it is not among them.
      play, probing: of the published protocol.
      supervised_frames: that the supervised network sees in an epoch, at most as many as there are.
      supervised_epochs: its longest training.
      model: of `models.variants.vit`; arms of single frames have one frame and cubes of one.
      batch: videos a step.
      flops: model FLOPs of each pre-training.
      rates: that are tried on `search`.
      jitter: strengths of BYOL's colours.
      momentum: of the averages that V-JEPA and BYOL predict.
      save_every: steps of pre-training after which an interrupted one goes on.
    """

    games: tuple[str, ...] = ("pong", "breakout", "mspacman", "montezumarevenge")
    search: str = "freeway"
    play: Play = dataclasses.field(default_factory=Play)
    probing: Probing = dataclasses.field(default_factory=Probing)
    supervised_frames: int = 50_000
    supervised_epochs: int = 100
    model: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: {
            "size": "tiny", "frames": 4, "resolution": 160, "tubelet": 2, "patch": 16, "width": 128, "depth": 4,
            "heads": 4, "decoder_width": 64, "decoder_depth": 2, "decoder_heads": 2,
        }
    )  # fmt: skip
    batch: int = 32
    flops: float = 2e13
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    jitter: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    )
    momentum: float = 0.99
    save_every: int = 100


def pretraining(setting: Setting, arm: str, rate: float, seed: int, *, records: str, teacher: str = "") -> Any:
    """Return the config of an arm, as long as its FLOPs allow.

    Args:
      arm: of ARMS, or UNTRAINED, whose config has the network alone that is probed without any training.
      records: the folder of the prepared training videos.
      teacher: the workdir of SALT's frozen encoder.
    """
    config = _config(setting, arm, rate, seed, records, teacher)
    lengthen(setting, config)
    return config


def lengthen(setting: Setting, config: Any) -> None:
    """Set the length of a pre-training to the setting's model FLOPs (of a frozen network the forward pass only)."""
    steps = max(1, round(setting.flops / experiment(config).model_flops()))
    config.train.length.steps = steps
    config.train.log_every.steps = max(1, steps // 60)
    config.optimizer.schedule.warmup.steps = max(1, steps // 10)


def _config(setting: Setting, arm: str, rate: float, seed: int, records: str, teacher: str) -> Any:
    """The config of an arm, one step long."""
    if arm not in (*ARMS, UNTRAINED):
        raise ValueError(f"{arm}: unknown arm; there are {', '.join(ARMS)}")
    one = {"frames": 1, "tubelet": 1} if arm in _IMAGES else {}
    model: Any = call("models.variants.vit", **{**setting.model, **one}, **_FORMS.get(arm, {}))
    if model.get("positions") is None:
        places = "sincos_2d" if one else "sincos_3d"
        model.positions = call(f"models.positions.{places}", **({} if one else {"cut": True}))
    init = {}
    if arm == SALT:
        init = {"frozen/teacher": call("train.init_from.weights", path=teacher, select="params/encoder")}
    return common.sections(
        method=_method(setting, arm, model),
        data=_data(setting, arm, model, records),
        optimizer=call(
            "train.optim.adamw",
            schedule=call("train.schedule.warmup_cosine", peak=rate, warmup={"steps": 1}, batch_unit=None),
            b2=0.95,
            weight_decay=0.05,
            clip_norm=1.0,
        ),
        train={
            "length": {"steps": 1},
            "log_every": {"steps": 1},
            "pictures_every": None,
            "ema_decay": setting.momentum if arm in ("vjepa", "byol") else None,
        },
        checkpoint={"every": {"steps": setting.save_every}, "keep_last": 1},
        init_from=init,
        seed=seed,
    )


_FORMS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"siammae": {"prefix": 1, "decoder_prefix": "kept", "project_bias": True, "initial": "mae"}}
)


def _method(setting: Setting, arm: str, model: Any) -> ConfigDict:
    """The networks and the loss; ratios and blocks are those of the papers."""
    pixels = {"pixels": call("targets.core.objective", target=call("targets.pixels", normalize=True))}
    if arm in (TEACHER, "videomae_v2", UNTRAINED):
        decoder = call("masking.running_cell", ratio=0.5) if arm == "videomae_v2" else None
        tubes = call("masking.tube", ratio=0.9)
        return call("methods.masked.build", model=model, encoder_mask=tubes, decoder_mask=decoder, objectives=pixels)
    if arm == "mae":
        mask = call("masking.random", ratio=0.75)
        return call("methods.masked.build", model=model, encoder_mask=mask, objectives=pixels)
    if arm == "siammae":
        whole = call("targets.pixels", joint=True, mean=list(IMAGENET_MEAN), deviation=list(IMAGENET_STD))
        return call(
            "methods.siamese.build",
            model=model,
            encoder_mask=call("masking.random", ratio=0.95),
            objectives={"pixels": call("targets.core.objective", target=whole)},
            hidden=4 * model.decoder_width,
        )
    if arm in ("vjepa", SALT):
        masks = {
            "short": call("masking.multiblock", count=8, scale=0.15, context=0.25, targets=0.46),
            "long": call("masking.multiblock", count=2, scale=0.7, context=0.1, targets=0.7),
        }
        frozen = {"teacher": model} if arm == SALT else {}
        return call("methods.latent.build", model=model, masks=masks, **frozen)
    colours = call("augment.colors.jitter", **setting.jitter)
    video = call("methods.joint.modality", model=model, mask=None, read=call("inputs.readers.video", colors=colours))
    part = call("methods.parts.pull", modality="video", widths=[512, 128])
    return call("methods.joint.build", modalities={"video": video}, parts={"byol": part})


def _data(setting: Setting, arm: str, model: Any, records: str) -> ConfigDict:
    """The whole picture as a square, frames one after the other; pairs up to two seconds apart; BYOL's are cropped."""
    show = call("data.transforms.resize", size=model.resolution)
    if arm in _PAIRS:
        sampler, show = call("data.clips.pair", gap=[2, 24]), call("data.crops.together", transforms=[show])
    elif arm == "byol":
        sampler = call("data.clips.several", frames=model.frames, stride=1, views=2)
        show = call("data.transforms.random_resized_crop", size=model.resolution, area=[0.5, 1.0])
    else:
        sampler = call("data.clips.dense", frames=model.frames, stride=1)
    source = call("data.sources.folder", path=records)
    return call("data.pipeline.loader", source=source, sampler=sampler, transforms=[show], global_batch=setting.batch)
