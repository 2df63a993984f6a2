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
    """Add the options of the command."""
    add = parser.add_argument
    add("--dispatcher", metavar="HOST:PORT", help="decode for this dispatcher (default: start a dispatcher)")
    add("--port", type=int, default=0, help="port to listen on (default: any free one)")
    add("--host", help="worker only: the name by which the trainer reaches this machine (default localhost)")
    add("--workers", type=int, help="worker only: decoding processes (default: one per core)")
    add("--open", action="store_true", help="required: TensorFlow's servers listen on every network interface and "
        "authenticate nobody, so they belong behind a firewall or on a private network")  # fmt: skip
    add("--plugins", default="", help="packages of yours whose registered components a config may name")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Serve until SIGTERM or SIGINT.

    Raises:
      ConfigError: if --open is missing, a port is taken, or there is no such dispatcher or secret.
    """
    if not args.open:
        raise ConfigError(
            "vmae data serve: TensorFlow's servers listen on every network interface, and anyone who can connect can "
            "run TensorFlow graphs here: pass --open behind a firewall or on a private network"
        )
    unused = [name for name in ("host", "workers", "plugins") if getattr(args, name)]
    if args.dispatcher is None and unused:
        raise ConfigError(f"vmae data serve: --{unused[0]} is an option of workers; it needs --dispatcher=HOST:PORT")
    from vmae_jax.data import service

    service.read_secret(make=True)
    with until_stopped() as wait:
        if args.dispatcher is None:
            server: Any = service.start_dispatcher(args.port)
            role = {"role": "dispatcher", "port": server.port}
            text = f"dispatching on port {server.port}; workers: vmae data serve --open --dispatcher=HOST:{server.port}"
        else:
            server = service.start_worker(
                args.dispatcher, host=args.host or "localhost", port=args.port, processes=args.workers
            )
            role = {"role": "worker", "dispatcher": args.dispatcher}
            text = f"decoding for {args.dispatcher}"
        print(f"{text} (SIGTERM or Ctrl-C ends it)\n{_open(service)}", file=sys.stderr, flush=True)
        wait()
        server.stop()
    return role


def _open(service: Any) -> str:
    """Return a description of what protects the service, and what does not."""
    place = f"${service.SECRET}" if service.SECRET in os.environ else str(service.secret_file())
    return (
        f"Workers answer only requests that are signed with the secret in {place}; the trainer needs the same one.\n"
        "TensorFlow's service itself authenticates nobody: anyone who can connect to this port can run TensorFlow "
        "graphs, which read and write files as this user. Keep it on a loopback interface or a private network."
    )


@contextmanager
def until_stopped() -> Iterator[Callable[[], object]]:
    """Yield a function that waits for SIGTERM or SIGINT.

    It reads from a pipe: a handler that sets a `threading.Event` can deadlock with the `wait` that it interrupts.
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
