"""When unreadable videos speak against a whole folder, and in which order they are reported."""

import random

import pytest

from vmae_jax.data.faults import Fault, Ledger, too_many


@pytest.mark.parametrize(
    ("bad", "seen", "videos", "limit", "stops"),
    [
        (2, 31, 31, 0.05, False),  # a folder of 31 with two bad files
        (4, 31, 31, 0.05, False),
        (5, 31, 31, 0.05, True),
        (2, 4, 4, 0.05, False),  # half of a tiny folder
        (3, 4, 4, 0.05, True),
        (1, 2, 2, 0.05, False),
        (1, 1, 1, 1.0, True),
        (4, 4, 4, 1.0, True),  # all of them
        (19, 19, 1000, 0.05, False),  # too few to judge by
        (19, 20, 1000, 0.05, True),
        (5, 20, 1000, 0.05, True),
        (13, 100, 10**6, 0.05, False),  # by chance, where the share is 5%
        (14, 100, 10**6, 0.05, True),
        (500, 10**4, 10**4, 0.05, False),
        (501, 10**4, 10**4, 0.05, True),
        (1, 20, 10**6, 0.0, True),
        (1, 3, 10**6, 0.0, True),
        (0, 100, 100, 0.0, False),
        (99, 100, 100, 1.0, False),
        (60, 100, 100, 0.5, True),
        (30, 20, 1000, 1.0, False),  # of readers that are ahead
    ],
)
def test_when_it_is_too_much(bad, seen, videos, limit, stops):
    assert too_many(bad, seen, videos, limit) is stops


@pytest.mark.parametrize("videos", [31, 300, 3000])
def test_a_folder_within_the_limit_is_hardly_ever_given_up_on_the_way(videos):
    chance = random.Random(1)
    wrong = 0
    for _ in range(200):
        bad = chance.sample([True] * int(0.05 * videos) + [False] * (videos - int(0.05 * videos)), videos)
        wrong += any(too_many(sum(bad[:seen]), seen, videos, 0.05) for seen in range(8, videos + 1, 8))
    assert wrong <= 2


def test_what_is_drained_follows_from_positions_not_from_the_order_of_threads():
    """Positions 0 to 5 meet videos 7, 8 (a neighbour of 7), 9; whichever is read first."""
    met = [(0, 7, True), (0, 8, False), (2, 9, True), (3, 8, True), (4, 7, True), (5, 9, False)]
    drained = []
    for order in range(20):
        ledger = Ledger()
        for position, index, drawn in random.Random(order).sample(met, len(met)):
            if not ledger.known(index, position, drawn=drawn):
                ledger.bad(Fault(f"{index}.mp4", "is damaged", index, "broken", drawn), position)
        drained.append([[(f.index, f.drawn) for f in ledger.drain(before)] for before in (1, 3, 4, None)])
    assert drained == [[[(7, True), (8, False)], [(9, True)], [(8, True)], []]] * 20
