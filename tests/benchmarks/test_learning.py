"""The learning experiment: its clips, its jobs, its statistics; and the whole of it, small."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from benchmarks import learning, learning_arms, learning_clips, learning_report, learning_runs
from benchmarks.learning import SETTING, SMOKE
from benchmarks.learning_arms import LONG, MAIN, PRETRAINING, SCRATCH
from benchmarks.learning_methods import DOUBLE, METHODS, SALT, pretraining
from benchmarks.learning_runs import Job
from vmae_jax.commands.experiment import experiment
from vmae_jax.data.opened import open_loader
from vmae_jax.data.synthetic.moving_shapes import Clips, settings
from vmae_jax.data.synthetic.shapes import MOTIONS
from vmae_jax.masking.core import plan
from vmae_jax.methods.masked import Masked
from vmae_jax.plugins import allow_plugins
from vmae_jax.spec import ConfigError, build
from vmae_jax.types import MaskPlan

SCENE = settings(size=16, frames=4, shapes=1, clutter=0)


@pytest.fixture(autouse=True)
def plugins():
    allow_plugins(["benchmarks"])


def loader(tmp_path, **options):
    return learning_clips.memory(SCENE, cache=str(tmp_path), **{"count": 20, "global_batch": 8, **options})


def test_clips_are_those_of_moving_shapes(tmp_path, monkeypatch):
    """What is drawn into memory is what the data set would encode."""
    monkeypatch.setattr(learning_clips, "CHUNK", 10)
    encoded = []
    monkeypatch.setattr(
        "vmae_jax.data.synthetic.moving_shapes.encode_h264", lambda frames, rate: encoded.append(frames) or b"video"
    )
    opened = open_loader(loader(tmp_path, count=20, split="test"))
    clips = Clips(SCENE, "test", range(20))
    labels = [clips.fetch(index).labels["label"] for index in range(20)]
    np.testing.assert_array_equal(opened.clips, np.stack(encoded))
    [*batches] = opened.once(rows=range(8))
    assert np.concatenate([b["label"][b["valid"]] for b in batches]).tolist() == labels


def test_every_clip_once_an_epoch_and_from_any_position(tmp_path, monkeypatch):
    monkeypatch.setattr(learning_clips, "CHUNK", 10)
    opened = open_loader(loader(tmp_path, count=16, first=3))
    stream = opened.batches(rows=range(8), seed=5)
    seen = [next(stream) for _ in range(6)]
    for epoch in range(3):
        assert sorted(np.concatenate([b["index"] for b in seen[2 * epoch : 2 * epoch + 2]])) == list(range(16))
    assert seen[0]["index"].tolist() != seen[2]["index"].tolist()
    later = next(opened.batches(rows=range(8), seed=5, start=3 * 8))
    jax.tree.map(np.testing.assert_array_equal, later, seen[3])
    assert (seen[0]["label"] == (3 + seen[0]["index"]) % len(MOTIONS)).all()
    assert stream.position == 48
    half = next(opened.batches(rows=[4, 5, 6, 7], seed=5))
    np.testing.assert_array_equal(half["seed"], seen[0]["seed"][4:])
    assert {name: (a.shape, a.dtype) for name, a in seen[0].items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in opened.loader.spec().items()
    }


def test_a_pass_fills_up_its_last_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(learning_clips, "CHUNK", 10)
    *_, last = open_loader(loader(tmp_path)).once(rows=range(8))
    assert last["valid"].tolist() == [True] * 4 + [False] * 4
    assert not last["video"][4:].any()
    assert last["index"].tolist() == [16, 17, 18, 19, -1, -1, -1, -1]


def test_motion_is_the_codecs_and_of_the_clips(tmp_path, monkeypatch):
    """A square that moves to the right by a pixel a frame."""
    clip = np.full((6, 16, 16, 3), 90, np.uint8)
    texture = np.random.default_rng(0).integers(0, 255, (6, 6, 3), np.uint8)
    for frame in range(6):
        clip[frame, 5:11, 2 + frame : 8 + frame] = texture
    vectors = learning_clips.codec_motion(clip)
    assert vectors.shape == (6, 16, 16, 2)
    assert np.isnan(vectors[0]).all()
    assert np.isfinite(vectors[1:]).all()
    np.testing.assert_allclose(vectors[1, 7, 5], (1, 0), atol=0.1)
    assert not vectors[1, 0].any()

    monkeypatch.setattr(learning_clips, "CHUNK", 10)
    opened = open_loader(loader(tmp_path, first=3, count=10, motion=True))
    *_, last = opened.once(rows=range(8))
    assert {name: (a.shape, a.dtype) for name, a in last.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in opened.loader.spec().items()
    }
    np.testing.assert_array_equal(last["motion"][1], np.nan_to_num(learning_clips.codec_motion(opened.clips[9])))
    assert last["motion_mask"].sum(axis=1).tolist() == [3, 3] + 6 * [0]
    assert last["motion_valid"].tolist() == [True] * 2 + 6 * [False]


def test_bad_loaders():
    with pytest.raises(ValueError, match="there are train, validation, test"):
        learning_clips.memory(SCENE, split="held_out")
    with pytest.raises(ValueError, match="count=0"):
        learning_clips.memory(SCENE, count=0)


ARMS = {  # share of the tokens that the encoder sees, that are decoded, and that count
    "frame": (1 / 2, 1 / 2, 1 / 2),
    "dual": (1 / 2, 1 / 2, 1 / 4),
    "random-decoder": (1 / 2, 1 / 2, None),
    "visible-too": (1 / 2, 1 / 2, 1 / 2),
    "tube-50": (1 / 2, 1 / 2, 1 / 2),
    "tube-75": (1 / 4, 3 / 4, 3 / 4),
    "tube-89": (1 / 8, 7 / 8, 7 / 8),
    "mgm-75": (1 / 4, 3 / 4, 3 / 4),
    "random-50": (1 / 2, 1 / 2, 1 / 2),
    "random-75": (1 / 4, 3 / 4, 3 / 4),
    "random-89": (1 / 8, 7 / 8, 7 / 8),
    "random-75-dual": (1 / 4, 1 / 2, None),
    "small": (1 / 2, 1 / 2, 1 / 2),
}


def test_every_arm_has_its_shares():
    assert set(ARMS) == set(PRETRAINING)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_builds(arm):
    """How many tokens are seen, decoded and counted, of the mean over some masks."""
    config = learning_arms.masked(SETTING, arm, 0, cache="")
    assert build(config.data).clips_per_step == SETTING.batch
    own, grid = config.method, build(config.method.model).grid
    encoder, decoder = build(own.encoder_mask), own.decoder_mask and build(own.decoder_mask)
    batch = {
        "motion": np.zeros((8, grid.t, grid.h, grid.w, 2)),
        "motion_mask": np.ones((8, grid.t), bool),
        "motion_valid": np.ones(8, bool),
    }
    made = plan(jax.random.split(jax.random.key(0), 8), batch, grid, encoder, decoder)
    weight = 1.0 if own.call.endswith("loss_on_visible") else made.weight
    found = made.visible.shape[1], made.decode.shape[1], np.broadcast_to(weight, made.decode.shape).sum(1).mean()
    for share, count in zip(ARMS[arm], found, strict=True):
        assert share is None or count == pytest.approx(share * grid.size), arm
    if ARMS[arm][2] is None:  # by chance, between what may and what must overlap
        assert 0 < found[2] < found[1]
    assert own.model.width == (SETTING.student if arm == "small" else SETTING.model)["width"]


@pytest.mark.parametrize("arm", METHODS)
def test_other_methods_train_for_as_many_flops(arm):
    flops = [
        experiment(config).model_flops() * config.train.length.steps
        for config in (
            learning_arms.masked(SETTING, MAIN, 0, cache=""),
            pretraining(SETTING, arm, 0, cache="", teacher="somewhere"),
        )
    ]
    assert flops[1] / flops[0] == pytest.approx(2.0 if arm == DOUBLE else 1.0, rel=2e-3)


def test_loss_on_visible_counts_what_the_encoder_saw(monkeypatch):
    """Where VideoMAE V2's rule gives a decoded token no weight, this arm gives it one."""
    index = np.zeros((2, 3), np.int32)
    official = MaskPlan(visible=index, decode=index, weight=np.array([[0.0, 1.0, 0.0]] * 2))
    monkeypatch.setattr(Masked, "plan", lambda self, batch, decode_all=False: official)
    weights = {}
    for arm in ("dual", "visible-too"):
        method = build(learning_arms.masked(SMOKE, arm, 0, cache="").method)
        weights[arm] = np.asarray(method.loss.__self__.plan({}).weight).sum()
    assert weights == {"dual": 2, "visible-too": 6}


