"""The setting of the learning experiment, and the config of each of its arms.

Everything that is trained is an ordinary config, which `vmae train` would run as well with
`--plugins=benchmarks`; only the clips come from memory (`benchmarks.learning_clips`).
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from vmae_jax.configs import common
from vmae_jax.masking.core import Masker
from vmae_jax.methods.masked import Masked
from vmae_jax.models.variants import Model
from vmae_jax.registry import register
from vmae_jax.spec import call
from vmae_jax.targets.core import Objective
from vmae_jax.types import Batch, MaskPlan, Method

__all__ = [
    "LADDER",
    "LONG",
    "MAIN",
    "PRETRAINING",
    "SCRATCH",
    "SMALL",
    "Setting",
    "classifying",
    "clips",
    "distilling",
    "first_label",
    "loss_on_visible",
    "masked",
]

MAIN, SMALL, SCRATCH, LONG, GUIDED = "frame", "small", "scratch", "scratch-long", "mgm-75"

# What an arm of pre-training changes: encoder mask and its ratio, decoder mask, method; the last one is the student's.
_CELL = {"decoder": "masking.running_cell"}
PRETRAINING: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        MAIN: {},
        "dual": _CELL,
        "random-decoder": {"decoder": "masking.random"},
        "visible-too": {**_CELL, "method": "benchmarks.learning_arms.loss_on_visible"},
        "tube-50": {"encoder": "masking.tube"},
        "tube-75": {"encoder": "masking.tube", "ratio": 0.75},
        "tube-89": {"encoder": "masking.tube", "ratio": 0.89},
        GUIDED: {"encoder": "masking.motion_guided", "ratio": 0.75},
        "random-50": {"encoder": "masking.random"},
        "random-75": {"encoder": "masking.random", "ratio": 0.75},
        "random-89": {"encoder": "masking.random", "ratio": 0.89},
        "random-75-dual": {**_CELL, "encoder": "masking.random", "ratio": 0.75},
        SMALL: {},
    }
)
LADDER = tuple(arm for arm in PRETRAINING if arm != SMALL)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all arms share.

    Attributes:
      scene: of `data.synthetic.moving_shapes.settings`.
      model: of `models.variants.vit`.
      encoder, ratio: the encoder's mask; every hidden token is decoded unless the arm has another rule.
      normalize: each cube's target by its own mean and deviation.
      unlabelled: clips of the pre-training (the first of the training split).
      counts: numbers of labels, of the same clips (`first_label`).
      middle: the number of labels that part B compares at.
      validation, test: clips.
      batch, steps, rate: of the pre-training.
      tuning_batch, tuning_steps, rates: of fine-tuning; the rate is chosen among these.
      layer_decay: of fine-tuning, with and without pre-training.
      student: the size of part B's students, against `model`.
      student_pretrained: they begin from a pre-training of their own, as papers do, and not from scratch.
      save_every: steps of pre-training after which an interrupted one goes on.
    """

    scene: Mapping[str, Any]
    model: Mapping[str, Any]
    encoder: str = "masking.frame"
    ratio: float = 0.5
    normalize: bool = True
    unlabelled: int = 4000
    counts: tuple[int, ...] = (100, 200, 500, 1000, 2000)
    middle: int = 500
    validation: int = 500
    test: int = 1000
    batch: int = 32
    steps: int = 2000
    rate: float = 3e-3
    tuning_batch: int = 32
    tuning_steps: int = 300
    rates: tuple[float, ...] = (5e-4, 1.5e-3, 5e-3)
    layer_decay: float | None = None
    student: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"width": 24, "depth": 1, "heads": 2})
    student_pretrained: bool = False
    save_every: int = 250

    @property
    def teacher(self) -> int:
        """The number of labels of the teacher that part B distils."""
        return max(self.counts)


@register("method", model="model", encoder_mask="mask", decoder_mask="mask", objectives="objective")
def loss_on_visible(
    model: Model,
    encoder_mask: Masker,
    objectives: Mapping[str, Objective],
    decoder_mask: Masker | None = None,
) -> Method:
    """`methods.masked.build` whose loss also counts decoded tokens that the encoder saw (VideoMAE V2, table 1)."""
    one = _OnVisible(model, encoder_mask, decoder_mask, dict(objectives))
    return Method(init=one.init, loss=one.loss, features=one.features)


class _OnVisible(Masked):
    def plan(self, batch: Batch, *, decode_all: bool = False) -> MaskPlan:
        masks = super().plan(batch, decode_all=decode_all)
        return dataclasses.replace(masks, weight=jnp.ones_like(masks.weight))


