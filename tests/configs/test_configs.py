"""Every config of the package: builds, traces at full size, trains two steps at `smoke` size.

The golden texts (resolved config, parameters with decay and sharding) are in `golden/`, as a base and differences;
UPDATE_GOLDEN=1 rewrites them, and the diff is what to review.
"""

import functools
import gc
import pathlib
import re
from collections import Counter
from typing import Any

import golden_texts
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.docs import pages
from vmae_jax.commands.config import apply_overrides, load_config
from vmae_jax.commands.experiment import experiment
from vmae_jax.configs import common
from vmae_jax.spec import ConfigError, build, calls, from_json, to_json
from vmae_jax.train import sharding
from vmae_jax.train.schedule import Clock
from vmae_jax.train.step import compile_step

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOT_TRAINED = ("__init__", "common", "cross_retrieval", "few_shot", "moments", "probe", "propagation", "recipes")
FILES = sorted(path for path in (ROOT / "vmae_jax" / "configs").glob("*.py") if path.stem not in NOT_TRAINED)
# Every size of the configs that have sizes.
VARIANTS = {
    "videomae_v2": ("B", "S", "L", "H", "g"),
    "videomae": ("S", "B", "L", "H", "B,ssv2", "B,ucf101"),
    "finetune": ("B", "L,ssv2", "g,k400,from=k710", "B,ava,v1"),
    "custom": ("B,classes=12,folders", "B,verbs=97,nouns=300,attentive,probe"),
    "hvm1": ("224", "448,ssv2"),
    "mae": ("B", "H,finetune", "L,linear"),
    "mae_st": ("B", "L,k400"),
    "ego_only": ("L", "B,epic"),
    "vjepa2": ("g", "L,cooldown"),
    "salt": ("L", "L,pixels"),
    "internvideo_next": ("B", "L"),
    "vjepa2_1": ("L", "G,cooldown", "L,images=IMAGES"),
    "siammae": ("S16", "S8"),
    "cropmae": ("S16", "B16,videos"),
    "rvm": ("L",),
    "hiera": ("B", "L,k400"),
    "fourds": ("B", "e"),
    "diffmae": ("L", "B,video,raw", "L,clip"),
    "cdfslv": ("", "adapt"),
    "ttt": ("B", "L,everywhere"),
    "masdt": ("spatial", "temporal", "finetune"),
    "marlin": ("B", "L"),
    "lvmae": ("", "low"),
    "mvd": ("B", "H"),
    "umt": ("B", "L"),
    "sigma": ("B,k400", "S,ssv2"),
    "contrast": (
        "simclr,B",
        "byol,B",
        "moco,S",
        "moco_v3,B,views=4",
        "teg,B",
        "ascnet,B",
        "const_cl,B",
        "controlled,B",
    ),
    "av_mae": ("L,audioset", "L,vggsound", "L,audioset,finetune"),
    "mavil": ("B,audioset", "B,audioset,student"),
    "vic_mae": ("B",),
    "mbt": ("audioset_mini", "epic,audio"),
    "post_pretrain": ("H",),
    "distill": ("S",),
}
# Whose golden text those of a file are compared with: variants differ from it by what makes them variants.
BASES = {
    "videomae_v2:B": (
        "videomae_v2",
        "videomae",
        "quickstart",
        "tiktok",
        "hvm1:224",
        "mae:B",
        "mae_st:B",
        "hiera:B",
        "fourds",
        "ego_only:L",
        "adamae",
        "motionmae",
        "mgm",
        "mgmae",
        "mme",
        "tgm",
        "diffmae",
        "lvmae",
        "cdfslv",
        "levjepa",
        "contrast",
        "sigma",
        "ttt",
        "masdt",
        "marlin",
        "mvd",
        "umt",
        "av_mae",
        "mavil",
        "crossvideomae",
    ),
    "siammae:S16": ("siammae", "cropmae", "rvm", "siammcvae", "vic_mae"),
    "vjepa2:g": ("vjepa2", "vjepa", "salt", "vjepa2_1", "internvideo_next"),
    "finetune:B": (
        "finetune",
        "post_pretrain",
        "distill",
        "custom",
        "mbt",
        "hvm1:448",
        "mae:H",
        "mae:L",
        "mae_st:L",
        "hiera:L",
        "ego_only:B",
    ),
}
PROPAGATIONS = ("davis,data=DAVIS", "vip,data=VIP", "jhmdb,data=jhmdb,split=2", "drawn")
PROBES = ("linear,data=videos", "attentive,data=a.csv,test=b.csv,names=names.txt,views=3", "attentive,deep,data=videos")
RESUMED = (
    "av_mae",
    "crossvideomae",
    "ego_only",
    "lvmae",
    "marlin",
    "masdt",
    "mavil",
    "mbt",
    "mgmae",
    "mme",
    "tgm",
    "vic_mae",
)  # which `test_resumed_methods.py` trains
NEEDED = {"custom": ("several=3",)}  # arguments without which there is no config
NAMED = tuple(f"data.sources.{name}" for name in ("folder", "images", "csv", "embeddings"))
NAMED += ("data.streams.tokenizers.clip",)
CLOCK = Clock(steps=1000, steps_per_epoch=2.0, global_batch=8)


