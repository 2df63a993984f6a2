"""Products, memory traffic and padding of programs as TPUs print them."""

import pytest

from vmae_jax.plan import program, work
from vmae_jax.plan.products import product
from vmae_jax.plan.program import Array

TILES = "T(8,128)(2,1)"
# (result, left, right, attributes, operations over the products of the sizes' names, padded over operations)
LINES = {
    "rows times a matrix": (
        "bf16[64,160,1536]{2,1,0:T(8,128)(2,1)}",
        "bf16[64,160,384]{2,1,0:T(8,128)(2,1)}",
        "bf16[384,1536,1]{1,0,2:T(8,128)(2,1)}",
        "window={size=1}, dim_labels=0bf_io0->0bf",
        2 * 64 * 160 * 384 * 1536,
        1.0,
    ),
    "scores of heads: keys in lanes, 944 of 1024; 64 summands of 128": (
        "f32[64,3,944,944]{2,3,1,0:T(8,128)}",
        "bf16[64,3,944,64]{2,3,1,0:T(8,128)(2,1)}",
        "bf16[64,3,944,64]{2,3,1,0:T(8,128)(2,1)}",
        "window={size=64x3 stride=63x2 lhs_dilate=64x3}, dim_labels=01bf_01oi->01bf",
        2 * 64 * 3 * 944 * 944 * 64,
        1024 * 1024 * 128 / (944 * 944 * 64),
    ),
    "the same written as a padded convolution": (
        "bf16[64,6,160,64]{2,3,1,0:T(8,128)(2,1)S(1)}",
        "bf16[64,6,160,160]{2,3,1,0:T(8,128)(2,1)}",
        "bf16[64,6,160,64]{2,3,1,0:T(8,128)(2,1)}",
        "window={size=64x6 stride=64x6 pad=63_63x5_5 lhs_dilate=63x5 rhs_reversal=1x1}, dim_labels=01fb_01io->01fb",
        2 * 64 * 6 * 160 * 160 * 64,
        None,
    ),
    "a sum over heads": (
        "bf16[64,160,384,1]{2,1,3,0:T(8,128)(2,1)}",
        "bf16[64,6,160,64]{3,2,1,0:T(8,128)(2,1)}",
        "bf16[6,64,384,1]{2,1,3,0:T(8,128)(2,1)}",
        "window={size=1x6}, dim_labels=01bf_1io0->0bf1",
        2 * 64 * 160 * 6 * 64 * 384,
        2.0,
    ),
    "columns and a batch of clips": (
        "bf16[3,6,64,64,160]{4,2,3,1,0:T(8,128)(2,1)}",
        "bf16[384,3,6,64,1]{0,3,2,1,4:T(8,128)(2,1)}",
        "bf16[64,160,384,1,1]{1,2,0,4,3:T(8,128)(2,1)}",
        "window={size=1x1x64 pad=0_0x0_0x63_63 rhs_reversal=0x0x1}, dim_labels=f01b2_2oi01->01b2f",
        2 * 3 * 6 * 64 * 64 * 160 * 384,
        256 / 160,
    ),
}


def parsed(lines: str) -> program.Program:
    return program.parse(f"HloModule m\n\nENTRY %main (p: f32[4]) -> f32[4] {{\n{lines}\n}}\n")


@pytest.mark.parametrize("name", LINES)
def test_products_and_their_padding(name):
    result, left, right, how, flops, padded = LINES[name]
    text = f"  %a = {left} parameter(0)\n  %b = {right} parameter(1)\n  ROOT %c = {result} convolution(%a, %b), {how}"
    here = parsed(text).computations["main"]
    found = product(here["c"], here)
    assert found is not None
    assert found.flops == flops
    assert found.padded == pytest.approx(flops * padded) if padded else found.padded > flops
    assert product(here["a"], here) is None


def test_a_larger_matrix_unit_pads_more():
    text = """  %a = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = f32[8,128]{1,0:T(8,128)} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}"""
    here = parsed(text).computations["main"]
    assert product(here["c"], here) == (2 * 8 * 64 * 128, 2 * 8 * 128 * 128)
    assert product(here["c"], here, 256).padded == 2 * 8 * 256 * 256


