"""Everything that goes wrong in a night, many times over, and then a comparison with a quiet run.

    python benchmarks/chaos.py --rounds=50 --seed=0 --out=chaos [--streams]

A small model trains on videos in a folder while, at random moments, its process is killed, asked
to stop or frozen, its disk fills up or becomes read-only, a file of its newest checkpoint is
truncated, changed or deleted, or videos become unreadable. After each round the same command starts
again. In the end the losses of all steps must be those of a run that nothing happened to, bit for
bit, each step there once, and every checkpoint whole. The last line of output is one JSON object.

A damaged file that no reader needs proves nothing, so it is put back and another one is damaged,
until reading the checkpoint notices. Damage that is read and not noticed is a problem.

With --streams the training reads a mixture of pictures and of videos that have sound, text, readings, boxes, planes and
embeddings (`chaos_streams.py`); what is beside videos becomes unreadable as well, and what was read of every stream is
compared like the losses.

Full and read-only disks need root (a tmpfs is mounted); without it those rounds are left out, which
is reported. The processes are forks of this one, which has imported everything and started nothing:
that saves most of the time, and a fork dies of SIGKILL like any other process.
"""

import argparse
import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # configs name what a module of its folder registers

import chaos_streams  # noqa: E402

VIDEOS, EVERY = 16, 4  # videos in the folder; steps between checkpoints
LIMIT = 900.0  # seconds of any one attempt: busy machines are slow
KINDS = (
    "kill", "sigterm", "full disk", "read-only disk", "truncated", "corrupt data", "deleted", "flipped", "stalled"
)  # fmt: skip
# What becomes of a video: every one of these is refused by a reader.
SPOILED: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    lambda chance, content: chance.randbytes(len(content)),
    lambda chance, content: bytes(len(content)),
    lambda chance, content: content[: len(content) // 2],
    lambda chance, content: b"",
)
RESUMES = {0, 75, 134, 137, 143}


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=7200.0, help="after which no round begins (default 7200)")
    parser.add_argument("--steps-a-round", type=int, default=8, help="how far a round may get (default 8)")
    parser.add_argument("--streams", action="store_true", help="train on videos with every stream, and pictures")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a new folder")
    args = parser.parse_args()
    prepare()
    with disk(args.out.resolve()) as mounted:
        chaos = Chaos(args.out.resolve(), rounds=args.rounds, seed=args.seed, reach=args.steps_a_round, mounted=mounted)
        chaos.limit, chaos.streams = args.seconds, args.streams
        result = chaos.run()
    print(json.dumps(result), flush=True)
    return 0 if result["equal"] and not result["problems"] else 1


def prepare() -> None:
    """Imports what training needs, so that forks have it; starts no backend and no thread."""
    os.environ |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    # Compile fast: no optimization, and the emitters of fused operations that take less than half the time.
    flags = ("force_host_platform_device_count=1", "backend_optimization_level=0", "cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(f"--xla_{flag}" for flag in flags)
    for name in ("tensorflow", "orbax.checkpoint", "vmae_jax.cli", "vmae_jax.commands.train", "vmae_jax.data.feed"):
        importlib.import_module(name)


@contextlib.contextmanager
def disk(out: pathlib.Path) -> Iterator[bool]:
    """A disk of its own at `out`, where this may mount one."""
    out.mkdir(parents=True)
    mounted = os.geteuid() == 0 and _mount("-t", "tmpfs", "-o", "size=3g", "chaos", str(out))
    try:
        yield mounted
    finally:
        if mounted:
            kept = out.with_name(out.name + ".kept")
            shutil.copytree(out, kept, dirs_exist_ok=True)
            subprocess.run(["umount", "-l", str(out)], check=False)
            shutil.rmtree(out)
            kept.rename(out)


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], check=False, stderr=subprocess.DEVNULL).returncode == 0