def targets() -> list[Any]:
    """Every variant of every config; the default suite has the first of each."""
    return [
        pytest.param(f"{path.stem}:{args}", marks=[pytest.mark.slow] if number else [])
        for path in FILES
        for number, args in enumerate(VARIANTS.get(path.stem, ("",)))
    ]


def load(target: str, extra: str = ""):
    stem, _, args = target.partition(":")
    text = ",".join(filter(None, (args, extra)))
    config = load_config(f"configs/{stem}.py" + (f":{text}" if text else ""))
    # What a user must give: where the videos and the weights are.
    for one in calls(config):
        if one.call in NAMED and not _given(one, "path"):
            one.path = "videos"
        elif one.call.startswith("data.catalogs.") and not _given(one, "directory"):
            one.directory = "videos"
        elif one.call == "train.init_from.weights" and not _given(one, "path"):
            one.path = "workdir"
    return config


def _given(config, key) -> bool:
    return key in from_json(to_json(config))


@functools.cache
def described(target: str) -> dict[str, str]:
    """Trace a config at full size, check the shapes of its step, and return its golden text."""
    config = load(target)
    made = experiment(config)
    params = made.abstract_params()
    tx, rate = made.optimizer.build(params, Clock(10**6, 1e3, made.loader.global_batch))
    boxed = sharding.abstract(made.make_init(tx), made.batch_spec)
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    step = made.make_step(tx)
    gc.freeze()  # the search for leaked tracers visits all objects since, not all that earlier tests have traced
    with jax.checking_leaks():
        state, metrics = jax.eval_shape(step, sharding.unbox(boxed), made.batch_spec)
    assert metrics["loss"].shape == ()
    assert jax.tree.structure(state) == jax.tree.structure(sharding.unbox(boxed))
    text = golden_texts.of_config(to_json(config)) | {"rate": rate.describe()}
    # Shape, how a mesh of data 2, fsdp 2, tensor 2 splits it, weight decay, share of the learning rate.
    placement = sharding.shardings(params, mesh)
    places = dict(line.split("  ", 1) for line in sharding.describe(params, placement).splitlines() if "  " in line)
    decays = dict(line.split("  ", 1) for line in made.optimizer.describe(params).splitlines())
    assert places.keys() == decays.keys()
    text |= {f"params/{path}": f"{place}  {decays[path]}" for path, place in places.items()}
    whole = sharding.shardings(boxed, mesh).replicated
    assert [note for note in whole if note.startswith("params/")] == [f"params/{note}" for note in placement.replicated]
    for note in placement.replicated:
        path, _, reason = note.partition(": ")
        path = f"replicated params/{path}"
        text[path] = f"{text[path]}; {reason}" if path in text else reason
    return text


def file_of(target: str) -> str:
    return target.replace(":", "_").replace(",", "_").rstrip("_")


@pytest.mark.parametrize("target", targets())
def test_full_size_traces(target, update_golden):
    """Shapes of parameters, state and step at full size; and the golden text of all of it."""
    [base] = [base for base, files in BASES.items() if target.startswith(files)]
    if update_golden:
        golden_texts.write(file_of(base), described(base))
    if update_golden and target != base:
        golden_texts.write(file_of(target), described(target), file_of(base), described(base))
    golden_texts.compare(file_of(target), described(target))


