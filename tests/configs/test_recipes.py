"""Every recipe of configs/recipes.csv is what its config says, and no config has a recipe beside it."""

import csv
import pathlib

import jax
import pytest

from configs import distill, finetune, hvm1, post_pretrain
from vmae_jax.commands.config import load_config
from vmae_jax.commands.experiment import experiment
from vmae_jax.spec import ConfigError, build
from vmae_jax.train.sharding import unbox

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROWS = list(csv.DictReader((ROOT / "configs" / "recipes.csv").open()))


def told(config) -> dict[str, object]:
    """What a config says, under the names of the table's columns."""
    method, schedule = config.method, config.optimizer.schedule
    masked, constant = "encoder_mask" in method, schedule.call == "train.schedule.constant"
    heads = None if masked else method.get("heads")
    return {
        "batch": config.data.global_batch,
        "rate": schedule.value if constant else schedule.peak,
        "epochs": config.train.length.epochs,
        "warmup": None if constant else schedule.warmup.epochs,
        "final": None if constant else schedule.final,
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
        "classes": None if masked else heads.actions.classes if heads else method.classes,
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
    assert config.optimizer.schedule.get("batch_unit", 256) == 256
    assert row["tag"] in ("code", "paper", "inferred")
    assert config.method.call == {
        "pretrain": "methods.masked.build",
        "post_pretrain": "methods.classify.build",
        "finetune": "methods.classify.build",
        "distill": "methods.distill.build",
    }[row["stage"]]  # fmt: skip


MIXED = [
    r for r in ROWS if r["stage"] != "pretrain" and not r["config"].startswith("hvm1") and "ava" not in r["config"]
]


@pytest.mark.parametrize("row", MIXED, ids=lambda row: row["config"])
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
    assert config.eval.data.sampler.views == (2 if sparse else 7 if "distilled" in args else 5)
    assert config.eval.data.transforms[0].crops == config.eval.data.repeat == 3


def test_no_recipe_is_missing_from_the_table():
    known = {row["config"] for row in ROWS}
    for paper, size, data, begin in finetune.RECIPES:
        assert f"finetune:{size},{data},{paper}" + ("" if begin == "pretraining" else f",from={begin}") in known
    assert {f"post_pretrain:{size}" for size in post_pretrain.RECIPES} <= known
    assert {f"distill:{size}" for size in distill.RECIPES} <= known
    for resolution in hvm1.PRETRAIN:
        assert {f"hvm1:{resolution}", *(f"hvm1:{resolution},{data}" for data in hvm1.CLASSES)} <= known


@pytest.mark.parametrize(("resolution", "visible", "tokens"), [("224", 204, 2048), ("448", 409, 8192)])
def test_hvm1_is_its_sheet(resolution, visible, tokens):
    """Sizes by shape alone: 633 million parameters with the class token, cubes of 1,176 numbers, counts of tokens."""
    made = experiment(load_config(f"{ROOT}/configs/hvm1.py:{resolution}", [("data.source.path", "videos")]))
    mask = build(made.config.method.encoder_mask)
    grid = build(made.config.method.model).grid
    assert (grid.size, mask.keep(grid)) == (tokens, visible)
    params = unbox(made.abstract_params())
    count = sum(leaf.size for leaf in jax.tree.leaves(params["encoder"]))
    assert abs(count / 633e6 - 1) < 0.01
    assert params["decoder"]["head_pixels"]["kernel"].shape == (512, 1176)


def test_ava_asks_for_several_classes_a_clip():
    made = experiment(load_config(f"{ROOT}/configs/finetune.py:B,ava,v1,weights=workdir"))
    assert made.batch_spec["label"].shape == (256, 60)
    assert made.method.heads["actions"].kind == "many"


@pytest.mark.parametrize(
    ("said", "kinds", "shapes"),
    [
        ("classes=12", {"": "one"}, {"label": ()}),
        ("several=157", {"classes": "many"}, {"label": (157,)}),
        ("verbs=97,nouns=300", {"verb": "one", "noun": "one"}, {"verb": (), "noun": ()}),
        ("numbers=2,attentive,probe", {"numbers": "numbers"}, {"label": (2,)}),
    ],
)
def test_own_data_of_any_labels_need_a_config_and_no_code(said, kinds, shapes):
    lists = [("data.source.path", "a.csv"), ("eval.data.source.path", "b.csv")]
    made = experiment(load_config(f"{ROOT}/configs/custom.py:tiny,{said},weights=workdir", lists))
    assert {name: head.kind for name, head in made.method.heads.items()} == kinds
    labels = {name: spec.shape[1:] for name, spec in made.batch_spec.items()}
    assert shapes.items() <= labels.items()
    assert set(labels) - set(shapes) == {"video", "seed", "index", "valid"}


@pytest.mark.parametrize("said", ["several=7", "verbs=4,nouns=5", "numbers=2,attentive,probe", "classes=5,folders"])
def test_own_data_shrink_to_what_the_drawn_shapes_know(said):
    config = load_config(f"{ROOT}/configs/custom.py:tiny,{said},smoke")
    assert config.data.labels is True or set(config.data.labels) == {"label"}
    assert config.data.source.call == "data.sources.tfds"
    for head in (config.method.get("heads") or {}).values():
        assert head.label == "label"
        assert head.get("classes", 10) >= 10


def test_own_data_must_say_what_is_predicted():
    for said, words in (
        ("", "not nothing"),
        (":classes=3,numbers=1", "not classes and numbers"),
        (":several=3,folders", "one class"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config(f"{ROOT}/configs/custom.py{said}")


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


STEMS = ["quickstart", "videomae", "videomae_v2", "finetune", "post_pretrain", "distill", "hvm1", "tiktok"]


@pytest.mark.parametrize("stem", STEMS)
def test_smoke_replaces_the_length_whatever_its_unit(stem):
    config = load_config(f"{ROOT}/configs/{stem}.py:smoke")
    assert dict(config.train.length) == {"steps": 4}
    assert dict(config.train.log_every) == {"steps": 1}
