"""Stages that begin from other stages: a classifier from pre-training, K400 from K710, a student and its teacher."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from vmae_jax.commands.begin_from import begin_from, keep, rows_by_name
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.io.paths import Workdir
from vmae_jax.spec import ConfigError, build, call, to_json
from vmae_jax.train import optim, schedule, sharding
from vmae_jax.train.init_from import weights
from vmae_jax.train.schedule import Clock
from vmae_jax.train.state import make_init


def vit(**more):
    return call(
        "models.variants.vit",
        size="micro",
        decoder_depth=1,
        dtype="float32",
        **({"frames": 4, "resolution": 16} | more),
    )


def classifier(classes, **more):
    return call("methods.classify.build", model=vit(**more), classes=classes, init_scale=1.0)


def fresh(method_config, seed):
    """A state of a method at step 0."""
    method = build(method_config)
    t, h, w, c = build(method_config.model).video_shape
    batch = {
        "video": np.zeros((2, t, h, w, c), np.uint8),
        "seed": np.zeros((2, 2), np.uint32),
        "index": np.zeros(2, np.int32),
        "valid": np.ones(2, bool),
        "label": np.zeros(2, np.int32),
    }
    spec = jax.eval_shape(lambda: batch)
    abstract = sharding.abstract(lambda key, b: method.init(key, b)[0], spec)
    tx, _ = optim.adamw(schedule.constant(1e-3)).build(abstract, Clock(10, 1.0, 2))
    init = make_init(method, tx, frozen=method.frozen)
    return jax.jit(lambda key: sharding.unbox(init(key, batch)))(jax.random.key(seed))


def saved(folder, method_config, seed):
    """A workdir of that method, and its parameters."""
    workdir = Workdir(folder)
    workdir.path.mkdir()
    workdir.config_json.write_text(to_json(ConfigDict({"method": method_config}, convert_dict=False)))
    state = fresh(method_config, seed)
    saver = Checkpoints(workdir.checkpoints, keep_last=1, asynchronous=False)
    saver.save(0, state, {})
    saver.close()
    return str(folder), jax.device_get(state.params)


def config(method_config):
    return ConfigDict({"method": method_config}, convert_dict=False)


def test_a_head_is_sliced_by_the_names_of_its_classes(tmp_path):
    path, old = saved(tmp_path / "k710", classifier(5), 1)
    (tmp_path / "old.txt").write_text("abseiling\nmaking the bed\nSipping cup\nzumba\nyoga\n")
    (tmp_path / "new.txt").write_text("yoga\nmaking bed\ndrinking\n")
    record = weights(path, old_labels=str(tmp_path / "old.txt"), new_labels=str(tmp_path / "new.txt"))
    state, [report] = begin_from(fresh(classifier(3), 2), {"params": record}, config(classifier(3)))
    rows = [4, 1, 2]
    np.testing.assert_array_equal(state.params["head"]["kernel"], old["head"]["kernel"][:, rows])
    np.testing.assert_array_equal(state.params["head"]["bias"], old["head"]["bias"][rows])
    np.testing.assert_array_equal(state.params["encoder"]["embed"]["kernel"], old["encoder"]["embed"]["kernel"])
    assert not report.kept
    assert not report.unused
    assert {path: change.what for path, change in report.changed.items()} == dict.fromkeys(
        ("head/kernel", "head/bias"), "sliced"
    )
    assert "  sliced: head/" in str(report)

    with pytest.raises(ConfigError, match=r"head/kernel is float32\[32, 5\], the model's float32\[32, 3\]"):
        begin_from(fresh(classifier(3), 2), {"params": weights(path)}, config(classifier(3)))
    (tmp_path / "old.txt").write_text("a\nb\n")
    (tmp_path / "new.txt").write_text("a\nb\n")
    with pytest.raises(ConfigError, match=r"the saved head has 5 classes, .*old.txt has 2 names"):
        begin_from(fresh(classifier(3), 2), {"params": record}, config(classifier(3)))


def test_a_distillation_begins_with_the_student_and_the_teacher(tmp_path):
    teacher_path, teacher = saved(tmp_path / "teacher", classifier(3, width=48), 1)
    student_path, student = saved(tmp_path / "student", classifier(3), 2)
    both = call("methods.distill.build", model=vit(), teacher=vit(width=48), classes=3, feature_weight=1.0)
    places = {"params": weights(student_path), "frozen/teacher": weights(teacher_path)}
    state, (first, second) = begin_from(fresh(both, 3), places, config(both))
    jax.tree.map(np.testing.assert_array_equal, state.frozen["teacher"], teacher)
    jax.tree.map(np.testing.assert_array_equal, {k: v for k, v in state.params.items() if k != "match"}, student)
    assert sorted(first.kept) == ["match/bias", "match/kernel"]
    assert not second.kept


def test_what_became_of_every_array_is_kept(tmp_path):
    """Four channels from three: the rule is the weights' own. The saved head is left out."""
    path, old = saved(tmp_path / "rgb", classifier(3), 1)
    more = classifier(3, channels=4, mean=[0.5] * 4, std=[0.25] * 4)
    record = weights(path, skip=["head"], channels="keep")
    state, reports = begin_from(fresh(more, 2), {"params": record}, config(more))
    kernel, was = (np.reshape(p["encoder"]["embed"]["kernel"], (2, 8, 8, -1, 32)) for p in (state.params, old))
    np.testing.assert_array_equal(kernel[:, :, :, :3], was)
    assert not kernel[:, :, :, 3].any()
    keep(Workdir(tmp_path / "run").init_from, reports)
    kept = json.loads((tmp_path / "run" / "init_from.json").read_text())["params"]
    paths = {jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree_util.tree_leaves_with_path(old)}
    assert set(kept["arrays"]) == paths
    result = {path: array["became"] for path, array in kept["arrays"].items() if array["became"] != "as is"}
    assert result == {"encoder/embed/kernel": "resized", "head/kernel": "fresh", "head/bias": "fresh"}
    how = kept["arrays"]["encoder/embed/kernel"]["how"]
    assert how == "resampled from cubes of 2x8x8x3 to 2x8x8x4 (t x y x c)"
    assert kept["unused"] == dict.fromkeys(("head/bias", "head/kernel"), "left out by skip")
    assert kept["weights"]["path"] == path