def test_a_golden_text_is_stored_as_what_differs(tmp_path, monkeypatch):
    monkeypatch.setattr(golden_texts, "FOLDER", tmp_path)
    base = golden_texts.of_config('{"a": {"b": 1, "c": [{"d": "x = y"}, {}]}, "e": {}, "f": [1, 2]}')
    assert base == {"a.b": "1", "a.c[0].d": '"x = y"', "a.c[1]": "{}", "e": "{}", "f": "[1, 2]"}
    other = {"a.b": "1", "a.c": "null", "e.g": "3"}
    golden_texts.write("base", base)
    golden_texts.write("other", other, "base", base)
    assert (tmp_path / "other.txt").read_text() == "as base, but\nwithout f\na.c = null\ne.g = 3\n"
    assert (golden_texts.read("base"), golden_texts.read("other")) == (base, other)
    for wrong in (other | {"e.g": "4"}, other | {"h": "1"}, {"a.b": "1", "a.c": "null"}):
        with pytest.raises(AssertionError, match="UPDATE_GOLDEN=1"):
            golden_texts.compare("other", wrong)


def fake_batch(spec, seed=0):
    random = np.random.default_rng(seed)
    batch = {}
    for name, leaf in spec.items():
        if name == "valid":
            batch[name] = jnp.ones(leaf.shape, bool)
        elif leaf.dtype == jnp.uint8:
            batch[name] = jnp.asarray(random.integers(0, 256, leaf.shape, np.uint8))
        elif leaf.dtype == jnp.uint32:
            batch[name] = jnp.asarray(random.integers(0, 2**32, leaf.shape, np.uint32))
        elif jnp.issubdtype(leaf.dtype, jnp.integer):
            batch[name] = jnp.asarray(random.integers(0, 2, leaf.shape), leaf.dtype)
        else:
            batch[name] = jnp.full(leaf.shape, 1 / leaf.shape[-1], leaf.dtype)
    return batch


TRIED = [path.stem for path in FILES if path.stem not in {*pages.trained(), *RESUMED}]


@pytest.mark.parametrize(
    "stem", [pytest.param(one, marks=[] if one in ("finetune", "videomae") else pytest.mark.slow) for one in TRIED]
)
def test_two_real_steps_at_smoke_size(stem):
    """Of configs that no page and no test of resuming trains: the loss is finite and the parameters move."""
    made = experiment(load(f"{stem}:{','.join(NEEDED.get(stem, ()))}", "smoke"))
    mesh = sharding.make_mesh({"data": 1}, devices=jax.devices()[:1])
    tx, _ = made.optimizer.build(made.abstract_params(), CLOCK)
    state, placement = sharding.create(made.make_init(tx), jax.random.key(0), made.batch_spec, mesh)
    step = compile_step(made.make_step(tx), placement, mesh, made.batch_spec)
    before = jax.device_get(state.params)
    for i in range(2):
        state, metrics = step(state, fake_batch(made.batch_spec, i))
    assert np.isfinite(float(metrics["loss"]))
    assert float(metrics["finite"]) == 1
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.params), strict=True)]
    assert max(moved) > 0


def test_what_a_model_states_of_its_activations_reaches_the_compiler():
    """Logical constraints vanish silently outside of a mesh and rules: here they are in the lowered step."""
    made = experiment(load("videomae_v2:B", "smoke"))
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    tx = made.optimizer_without_data()
    boxed = sharding.abstract(made.make_init(tx), made.batch_spec)
    placement = sharding.shardings(boxed, mesh)
    step = compile_step(made.make_step(tx), placement, mesh, made.batch_spec)
    text = step.lower(sharding.unbox(boxed), made.batch_spec).as_text()
    found = Counter(re.findall(r"sharding_constraint \S+ <@mesh, \[(.*?)\]>", text))
    batch = '{"data", "fsdp"}'
    assert found[f'{batch}, {{"tensor"}}, {{}}, {{}}'] >= 2 * 3  # queries, keys, values of encoder and decoder
    assert found[f'{batch}, {{}}, {{"tensor"}}'] >= 2  # inside the MLPs
    assert found[f"{batch}, {{}}, {{}}"] >= 2 * 2  # what goes into the blocks, and comes out of each


@pytest.mark.parametrize("target", PROBES)
def test_probes_have_a_section_eval_alone(target, update_golden):
    config = load_config(f"configs/probe.py:{target}")
    assert list(config) == ["eval"]
    made = build(config.eval)
    [evaluator] = made.evaluators.values()
    assert made.data.spec()["video"].shape[1:] == evaluator.train.spec()["video"].shape[1:] == (16, 224, 224, 3)
    text, base = (
        golden_texts.of_config(to_json(load_config(f"configs/probe.py:{name}"))) for name in (target, PROBES[0])
    )
    name, first = (f"probe_{file_of(one)}" for one in (target, PROBES[0]))
    if update_golden:
        golden_texts.write(name, text, *((first, base) if name != first else ()))
    golden_texts.compare(name, text)


