"""Every recipe of configs/recipes.csv is what its config builds, figure by figure."""

import pathlib
from typing import Any

import jax
import pytest

from vmae_jax.commands.config import load_config
from vmae_jax.commands.experiment import experiment
from vmae_jax.configs import recipes
from vmae_jax.models.variants import IMAGENET_MEAN
from vmae_jax.spec import ConfigError, build
from vmae_jax.train.schedule import Clock
from vmae_jax.train.sharding import unbox

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROWS = list(recipes.table().values())
OF_TEACHERS = ("methods.mvd.build", "methods.umt.build")


def result(config) -> dict[str, str]:
    """What a config builds, under the names of the table's columns; "" is what it has not."""
    method, data, optimizer, schedule = config.method, config.data, config.optimizer, config.optimizer.schedule
    if method.call == "methods.lvmae.build":
        return _text(_training(config) | _of_sequences(config))
    own = next(iter(method.modalities.values())) if "modalities" in method else method
    vit = build(own.spatial if "spatial" in own else own.model)
    mixing, erase = method.get("mix"), method.get("erase")
    transforms = [part for one in data.transforms for part in one.get("transforms", [one])]  # of data.crops.together
    names = {one.call.rpartition(".")[2]: one for one in transforms}
    found: dict[str, object] = {
        "clips": "x".join(map(str, vit.video_shape[:2])),
        "cube": f"{vit.patch.t}x{vit.patch.h}",
        "pixels": "ImageNet" if vit.mean == IMAGENET_MEAN else f"{vit.mean[0]:g} {vit.std[0]:g}",
        **_training(config),
        "layer_decay": optimizer.get("layer_decay"),
        "frozen": " ".join(optimizer.freeze or ()),
        "crop": " ".join(name for name in names if "crop" in names[name].call),
        "area": _words(names, "area", "scales", "outer", "inner"),
        "flip": _words(names, "probability", of="flip"),
        "rand_augment": _words(names, "layers", "magnitude", "deviation", of="rand_augment"),
    }
    if schedule.call != "train.schedule.constant" and schedule.min_rate is not None:
        found["final"] = f"{schedule.min_rate:g} absolute"
    if method.call in OF_TEACHERS:
        found |= _of_teachers(method, vit)
    elif method.call == "methods.levjepa.build":
        found |= {"encoder_mask": _mask(method.mask), "target": "embeddings"}
    elif method.call == "methods.sigma.build":
        found |= _of_decoder(vit) | {"encoder_mask": _mask(method.encoder_mask), "target": "clusters"}
    elif method.call == "methods.joint.build" and "regress" in method.parts:
        found |= _of_decoder(vit) | {"encoder_mask": _mask(own.mask), "target": "features"}
    elif method.call == "methods.joint.build" and "reconstruct" not in method.parts:
        part = list(method.parts.values())[-1]
        kinds = {"nce": "views", "pull": "features", "moco": "keys", "time_nce": "moments"}
        kinds |= {"speed": "appearance and speed", "region_nce": "regions", "overlap_nce": "overlaps"}
        kind = kinds[part.call.rpartition(".")[2]]
        found |= {"target": kind, "temperature": part.get("temperature")}
    elif "masks" in method:
        found |= _latent(method, vit.decoder) | {"drop_path": vit.encoder.blocks["drop_path"] or None}
    elif "objectives" in own:
        target = own.objectives.pixels.target if "pixels" in own.objectives else None
        decoder = vit.decoder
        mask = own.get("encoder_mask", own.get("mask"))
        found |= {
            **(_of_classifier(config, vit) if "classes" in method else {}),
            "encoder_mask": f"drawn {method.ratio!r}" if mask is None else _mask(mask),
            "decoder_mask": _mask(method.get("decoder_mask")),
            "decoder_width": decoder["width"],
            "decoder_depth": decoder["blocks"]["depth"],
            "decoder_heads": decoder["blocks"]["heads"],
            "target": "motion" if target is None else _target(target),
        }
    elif method.call == "methods.segmentation.build":
        counts = " ".join(str(head.classes) for head in method.heads.values())
        found |= {**_of_classifier(config, vit), "classes": counts, "smoothing": None}
    else:
        found |= {
            **_of_classifier(config, vit),
            "erase": erase and erase.probability,
            "mix": mixing and _mix(mixing),
            "group": mixing and mixing.group,
            "temperature": method.get("temperature"),
        }
    return _text(found)