def test_a_batched_dot():
    text = """  %a = f32[5,3,7]{2,1,0} parameter(0)
  %b = f32[5,7,2]{2,1,0} parameter(1)
  ROOT %c = f32[5,3,2]{2,1,0} dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, \
rhs_batch_dims={0}, rhs_contracting_dims={1}"""
    here = parsed(text).computations["main"]
    assert product(here["c"], here, 1).flops == 2 * 5 * 3 * 2 * 7


def test_arrays_in_whole_tiles():
    assert Array("bf16", (22, 6144), f"1,0:{TILES}").tiled == (24, 6144)
    assert Array("f32", (40, 6144, 22), "2,1,0:T(8,128)").padded_bytes == 40 * 6144 * 128 * 4
    assert Array("f32", (100,), "0:T(256)").tiled == (256,)
    assert Array("f32", (3, 5), "").padded_bytes == 60
    assert Array("s4", (3,), "").bytes == 2
    assert Array("f32", (8,), "0:T(256)S(1)").on_chip


TRAFFIC = """HloModule m

%update (p0: f32[10,8,128], p1: f32[8,128], p2: s32[]) -> f32[10,8,128] {
  %p0 = f32[10,8,128]{2,1,0:T(8,128)} parameter(0)
  %p1 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %p2 = s32[] parameter(2)
  %row = f32[1,8,128]{2,1,0:T(8,128)} bitcast(%p1)
  ROOT %new = f32[10,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%p0, %row, %p2, %p2, %p2)
}

%take (q0: f32[10,8,128], q1: s32[]) -> f32[8,128] {
  %q0 = f32[10,8,128]{2,1,0:T(8,128)} parameter(0)
  %q1 = s32[] parameter(1)
  %slice = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%q0, %q1, %q1, %q1), dynamic_slice_sizes={1,8,128}
  ROOT %out = f32[8,128]{1,0:T(8,128)} bitcast(%slice)
}

%body (s: (s32[], f32[10,8,128])) -> (s32[], f32[10,8,128]) {
  %s = (s32[], f32[10,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %stack = f32[10,8,128]{2,1,0:T(8,128)} get-tuple-element(%s), index=1
  %one = f32[8,128]{1,0:T(8,128)} fusion(%stack, %i), kind=kLoop, calls=%take
  %fast = f32[8,128]{1,0:T(8,128)S(1)} negate(%one), metadata={op_name="jit(f)/jvp(tower=encoder)/blocks/part=mlp/neg"}
  %kept = f32[10,8,128]{2,1,0:T(8,128)} fusion(%stack, %fast, %i), kind=kLoop, calls=%update
  ROOT %t = (s32[], f32[10,8,128]{2,1,0:T(8,128)}) tuple(%i, %kept)
}

%condition (c: (s32[], f32[10,8,128])) -> pred[] {
  %c = (s32[], f32[10,8,128]{2,1,0:T(8,128)}) parameter(0)
  ROOT %lt = pred[] constant(true)
}

ENTRY %main (a: f32[10,8,128]) -> f32[10,8,128] {
  %a = f32[10,8,128]{2,1,0:T(8,128)} parameter(0)
  %zero = s32[] constant(0)
  %begin = (s32[], f32[10,8,128]{2,1,0:T(8,128)}) tuple(%zero, %a)
  %loop = (s32[], f32[10,8,128]{2,1,0:T(8,128)}) while(%begin), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"10"}}
  ROOT %end = f32[10,8,128]{2,1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def test_memory_traffic_is_of_slices_and_of_what_leaves_the_chip():
    row = 8 * 128 * 4
    found = work.work(program.parse(TRAFFIC))
    # A turn: the slice is read and written, read again; the update is written in place from fast memory.
    assert found.bytes == pytest.approx(10 * 4 * row, rel=0.01)
    assert found.parts["fwd encoder mlp"].bytes == found.bytes  # what has no name counts for its user
    assert (found.flops, found.cycles, found.kernels) == (0, 0, 0)
