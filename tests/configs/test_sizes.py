"""What the configs for a user's own data read from the weights that they begin from, or are used on."""

import json

import pytest
from ml_collections import ConfigDict

from vmae_jax.commands.config import load_config
from vmae_jax.commands.experiment import experiment
from vmae_jax.data.synthetic.moving_shapes import MovingShapes
from vmae_jax.spec import ConfigError, build, call, to_json

MODEL = {"size": "tiny", "frames": 8, "resolution": 48, "channels": 1, "decoder_depth": 2}


@pytest.fixture
def workdir(tmp_path):
    """The config.json of a workdir as `vmae import` writes it: a method and nothing else."""
    return write(tmp_path / "run", call("models.variants.vit", **MODEL))


def write(folder, model):
    pixels = call("targets.core.objective", target=call("targets.pixels"))
    mask = call("masking.tube", ratio=0.5)
    method = call("methods.masked.build", model=model, encoder_mask=mask, objectives={"pixels": pixels})
    (folder / "checkpoints" / "5").mkdir(parents=True)
    (folder / "config.json").write_text(to_json(ConfigDict({"method": method}, convert_dict=False)))
    return folder


def custom(arguments, *overrides):
    paths = [("data.source.path", "videos"), ("eval.data.source.path", "videos")]
    return experiment(load_config(f"configs/custom.py:classes=3,folders{arguments}", [*paths, *overrides]))


@pytest.mark.parametrize("below", ["", "checkpoints", "checkpoints/5"])
def test_fine_tuning_takes_model_and_clips_from_the_weights(workdir, below):
    made = custom(f",weights={workdir / below}")
    model = build(made.config.method.model)
    assert (model.encoder.width, model.encoder.blocks["heads"], model.patch.h) == (128, 4, 8)
    assert made.batch_spec["video"].shape[1:] == made.eval.data.spec()["video"].shape[1:] == (8, 48, 48, 1)
    assert made.config.init_from["params/encoder"].path == str(workdir / below)


def test_frames_and_size_override_the_weights(workdir):
    made = custom(f",weights={workdir},frames=4,size=32")
    assert made.batch_spec["video"].shape[1:] == made.eval.data.spec()["video"].shape[1:] == (4, 32, 32, 1)
    assert custom(",tiny,frames=4,size=32,weights=none").batch_spec["video"].shape[1:] == (4, 32, 32, 3)
    with pytest.raises(ConfigError, match="size=large: expected a value of type int"):
        custom(",size=large")


def test_weights_that_are_not_there_yet_leave_the_defaults(tmp_path):
    assert custom(f",weights={tmp_path}/none").batch_spec["video"].shape[1:] == (16, 224, 224, 3)


def test_without_weights_training_begins_from_random_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert dict(custom(",tiny,weights=none").config.init_from) == {}
    (tmp_path / "other").mkdir()
    assert custom(",tiny,weights=other").config.init_from["params/encoder"].path == "other"


def test_one_frame_is_an_image(workdir):
    for arguments in (",tiny,weights=none,frames=1,size=32", f",weights={workdir},frames=1,size=32"):
        made = custom(arguments)
        assert made.config.data.source.call == made.config.eval.data.source.call == "data.sources.images"
        assert made.batch_spec["video"].shape[1:4] == made.eval.data.spec()["video"].shape[1:4] == (1, 32, 32)
        assert build(made.config.method.model).patch.t == 1


def test_a_size_that_is_not_that_of_the_weights_names_both(workdir, tmp_path):
    assert custom(f",tiny,weights={workdir}").config.method.model.size == "tiny"
    with pytest.raises(ConfigError) as error:
        custom(f",B,weights={workdir}")
    assert str(error.value) == (
        "configs/custom.py: B is a model of width 768, depth 12, heads 12, patch 16, "
        f"weights={workdir} of width 128, depth 6, heads 4, patch 8: leave B out, or give other weights="
    )
    other = write(tmp_path / "plugin", call("models.variants.vit"))
    config = json.loads((other / "config.json").read_text())
    config["method"]["model"]["call"] = "runtime.supervisor.supervise"
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"has a model 'runtime\.supervisor\.supervise', but this config takes"):
        custom(f",weights={other}")