def clips(
    setting: Setting, split: str, count: int, *, first: int = 0, batch: int = 256, cache: str, motion: bool = False
) -> ConfigDict:
    """A loader of drawn clips, with the codec's motion vectors or without."""
    return call(
        "benchmarks.learning_clips.memory",
        settings=call("data.synthetic.moving_shapes.settings", **setting.scene),
        split=split,
        count=count,
        first=first,
        global_batch=batch,
        cache=cache,
        **({"motion": True} if motion else {}),
    )


def masked(setting: Setting, arm: str, seed: int, *, cache: str) -> ConfigDict:
    """Pre-training."""
    change = PRETRAINING[arm]
    decoder = change.get("decoder")
    method = call(
        change.get("method", "methods.masked.build"),
        model=_model(setting, setting.student if arm == SMALL else {}),
        encoder_mask=call(change.get("encoder", setting.encoder), ratio=change.get("ratio", setting.ratio)),
        decoder_mask=decoder and call(decoder, ratio=0.5),
        objectives={
            "pixels": call("targets.core.objective", target=call("targets.pixels", normalize=setting.normalize))
        },
    )
    data = clips(setting, "train", setting.unlabelled, batch=setting.batch, cache=cache, motion=arm == GUIDED)
    return _sections(setting, method, data, rate=setting.rate, steps=setting.steps, b2=0.95, seed=seed)


def classifying(
    setting: Setting,
    labels: int,
    rate: float,
    seed: int,
    *,
    cache: str,
    start: str | None = None,
    size: Mapping[str, int] = MappingProxyType({}),
    long: bool = False,
) -> ConfigDict:
    """Fine-tuning on `labels` clips, from the encoder in the workdir `start` or from scratch.

    Args:
      long: for as many steps as pre-training and fine-tuning have together.
    """
    method = call("methods.classify.build", model=_model(setting, size), classes=10)
    return _tuning(setting, method, labels, rate, seed, _begin(start), cache, steps=setting.steps * long)


def distilling(
    setting: Setting, labels: int, rate: float, seed: int, *, cache: str, teacher: str | None, start: str | None = None
) -> ConfigDict:
    """A small student of the classifier in the workdir `teacher`, or the same student without it."""
    if teacher is None:
        return classifying(setting, labels, rate, seed, cache=cache, start=start, size=setting.student)
    student = _model(setting, setting.student)
    method = call("methods.distill.build", model=student, teacher=_model(setting), classes=10, label_weight=1.0)
    begin = _begin(start) | {"frozen/teacher": call("train.init_from.weights", path=teacher)}
    return _tuning(setting, method, labels, rate, seed, begin, cache)


def _begin(start: str | None) -> dict[str, Any]:
    """`init_from` of the encoder in the workdir `start`; of nothing without one."""
    return {"params/encoder": call("train.init_from.weights", path=start, select="params/encoder")} if start else {}


def first_label(setting: Setting, labels: int, seed: int) -> int:
    """Where the block of clips begins whose labels a seed is given.

    Blocks of different seeds share no clip as long as there is room; those after that begin halfway between.
    """
    turn, place = divmod(seed, setting.unlabelled // labels)
    first = (place * labels + turn * labels // 2) % (setting.unlabelled - labels + 1)
    return first - first % 10  # with the first class, so that a block holds all equally often


def _tuning(
    setting: Setting,
    method: ConfigDict,
    labels: int,
    rate: float,
    seed: int,
    begin: dict[str, Any],
    cache: str,
    *,
    steps: int = 0,
) -> ConfigDict:
    data = clips(
        setting, "train", labels, first=first_label(setting, labels, seed), batch=setting.tuning_batch, cache=cache
    )
    return _sections(
        setting,
        method,
        data,
        rate=rate,
        steps=setting.tuning_steps + steps,
        b2=0.999,
        seed=seed,
        init_from=begin,
        layer_decay=setting.layer_decay,
    )


def _model(setting: Setting, size: Mapping[str, int] = MappingProxyType({})) -> ConfigDict:
    return call("models.variants.vit", **{**setting.model, **size})


def _sections(
    setting: Setting,
    method: ConfigDict,
    data: ConfigDict,
    *,
    rate: float,
    steps: int,
    b2: float,
    seed: int,
    layer_decay: float | None = None,
    **rest: Any,
) -> ConfigDict:
    return common.sections(
        method=method,
        data=data,
        optimizer=call(
            "train.optim.adamw",
            schedule=call(
                "train.schedule.warmup_cosine", peak=rate, warmup={"steps": max(1, steps // 10)}, batch_unit=None
            ),
            b2=b2,
            weight_decay=0.05,
            clip_norm=1.0,
            layer_decay=layer_decay,
        ),
        train={"length": {"steps": steps}, "log_every": {"steps": max(1, steps // 60)}, "pictures_every": None},
        checkpoint={"every": {"steps": setting.save_every}, "keep_last": 1},
        seed=seed,
        **rest,
    )
