"""Every recipe of configs/recipes.csv is what its config says, and no config has a recipe beside it."""

import csv
import pathlib

import pytest

from configs import distill, finetune, post_pretrain
from vmae_jax.commands.config import load_config
from vmae_jax.spec import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROWS = list(csv.DictReader((ROOT / "configs" / "recipes.csv").open()))


def told(config) -> dict[str, object]:
    """What a config says, under the names of the table's columns."""
    method, schedule = config.method, config.optimizer.schedule
    masked = "encoder_mask" in method
    return {
        "batch": config.data.global_batch,
        "rate": schedule.peak,
        "epochs": config.train.length.epochs,
        "warmup": schedule.warmup.epochs,
        "final": schedule.final,
        "weight_decay": config.optimizer.weight_decay,
        "b2": config.optimizer.b2,
        "clip": config.optimizer.clip_norm,
        "layer_decay": config.optimizer.layer_decay,
        "drop_path": None if masked else method.model.drop_path,
        "head_dropout": None if masked else method.dropout,
        "repeat": config.data.repeat,
        "stride": config.data.sampler.get("stride"),
        "mask": method.encoder_mask.ratio if masked else None,
        "decoder_mask": method.decoder_mask.ratio if masked and method.decoder_mask else None,
        "decoder_depth": method.model.decoder_depth if masked else None,
        "classes": None if masked else method.classes,
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["config"])
def test_configs_are_the_table(row):
    stem, _, args = row["config"].partition(":")
    config = load_config(f"{ROOT}/configs/{stem}.py:{args}")
    wrong = {
        name: (value, row[name])
        for name, value in told(config).items()
        if (float(row[name]) if row[name] else None) != value
    }
    assert not wrong
    assert config.optimizer.schedule.batch_unit == 256
    assert row["tag"] in ("code", "paper", "inferred")
    assert config.method.call == {
        "pretrain": "methods.masked.build",
        "post_pretrain": "methods.classify.build",
        "finetune": "methods.classify.build",
        "distill": "methods.distill.build",
    }[row["stage"]]  # fmt: skip


@pytest.mark.parametrize("row", [row for row in ROWS if row["stage"] != "pretrain"], ids=lambda row: row["config"])
def test_supervised_stages_regularise_as_the_official_scripts(row):
    stem, _, args = row["config"].partition(":")
    config = load_config(f"{ROOT}/configs/{stem}.py:{args}")
    method, data = config.method, config.data
    assert (method.smoothing, method.init_scale, method.erase.probability) == (0.1, 0.001, 0.25)
    assert (method.mix.mixup, method.mix.cutmix, method.mix.switch) == (0.8, 1.0, 0.5)
    assert data.global_batch * data.repeat % method.mix.group == 0
    first, second, *rest = data.transforms
    assert (first.layers, first.magnitude, first.deviation) == (4, 7.0, 0.5)
    assert tuple(second.area) == (0.08, 1.0)
    sparse = "ssv2" in args
    assert [one.call for one in rest] == ([] if sparse else ["data.transforms.flip"])
    assert config.eval.data.sampler.views == (2 if sparse else 5)
    assert config.eval.data.transforms[0].crops == config.eval.data.repeat == 3


def test_no_recipe_is_missing_from_the_table():
    known = {row["config"] for row in ROWS}
    for paper, size, data, begin in finetune.RECIPES:
        assert f"finetune:{size},{data},{paper}" + (",from=k710" if begin == "k710" else "") in known
    assert {f"post_pretrain:{size}" for size in post_pretrain.RECIPES} <= known
    assert {f"distill:{size}" for size in distill.RECIPES} <= known


def test_what_has_no_recipe_is_told():
    with pytest.raises(ConfigError, match="there is no recipe for v2,S,k400,pretraining"):
        load_config(f"{ROOT}/configs/finetune.py:S,k400")


def test_weights_and_labels_are_arguments_or_overrides():
    config = load_config(
        f"{ROOT}/configs/finetune.py:g,k400,from=k710,weights=runs/g,labels_from=a.txt,labels_to=b.txt"
    )
    record = config.init_from.params
    assert (record.path, record.old_labels, record.new_labels) == ("runs/g", "a.txt", "b.txt")
    config = load_config(f"{ROOT}/configs/finetune.py:B", [("init_from.params/encoder.path", "gs://bucket/run")])
    assert config.init_from["params/encoder"].path == "gs://bucket/run"


@pytest.mark.parametrize("stem", ["quickstart", "videomae", "videomae_v2", "finetune", "post_pretrain", "distill"])
def test_smoke_replaces_the_length_whatever_its_unit(stem):
    config = load_config(f"{ROOT}/configs/{stem}.py:smoke")
    assert dict(config.train.length) == {"steps": 4}
    assert dict(config.train.log_every) == {"steps": 1}
