"""`vmae` commands as forks of one process, which has imported what they need: that is most of what a short one does.

A fork is a process of its own, with arguments, folder, environment and files of its caller, and it ends as any process
does. Callers are the program that `program` writes, for tests of shells, and `start`, for tests that stop, kill or
watch a process.
"""

import atexit
import contextlib
import importlib
import json
import logging
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, NoReturn

from tests import quick_xla

ROOT = pathlib.Path(__file__).resolve().parent.parent
IMPORTS = (
    "orbax.checkpoint", "tensorboard.compat.proto.event_pb2", "tensorflow", "tensorflow_datasets", "vmae_jax.cli",
    "vmae_jax.commands.train", "vmae_jax.data.feed",
)  # fmt: skip
# {prepare} may change `words`, the arguments.
CLIENT = """#!{python} -IS
import json, os, pathlib, socket, sys
words = sys.argv[1:]
{prepare}
call = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(call).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(call)
    with server.makefile() as answers:
        answers.readline()  # the number of the process
        status = int(answers.readline() or 70)
sys.exit(status if status >= 0 else 128 - status)
"""


def program(path: pathlib.Path, address: str, prepare: str = "") -> pathlib.Path:
    """Write a program that runs its arguments as a `vmae` command in a fork of the process at `address`."""
    path.write_text(CLIENT.format(python=sys.executable, prepare=prepare, address=address))
    path.chmod(0o755)
    return path


class Process:
    """A running fork, used like `subprocess.Popen`; what it prints is in `out` and `err`.

    Args:
      address: of the process that forks.
      words: the arguments of `vmae`; the first may be the path of a Python file that is run instead.
      environment: all of its environment.
      folder: its current folder.
      log: a file that its errors are appended to.
    """

    def __init__(
        self, address: str, words: Sequence[str], environment: Mapping[str, str], folder: pathlib.Path = ROOT,
        log: pathlib.Path | None = None,
    ):  # fmt: skip
        self._out = tempfile.TemporaryFile()  # noqa: SIM115
        self._err = tempfile.TemporaryFile() if log is None else log.open("a+b")  # noqa: SIM115
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(address)
        call = json.dumps([list(words), str(folder), dict(environment)]).encode()
        with open(os.devnull) as nothing:
            files = [nothing.fileno(), self._out.fileno(), self._err.fileno()]
            socket.send_fds(self._server, [len(call).to_bytes(8, "big")], files)
        self._server.sendall(call)
        self._received = b""
        self.returncode: int | None = None
        self.pid = int(self._line(None))

    def poll(self) -> int | None:
        """The status, negative for a signal; None while it runs."""
        if self.returncode is None:
            with contextlib.suppress(TimeoutError, BlockingIOError):
                self.returncode = int(self._line(0.0))
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The status once it is over; a TimeoutError after `timeout` seconds."""
        if self.returncode is None:
            self.returncode = int(self._line(timeout))
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    @property
    def out(self) -> str:
        return self._text(self._out)

    @property
    def err(self) -> str:
        return self._text(self._err)

    def _text(self, file: IO[bytes]) -> str:
        size = os.fstat(file.fileno()).st_size
        return os.pread(file.fileno(), size, 0).decode(errors="replace")  # the fork shares the position

    def _line(self, timeout: float | None) -> bytes:
        """The next line of the process that forked."""
        end = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._received:
            self._server.settimeout(None if end is None else max(0.0, end - time.monotonic()))
            more = self._server.recv(64)
            if not more:
                raise EOFError("the process that forks is gone")
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        return line


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Run the process that forks; yield its address. Whatever it still runs ends with it."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/address"
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.forks", address],
            env=quick_xla.on_devices(1) | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield address
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _serve(address: str) -> NoReturn:
    """Fork for every call, and run its command there."""
    for name in IMPORTS:
        importlib.import_module(name)
    logging.root.handlers.clear()  # which one of these imports has set; a command sets its own
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                break
            connection.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    _answer(connection)


def _answer(connection: socket.socket) -> NoReturn:
    command = os.fork()
    if command:
        connection.sendall(f"{command}\n".encode())
        status = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        with contextlib.suppress(BrokenPipeError):  # the caller does not wait for it
            connection.sendall(f"{status}\n".encode())
        os._exit(0)
    size, files, *_ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as call:
        words, folder, environment = json.loads(call.read(int.from_bytes(size, "big")))
    connection.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = list(filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)))
    tempfile.tempdir = None
    if words and words[0].endswith(".py"):
        sys.argv = words
        try:
            runpy.run_path(words[0], run_name="__main__")
            status = 0
        except SystemExit as done:
            status = int(done.code or 0)
    else:
        sys.argv = ["vmae", *words]
        from vmae_jax.cli import main

        status = main()
    # What Python does at its end, but for taking modules apart: with those that are imported here that takes seconds.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1])
