"""What other libraries print about a failed read or save."""

import asyncio
import gc
import logging
import sys
import types

import pytest

from vmae_jax.io import failures


@pytest.fixture
def installed(monkeypatch):
    """The filters, for one test; and what reaches the hook below them."""
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: seen.append(str(found.exc_value)))
    for logger in (logging.getLogger("absl"), logging.getLogger("asyncio")):
        monkeypatch.setattr(logger, "filters", list(logger.filters))
    failures.in_one_line.cache_clear()
    failures.in_one_line()
    yield seen
    failures.in_one_line.cache_clear()


def uncaught(act):
    try:
        act()
    except RuntimeError as error:
        found = {"exc_type": type(error), "exc_value": error, "exc_traceback": error.__traceback__}
        sys.unraisablehook(types.SimpleNamespace(**found, err_msg=None, object=None))


def test_a_result_after_its_read_has_failed_is_not_printed(installed):
    loop = asyncio.new_event_loop()
    loop.close()
    uncaught(lambda: loop.call_soon_threadsafe(print))
    assert installed == []


def test_every_other_exception_is_printed(installed):
    def same_words():
        raise RuntimeError("Event loop is closed")

    def other():
        raise RuntimeError("other")

    uncaught(same_words)
    uncaught(other)
    assert installed == ["Event loop is closed", "other"]


@pytest.mark.parametrize(("path", "kept"), [("/x/orbax/checkpoint/future.py", False), ("/x/other.py", True)])
def test_an_error_of_orbax_is_one_line(installed, caplog, path, kept):
    try:
        raise OSError(28, "No space left on device")
    except OSError as error:
        info = (OSError, error, error.__traceback__)
    logger = logging.getLogger("absl")
    record = logger.makeRecord("absl", logging.ERROR, path, 1, "run() raised: %s", (info[1],), info)
    assert logger.filter(record)
    assert "No space left on device" in record.getMessage()
    assert bool(record.exc_info) == kept


class Native:
    """What asyncio awaits without a line of Python, as TensorStore's futures are."""

    def __await__(self):
        future = asyncio.get_running_loop().create_future()
        future.set_exception(OSError("out of range"))
        return future.__await__()


def in_module(name):
    namespace = {"__name__": name}
    exec("async def read():\n    raise OSError('out of range')", namespace)
    return namespace["read"]


@pytest.mark.parametrize(
    ("read", "logged"),
    [(in_module("orbax.checkpoint.serialization"), False), (Native, False), (in_module("another"), True)],
)
def test_a_read_that_fails_after_it_was_given_up(installed, caplog, read, logged):
    async def give_up():
        task = asyncio.ensure_future(read())
        await asyncio.sleep(0.01)
        del task  # collected with its exception, which asyncio logs

    asyncio.run(give_up())
    gc.collect()
    found = [record.exc_info[0] for record in caplog.records if "never retrieved" in record.getMessage()]
    assert found == [OSError] * logged
