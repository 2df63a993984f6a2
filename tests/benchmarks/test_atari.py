"""The Atari benchmark: its protocol, its jobs and its games, by hand; and a game of ale-py where it is installed."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import atari, atari_arms, atari_networks, atari_play, atari_probe, atari_report, atari_runs
from benchmarks.atari import SETTINGS
from benchmarks.atari_arms import ARMS, BASELINES, SALT, TEACHER, UNTRAINED, Setting
from benchmarks.atari_play import SPLITS, Play, Table
from benchmarks.atari_probe import Patience, Probing, Set
from benchmarks.atari_runs import Job
from benchmarks.atari_variables import (
    ADDRESSES,
    PUBLISHED,
    PUBLISHED_VARIABLES,
    ROMS,
    across_categories,
    by_category,
    categories,
    labels,
)
from vmae_jax.spec import build

SETTING = Setting()


@pytest.mark.parametrize("game", PUBLISHED_VARIABLES)
def test_categories_average_to_the_published_games(game):
    """The published F1 of a game is the mean of its categories' means; the majority's of Breakout is not."""
    for number, arm in enumerate(BASELINES):
        found = across_categories({name: row[number] for name, row in PUBLISHED_VARIABLES[game].items()})
        if (game, arm) != ("breakout", "majority"):
            assert found == pytest.approx(PUBLISHED[game][arm], abs=0.01), arm


def test_variables():
    assert set(PUBLISHED) == set(ADDRESSES) == set(ROMS) == {*SETTING.games, SETTING.search}
    assert SETTING.search not in SETTING.games
    assert len(ADDRESSES["breakout"]) == 35
    assert ADDRESSES["freeway"]["enemy_car_x_9"] == 117
    assert categories("player_score") == ("score, clock, lives",)
    assert categories("ball_x") == ("small objects",)
    assert categories("enemy_y") == ("other objects",)
    assert by_category({"ball_x": 0.2, "ball_y": 0.4, "score": 1.0}) == pytest.approx(
        {"small objects": 0.3, "score, clock, lives": 1.0}
    )
    memory = np.arange(256, dtype=np.uint8).reshape(2, 128)
    assert labels("pong", memory, ["ball_x"])["ball_x"].tolist() == [49, 177]


def test_variables_that_hardly_change_are_left_out():
    half, tenth = np.arange(10) % 2, np.arange(10) == 0
    assert atari_probe.entropy(half) == pytest.approx(np.log(2))
    assert atari_probe.informative({"half": half, "tenth": tenth.astype(int)}, 0.6) == ("half",)


def test_f1_and_accuracy():
    """By hand: class 0 has precision 1/2 and recall 1, class 1 1 and 1/2, class 5 is never found."""
    truth, found = np.array([0, 1, 1, 5]), np.array([0, 1, 0, 7])
    assert atari_probe.f1(truth, found) == pytest.approx((1 * 2 / 3 + 2 * 2 / 3 + 0) / 4)
    assert atari_probe.accuracy(truth, found) == 0.5
    most = atari_probe.majority(np.array([[3], [3], [4]]), np.zeros((2, 1), int))
    assert most.tolist() == [[3], [3]]


def test_episodes_are_drawn_before_their_frames():
    episode = np.repeat([0, 4], [1, 99])
    found = atari_probe.draws(episode, 2000, np.random.default_rng(0))
    assert 0.45 < (found == 0).mean() < 0.55
    assert found.max() == 99
    assert len(set(found.tolist())) == 100


def test_patience():
    """The first probe never becomes better after its first epoch, the second always does."""
    patience = Patience(Probing(), 2)
    for epoch in range(16):
        assert patience.learning.tolist() == [True, True]
        patience.see(np.array([0.5, 0.1 + 0.01 * epoch]))
        slower = (epoch >= 6) + (epoch >= 12)
        assert patience.rate == pytest.approx([max(3e-4 * 0.2**slower, 1e-5), 3e-4])
    assert patience.learning.tolist() == [False, True]


def test_a_probe_reads_what_is_in_the_features():
    """One variable is in the features, the other is not."""
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, (512, 2))
    features = np.eye(3, dtype=np.float32)[truth[:, 0]]
    data = Set(features, truth, np.arange(512) // 64)
    found = atari_probe.probe(["there", "hidden"], data, data, data, seed=0, probing=Probing(rate=0.05, epochs=12))
    assert found["f1"]["there"] > 0.99
    assert found["f1"]["hidden"] < 0.6


class Console:
    """A game whose screens count its frames; a life is lost every 24 of them, the game after three."""

    def __init__(self, game="pong", seed=0, sticky=0.0, actions=("NOOP", "FIRE", "RIGHT")):
        self.actions, self.done = actions, []
        self.reset()

    def reset(self):
        self.count = 0

    def act(self, action):
        self.done.append(action)
        self.count += 1

    def over(self):
        return self.lives() == 0

    def lives(self):
        return 3 - min(3, self.count // 24)

    def screen(self):
        return np.full((210, 160, 3), 3 * self.count, np.uint8)

    def memory(self):
        return np.full(128, self.count, np.uint8)


def test_episodes_are_lives():
    console = Console()
    found = list(atari_play.episodes(console, 30, seed=1))
    assert sum(len(one.frames) for one in found) == 30
    assert len(found) > 3
    for one in found:
        counts = [memory[0] for memory in one.memory]
        assert [frame[0, 0, 0] for frame in one.frames] == [3 * count for count in counts]  # brighter is later
        assert set(np.diff(counts)) <= {4}
        assert len({int(count) // 24 for count in counts}) == 1  # the frame in which a life is lost begins another
    assert set(console.done) == {0, 1, 2}
    quiet = Console(actions=("NOOP", "UP"))
    list(atari_play.episodes(quiet, 1, seed=1))
    assert quiet.done[-4:] == [1] * 4  # never the first action, and no fire


def test_splits_and_duplicates():
    assert np.bincount(atari_play.split(10)).tolist() == [7, 1, 2]
    with pytest.raises(ValueError, match="too few"):
        atari_play.split(3)
    table = Table(
        memory=np.zeros((5, 128), np.uint8),
        episode=np.array([0, 0, 1, 2, 2]),
        digest=np.array([1, 2, 3, 2, 9], np.uint64),
        names=("a", "b", "c"),
        part=np.array([0, 1, 2]),
    )
    assert [table.rows(name).tolist() for name in SPLITS] == [[0, 1], [2], [4]]


def test_videos_show_what_was_played(tmp_path):
    """What is read of the videos is the gray of the screens, in the order of the table."""
    play = Play(frames=120, players=2, shortest=3)
    table = atari_play.record("pong", play, 0, tmp_path / "game", console=Console)
    again = atari_play.record("pong", play, 0, tmp_path / "game", console=None)
    jax.tree.map(np.testing.assert_array_equal, vars(again), vars(table))
    videos = {name: str(tmp_path / "game" / "videos" / name) for name in SPLITS}
    pictures = atari_networks.frames(table, videos)
    assert pictures.shape == (len(table.episode), 210, 160)
    wrong = np.abs(pictures[:, 100, 80].astype(int) - 3 * table.memory[:, 0].astype(int))
    assert wrong.max() <= 2
    (tmp_path / "game" / "videos" / "test" / f"{table.names[-1]}.mp4").unlink()
    with pytest.raises(ValueError, match="1 episodes are missing"):
        atari_networks.frames(table, videos)


def test_gray_is_luma():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    assert atari_play.gray(colours).tolist() == [[76, 150, 29, 255]]


def test_the_published_network():
    """The authors flatten 64 x 9 x 6 numbers; operations of the four convolutions and the layer, by hand."""
    params = jax.eval_shape(atari_networks.initial, jax.random.key(0))
    assert params["out"].shape == (64 * 9 * 6, 256)
    pictures = jax.ShapeDtypeStruct((2, 210, 160), np.uint8)
    assert jax.eval_shape(atari_networks.outputs, params, pictures).shape == (2, 256)
    by_hand = 51 * 39 * 32 * 64 + 24 * 18 * 64 * 512 + 11 * 8 * 128 * 1024 + 9 * 6 * 64 * 1152 + 3456 * 256
    assert atari_networks.flops() == 2 * by_hand


def test_clips_end_with_their_frame():
    """The first frames of an episode are repeated; no clip reaches into another episode."""

    class Method:
        @staticmethod
        def features(params, batch):
            return batch["video"][:, :, 0, 0, 0]

    pictures = jnp.arange(5, dtype=jnp.uint8)[:, None, None, None]
    found = atari_runs.clip_features(Method, None, np.asarray(pictures), np.array([0, 0, 0, 7, 7]), 3, rows=4)
    assert found.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [3, 3, 3], [3, 3, 4]]


def test_features_are_standardized_by_the_training_frames():
    features = np.array([[1.0, 5.0], [3.0, 5.0], [7.0, 5.0]])
    assert atari_runs.standardized(features, np.array([0, 1])).tolist() == [[-1, 0], [1, 0], [5, 0]]


@pytest.mark.parametrize("arm", [*ARMS, UNTRAINED])
def test_every_arm_builds(arm, monkeypatch):
    """Its steps are those that its FLOPs allow, and its clips fit its model."""
    monkeypatch.setattr(atari_arms, "experiment", lambda config: type("Made", (), {"model_flops": lambda self: 4e9})())
    config = atari_arms.pretraining(SETTING, arm, 1e-3, 0, records="somewhere", teacher="elsewhere")
    assert config.train.length.steps == 5000
    method, loader = build(config.method), build(config.data)
    assert loader.spec()["video"].shape[1:4] == ((1 if arm in ("mae", "siammae") else 4), 160, 160)
    assert loader.spec()["video"].shape[0] == 32 * method.group
    assert (method.frozen is not None) == (arm == SALT)


def test_jobs_come_after_what_they_need():
    rows = {}

    def order(part, **options):
        yield from atari_runs.jobs(SETTING, part, 2, rows, **options)

    assert [(job.stage, job.arm) for job in order("yardstick", games=["pong"])][:4] == [
        ("play", ""), *(("probe", arm) for arm in BASELINES)
    ]  # fmt: skip
    assert {job.arm for job in order("methods")} == {"", UNTRAINED}  # no rate is chosen yet
    while job := next((job for job in order("search") if job not in rows), None):
        if job.arm == SALT:
            assert atari_runs.chosen_rate(SETTING, TEACHER, rows) == 1e-3
        if job.stage == "probe":
            assert Job("pretrain", *(getattr(job, name) for name in ("game", "arm", "seed", "rate"))) in rows
        rows[job] = {"f1": 0.5 - abs(job.rate - 1e-3)}
    found = list(order("methods", arms=[SALT], games=["pong"]))
    assert [job.arm for job in found[:5]] == ["", TEACHER, TEACHER, SALT, SALT]
    assert {job.rate for job in found if job.arm} == {1e-3}
    assert {job.game for job in found} == {"pong"}


def test_the_report_has_both_whose(tmp_path):
    rows = {
        Job("probe", "pong", "random", seed): {
            "f1": 0.15 + 0.01 * seed, "accuracy": 0.2, "f1_by_category": {"agent": 0.1},
            "accuracy_by_category": {"agent": 0.2}, "f1_by_variable": {"ball_x": 0.125},
        }
        for seed in range(3)
    }  # fmt: skip
    text = atari_report.tables(SETTING, rows)
    assert "| random | published | 17 | 51 | 49 | 68 |" in text
    assert "| random | here | 16.0 ± 2.5 | not run | not run | not run |" in text
    assert "| pong | ball_x | 13 | - | 15 | 12 | 91 | - |" in text
    (picture,) = atari_report.pictures(SETTING, rows, tmp_path)
    assert picture.stat().st_size > 1000


def test_mistakes_are_reported(tmp_path, capsys, monkeypatch):
    assert atari.main([f"--out={tmp_path}", "--arms=vjep"]) == 2
    assert "vjepa" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ale_py", None)
    assert atari.main([f"--out={tmp_path}", "--setting=smoke", "--arms=majority"]) == 2
    assert "vmae-jax[atari]" in capsys.readouterr().err


def test_a_game_of_the_emulator():
    pytest.importorskip("ale_py")
    one, other = (list(atari_play.episodes(atari_play.emulator("pong", 7, 0.0), 20, seed=7)) for _ in range(2))
    assert [len(episode.frames) for episode in one] == [20]
    np.testing.assert_array_equal(one[0].frames, other[0].frames)
    assert one[0].frames[0].shape == (210, 160, 3)
    values = labels("pong", np.stack(one[0].memory))
    assert len(np.unique(values["player_y"])) > 1
    assert set(values["player_x"]) == {values["player_x"][0]}  # the bat moves up and down alone


@pytest.mark.slow
def test_the_whole_of_it(tmp_path, capsys):
    """Every part runs, small, and nothing is left to do afterwards."""
    pytest.importorskip("ale_py")
    command = [f"--out={tmp_path}", "--setting=smoke", "--seeds=1"]
    for part, arms in (("yardstick", "majority,random,supervised"), ("search", "mae"), ("methods", "mae,untrained")):
        assert atari.main([*command, f"--part={part}", f"--arms={arms}"]) == 0
    before = (tmp_path / "results.jsonl").read_text()
    assert len(before.splitlines()) == 4 + 3 + 3
    assert atari.main([*command, "--arms=majority,random,supervised"]) == 0
    assert (tmp_path / "results.jsonl").read_text() == before
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["status"] == "ok"
    assert SETTINGS["smoke"].games == ("pong",)
