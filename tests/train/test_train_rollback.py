"""The data of a run that rolled back: a function of the step and of what was skipped."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from vmae_jax.train.rollback import Skip, batch_of, in_a_row, runs

windows = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), max_size=5)


def skips_of(pairs):
    """Windows as rolling back makes them: each begins at a batch that the ones before did not skip."""
    skips = []
    for step, length in pairs:
        first = batch_of(step, skips)
        skips.append(Skip(first, batch_of(step + length - 1, skips) + 1, step))
    return skips


def flat(skips):
    return {batch for skip in skips for batch in range(skip.first, skip.last)}


@given(windows)
def test_the_batches_are_all_but_the_skipped_ones_in_order(pairs):
    skips = skips_of(pairs)
    left = (batch for batch in itertools.count() if batch not in flat(skips))
    for step in range(60):
        assert batch_of(step, skips) == next(left)


@given(windows, st.integers(0, 40))
def test_ranges_state_the_same(pairs, step):
    skips = skips_of(pairs)
    message = []
    for first, last in runs(step, skips):
        message += range(first, first + 80 if last is None else last)
    assert message[:60] == [batch_of(at, skips) for at in range(step, step + 60)]


def test_times_in_a_row_are_those_without_a_new_checkpoint():
    skips = [Skip(5, 8, 5), Skip(8, 9, 5), Skip(20, 21, 10), Skip(21, 25, 10)]
    assert in_a_row([], 5) == 0
    assert in_a_row(skips[:2], 5) == 2
    assert in_a_row(skips, 10) == 2
    assert in_a_row(skips, 5) == 0