def _mix(mixing) -> str:
    if "alpha" in mixing:  # of modalities
        return f"{mixing.alpha:g} separate" if mixing.separate else f"{mixing.alpha:g}"
    return f"{mixing.mixup:g} {mixing.cutmix:g} {mixing.switch:g}"


def _of_classifier(config, vit) -> dict[str, object]:
    method, heads = config.method, config.method.get("heads")
    return {
        "classes": heads[next(iter(heads))].classes if heads else method.get("classes", 2),
        "drop_path": getattr(vit.encoder, "drop_path", None) or vit.encoder.blocks["drop_path"],
        "head_dropout": method.get("dropout"),
        "init_scale": method.init_scale,
        "smoothing": method.get("smoothing") if not heads else heads[next(iter(heads))].get("smoothing") or "",
        "test": _test(config.eval.get("data")),
    }


def _test(data) -> str | None:
    return data and f"{data.sampler.views}x{data.transforms[0].get('crops', 1)}"


def _text(found) -> dict[str, str]:
    return {name: f"{v:g}" if isinstance(v, float) else "" if v is None else str(v) for name, v in found.items()}


def _training(config) -> dict[str, object]:
    """What every row has: batch, rate, length, AdamW, and which frames are read."""
    data, optimizer, schedule = config.data, config.optimizer, config.optimizer.schedule
    constant = schedule.call == "train.schedule.constant"
    decay, average = optimizer.weight_decay, config.train.ema_decay
    return {
        "batch": data.global_batch,
        "accumulate": config.train.accumulate,
        "repeat": data.repeat,
        "rate": schedule.value if constant else schedule.peak,
        "per": "" if constant or schedule.batch_unit is None else schedule.batch_unit,
        "start": "" if constant else schedule.start,
        "final": "" if constant else schedule.final,
        "warmup": "" if constant else _length(schedule.warmup),
        "length": _length(config.train.length),
        "weight_decay": f"{decay.start:g} {decay.final:g}" if hasattr(decay, "call") else decay,
        "stretch": "" if constant or schedule.stretch == 1 else schedule.stretch,
        "momentum": f"{average.start:g} {average.final:g}" if hasattr(average, "call") else average,
        "betas": f"{optimizer.momentum:g}" if "momentum" in optimizer else f"{optimizer.b1:g} {optimizer.b2:g}",
        "clip": optimizer.clip_norm,
        "sampler": data.sampler.call.rpartition(".")[2],
        "stride": None if data.sampler.get("rate") else data.sampler.get("stride"),
    }


def _of_sequences(config) -> dict[str, object]:
    """What a config builds that reads features: length and size of a sequence, mask, decoder."""
    method, stream, decoder = config.method, config.data.streams.embeddings, build(config.method.network).decoder
    return {
        "clips": f"{stream.length}x{stream.width}",
        "encoder_mask": f"{method.semantic_keep or 'random'} {method.ratio!r}",
        "decoder_width": decoder["width"],
        "decoder_depth": decoder["blocks"]["depth"],
        "decoder_heads": decoder["blocks"]["heads"],
    }


def _of_teachers(method, vit) -> dict[str, object]:
    decoders = _of_decoder(vit) if method.call == "methods.mvd.build" else {}
    drop_path = vit.encoder.blocks["drop_path"]
    return {"encoder_mask": _mask(method.encoder_mask), "target": "features", "drop_path": drop_path, **decoders}


def _of_decoder(vit) -> dict[str, object]:
    names = {"decoder_width": vit.decoder["width"], "decoder_depth": vit.decoder["blocks"]["depth"]}
    return {**names, "decoder_heads": vit.decoder["blocks"]["heads"]}


def _latent(method, predictor) -> dict[str, object]:
    masks = [method.masks.short, method.masks.long]
    return {
        "encoder_mask": " ".join(["multiblock", *(f"{one.count} {one.scale:g}" for one in masks)]),
        "decoder_width": predictor["width"],
        "decoder_depth": predictor["blocks"]["depth"],
        "decoder_heads": predictor["blocks"]["heads"],
        "target": "latent",
    }


def _length(length) -> str:
    [(unit, value)] = length.items()
    return f"{value:g} {unit}"


