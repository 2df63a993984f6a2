"""`vmae` commands as forks of one process, which has imported what they need: that is most of what a short one does.

A fork is a process of its own, with the arguments, the folder, the environment and the files of the caller of the
program that `program` writes, and it ends as any process does.
"""

import atexit
import contextlib
import importlib
import json
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import NoReturn

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
    sys.exit(int(server.recv(8) or 70))
"""


def program(path: pathlib.Path, address: str, prepare: str = "") -> pathlib.Path:
    """Write a program that runs its arguments as a `vmae` command in a fork of the process at `address`."""
    path.write_text(CLIENT.format(python=sys.executable, prepare=prepare, address=address))
    path.chmod(0o755)
    return path


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
        status = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        connection.sendall(str(status % 256 if status >= 0 else 128 - status).encode())
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
    sys.argv = ["vmae", *words]
    tempfile.tempdir = None
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