def test_students_and_labels_of_seeds():
    config = learning_arms.distilling(SETTING, 100, 1e-3, 1, cache="", teacher="somewhere")
    assert build(config.method).frozen is not None
    assert learning_arms.distilling(SETTING, 100, 1e-3, 1, cache="", teacher=None).method.model.width == 24
    own = dataclasses.replace(SETTING, student={"width": 12, "depth": 2, "heads": 2})
    taught = learning_arms.distilling(own, 100, 1e-3, 1, cache="", teacher="somewhere", start="elsewhere")
    assert (taught.method.model.width, taught.method.teacher.width, taught.train.length.steps) == (12, 48, 300)
    assert {at: one.path for at, one in taught.init_from.items()} == {
        "params/encoder": "elsewhere", "frozen/teacher": "somewhere"
    }  # fmt: skip
    assert learning_arms.masked(own, "small", 0, cache="").method.model.width == 12


@pytest.mark.parametrize("labels", SETTING.counts)
def test_seeds_have_labels_of_their_own(labels):
    """Three seeds: no clip in common, or half of them where there are only twice as many clips as labels."""
    blocks = []
    for seed in range(3):
        data = learning_arms.classifying(SETTING, labels, 1e-3, seed, cache="").data
        assert data.first % 10 == 0
        assert data.first + data.count <= SETTING.unlabelled
        blocks.append(set(range(data.first, data.first + data.count)))
    shared = [
        len(one & other) for one, other in ((blocks[0], blocks[1]), (blocks[0], blocks[2]), (blocks[1], blocks[2]))
    ]
    assert shared == [0, 0, 0] if labels < 2000 else [0, 1000, 1000]