def test_a_teacher_of_other_pixels_is_resized_by_its_own_model(tmp_path):
    """From the teacher of a distillation, wherever it goes."""
    both = call("methods.distill.build", model=vit(), teacher=vit(width=48), classes=3)
    workdir, _ = saved(tmp_path / "run", both, 1)
    larger = classifier(3, width=48, patch=16, resolution=32)
    record = weights(workdir, select="frozen/teacher")
    state, [report] = begin_from(fresh(larger, 2), {"params": record}, config(larger))
    assert list(report.changed) == ["encoder/embed/kernel"]
    assert state.params["encoder"]["embed"]["kernel"].shape == (2 * 16 * 16 * 3, 48)


def test_blocks_of_another_part_follow(tmp_path):
    """As the joint blocks of a multimodal pre-training those of an encoder."""
    path, old = saved(tmp_path / "run", classifier(3), 1)
    record = weights(path, select="params/encoder", then="params/encoder")
    deeper = classifier(3, depth=4)
    state, [report] = begin_from(fresh(deeper, 2), {"params/encoder": record}, config(deeper))
    twice = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), old["encoder"]["blocks"])
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"]["blocks"], twice)
    assert report.changed["blocks/mlp/fc1/kernel"].how == "2 blocks of params/encoder after its own"
    with pytest.raises(ConfigError, match="both need blocks"):
        begin_from(
            state, {"params/encoder": weights(path, select="params/encoder", then="params/head")}, config(deeper)
        )


def test_an_encoder_of_sounds_begins_with_one_of_images(tmp_path):
    """The rows of an image become time, and its colours one value."""
    image = {"frames": 1, "tubelet": 1, "positions": call("models.positions.learned")}
    path, old = saved(tmp_path / "run", classifier(3, **image), 1)
    heard = call("models.spectrogram", size="micro", frames=16, bins=16, patch=8, positions=image["positions"])
    method = call("methods.mbt.build", modalities={"audio": call("methods.branches.branch", model=heard)}, classes=3)
    embed, table = ({"kernel": np.zeros((64, 32))}, {"table": np.zeros((4, 32))})
    state = fresh(classifier(3, **image), 2)
    state = dataclasses.replace(state, params={"audio": {"embed": embed, "Learned_0": table}})
    state, _ = begin_from(state, {"params/audio": weights(path, select="params/encoder")}, config(method))
    colours = old["encoder"]["embed"]["kernel"].reshape(8, 8, 3, 32)
    np.testing.assert_allclose(state.params["audio"]["embed"]["kernel"], colours.sum(axis=2).reshape(64, 32), atol=1e-6)
    np.testing.assert_array_equal(state.params["audio"]["Learned_0"]["table"], old["encoder"]["Learned_0"]["table"])
    video, _ = saved(tmp_path / "video", classifier(3), 1)
    with pytest.raises(ConfigError, match="weights of videos do not fit a model of spectrograms"):
        begin_from(state, {"params/audio": weights(video, select="params/encoder")}, config(method))


def test_other_heads_than_those_of_a_modality_are_refused(tmp_path):
    """No array shows them."""
    modality = call("methods.joint.modality", model=vit(), mask=None, read=call("inputs.readers.video"))
    part = call("methods.parts.nce", first="video", second="video")
    method = call("methods.joint.build", modalities={"video": modality}, parts={"nce": part})
    (tmp_path / "run").mkdir()
    Workdir(tmp_path / "run").config_json.write_text(to_json(config(method)))
    state = fresh(classifier(3), 1)
    towers = dataclasses.replace(state, params={"video": state.params["encoder"]})
    saver = Checkpoints(Workdir(tmp_path / "run").checkpoints, keep_last=1, asynchronous=False)
    saver.save(0, towers, {})
    saver.close()
    record = weights(str(tmp_path / "run"), select="params/video")
    begin_from(state, {"params/encoder": record}, config(classifier(3)))
    more = classifier(3, heads=4)
    with pytest.raises(ConfigError, match="differ in heads 2 and 4"):
        begin_from(fresh(more, 1), {"params/encoder": record}, config(more))


@pytest.mark.slow
def test_more_pixels_only_resize_what_they_must(tmp_path):
    path, old = saved(tmp_path / "small", classifier(3), 1)
    record = weights(path)
    same, _ = begin_from(fresh(classifier(3), 2), {"params": record}, config(classifier(3)))
    jax.tree.map(np.testing.assert_array_equal, same.params, old)
    larger = classifier(3, patch=16, resolution=32)
    state, _ = begin_from(fresh(larger, 2), {"params": record}, config(larger))
    assert state.params["encoder"]["embed"]["kernel"].shape[0] == 4 * old["encoder"]["embed"]["kernel"].shape[0]
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"]["blocks"], old["encoder"]["blocks"])


def test_names():
    assert rows_by_name(
        ["Passing American football (not in game)", "b"], ["passing american football (not in game)"]
    ) == [0]
    with pytest.raises(ConfigError, match=r"the saved classes have no 'yogga' \(did you mean 'yoga'\?\)"):
        rows_by_name(["yoga", "zumba"], ["zumba", "yogga"])
    with pytest.raises(ValueError, match="go together"):
        weights("w", old_labels="x")