@dataclasses.dataclass
class Chaos:
    """The rounds; `run` does them all."""

    out: pathlib.Path
    rounds: int
    seed: int
    reach: int
    mounted: bool
    limit: float = 7200.0
    streams: bool = False

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.steps = (self.rounds + 1) * self.reach
        self.work, self.videos = self.out / "disturbed", self.out / "videos"
        self.done: dict[str, int] = {}
        self.statuses: dict[str, int] = {}
        self.problems: list[str] = []
        self.harmed: set[tuple[int, int]] = set()  # checkpoints: step and inode of their folder
        self.noticed: dict[str, int] = {}  # how reading a damaged checkpoint ended
        self.unneeded = 0  # files that were damaged and that no reader needs
        self.spoiled: set[str] = set()  # names of videos

    def run(self) -> dict[str, Any]:
        began = time.monotonic()
        chaos_streams.make_data(self.videos) if self.streams else make_videos(self.videos)
        quiet = self.out / "quiet"
        status = self.wait(self.start(quiet))
        if status != 0:
            raise SystemExit(f"the undisturbed run ended with {status}: {self.log().read_text()[-3000:]}")
        report(f"undisturbed: {self.steps} steps in {time.monotonic() - began:.0f} s")
        for number, kind in enumerate(self.plan(), 1):
            if time.monotonic() - began > self.limit:
                report(f"{self.limit:g} s are over: {number - 1} of {self.rounds} rounds were done")
                break
            before = self.reached()
            status = getattr(self, "do_" + kind.replace(" ", "_").replace("-", "_"))()
            self.done[kind] = self.done.get(kind, 0) + 1
            self.statuses[f"{kind}: {status}"] = self.statuses.get(f"{kind}: {status}", 0) + 1
            if status not in RESUMES | ({2} if kind == "full disk" else set()):  # 2: refused at the start
                self.problems.append(f"round {number}, {kind}: status {status}")
            self.check(f"round {number}, {kind}")
            report(f"round {number} of {self.rounds}: {kind}, step {before} to {self.reached()}, status {status}")
        status = self.wait(self.start(self.work))
        if status != 0:
            self.problems.append(f"the last start ended with {status}")
        return self.compare(quiet) | {"seconds": round(time.monotonic() - began)}

    def plan(self) -> list[str]:
        """The kinds of all rounds: each equally often, in a random order."""
        kinds = [kind for kind in KINDS if self.mounted or "disk" not in kind]
        plan = [kinds[i % len(kinds)] for i in range(self.rounds)]
        self.random.shuffle(plan)
        return plan

    # What can happen. Each starts the command, disturbs it, and returns how it ended.

    def do_kill(self) -> int:
        pid = self.begun()
        os.kill(pid, signal.SIGKILL)
        return self.wait(pid)

    def do_sigterm(self) -> int:
        pid = self.begun()
        os.kill(pid, signal.SIGTERM)
        return self.wait(pid)

    def do_stalled(self) -> int:
        """Frozen for longer than the limit of a step: the watchdog ends it, or it goes on and is asked to stop."""
        pid = self.begun("--limit=step=2", "--limit=data=2")
        os.kill(pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(pid, signal.SIGCONT)
        time.sleep(1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        return self.wait(pid)

    def do_full_disk(self) -> int:
        """No room from a random moment on, after the start: that refuses a disk without room."""
        pid = self.begun(further=1)
        used = shutil.disk_usage(self.out).used + self.random.randrange(1 << 17)
        _mount("-o", f"remount,size={used}", str(self.out))
        try:
            return self.wait(pid)
        finally:
            _mount("-o", "remount,size=3g", str(self.out))

    def do_read_only_disk(self) -> int:
        """Checkpoints can no longer be written from a random moment on."""
        pid = self.begun()
        folder = str(self.work / "checkpoints")
        if not (self.work / "checkpoints").exists():
            os.kill(pid, signal.SIGKILL)
            return self.wait(pid)
        _mount("--bind", folder, folder)
        _mount("-o", "remount,ro,bind", folder)
        try:
            return self.wait(pid)
        finally:
            subprocess.run(["umount", folder], check=False)

    def do_truncated(self) -> int:
        return self.damage(lambda file: os.truncate(file, self.random.randrange(max(1, file.stat().st_size))))

    def do_deleted(self) -> int:
        return self.damage(pathlib.Path.unlink)

    def do_flipped(self) -> int:
        """One byte of a file is another one."""

        def flip(file: pathlib.Path) -> None:
            content = bytearray(file.read_bytes())
            if content:
                content[self.random.randrange(len(content))] ^= self.random.randrange(1, 256)
                file.write_bytes(content)

        return self.damage(flip)

    def damage(self, act: Callable[[pathlib.Path], None]) -> int:
        """A kill, and then a file of the newest good checkpoint that readers need; one before it stays whole."""
        pid = self.begun()
        end = time.monotonic() + LIMIT  # saves end later than the rows of their steps are written
        while len(self.good()) < 2 and not ended(pid) and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        status = self.wait(pid)
        if len(self.good()) > 1:
            self.damage_what_is_read(self.good()[-1], act)
        return status

    def damage_what_is_read(self, step: int, act: Callable[[pathlib.Path], None]) -> None:
        folder = self.work / "checkpoints" / str(step)
        files, before = sorted(file for file in folder.rglob("*") if file.is_file()), self.prints(step)
        for file in self.random.sample(files, len(files)):
            content = file.read_bytes()
            act(file)
            found = self.prints(step)
            if found == before:
                file.write_bytes(content)
                self.unneeded += 1
                continue
            if found not in ("damaged", "not listed"):
                self.problems.append(f"checkpoint {step}: {file.name} was damaged, and other values were read")
            self.harmed.add((step, folder.stat().st_ino))
            self.noticed[found] = self.noticed.get(found, 0) + 1
            return
        self.problems.append(f"checkpoint {step}: no reader needs any of its files")

    def prints(self, step: int) -> str:
        """What a reader finds in a checkpoint: its fingerprints, "damaged", or "not listed". Read in a fork."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(reading)
                with os.fdopen(writing, "w") as file:
                    file.write(prints_of(self.work / "checkpoints", step))
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading) as file:
            found = file.read()
        if self.wait(pid) != 0:
            self.problems.append(f"checkpoint {step}: the reader died")
        return found

    def do_corrupt_data(self) -> int:
        """Two videos cannot be read; when they are whole again, the run begins again where they were."""
        listed, kept = self.good(), self.out / "before"
        if listed:
            shutil.copytree(self.work / "checkpoints" / str(listed[-1]), kept)
        if self.streams:
            chosen = [self.random.choice(files) for files in chaos_streams.spoilable(self.videos)]
        else:
            chosen = self.random.sample(sorted(self.videos.iterdir()), 2)
        whole = {file: file.read_bytes() for file in chosen}
        for file in whole:
            file.write_bytes(self.random.choice(SPOILED)(self.random, whole[file]))
        self.spoiled |= {chaos_streams.key_of(file) if self.streams else file.name for file in whole}
        pid = self.begun(further=EVERY)
        os.kill(pid, signal.SIGTERM)
        status = self.wait(pid)
        for file, content in whole.items():
            file.write_bytes(content)
        for step in self.listed():
            if not listed or step > listed[-1]:
                shutil.rmtree(self.work / "checkpoints" / str(step))
        if listed and not (self.work / "checkpoints" / str(listed[-1])).exists():
            shutil.copytree(kept, self.work / "checkpoints" / str(listed[-1]))
        shutil.rmtree(kept, ignore_errors=True)
        return status

    # The process.

    def begun(self, *more: str, further: int = 0) -> int:
        """A process at a random moment of its life: starting, or some steps further."""
        began = time.time()
        pid = self.start(self.work, *more)
        if not further and self.random.random() < 0.25:
            time.sleep(self.random.uniform(0.0, 3.0))
            return pid
        first = max(self.listed(), default=0)
        wanted = min(first + max(further, self.random.randrange(0, self.reach)), self.steps - 1)
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and not ended(pid) and self.reached(since=began) < wanted:
            time.sleep(0.02)
        time.sleep(self.random.uniform(0.0, 0.2))
        return pid

    def start(self, workdir: pathlib.Path, *more: str) -> int:
        data = ["--config=configs/quickstart.py:smoke", f"--config.data.source.path={self.videos}"]
        if self.streams:
            data = chaos_streams.options(self.videos)
        arguments = [
            "train", *data, f"--workdir={workdir}", "--quiet",
            f"--config.train.length.steps={self.steps}", f"--config.checkpoint.every.steps={EVERY}",
            "--config.train.pictures_every=none", "--config.eval.data=none", "--config.data.max_bad_fraction=0.5",
            *more,
        ]  # fmt: skip
        pid = os.fork()
        if pid == 0:
            self._child(arguments)
        return pid

    def _child(self, arguments: list[str]) -> None:
        status = 1
        try:
            log = os.open(self.log(), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.chdir(ROOT)
            os.environ["VMAE_CACHE"] = f"{self.out.parent}/{self.out.name}.cache"
            from vmae_jax.cli import main as vmae

            status = vmae(arguments)
            sys.stderr.flush()
        finally:
            os._exit(status)

    def wait(self, pid: int) -> int:
        """The status as a shell has it; after `LIMIT` seconds the process is killed, and that is a problem."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status) % 256 if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.problems.append(f"an attempt did not end within {LIMIT:g} s")
        return 137

    def log(self) -> pathlib.Path:
        return self.out.parent / f"{self.out.name}.log"

    # What it left behind.

    def listed(self) -> list[int]:
        from etils import epath

        from vmae_jax.io.steps import whole_steps

        return whole_steps(epath.Path(self.work / "checkpoints"))

    def good(self) -> list[int]:
        """The listed checkpoints that nothing was done to."""
        found = []
        for step in self.listed():
            with contextlib.suppress(FileNotFoundError):  # the run removes older ones meanwhile
                if (step, (self.work / "checkpoints" / str(step)).stat().st_ino) not in self.harmed:
                    found.append(step)
        return found

    def reached(self, since: float = 0.0) -> int:
        """The newest step that left a row after `since` (seconds since 1970)."""
        return max((row["step"] for row in rows(self.work) if row["time"] > since), default=0)

    def check(self, when: str) -> None:
        """After every round: no step twice, no row that cannot be read."""
        steps = [row["step"] for row in rows(self.work)]
        if len(set(steps)) != len(steps):
            self.problems.append(f"{when}: a step is there twice")

    def check_quarantine(self) -> None:
        """The list of unreadable videos has such as were made so, and is not empty if any were."""
        from vmae_jax.names import from_text

        file = self.work / "quarantine.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        listed = {from_text(json.loads(line)["path"]) for line in lines}
        if not listed <= self.spoiled:
            self.problems.append(f"good videos are listed as unreadable: {sorted(listed - self.spoiled)}")
        if self.spoiled and not listed:
            self.problems.append("no unreadable video is listed")

    def compare(self, quiet: pathlib.Path) -> dict[str, Any]:
        mine, other = ([values(row) for row in rows(workdir)] for workdir in (self.work, quiet))
        if [row[0] for row in mine] != list(range(1, self.steps + 1)):
            self.problems.append("the steps are not 1, 2, 3, …")
        different = [a[0] for a, b in zip(mine, other, strict=False) if a != b]
        unread, prints = checkpoints_of(self.work / "checkpoints")
        _, wanted = checkpoints_of(quiet / "checkpoints")
        self.problems += unread
        if prints != wanted:
            self.problems.append("the last checkpoints differ")
        self.check_quarantine()
        halves = [str(path) for path in (self.work / "checkpoints").iterdir() if "tmp" in path.name]
        self.problems += [f"a save half made: {path}" for path in halves]
        log = self.log().read_text(errors="replace")
        return {
            "status": "ok" if not self.problems and not different else "error",
            "equal": not different and len(mine) == len(other),
            "different_steps": different[:10],
            "problems": self.problems,
            "rounds": sum(self.done.values()),
            "rounds_asked": self.rounds,
            "seed": self.seed,
            "steps": self.steps,
            "streams": sum(name.startswith(chaos_streams.READ) for name in (rows(quiet) or [{}])[-1]),
            "kinds": self.done,
            "statuses": dict(sorted(self.statuses.items())),
            "damaged": sum(self.noticed.values()),
            "noticed": self.noticed,
            "damaged_files_unneeded": self.unneeded,
            "damaged_passed_over": log.count("is damaged:"),
            "videos_replaced": log.count("was replaced by a neighbour"),
            "watchdog": log.count("has not ended within"),
            "saves_failed": log.count("was not saved in"),
        }


def ended(pid: int) -> bool:
    """Whether a child is over, without taking its status."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in found if row["kind"] == "train"]


def values(row: dict[str, Any]) -> tuple[Any, ...]:
    """What must be the same in a step: its number, its loss and gradient, and what was read of each stream."""
    read = [row[name] for name in sorted(row) if name.startswith(chaos_streams.READ)]
    return (row["step"], row["loss"], row["grad_norm"], *read)


def prints_of(folder: pathlib.Path, step: int) -> str:
    """Fingerprints of a checkpoint as text, or that it is damaged, or that nobody would look for it."""
    from etils import epath

    from vmae_jax.io import fingerprint, layout
    from vmae_jax.io.stored import DamagedCheckpointError, read_tree, whole_steps

    if step not in whole_steps(epath.Path(folder)):
        return "not listed"
    try:
        leaves = layout.flat(read_tree(folder / str(step), select=""))
    except DamagedCheckpointError:
        return "damaged"
    return "\n".join(f"{name} {fingerprint.of_numpy(leaf)}" for name, leaf in leaves.items())


def checkpoints_of(folder: pathlib.Path) -> tuple[list[str], list[str]]:
    """Reads every listed checkpoint, verified: what could not be read; and the fingerprints of the newest."""
    from etils import epath

    from vmae_jax.io import fingerprint, layout
    from vmae_jax.io.steps import whole_steps
    from vmae_jax.io.stored import read_tree

    problems, prints = [], []
    for step in whole_steps(epath.Path(folder)):
        try:
            leaves = layout.flat(read_tree(folder / str(step), select=""))
        except Exception as error:
            problems.append(f"checkpoint {step} is listed and cannot be read: {error}")
            continue
        prints = [f"{name} {fingerprint.of_numpy(leaf)}" for name, leaf in leaves.items()]
    return problems, prints


def make_videos(folder: pathlib.Path) -> None:
    from vmae_jax.data.synthetic.moving_shapes import make_clip, settings

    folder.mkdir()
    drawn = settings(train=VIDEOS, size=48, frames=16)
    for index in range(VIDEOS):
        name = ("%02d.mp4", "%02d \"é\", a 'quoted' name.mp4", "%02d\ttwo\nlines.mp4")[index % 3] % index
        (folder / name).write_bytes(make_clip(drawn, "train", index))


def report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