def test_rates_are_chosen_by_validation_alone():
    """Seed 0 at all rates comes first; the test accuracy plays no part."""
    before = [job for job in learning_runs.jobs(SETTING, "A", 3, [SCRATCH], {}) if job.labels == 100]
    assert [(job.seed, job.rate) for job in before] == [(0, rate) for rate in SETTING.rates]
    tried = zip(before, (0.2, 0.4, 0.3), (0.9, 0.1, 0.5), strict=True)
    rows = {job: {"validation": good, "test": test} for job, good, test in tried}
    assert learning_runs.chosen_rate(SETTING, "finetune", SCRATCH, 100, rows) == SETTING.rates[1]
    after = [job for job in learning_runs.jobs(SETTING, "A", 3, [SCRATCH], rows) if job.labels == 100]
    assert [(job.seed, job.rate) for job in after[3:]] == [(1, SETTING.rates[1]), (2, SETTING.rates[1])]


def test_jobs_come_after_what_they_need():
    """Whatever runs finds its pre-training done, also where arms are picked."""
    own = dataclasses.replace(SETTING, student_pretrained=True)
    for setting, part, arms in (
        (SETTING, "A", []), (SETTING, "B", []), (SETTING, "B", ["distilled"]), (SETTING, "B", ["random-75"]),
        (own, "B", ["distilled"]), (own, "B", ["student"]), (SETTING, "C", []), (SETTING, "C", ["salt"]),
    ):  # fmt: skip
        rows: dict = {}
        while True:
            job = next((j for j in learning_runs.jobs(setting, part, 2, arms, rows) if j not in rows), None)
            if job is None:
                break
            if job.stage in ("probe", "finetune") and job.arm not in (SCRATCH, LONG, learning_runs.RANDOM):
                assert Job("pretrain", job.arm, job.seed) in rows
            if job.arm == SALT:
                assert Job("pretrain", MAIN, job.seed) in rows
            if job.stage == "student" and setting.student_pretrained:
                assert Job("pretrain", "small", job.seed) in rows
            if job.arm == "distilled":
                rate = learning_runs.chosen_rate(setting, "finetune", MAIN, SETTING.teacher, rows)
                assert Job("finetune", MAIN, job.seed, SETTING.teacher, rate) in rows
            rows[job] = {"validation": 0.5, "test": 0.5}
        assert rows


