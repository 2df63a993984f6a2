"""One host of a small job, for tests: the real step, loop, checkpoints and signals, around a toy method.

    python pod_host.py WORKDIR STEPS SECONDS_A_STEP SECONDS_LATE

The job is in the environment, as for `vmae train`; tests/train is on PYTHONPATH. With FAILING_SAVE=N the N-th save
fails on process 1 alone, at FAILING_WHERE (`failing`), and training goes on. Process 0
writes rows to WORKDIR/rows.jsonl; the others come later than it to where a save clears its way.
"""

import errno
import itertools
import json
import os
import pathlib
import sys
import time

import jax
import orbax.checkpoint as ocp
from toy_method import spec_of, toy, toy_batch, toy_tx

from vmae_jax.io import aside, replicas, store
from vmae_jax.io.checkpoint import Checkpoints
from vmae_jax.io.saving import Tolerant
from vmae_jax.io.writers import Writers
from vmae_jax.runtime import distributed
from vmae_jax.runtime.preemption import Preemption
from vmae_jax.runtime.watchdog import Watchdog, watched
from vmae_jax.train import loop, sharding
from vmae_jax.train.device import host_rows, to_device
from vmae_jax.train.rows import Work
from vmae_jax.train.state import make_init
from vmae_jax.train.step import compile_step, make_step

CLIPS = 16


class Batches:
    """The batch at a position, this host's rows of it."""

    wait_seconds = 0.0

    def __init__(self, mesh, start, pause, dog):
        self.place, self.at, self.pause, self.dog = sharding.batch_sharding(mesh), start, pause, dog

    def __iter__(self):
        return self

    def __next__(self):
        with self.dog.phase("data"):
            time.sleep(self.pause)
        rows = host_rows(self.place, CLIPS)
        batch = {name: array[rows] for name, array in toy_batch(CLIPS, seed=self.at).items()}
        self.at += 1
        return to_device(batch, self.place, CLIPS)

    def faults(self):
        return []


class Rows:
    """Rows in a file, which process 0 has."""

    def __init__(self, file):
        self.file = file

    def write(self, row):
        if self.file is not None:
            print(json.dumps(row), file=self.file, flush=True)

    def flush(self):
        pass

    def spent(self):
        return {}


def late(seconds: float):
    """All processes but the first look so much later for steps that are in the way of a save."""
    on_time = aside.move_aside

    def move_aside(*args):
        if jax.process_index():
            time.sleep(seconds)
        return on_time(*args)

    aside.move_aside = move_aside


class Full:
    """What is written in the background, on a disk that is full."""

    def result(self, timeout=None):
        time.sleep(1.0)
        raise OSError(errno.ENOSPC, "No space left on device")


def failing(number: int, where: str):
    """The save of that number fails on process 1: while it is "written", or at the "probe" before anything is."""
    calls = itertools.count(1)

    def due():
        return next(calls) == number and jax.process_index() == 1

    started, probed = ocp.PyTreeCheckpointHandler.async_save, store.probe

    async def async_save(*args, **kwargs):
        futures = await started(*args, **kwargs)
        return [*futures, Full()] if due() else futures

    def probe(path):
        if due():
            raise OSError(errno.ENOSPC, "No space left on device")
        probed(path)

    if where == "written":
        ocp.PyTreeCheckpointHandler.async_save = async_save
    else:
        store.probe = probe


def main(folder: pathlib.Path, steps: int, pause: float, lateness: float) -> int:
    late(lateness)
    distributed.start()
    method, spec = toy(), spec_of(toy_batch(CLIPS))
    tx = toy_tx(method, spec)
    mesh = sharding.make_mesh()
    init = make_init(method, tx, ema=True)
    saver = Checkpoints(folder / "checkpoints")
    number = int(os.environ.get("FAILING_SAVE", "0"))
    if number:
        failing(number, os.environ["FAILING_WHERE"])
    start, skipped = 0, []
    if saver.latest() is None:
        state, placement = sharding.create(init, jax.random.key(0), spec, mesh)
    else:
        boxed = sharding.abstract(init, spec)
        placement = sharding.shardings(boxed, mesh)
        target = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            sharding.unbox(boxed), placement.shardings,
        )  # fmt: skip
        state, _, start, skipped = saver.restore(target)
    compiled = compile_step(make_step(method, tx, ema_decay=0.9), placement, mesh, spec)
    rows = (folder / "rows.jsonl").open("a") if jax.process_index() == 0 else None

    with Watchdog() as dog, Preemption() as preemption, distributed.naming_lost_peers(), dog.phase("compile"):
        print("ready", flush=True)
        used = Tolerant(saver, Writers([])) if number else saver
        run = loop.Run(
            step=compiled, batches=Batches(mesh, start, pause, dog), saver=used, journal=Rows(rows),
            work=Work(CLIPS, CLIPS), log_every=1, save_every=3, hooks=[loop.Hook("comparison", 4, replicas.compare)],
            preempted=preemption.requested, show=False,
        )  # fmt: skip
        _, outcome = loop.train(state, start=start, stop=steps, run=watched(run, dog))
    saver.close()
    ended = {"status": outcome.status, "step": outcome.step, "start": start, "skipped": [step for step, _ in skipped]}
    print(json.dumps(ended), flush=True)
    return 75 if outcome.status == "preempted" else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
