"""The jobs of the Atari benchmark: what there is to run, in which order, and running one of them.

A job is small (a game played, a training or a probe) and its result is one line of `results.jsonl`. A pre-training that
was interrupted goes on from its checkpoint, the supervised network after its last whole epoch.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import atari_networks as networks
from benchmarks.atari_arms import ARMS, BASELINES, MAJORITY, RANDOM, SALT, SUPERVISED, TEACHER, UNTRAINED, Setting
from benchmarks.atari_arms import pretraining as config_of
from benchmarks.atari_play import SPLITS, Play, Table, gray, prepared, record
from benchmarks.atari_probe import Set, informative, majority, probe, scores
from benchmarks.atari_variables import across_categories, by_category, labels
from benchmarks.learning_runs import Interrupted
from vmae_jax.commands import train
from vmae_jax.commands.experiment import experiment
from vmae_jax.commands.restore import restore
from vmae_jax.data.scaling import shown, whole
from vmae_jax.io.paths import Workdir
from vmae_jax.runtime import watchdog
from vmae_jax.train import sharding

__all__ = ["PARTS", "Job", "Rows", "chosen_rate", "execute", "jobs"]

PARTS = ("yardstick", "search", "methods")
Rows = Mapping["Job", Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Job:
    """One line of the results.

    Attributes:
      stage: "play", "pretrain" or "probe".
      arm: of ARMS, BASELINES or UNTRAINED; empty for "play".
      rate: of the pre-training; 0 elsewhere.
    """

    stage: str
    game: str
    arm: str
    seed: int
    rate: float = 0.0

    @property
    def name(self) -> str:
        """Of its folder."""
        words = (self.stage, self.game, self.arm, f"seed{self.seed}", f"{self.rate:g}" if self.rate else "")
        return "-".join(filter(None, words))


def jobs(
    setting: Setting, part: str, seeds: int, rows: Rows, *, games: Sequence[str] = (), arms: Sequence[str] = ()
) -> Iterator[Job]:
    """Every job of a part, in order; arms whose rate is not chosen yet come once it is.

    Args:
      games, arms: only these; empty for all.
    """
    wanted = lambda chosen, names: [name for name in names if not chosen or name in chosen]  # noqa: E731
    if part == "search":
        yield Job("play", setting.search, "", 0)
        for arm in _with_teacher(wanted(arms, ARMS)):
            for rate in setting.rates:
                yield from _trained(setting, setting.search, arm, 0, rate, rows)
        return
    for seed in range(seeds):
        for game in wanted(games, setting.games):
            if part == "yardstick":
                yield Job("play", game, "", seed)
                yield from (Job("probe", game, arm, seed) for arm in wanted(arms, BASELINES))
                continue
            chosen = [arm for arm in wanted(arms, (UNTRAINED, *ARMS)) if _ready(setting, arm, rows)]
            if chosen:
                yield Job("play", game, "", seed)
            for arm in _with_teacher(chosen):
                yield from _trained(setting, game, arm, seed, chosen_rate(setting, arm, rows) or 0.0, rows)


def _with_teacher(arms: Sequence[str]) -> list[str]:
    return [TEACHER, *arms] if SALT in arms and TEACHER not in arms else list(arms)


def _ready(setting: Setting, arm: str, rows: Rows) -> bool:
    needed = (TEACHER, SALT) if arm == SALT else (arm,)
    return arm == UNTRAINED or all(chosen_rate(setting, one, rows) is not None for one in needed)


def _trained(setting: Setting, game: str, arm: str, seed: int, rate: float, rows: Rows) -> Iterator[Job]:
    if arm == SALT and chosen_rate(setting, TEACHER, rows) is None:
        return
    if arm != UNTRAINED:
        yield Job("pretrain", game, arm, seed, rate)
    yield Job("probe", game, arm, seed, rate)


def chosen_rate(setting: Setting, arm: str, rows: Rows) -> float | None:
    """Return the rate of the best F1 on the search game (the smallest of equals); None before all have run."""
    found = {rate: rows.get(Job("probe", setting.search, arm, 0, rate)) for rate in setting.rates}
    if not all(found.values()):
        return None
    return max(sorted(found), key=lambda rate: found[rate]["f1"])  # type: ignore[index]


def execute(job: Job, setting: Setting, out: pathlib.Path, rows: Rows, *, until: float) -> dict[str, Any]:
    """Run a job and return what its line has beside the job.

    Args:
      until: of `time.monotonic`, when a supervised training stops after its epoch.

    Raises:
      Interrupted: if the process was asked to stop, or the time is over.
    """
    began, cpu = time.perf_counter(), time.process_time()
    if job.stage == "play":
        found = _play(job, setting, out)
    elif job.stage == "pretrain":
        found = _pretrain(job, setting, out, rows)
    else:
        found = _probe(job, setting, out, until)
    spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in (found | spent).items()}


def _place(out: pathlib.Path, game: str, seed: int) -> pathlib.Path:
    return out / "games" / f"{game}-seed{seed}"


def _play(job: Job, setting: Setting, out: pathlib.Path) -> dict[str, Any]:
    place = _place(out, job.game, job.seed)
    table = record(job.game, setting.play, job.seed, place)
    prepared(place)
    names = informative(labels(job.game, table.memory), setting.probing.threshold)
    return {"episodes": len(table.names), "variables": list(names)} | {s: len(table.rows(s)) for s in SPLITS}


def _pretrain(job: Job, setting: Setting, out: pathlib.Path, rows: Rows) -> dict[str, Any]:
    records, teacher = prepared(_place(out, job.game, job.seed))["train"], ""
    if job.arm == SALT:
        rate = chosen_rate(setting, TEACHER, rows)
        assert rate is not None  # its job comes before
        teacher = str(out / "runs" / Job("pretrain", job.game, TEACHER, job.seed, rate).name)
    config = config_of(setting, job.arm, job.rate, job.seed, records=records, teacher=teacher)
    # No limits: on a machine that others use as well, a step may take long.
    workdir = Workdir(out / "runs" / job.name)
    outcome = train.run(config, workdir, progress=False, limits=dict.fromkeys(watchdog.LIMITS, 0.0))
    if outcome["status"] != "done":
        raise Interrupted
    step_flops = experiment(config).model_flops()
    return {"steps": config.train.length.steps, "pretraining_flops": step_flops * config.train.length.steps}


def _probe(job: Job, setting: Setting, out: pathlib.Path, until: float) -> dict[str, Any]:
    place = _place(out, job.game, job.seed)
    table = record(job.game, setting.play, job.seed, place)
    values = labels(job.game, table.memory)
    names = informative(values, setting.probing.threshold)
    truth = np.stack([values[name] for name in names], axis=1)
    parts = [table.rows(name) for name in SPLITS]
    if job.arm == MAJORITY:
        found = scores(names, truth[parts[2]], majority(truth[parts[0]], truth[parts[2]]))
    else:
        seen = _features(job, setting, out, place, table)
        if job.arm not in BASELINES:
            seen = standardized(seen, parts[0])
        sets = [Set(seen[rows], truth[rows], table.episode[rows]) for rows in parts]
        options: dict[str, Any] = {"seed": job.seed, "probing": setting.probing}
        if job.arm == SUPERVISED:
            options["probing"] = dataclasses.replace(setting.probing, epochs=setting.supervised_epochs)
            options |= {"epoch_frames": setting.supervised_frames, "saved": out / "runs" / job.name / "state.npz"}
            found = networks.supervised(names, *sets, **options, stop=lambda: time.monotonic() > until)
        else:
            found = probe(names, *sets, **options)
    if found is None:
        raise Interrupted
    return {
        "f1": across_categories(found["f1"]),
        "accuracy": across_categories(found["accuracy"]),
        "f1_by_category": by_category(found["f1"]),
        "accuracy_by_category": by_category(found["accuracy"]),
        "f1_by_variable": {name: round(value, 4) for name, value in found["f1"].items()},
        "epochs": found.get("epochs", 0),
    }


def _features(job: Job, setting: Setting, out: pathlib.Path, place: pathlib.Path, table: Table) -> np.ndarray:
    """What the probe reads of every frame; of the supervised network, the gray pictures themselves."""
    records = prepared(place)
    if job.arm in BASELINES:
        pictures = _gray(str(place), setting.play)
        if job.arm == RANDOM:
            return networks.features(networks.initial(jax.random.key(job.seed)), pictures)
        return pictures
    if job.arm == UNTRAINED:
        made = experiment(config_of(setting, UNTRAINED, 1e-3, job.seed, records=records["train"]))
        init = lambda key, batch: made.method.init(key, batch)[0]  # noqa: E731
        params, _ = sharding.create(init, jax.random.key(job.seed), made.batch_spec, made.mesh)
    else:
        trained = restore(str(out / "runs" / Job("pretrain", job.game, job.arm, job.seed, job.rate).name))
        made, params = trained.made, jax.device_put(trained.params)
    side, frames = setting.model["resolution"], made.batch_spec["video"].shape[1]
    view = whole(1, 1)._replace(rows=side, columns=side)
    show = lambda video: shown(video, view._replace(height=video.shape[1], width=video.shape[2]))  # noqa: E731
    return clip_features(made.method, params, networks.frames(table, records, show), table.episode, frames)


def standardized(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return features whose mean over `rows` is 0 and whose deviation is 1; constant ones become 0.

    The steps of a probe have one size for all, so that features that hardly vary would be read more slowly.
    """
    mean, deviation = features[rows].mean(0), features[rows].std(0)
    return (features - mean) / np.where(deviation > 0, deviation, 1)


@functools.lru_cache(1)
def _gray(place: str, play: Play) -> np.ndarray:
    path = pathlib.Path(place)
    game, _, seed = path.name.rpartition("-seed")
    return networks.frames(record(game, play, int(seed), path), prepared(path), gray)


def clip_features(
    method: Any, params: Any, pictures: np.ndarray, episode: np.ndarray, frames: int, rows: int = 64
) -> np.ndarray:
    """Return the features of the clip that ends with each frame; before an episode's first frame is that frame again.

    Args:
      pictures: uint8 [n h w 3].
      episode: of each frame, ascending.
      frames: of a clip.
    """
    compute = jax.jit(lambda params, video: method.features(params, {"video": video}))
    first = np.searchsorted(episode, episode)
    found = []
    for start in range(0, len(pictures), rows):
        last = np.minimum(np.arange(start, start + rows), len(pictures) - 1)
        clip = np.maximum(last[:, None] - np.arange(frames)[::-1], first[last][:, None])
        found.append(np.asarray(compute(params, pictures[clip]), np.float32))
    return np.concatenate(found)[: len(pictures)]
