"""`vmae data serve`: a dispatcher of the tf.data service, or a worker that decodes for it, until it is stopped."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vmae_jax.spec import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    add = parser.add_argument
    add("--dispatcher", metavar="HOST:PORT", help="work for this dispatcher (default: be one)")
    add("--port", type=int, default=0, help="to listen on (default: any that is free)")
    add("--host", help="of a worker: the name under which the trainer reaches this machine (default localhost)")
    add("--workers", type=int, help="of a worker: processes that decode (default: one a core)")
    add("--open", action="store_true", help="needed: TensorFlow's servers listen on every network interface and "
        "authenticate nobody, so they belong behind a firewall or on a private network")  # fmt: skip
    add("--plugins", default="", help="packages of yours whose registered components a config may name")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Serves until SIGTERM or SIGINT.

    Raises:
      ConfigError: without --open; a port that is taken, a dispatcher or a secret that is not there.
    """
    if not args.open:
        raise ConfigError(
            "vmae data serve: TensorFlow's servers listen on every network interface, and whoever reaches them can run "
            "TensorFlow graphs here: give --open where a firewall or a private network keeps strangers away"
        )
    unused = [name for name in ("host", "workers", "plugins") if getattr(args, name)]
    if args.dispatcher is None and unused:
        raise ConfigError(f"vmae data serve: --{unused[0]} is of a worker; it needs --dispatcher=HOST:PORT")
    from vmae_jax.data import secret, service

    secret.read_secret(make=True)
    with until_stopped() as wait:
        if args.dispatcher is None:
            server: Any = service.start_dispatcher(args.port)
            told = {"role": "dispatcher", "port": server.port}
            text = f"dispatching on port {server.port}; workers: vmae data serve --open --dispatcher=HOST:{server.port}"
        else:
            server = service.start_worker(
                args.dispatcher, host=args.host or "localhost", port=args.port, processes=args.workers
            )
            told = {"role": "worker", "dispatcher": args.dispatcher}
            text = f"decoding for {args.dispatcher}"
        print(f"{text} (SIGTERM or Ctrl-C ends it)\n{_open(secret)}", file=sys.stderr, flush=True)
        wait()
        server.stop()
    return told


def _open(secret: Any) -> str:
    """Return what protects the service and what does not."""
    place = f"${secret.VALUE}" if secret.VALUE in os.environ else str(secret.secret_file())
    return (
        f"Workers answer only requests that are signed with the secret in {place}; the trainer needs the same one.\n"
        "TensorFlow's service itself authenticates nobody: whoever reaches this port can run TensorFlow graphs, which "
        "read and write files as this user. Keep it on a loopback interface or a private network."
    )


@contextmanager
def until_stopped() -> Iterator[Callable[[], object]]:
    """Gives what returns once SIGTERM or SIGINT came.

    By a pipe: a handler that sets a `threading.Event` waits for a lock which the `wait` that it interrupted may hold.
    """
    reading, writing = os.pipe()
    before = {
        number: signal.signal(number, lambda *_: os.write(writing, b".")) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield lambda: os.read(reading, 1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