def test_few_shot_evaluation_takes_all_the_videos():
    for target, of in (("data=videos,ways=3", "features"), ("data=a.csv,logits,prototype", "logits")):
        config = load_config(f"configs/few_shot.py:{target}")
        assert list(config) == ["eval"]
        made = build(config.eval)
        [evaluator] = made.evaluators.values()
        assert (evaluator.of, evaluator.episodes, evaluator.queries) == (of, 600, 15)
        assert made.data.spec()["video"].shape[1:] == (16, 224, 224, 3)
        assert "label" in made.data.spec()
        assert config.eval.data.source.get("part", "all") == "all"
    with pytest.raises(ConfigError, match="give the labelled videos as data=FOLDER"):
        load_config("configs/few_shot.py")


def test_retrieval_between_modalities_has_the_clips_of_the_training(tmp_path):
    pretraining = load_config("configs/mavil.py:B,audioset")
    pretraining.data.source.path = "videos"
    (tmp_path / "config.json").write_text(to_json(pretraining))
    config = load_config("configs/cross_retrieval.py:data=videos,views=2", checkpoint=str(tmp_path))
    made = build(config.eval)
    trained = build(pretraining.data).spec()
    shapes = lambda spec: {name: one.shape[1:] for name, one in spec.items()}  # noqa: E731
    assert shapes(made.data.spec()) == shapes(trained)
    assert (made.data.views, config.eval.data.sampler.stride) == (2, 15)
    with pytest.raises(ConfigError, match="give the videos as data=FOLDER"):
        load_config("configs/cross_retrieval.py", checkpoint=str(tmp_path))


def test_moments_are_found_in_windows_of_other_videos():
    for target, windows in (("data=videos,test=others", 64), ("drawn,windows=8", 8)):
        made = build(load_config(f"configs/moments.py:{target}").eval)
        [evaluator] = made.evaluators.values()
        for loader in (made.data, evaluator.train):
            assert loader.views == windows
            assert loader.spec()["segments_clip"].shape == (4 * windows, 2)
        assert made.data.source != evaluator.train.source
    for arguments in ("", "data=videos", "drawn,data=videos,test=others"):
        with pytest.raises(ConfigError, match="give videos with segments as data=FOLDER,test=FOLDER, or drawn"):
            load_config(f"configs/moments.py:{arguments}")


@pytest.mark.parametrize("target", PROPAGATIONS)
def test_propagations_have_a_section_eval_without_data(target, update_golden):
    config = load_config(f"configs/propagation.py:{target}")
    assert list(config) == ["eval"]
    made = build(config.eval)
    assert made.data is None
    assert list(made.ready) == [target.partition(",")[0]]
    text, base = (
        golden_texts.of_config(to_json(load_config(f"configs/propagation.py:{name}")))
        for name in (target, PROPAGATIONS[0])
    )
    name, first = (f"propagation_{file_of(one)}" for one in (target, PROPAGATIONS[0]))
    if update_golden:
        golden_texts.write(name, text, *((first, base) if name != first else ()))
    golden_texts.compare(name, text)


@pytest.mark.parametrize(("arguments", "message"), [("davis", "as data=FOLDER"), ("drawn,data=x", "have no data=")])
def test_propagations_need_the_owners_files_and_drawn_clips_none(arguments, message):
    with pytest.raises(ConfigError, match=message):
        load_config(f"configs/propagation.py:{arguments}")


@pytest.mark.parametrize(
    "stem", [*(path.stem for path in FILES), "cross_retrieval", "few_shot", "moments", "probe", "propagation"]
)
def test_an_unknown_argument_is_reported(stem):
    with pytest.raises(ConfigError, match="no argument 'smokee'"):
        load(f"{stem}:", "smokee")


@pytest.mark.parametrize(("given", "hint"), [("smok", "smoke"), ("clases=3", "classes"), ("model=BB", "B")])
def test_the_closest_argument_is_suggested(given, hint):
    with pytest.raises(ConfigError, match=rf"no argument '{given}' \(did you mean '{hint}'\?\); it takes B\|S, cl"):
        common.parse(given, model=("B", "S"), classes=0, smoke=False)


def test_an_argument_without_its_value_is_not_suggested_for_itself():
    with pytest.raises(ConfigError, match=r"no argument 'classes'; it takes classes=…$"):
        common.parse("classes", classes=0)


