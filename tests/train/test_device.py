"""Rows follow the sharding; global arrays are the global batch; working ahead loses nothing."""

import contextlib
import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vmae_jax.train.device import host_rows, prefetch_to_device, to_device


def sharding(shape, names, spec):
    return NamedSharding(
        Mesh(np.array(jax.devices()).reshape(shape), names, axis_types=(AxisType.Auto,) * len(names)),
        PartitionSpec(*spec),
    )


SHARDINGS = [
    sharding((8,), ("data",), ("data",)),
    sharding((2, 2, 2), ("data", "fsdp", "tensor"), (("data", "fsdp"),)),
    sharding((2, 4), ("data", "tensor"), ("data", None)),
    sharding((8,), ("data",), ()),
]


def batch_of(clips, rows):
    video = np.arange(clips * 4 * 2 * 2 * 3, dtype=np.uint8).reshape(clips, 4, 2, 2, 3)
    return {"video": video[rows], "index": np.arange(clips, dtype=np.int32)[rows]}


@pytest.mark.parametrize("where", SHARDINGS, ids=str)
def test_rows_and_arrays_follow_the_sharding(where):
    rows = host_rows(where, 16)
    assert rows == list(range(16))  # one process holds all devices here
    arrays = to_device(batch_of(16, rows), where, 16)
    whole = batch_of(16, np.arange(16))
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, whole[name])
        assert array.sharding.spec == PartitionSpec(*where.spec[:1])
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(shard.data, whole[name][shard.index])


class Half:
    """A sharding as a process sees it that owns the devices of rows 4..7 and 12..15 of 16."""

    def addressable_devices_indices_map(self, shape):
        assert shape == (16,)
        return {"a": (slice(12, 16),), "b": (slice(4, 8),), "c": (slice(4, 8),)}


def test_a_process_may_own_rows_that_are_no_neighbours():
    assert host_rows(Half(), 16) == [4, 5, 6, 7, 12, 13, 14, 15]


def test_a_batch_that_does_not_divide_is_reported():
    with pytest.raises(ValueError, match="does not divide"):
        host_rows(SHARDINGS[0], 12)
    with pytest.raises(ValueError, match="has 3 rows"):
        to_device({"x": np.zeros((3, 2))}, SHARDINGS[0], 8)


class Batches:
    """Counts up; knows its position as the loader does."""

    def __init__(self, count, *, fail=None, delay=0.0):
        self.position, self.count, self.fail, self.delay = 0, count, fail, delay
        self.closed = False

    def __next__(self):
        time.sleep(self.delay)
        if self.position == self.fail:
            raise OSError("the disk is gone")
        if self.position == self.count:
            raise StopIteration
        self.position += 1
        return {"x": np.full((8,), self.position)}

    def faults(self, before=None):
        return ["all"] if before is None else [f"before {before}"]

    def close(self):
        self.closed = True


def test_prefetch_gives_every_batch_and_the_position_of_the_consumer():
    with prefetch_to_device(Batches(6), SHARDINGS[0], clips=8) as ahead:
        for number in range(6):
            assert ahead.position == number
            np.testing.assert_array_equal(next(ahead)["x"], np.full(8, number + 1))
        assert ahead.position == 6
        assert ahead.faults() == ["before 6"]  # not those of batches that wait
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(ahead)
        assert ahead.faults() == ["all"]


def test_an_error_is_raised_in_its_place():
    with prefetch_to_device(Batches(9, fail=2), SHARDINGS[0], clips=8) as ahead:
        next(ahead)
        next(ahead)
        for _ in range(2):
            with pytest.raises(OSError, match="disk is gone"):
                next(ahead)


def test_a_batch_that_a_method_refuses_is_an_error_in_its_place():
    def check(batch):
        if batch["x"][0] == 2:
            raise ValueError("label 7 of 5 classes")

    with prefetch_to_device(Batches(9), SHARDINGS[0], clips=8, check=check) as ahead:
        next(ahead)
        for _ in range(2):
            with pytest.raises(ValueError, match="label 7"):
                next(ahead)


def test_the_wait_for_each_batch_is_in_a_context_of_its_own():
    seen = []

    @contextlib.contextmanager
    def waiting(number):
        seen.append(("begins", number))
        yield
        seen.append(("ends", number))

    with prefetch_to_device(Batches(2), SHARDINGS[0], clips=8, waiting=waiting) as ahead:
        for _ in range(2):
            next(ahead)
            seen.append("taken")
    assert seen == ["taken" if at % 3 == 2 else (("begins", "ends")[at % 3], at // 3) for at in range(6)]


def test_waiting_is_measured():
    with prefetch_to_device(Batches(3, delay=0.05), SHARDINGS[0], clips=8) as ahead:
        list(ahead)
        assert ahead.wait_seconds > 0.05


@pytest.mark.parametrize("taken", [0, 1])
def test_closing_ends_the_thread(taken):
    batches = Batches(10**9)
    ahead = prefetch_to_device(batches, SHARDINGS[0], clips=8)
    for _ in range(taken):
        next(ahead)
    ahead.close()
    assert batches.closed
    assert not any(thread.name == "prefetch_to_device" for thread in threading.enumerate())
    with pytest.raises(RuntimeError, match="closed"):
        next(ahead)
