"""Decoding on other machines, by the tf.data service: a dispatcher, and workers that decode.

    vmae data serve --open --port=5050                        # the dispatcher, anywhere
    vmae data serve --open --dispatcher=HOST:5050             # a worker, on every machine with cores to spare
    vmae train … --config.data.service=HOST:5050              # the same run, decoded there

**What is promised.** The clips themselves (frames, crops, labels, seeds) are those of the exact mode, for
they are functions of (seed, position). Which steps they come in is not repeatable: the first
that is ready is trained on first. But each epoch's steps train on exactly the clips that they have in the
exact mode, each once: the order is loose within an epoch, never across its end. What a worker loses
when it dies is asked for again. A run that is resumed in the middle of an epoch goes
on with the positions behind the checkpoint's, some of which it may have seen. The exact mode is the default.

**How.** A dataset that is sent to workers can hold no Python function of ours, only its name ("token"). So a
worker registers one function, and the trainer's graph calls it by name: with the loader's config as text, a
position and the number of the video there. Workers build the loader from the text, as from any config: only
registered components can be named, and the whole must be a loader.

**Who may call.** The function's name is derived from a secret that trainer and workers share, and the config, the
seed and the number of videos are signed with it. A worker refuses everything else; the secret itself is never sent.
TensorFlow's servers themselves authenticate nobody: anyone who reaches a dispatcher can read what trainers have sent to
it (so the name is no protection by itself, and a request can be repeated), and anyone who reaches a worker can run
TensorFlow graphs there, which can read and write files. They belong on a loopback interface or a private network.
"""

import collections
import dataclasses
import functools
import hashlib
import hmac
import json
import os
import pathlib
import secrets
import socket
import stat
import threading
from typing import Any

import numpy as np

from vmae_jax.data.feed import Plan, Reader, finished
from vmae_jax.data.pipeline import Loader
from vmae_jax.data.tf import tensorflow
from vmae_jax.data.workers import available_cores
from vmae_jax.spec import ConfigError, build, from_json

__all__ = [
    "PROTOCOL",
    "SECRET",
    "SECRET_FILE",
    "Dispatcher",
    "Worker",
    "check_address",
    "function_name",
    "read_secret",
    "secret_file",
    "signature",
    "start_dispatcher",
    "start_worker",
]

PROTOCOL = "grpc"
_KEPT = 2  # loaders that a worker keeps open; a run has one
SECRET = "VMAE_DATA_SECRET"  # the environment variable that holds the secret itself
SECRET_FILE = "VMAE_DATA_SECRET_FILE"  # the one that names the file which holds it
_LEAST = 32  # characters


class Dispatcher:
    """Hands out work; holds no data. Workers and trainers are given HOST:PORT of it."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.port = int(server.target.rpartition(":")[2])

    def stop(self) -> None:
        """Ends it."""
        self._server._stop()


def start_dispatcher(port: int = 0) -> Dispatcher:
    """Starts a dispatcher; port 0 takes any that is free.

    Raises:
      ConfigError: the port is taken.
    """
    service = tensorflow().data.experimental.service
    try:
        return Dispatcher(service.DispatchServer(service.DispatcherConfig(port=port, protocol=PROTOCOL)))
    except Exception as error:  # TensorFlow raises a RuntimeError or an error of its own
        raise ConfigError(f"no dispatcher can listen on port {port}: {' '.join(str(error).split())[:200]}") from error


class Worker:
    """Decodes for any run of the dispatcher's."""

    def __init__(self, server: Any, answers: "_Answers") -> None:
        self._server = server
        self._answers = answers  # TensorFlow's registry refers to it weakly

    def stop(self) -> None:
        """Ends it, and its decoding processes."""
        self._server._stop()
        self._answers.close()


def start_worker(dispatcher: str, *, host: str = "localhost", port: int = 0, processes: int | None = None) -> Worker:
    """Starts a worker; only one in a process.

    Args:
      dispatcher: HOST:PORT.
      host: the name under which trainers reach this machine.
      port: the worker's; 0 takes any that is free.
      processes: that decode; by default one a core.

    Raises:
      ConfigError: nothing listens there, the port is taken, or there is no secret.
    """
    check_address(dispatcher)
    service = tensorflow().data.experimental.service
    secret = read_secret()
    answers = _Answers(processes or available_cores(), secret)
    _register(function_name(secret), answers)
    settings = service.WorkerConfig(
        dispatcher_address=dispatcher, worker_address=f"{host}:%port%", port=port, protocol=PROTOCOL
    )
    try:
        return Worker(service.WorkerServer(settings), answers)
    except Exception as error:  # TensorFlow raises a RuntimeError or an error of its own
        raise ConfigError(f"no worker can serve {dispatcher}: {' '.join(str(error).split())[:200]}") from error


def _register(name: str, function: Any) -> None:
    """Let graphs call a function by a name of our choice; TensorFlow's own API numbers them, "pyfunc_0"."""
    from tensorflow.python.ops import script_ops

    script_ops._py_funcs._funcs[name] = function