def test_every_source_can_be_left_open_and_is_then_asked_for():
    config = load_config("configs/videomae_v2.py:S")
    with pytest.raises(ConfigError, match=r"data\.sources\.folder needs path"):
        build(config.data)
    with pytest.raises(ConfigError, match=r"data\.sources\.folder needs path \(--config\.data\.source\.path=…\)$"):
        experiment(config)


@pytest.mark.parametrize(
    ("override", "check"),
    [
        (("method.encoder_mask.ratio", "0.75"), lambda c: c.method.encoder_mask.ratio == 0.75),
        (("train.length.steps", "1e3"), lambda c: to_json(c.train.length).split() == ["{", '"steps":', "1000", "}"]),
        (("data.transforms[0].size", "160"), lambda c: c.data.transforms[0].size == 160),
        (("data.source.path", "some where"), lambda c: c.data.source.path == "some where"),
        (("train.ema_decay", "0.999"), lambda c: c.train.ema_decay == 0.999),
        (("train.pictures_every", "none"), lambda c: c.train.pictures_every is None),
        (("eval.every.epochs", "2"), lambda c: build(c.eval).every == {"epochs": 2}),  # it was None
        (("method.model.remat", "none"), lambda c: c.method.model.remat == "none"),
        (("data.shuffle", "false"), lambda c: c.data.shuffle is False),
        (("seed", "7"), lambda c: c.seed == 7),
    ],
)
def test_overrides(override, check):
    config = load("videomae_v2:B")
    apply_overrides(config, [override])
    assert check(config)


def test_what_smoke_leaves_empty_can_be_set():
    config = load("mae:B,finetune", "smoke")
    assert config.method.mix.group is None
    apply_overrides(config, [("method.mix.group", "2")])
    assert config.method.mix.group == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (("method.encoder_mask.ration", "0.9"), "there is no 'ration' here (did you mean 'ratio'?)"),
        (("metod.encoder_mask.ratio", "0.9"), "did you mean 'method'?"),
        (("data.global_batch", "many"), "expected a value of type int"),
        (("data.shuffle", "perhaps"), "expected true or false"),
        (("data.transforms[3].size", "1"), "the list has 1 items"),
        (("seed.x", "1"), "nothing can be set inside a plain value"),
        (("a b", "1"), "not a path"),
    ],
)
def test_mistaken_overrides_are_reported_in_one_line(override, message):
    with pytest.raises(ConfigError) as error:
        apply_overrides(load("videomae_v2:B"), [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "get_config = 3", "def get_config(a):\n  return 1", "def get_config(a:\n"])
def test_a_file_that_is_no_config_is_reported(tmp_path, text):
    file = tmp_path / "config.py"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.py"):
        load_config(str(file))


def test_custom_lists_share_the_names_of_their_classes():
    """One override names them for training and evaluation, of one head or of two."""
    for arguments, labels in (("classes=3", ["label"]), ("verbs=3,nouns=4", ["verb", "noun"])):
        changes = [(f"data.source.names.{name}", f"{name}s.txt") for name in labels]
        config = load_config(f"configs/custom.py:tiny,{arguments}", changes)
        assert {name: config.eval.data.source.names[name] for name in labels} == {n: f"{n}s.txt" for n in labels}


def test_packaged_configs_are_found_from_any_folder_and_a_file_there_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/videomae_v2.py:S").method.model.size == "S"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "videomae_v2.py").write_text(
        "from ml_collections import ConfigDict\n\ndef get_config(_=None):\n    return ConfigDict({'mine': 1})\n"
    )
    assert dict(load_config("configs/videomae_v2.py")) == {"mine": 1}
    with pytest.raises(ConfigError, match=r"did you mean 'videomae_v2'\?\); the package has configs/\{.*custom,"):
        load_config("configs/videomaev2.py:S")


def test_a_config_anywhere_builds_on_those_of_the_package_and_on_modules_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_masks.py").write_text("RATIO = 0.6\n")
    (tmp_path / "mine.py").write_text(
        "from my_masks import RATIO\n\nfrom vmae_jax.configs import videomae_v2\n\n\n"
        "def get_config(arguments=None):\n"
        "    config = videomae_v2.get_config(arguments)\n"
        "    config.method.encoder_mask.ratio = RATIO\n"
        "    return config\n"
    )
    config = load_config("mine.py:S")
    assert (config.method.model.size, config.method.encoder_mask.ratio) == ("S", 0.6)
    (tmp_path / "old.py").write_text("import json\nimport nowhere\n")
    with pytest.raises(
        ConfigError, match=r"old\.py: line 2: No module named 'nowhere' .*from vmae_jax\.configs import"
    ):
        load_config("old.py")