def _mask(mask) -> str:
    if mask is None:
        return ""
    if "mask" in mask:
        return f"{mask.call.rpartition('.')[2]} {_mask(mask.mask)}"
    rounded = " visible" if mask.get("rounded_down") == "visible" else ""
    blocks = f" {mask.count} {mask.share:g}" if "share" in mask else ""
    return f"{mask.call.rpartition('.')[2]} {mask.ratio!r}{rounded}{blocks}"


def _target(target) -> str:
    """Each channel of a cube normalised by itself, all of them jointly (perhaps of some frames alone), or neither."""
    if not target.normalize:
        return "raw"
    frames = "first" if target.first else target.frames
    return "normalised" if not target.joint else f"joint {frames}" if frames else "joint"


def _words(names, *keys, of=None) -> str:
    """The numbers of the transform that has such arguments."""
    values = [node[key] for name, node in names.items() if of in (None, name) for key in keys if key in node]
    return " ".join(f"{number:g}" for value in values for number in (value if hasattr(value, "__iter__") else [value]))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["config"])
def test_configs_are_the_table(row):
    """Every figure that a config builds is in its row with a tag of its own, and nothing else is."""
    found = result(load(row["config"]))
    figures = {name: cell for name, cell in row.items() if cell and name not in ("config", "stage", "note")}
    values, tags = ({name: cell.rpartition("@")[at] for name, cell in figures.items()} for at in (0, 2))
    assert values == {name: value for name, value in found.items() if value}
    assert set(tags.values()) <= {"code", "paper", "inferred"}
    own = {"siammae": "siamese", "cropmae": "siamese"}
    names = ("adamae", "siammcvae", "diffmae", "lvmae", "marlin", "mvd", "tgm", "umt", "levjepa", "sigma", "rvm")
    own |= {name: name for name in names}
    own |= {"av_mae": "joint", "mavil": "joint", "vic_mae": "joint", "crossvideomae": "joint", "contrast": "joint"}
    own |= dict.fromkeys(("vjepa", "vjepa2", "salt", "internvideo_next"), "latent") | {"vjepa2_1": "latent_dense"}
    stem, _, arguments = row["config"].partition(":")
    called = load(row["config"]).method.call
    if stem == "masdt":
        stages = {"spatial": "masked.build", "temporal": "deepfakes.pretrain", "finetune": "deepfakes.build"}
        assert called == f"methods.{stages[arguments]}"
        return
    assert called == {
        "pretrain": f"methods.{'masked' if 'pixels' in arguments else own.get(stem, 'masked')}.build",
        "post_pretrain": "methods.classify.build",
        "finetune": f"methods.{'mbt' if 'modalities' in load(row['config']).method else 'classify'}.build",
        "distill": "methods.distill.build",
        "adapt": "methods.cdfslv.build",
        "joint": "methods.ttt.build",
        "linear": "methods.linear.build",
        "segment": "methods.segmentation.build",
    }[row["stage"]]  # fmt: skip


def load(target, *overrides):
    stem, _, args = target.partition(":")
    return load_config(f"configs/{stem}.py" + (f":{args}" if args else ""), list(overrides))


MIXED = [
    r for r in ROWS
    if r["stage"] != "pretrain" and r["config"].partition(":")[0] in ("post_pretrain", "finetune", "distill")
]  # fmt: skip


@pytest.mark.parametrize("row", MIXED, ids=lambda row: row["config"])
def test_supervised_stages_regularise_as_the_official_scripts(row):
    args, config = row["config"].partition(":")[2], load(row["config"])
    method, data = config.method, config.data
    assert (method.init_scale, method.erase.probability) == (0.001, 0.25)
    if "ava" in args:  # several classes a clip: nothing to blend or to smooth
        assert (method.get("mix"), method.smoothing) == (None, 0.0)
    else:
        assert method.smoothing == (0.0 if method.call == "methods.distill.build" else 0.1)  # a teacher smooths nothing
        assert (method.mix.mixup, method.mix.cutmix, method.mix.switch) == (0.8, 1.0, 0.5)
        assert data.global_batch * data.repeat % method.mix.group == 0
    first, second, *rest = data.transforms
    assert (first.layers, first.magnitude, first.deviation) == (4, 7.0, 0.5)
    assert tuple(second.area) == (0.08, 1.0)
    sparse = "ssv2" in args
    assert [one.call for one in rest] == ([] if sparse else ["data.transforms.flip"])
    assert config.eval.data.sampler.views == (2 if sparse else 7 if "distilled" in args else 5)
    assert config.eval.data.transforms[0].crops == config.eval.data.repeat == 3


