"""UnlabeledHybrid and LabeledHybrid: what they are made of, and that their configs build."""

import pytest

from vmae_jax.commands.config import load_config
from vmae_jax.data.synthetic.moving_shapes import MovingShapes
from vmae_jax.spec import ConfigError, build, from_json, to_json


def load(target, *overrides):
    return load_config(f"configs/{target}", list(overrides))


FOLDERS = [
    (f"data.source.parts.{name}.source.catalog.directory", f"/{name}") for name in ("ava", "k710", "ssv2", "webvid")
]


def test_unlabeled_hybrid_is_five_parts_of_which_each_clip_is_seen_once_an_epoch():
    config = load("videomae_v2.py:B,hybrid,own=instagram.csv", *FOLDERS)
    mixture = build(from_json(to_json(config.data.source)))
    assert [name for name, _ in mixture.parts] == ["ava", "k710", "own", "ssv2", "webvid"]
    assert {part.weight for _, part in mixture.parts} == {1.0}
    assert {name: part.stride for name, part in mixture.parts if part.stride} == {"ssv2": 2}
    assert config.data.sampler.stride == 4  # of all others
    read = {name: part.source.catalog for name, part in mixture.parts if name != "own"}
    assert {name: catalog.arguments["directory"] for name, catalog in read.items()} == {
        name: f"/{name}" for name in read
    }
    assert {name: catalog.name for name, catalog in read.items()} == {
        "ava": "ava", "k710": "kinetics", "ssv2": "something_something", "webvid": "webvid"
    }  # fmt: skip
    ava = read["ava"].arguments
    assert (ava["version"], ava["clips"], ava["seconds"], ava["short_side"]) == ("2.2", "consecutive", 10.0, 320)
    assert (read["k710"].arguments["version"], read["ssv2"].arguments["version"]) == ("710", "v2")
    assert (read["webvid"].arguments["version"], read["webvid"].arguments["share"]) == ("2M", 0.1)


def test_a_part_can_be_left_out_or_moved_on_the_command_line():
    changes = [("data.source.parts.webvid.weight", "0"), ("data.source.parts.k710.source.split", "validation")]
    mixture = build(load("videomae_v2.py:g,hybrid", *FOLDERS, *changes).data.source)
    parts = dict(mixture.parts)
    assert sorted(parts) == ["ava", "k710", "ssv2"]
    assert (parts["k710"].source.split, parts["ssv2"].source.split) == ("validation", "train")


def test_records_of_ones_own_making():
    mixture = build(load("videomae_v2.py:B,hybrid,records=/disk/").data.source)
    assert {name: part.source.directory for name, part in mixture.parts} == {
        name: f"/disk/{name}" for name in ("ava", "k710", "ssv2", "webvid")
    }
    config = load("post_pretrain.py:B,hybrid,records=/disk")
    assert build(config.eval.data.source).directory == "/disk/k710"


def test_what_belongs_to_the_hybrid_alone():
    for target in ("videomae_v2.py:B,own=mine.csv", "videomae_v2.py:B,records=x", "post_pretrain.py:B,records=x"):
        with pytest.raises(ConfigError, match=r"hybrid; without it, name data\.source\.path"):
            load(target)


def test_labeled_hybrid_is_kinetics_710():
    config = load("post_pretrain.py:g,hybrid", ("data.source.catalog.directory", "/k710"))
    for data, split in ((config.data, "train"), (config.eval.data, "validation")):
        source = build(data.source)
        assert (source.catalog.name, source.split) == ("kinetics", split)
        assert source.catalog.arguments == {"directory": "/k710", "version": "710", "only": None}
    assert config.method.classes == 710


@pytest.mark.parametrize("target", ["videomae_v2.py:B,hybrid,smoke", "post_pretrain.py:H,hybrid,smoke"])
def test_smoke_shrinks_a_hybrid_too(target):
    source = build(load(target).data.source)
    inner = [part.source for _, part in source.parts] if hasattr(source, "parts") else [source]
    assert {type(one) for one in inner} == {MovingShapes}


def test_fine_tuning_reads_prepared_records():
    for target, split in (("B,k400", "validation"), ("B,ucf101,v1", "test")):
        config = load(f"finetune.py:{target},records=/disk/set")
        sources = [build(data.source) for data in (config.data, config.eval.data)]
        assert [(one.directory, one.split) for one in sources] == [("/disk/set", "train"), ("/disk/set", split)]
    source = build(load("finetune.py:B,ava,v1", ("data.source.catalog.directory", "/ava")).data.source)
    assert (source.catalog.name, source.label) == ("ava", "labels")