def check_address(address: str) -> None:
    """Raises ConfigError: it is no HOST:PORT, or nothing listens there."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"data service: {address!r} is not HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConfigError(
            f"data service: nothing listens at {address} ({error.strerror or error}): vmae data serve starts it"
        ) from error


class _Answers:
    """What a worker does when it is called: one video's clips, ready for a batch.

    What it raises comes out at the trainer's end.
    """

    def __init__(self, processes: int, secret: bytes) -> None:
        self._processes = processes
        self._secret = secret
        self._lock = threading.Lock()
        self._open: collections.OrderedDict[bytes, _Serving] = collections.OrderedDict()

    def __call__(
        self, signed: bytes, recipe: bytes, seed: Any, videos: Any, position: Any, index: Any, own: np.ndarray
    ) -> list[Any]:
        """seeds [n 2], index, valid, notes, the arrays of the clips, and each label."""
        expected = signature(self._secret, recipe.decode(), int(seed), int(videos))
        if not hmac.compare_digest(expected.encode(), signed):
            raise ConfigError(f"the request is not signed with this worker's secret (${SECRET} or ${SECRET_FILE})")
        serving = self._serving(recipe, int(seed), int(videos))
        try:
            return serving(position, index, own)
        except Exception:
            self._forget(serving)  # a trainer that comes again begins afresh
            raise

    def close(self) -> None:
        """Ends the decoding processes."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _forget(self, serving: "_Serving") -> None:
        with self._lock:
            for key in [key for key, one in self._open.items() if one is serving]:
                self._open.pop(key).close()

    def _serving(self, recipe: bytes, seed: int, videos: int) -> "_Serving":
        key = recipe + seed.to_bytes(8, "big")
        with self._lock:
            if key not in self._open:
                self._open[key] = _Serving(recipe.decode(), seed, videos, self._processes)
                while len(self._open) > _KEPT:
                    self._open.popitem(last=False)[1].close()
            self._open.move_to_end(key)
            return self._open[key]


class _Serving:
    """A loader that is open on a worker."""

    def __init__(self, recipe: str, seed: int, videos: int, processes: int) -> None:
        # What is broken is counted by the trainer, over all workers.
        loader = dataclasses.replace(build(from_json(recipe), "loader"), max_bad_fraction=1.0)
        source = loader.source.open()
        if len(source) != videos:
            raise ConfigError(f"this worker finds {len(source)} videos where the trainer has {videos}")
        self._reader = Reader(loader, source, Plan(seed, 0, None, loader.shuffle), processes)
        self._finish = _compiled(loader)

    def __call__(self, position: Any, index: Any, own: np.ndarray) -> list[Any]:
        seeds, repeats, used, valid, clips, *rest = self._reader(position, index, own)
        if self._reader.error is not None:
            raise self._reader.error
        video = np.stack([self._finish(*clip).numpy() for clip in zip(clips, seeds, repeats, strict=True)])
        notes = json.dumps(self._reader.ledger.drain()).encode()
        return [seeds, used, valid, notes, video, *rest]

    def close(self) -> None:
        self._reader.workers.close()


def _compiled(loader: Loader) -> Any:
    """`feed.finished` as a function that is traced once."""
    tf = tensorflow()
    video = loader.read_specs()["video"]
    signature = [tf.TensorSpec(video.shape, video.dtype), tf.TensorSpec([2], tf.uint32), tf.TensorSpec([], tf.int64)]
    return tf.function(functools.partial(finished, loader), input_signature=signature)


def secret_file() -> pathlib.Path:
    """Return the file that holds the secret: $VMAE_DATA_SECRET_FILE, or one in the user's config folder."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return pathlib.Path(os.environ.get(SECRET_FILE) or os.path.join(base, "vmae_jax", "data_service_secret"))


def read_secret(*, make: bool = False) -> bytes:
    """Return the secret, from $VMAE_DATA_SECRET or the file.

    Args:
      make: write a new one, readable by this user only, if there is no file.

    Raises:
      ConfigError: if there is none, it is shorter than 32 characters, or other users can read its file.
    """
    value = os.environ.get(SECRET)
    if value is None:
        path = secret_file()
        if make and not path.exists():
            _make(path)
        value = _read(path)
    if len(value) < _LEAST:
        raise ConfigError(f"data service: the secret has {len(value)} characters; at least {_LEAST} are needed")
    return value.encode(errors="surrogateescape")


def function_name(secret: bytes) -> str:
    """Return the name under which a worker registers its function."""
    return "vmae_" + hmac.new(secret, b"function", hashlib.sha256).hexdigest()


def signature(secret: bytes, recipe: str, seed: int, videos: int) -> str:
    """Return the signature of a request's constant part."""
    return hmac.new(secret, json.dumps([recipe, seed, videos]).encode(), hashlib.sha256).hexdigest()


def _read(path: pathlib.Path) -> str:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(4096)
    except OSError as error:
        raise ConfigError(
            f"data service: no secret in {path} ({error.strerror}): vmae data serve writes one; copy it to every "
            f"machine, name it in ${SECRET_FILE}, or put the secret in ${SECRET}"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"data service: {path} can be read by other users: chmod 600 {path}")
    return content.decode(errors="surrogateescape").strip()


def _make(path: pathlib.Path) -> None:
    """Write a new secret; where several processes do so at once, the first one's stands."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        try:
            os.link(aside, path)
        except FileExistsError:
            return
        finally:
            aside.unlink()
    except OSError as error:
        raise ConfigError(f"data service: {path} cannot be written ({error.strerror}): set ${SECRET}") from error