def test_every_config_has_a_recipe_and_none_has_two():
    lines = (ROOT / "vmae_jax" / "configs" / "recipes.csv").read_text().splitlines()
    assert len(ROWS) == len(lines) - 1 == 223
    files = {path.stem for path in (ROOT / "vmae_jax" / "configs").glob("*.py")}
    files -= {
        "__init__",
        "common",
        "cross_retrieval",
        "few_shot",
        "moments",
        "probe",
        "propagation",
        "recipes",
    }  # which train nothing
    assert {row["config"].partition(":")[0] for row in ROWS} == files


def test_the_figures_of_a_row():
    """By hand, from the line of the table."""
    found = vars(recipes.recipe("hvm1:448,k700"))
    assert found == {
        "clips": "16x448", "cube": "2x14", "pixels": [0.45, 0.225], "batch": 64, "accumulate": 4, "repeat": 1,
        "rate": 0.0006, "per": 256, "start": 0.0, "final": [1e-05, "absolute"], "warmup": {"epochs": 0},
        "length": {"epochs": 50}, "weight_decay": 0.0001, "betas": [0.9, 0.999], "clip": 5.0, "stretch": None,
        "momentum": None, "layer_decay": 0.8, "frozen": None, "sampler": "dense", "stride": 8,
        "crop": "random_resized_crop", "area": [0.08, 1.0], "flip": 0.5, "rand_augment": None, "encoder_mask": None,
        "decoder_mask": None, "decoder_width": None, "decoder_depth": None, "decoder_heads": None, "target": None,
        "classes": 700, "drop_path": 0.1, "head_dropout": 0.3, "init_scale": 0.001, "smoothing": 0.1, "erase": None,
        "mix": None, "group": None, "temperature": None, "test": "1x1",
    }  # fmt: skip
    assert recipes.recipe("quickstart").encoder_mask == ["tube", 0.75]
    assert recipes.mask(None) is None
    with pytest.raises(ConfigError, match=r"configs/distill\.py: there is no recipe for g, only for B; S$"):
        recipes.recipe("distill:g")


def test_a_student_s_teachers_and_beginnings_have_a_recipe():
    """What the commands of docs/reproduction.md chain: every stage that another one begins from can be made."""
    students, tuned, sizes = (set(recipes.names(file)) for file in ("distill", "post_pretrain", "videomae_v2"))
    assert students <= tuned
    assert tuned <= sizes
    begins = [name.split(",") for name in recipes.names("finetune")]
    assert {size for size, *_, begin in begins if begin == "from=k710"} <= tuned
    assert {size for size, *_, begin in begins if begin == "from=distilled"} <= students
    assert ["H", "k400", "v2", "from=k710"] in begins  # the published 88.6


@pytest.mark.parametrize("target", ["H,ucf101", "H,ssv2", "S,ucf101"])
def test_sizes_that_no_script_pretrains_are_reported(target):
    with pytest.raises(ConfigError, match=f"there is no recipe for {target}, only for S,k400; B,k400"):
        load(f"videomae:{target}")


@pytest.mark.parametrize("target", ["B,k400", "g,ucf101,from=k710", "B,ssv2,v1"])
@pytest.mark.parametrize("labels", ["labels_from=a.txt,labels_to=b.txt", "labels_to=b.txt"])
def test_names_of_a_head_that_begins_anew_are_not_dropped(target, labels):
    with pytest.raises(ConfigError, match="has a new head"):
        load(f"finetune:{target},{labels}")


def test_hvm1_ends_at_an_absolute_rate():
    for resolution, batch in (("224", 128), ("448", 64)):
        config: Any = load(f"hvm1:{resolution},ssv2")
        rate = build(config.optimizer.schedule).at(Clock(1000, 100.0, batch))
        assert rate.value(1000) == 1e-5
        assert rate.value(0) == config.optimizer.schedule.peak * batch / 256


