"""`benchmarks/roofline.py`: operations are those of the counted costs, and what binds is the slower of two."""

import pytest

from benchmarks import costs, roofline


def device(**given):
    return roofline.Device(**({"name": "d", "flops": 1e12, "bandwidth": 1e10, "dtype": "bfloat16", "clips": 2} | given))


def test_operations_are_three_times_the_counted_forward_pass():
    counted = costs.total(costs.cost("S", dual=True, published=False))
    assert roofline.work("S", device()).flops == pytest.approx(3 * counted.flops)


def test_fused_attention_moves_less_by_what_its_weights_are():
    fused, plain = (roofline.work("S", device(fused=fused)) for fused in (True, False))
    assert fused.flops == plain.flops
    # Written in float32 and read in bfloat16 by the next product: 160 and 944 tokens, 12 x 6 and 4 x 3 heads.
    weights = 6 * (12 * 6 * 160**2 + 4 * 3 * 944**2)
    assert plain.bytes - fused.bytes == pytest.approx(3 * weights, rel=1e-6)


def test_the_slower_of_arithmetic_and_memory_binds():
    one = roofline.Work(flops=2e12, bytes=1e10)
    assert roofline.bound(one, device()) == (0.5, "arithmetic")
    assert roofline.bound(one, device(bandwidth=1e9)) == (0.1, "memory")