def test_probes_take_the_clips_of_the_checkpoint(workdir):
    load = lambda more="": load_config(  # noqa: E731
        f"configs/probe.py:knn,data=videos{more}", checkpoint=str(workdir)
    )
    for more, shape in (("", (8, 48, 48, 1)), (",frames=16,size=32", (16, 32, 32, 1))):
        section = build(load(more).eval)
        assert section.data.spec()["video"].shape[1:] == shape
        assert section.evaluators["knn"].train.spec()["video"].shape[1:] == shape


def test_probes_take_the_clips_of_a_method_of_modalities(tmp_path):
    config = load_config("configs/crossvideomae.py:smoke")
    (tmp_path / "config.json").write_text(to_json(config))
    found = load_config("configs/probe.py:knn,data=videos", checkpoint=str(tmp_path))
    model = config.method.modalities.video.model
    shape = (model.frames, model.resolution, model.resolution, 3)
    assert build(found.eval).data.spec()["video"].shape[1:] == shape


@pytest.mark.parametrize("stage", ["temporal", "finetune"])
def test_probes_take_the_clips_of_a_method_that_reads_more_frames_than_its_network(stage, tmp_path):
    config = load_config(f"configs/masdt.py:{stage},smoke")
    (tmp_path / "config.json").write_text(to_json(config))
    found = build(load_config("configs/probe.py:knn,data=videos", checkpoint=str(tmp_path)).eval)
    assert found.data.spec()["video"].shape == (32, *build(config.data).spec()["video"].shape[1:])


@pytest.mark.parametrize(
    ("config", "size", "patch", "resolution"),
    [
        ("custom.py:classes=3,folders", "tiny", 8, 32),
        ("custom.py:classes=3,folders", "B", 16, 32),
        ("finetune.py:B,k400", "B", 16, 32),
        ("post_pretrain.py:g", "g", 14, 42),
    ],
)
def test_smoke_keeps_the_dimensions_of_the_weights(tmp_path, config, size, patch, resolution):
    weights = write(tmp_path / "run", call("models.variants.vit", size=size))
    separator = "" if config.endswith(":") else ","
    made = experiment(load_config(f"configs/{config}{separator}smoke,weights={weights}"))
    model, saved = build(made.config.method.model), build(call("models.variants.vit", size=size))
    assert (model.encoder.width, model.encoder.blocks["depth"]) == (saved.encoder.width, saved.encoder.blocks["depth"])
    assert model.patch == saved.patch == (2, patch, patch)
    shape = (8, resolution, resolution, 3)
    assert made.batch_spec["video"].shape[1:] == made.eval.data.spec()["video"].shape[1:] == shape


def test_smoke_keeps_the_dimensions_of_modalities(tmp_path):
    weights = write(tmp_path / "run", call("models.variants.vit", size="tiny", frames=1, tubelet=1))
    config = load_config(f"configs/mbt.py:vggsound,smoke,weights={weights}")
    assert [one.model.size for one in config.method.modalities.values()] == ["tiny", "tiny"]
    begun = load_config("configs/mbt.py:vggsound,smoke,weights=none")
    assert [one.model.size for one in begun.method.modalities.values()] == ["micro", "micro"]


def test_smoke_keeps_images_images(tmp_path):
    weights = write(tmp_path / "run", call("models.variants.vit", size="tiny", frames=1, tubelet=1))
    made = experiment(load_config(f"configs/custom.py:classes=3,folders,smoke,weights={weights}"))
    assert made.batch_spec["video"].shape[1:] == made.eval.data.spec()["video"].shape[1:] == (1, 32, 32, 3)


def test_smoke_finds_clips_for_teacher_and_student(tmp_path):
    paths = {size: write(tmp_path / size, call("models.variants.vit", size=size)) for size in ("B", "g")}
    made = experiment(load_config(f"configs/distill.py:B,smoke,weights={paths['B']},teacher={paths['g']}"))
    assert made.batch_spec["video"].shape[1:] == (8, 112, 112, 3)
    assert build(made.config.method.teacher).encoder.width == 1408


@pytest.mark.parametrize("path", [None, "videos"])
def test_smoke_reads_the_folder_that_is_named_and_draws_shapes_without(path):
    overrides = [] if path is None else [("data.source.path", path), ("eval.data.source.path", path)]
    made = experiment(load_config("configs/custom.py:tiny,classes=3,folders,smoke,weights=none", overrides))
    for loader in (made.loader, made.eval.data):
        assert getattr(loader.source, "path", None) == path
        assert isinstance(loader.source, MovingShapes) == (path is None)
    if path:
        assert (made.loader.source.labels, made.eval.data.source.part) == ("folders", "held_out")