@pytest.mark.parametrize(("resolution", "visible", "tokens"), [("224", 204, 2048), ("448", 409, 8192)])
def test_hvm1_is_its_sheet(resolution, visible, tokens):
    """Sizes by shape alone: 633 million parameters with the class token, cubes of 1,176 numbers, counts of tokens."""
    made = experiment(load_config(f"configs/hvm1.py:{resolution}", [("data.source.path", "videos")]))
    mask = build(made.config.method.encoder_mask)
    grid = build(made.config.method.model).grid
    assert (grid.size, mask.keep(grid)) == (tokens, visible)
    params = unbox(made.abstract_params())
    count = sum(leaf.size for leaf in jax.tree.leaves(params["encoder"]))
    assert abs(count / 633e6 - 1) < 0.01
    assert params["decoder"]["head_pixels"]["kernel"].shape == (512, 1176)


def test_ava_asks_for_several_classes_a_clip():
    folder = [("data.source.catalog.directory", "ava")]
    made = experiment(load_config("configs/finetune.py:B,ava,v1,weights=workdir", folder))
    assert made.eval.data.source.catalog.arguments["directory"] == "ava"  # one override names the folder of both
    assert made.batch_spec["label"].shape == (256, 60)
    assert made.method.heads["actions"].kind == "many"


@pytest.mark.parametrize(
    ("message", "kinds", "shapes"),
    [
        ("classes=12", {"": "one"}, {"label": ()}),
        ("several=157", {"classes": "many"}, {"label": (157,)}),
        ("verbs=97,nouns=300", {"verb": "one", "noun": "one"}, {"verb": (), "noun": ()}),
        ("numbers=2,attentive,probe", {"numbers": "numbers"}, {"label": (2,)}),
    ],
)
def test_own_data_of_any_labels_need_a_config_and_no_code(message, kinds, shapes):
    lists = [("data.source.path", "a.csv"), ("eval.data.source.path", "b.csv")]
    made = experiment(load_config(f"configs/custom.py:tiny,{message},weights=workdir", lists))
    assert {name: head.kind for name, head in made.method.heads.items()} == kinds
    labels = {name: spec.shape[1:] for name, spec in made.batch_spec.items()}
    assert shapes.items() <= labels.items()
    assert set(labels) - set(shapes) == {"video", "seed", "index", "valid"}


@pytest.mark.parametrize("message", ["several=7", "verbs=4,nouns=5", "numbers=2,attentive,probe", "classes=5,folders"])
def test_own_data_shrink_to_what_the_drawn_shapes_know(message):
    config = load_config(f"configs/custom.py:tiny,{message},smoke")
    assert config.data.labels is True or set(config.data.labels) == {"label"}
    assert config.data.source.get("otherwise", config.data.source).call == "data.synthetic.moving_shapes"
    for head in (config.method.get("heads") or {}).values():
        assert head.label == "label"
        assert head.get("classes", 10) >= 10


def test_own_data_must_declare_what_is_predicted():
    for message, words in (
        ("", "got none"),
        (":classes=3,numbers=1", "got classes and numbers"),
        (":several=3,folders", "one class"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config(f"configs/custom.py{message}")


def test_what_has_no_recipe_is_reported():
    with pytest.raises(ConfigError, match="there is no recipe for S,k400,v2, only for B,k400,v2;"):
        load_config("configs/finetune.py:S,k400")


def test_weights_and_labels_are_arguments_or_overrides():
    config = load("finetune:g,k400,from=k710,weights=runs/g,labels_from=a.txt,labels_to=b.txt")
    record = config.init_from.params
    assert (record.path, record.old_labels, record.new_labels) == ("runs/g", "a.txt", "b.txt")
    config = load_config("configs/finetune.py:B", [("init_from.params/encoder.path", "gs://bucket/run")])
    assert config.init_from["params/encoder"].path == "gs://bucket/run"


STEMS = ["quickstart", "videomae", "videomae_v2", "finetune", "post_pretrain", "distill", "hvm1", "tiktok"]


@pytest.mark.parametrize("stem", STEMS)
def test_smoke_replaces_the_length_whatever_its_unit(stem):
    config = load_config(f"configs/{stem}.py:smoke")
    assert dict(config.train.length) == {"steps": 4}
    assert dict(config.train.log_every) == {"steps": 1}