def test_intervals():
    """By hand: 1, 2, 3 have mean 2, deviation 1, t 4.3027."""
    found = learning_report.estimate([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.half == pytest.approx(4.30265 / np.sqrt(3), rel=1e-4)
    assert str(learning_report.estimate([0.5])) == "50.0"
    paired = learning_report.difference({0: 0.5, 1: 0.7, 2: 0.9}, {0: 0.4, 1: 0.6, 5: 0.0})
    assert paired.n == 2
    assert paired.mean == pytest.approx(0.1)
    assert paired.half == pytest.approx(0.0, abs=1e-9)


def test_results_survive_a_kill(tmp_path):
    job = Job("finetune", SCRATCH, 0, 50, 1e-3)
    learning.append(tmp_path, job, {"test": 0.5})
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"stage": "fin')
    assert learning.read(tmp_path)[job]["test"] == 0.5
    learning.append(tmp_path, dataclasses.replace(job, seed=1), {"test": 0.6})
    assert len(learning.read(tmp_path)) == 2


def test_settings_are_not_mixed(tmp_path):
    learning.check_setting(SETTING, tmp_path)
    learning.append(tmp_path, Job("probe", MAIN, 0), {})
    learning.check_setting(SETTING, tmp_path)
    with pytest.raises(ConfigError, match="another setting"):
        learning.check_setting(SMOKE, tmp_path)


def test_unknown_arms_are_reported(tmp_path, capsys):
    assert learning.main([f"--out={tmp_path}", "--arms=dua"]) == 2
    assert "dual" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_of_it(tmp_path, capsys):
    """Both parts run, nothing is left to do afterwards, and the report has every table and picture."""
    command = [f"--out={tmp_path}", "--smoke", "--part=AB"]
    arms = "--arms=frame,scratch-long,student,distilled"
    assert learning.main([*command, "--seeds=1", arms]) == 0
    before = (tmp_path / "results.jsonl").read_text()
    assert learning.main([*command, "--seeds=1", arms]) == 0
    assert (tmp_path / "results.jsonl").read_text() == before
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["results"] == len(before.splitlines())
    tables = (tmp_path / "tables.md").read_text()
    for words in ("from scratch for longer", "frozen features", "student with a teacher"):
        assert words in tables
    assert (tmp_path / "learning_labels.png").stat().st_size > 1000
    assert (tmp_path / "learning_pretraining.png").stat().st_size > 1000


def test_the_ladder_compares_each_arm_with_the_one_it_changes():
    """By hand: random-75-dual against random-75, dual against frame; and every seed is a dot of the picture."""
    rows = {}
    for arm, shift in (("frame", 0.0), ("dual", 0.1), ("random-75", 0.2), ("random-75-dual", 0.25)):
        for seed in range(3):
            rows[Job("pretrain", arm, seed)] = {"step_gflops": 1.0, "cpu_seconds": 50.0}
            rows[Job("probe", arm, seed)] = {"probe_last": 0.3 + shift + 0.01 * seed}
    table = learning_report.masks(SETTING, rows).splitlines()
    result = {cells[1]: cells[2:] for cells in (list(map(str.strip, line.split("|"))) for line in table[2:])}
    assert result["frame"][:2] == ["31.0 ± 2.5", ""]
    assert result["dual"][1] == "10.0 ± 0.0"
    assert result["random-75-dual"][1] == "5.0 ± 0.0"
    assert [cells[4] for cells in result.values()] == ["", "frame", "frame", "random-75"]
    image = learning_report.draw_dots("", ("probe",), [learning_report.Dots("frame", [[0.1, 0.9]])])
    dots = np.argwhere((np.asarray(image) == np.array([0x1F, 0x5F, 0xBF])).all(axis=-1))
    assert dots[:, 1].max() - dots[:, 1].min() > 300
