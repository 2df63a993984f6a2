"""Collectives are read from what XLA really writes, loops and all; sizes that fit are found in few trials."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vmae_jax.plan import compile as plan_compile
from vmae_jax.plan import hlo, program, roofline, search, work
from vmae_jax.plan.topology import CHIPS, Chip, topology
from vmae_jax.spec import ConfigError


def read(text):
    return hlo.collectives(program.parse(text))


def compiled(turns: int):
    """A stack of `turns` products, each of which needs one sum over 4 devices: [8 64] x [64 64]."""
    mesh = Mesh(jax.devices()[:4], ("x",), axis_types=(AxisType.Auto,))

    def stack(x, weights):
        def body(x, w):
            x = jax.lax.with_sharding_constraint(x @ w, NamedSharding(mesh, P()))
            return jax.lax.with_sharding_constraint(jnp.tanh(x), NamedSharding(mesh, P(None, "x"))), None

        return jax.lax.scan(body, x, weights)[0]

    places = NamedSharding(mesh, P(None, "x")), NamedSharding(mesh, P(None, "x", None))
    shapes = jax.ShapeDtypeStruct((8, 64), jnp.float32), jax.ShapeDtypeStruct((turns, 64, 64), jnp.float32)
    return jax.jit(stack, in_shardings=places, out_shardings=places[0]).lower(*shapes).compile().as_text()


@pytest.mark.parametrize("turns", [1, 7])
def test_a_collective_in_a_loop_counts_as_often_as_the_loop_turns(turns):
    found = read(compiled(turns))
    assert found.unknown_loops == 0
    (traffic,) = found.kinds.values()
    assert set(found.kinds) == {"all-reduce"}
    assert traffic.count == turns
    assert traffic.bytes == turns * 8 * 64 * 4
    assert traffic.link_bytes == traffic.bytes * 2 * 3 // 4


def test_a_loop_without_a_number_is_read_from_its_condition_or_stated_to_be_unknown():
    text = compiled(7)
    assert '"known_trip_count":{"n":"7"}' in text
    text = text.replace('"known_trip_count":{"n":"7"}', '"unknown":{}')
    assert read(loop("LT", 0)).kinds["all-reduce"].count == 12
    for other in (text.replace("direction=LT", "direction=NE"), loop("NE", 0), loop("LT", 3)):
        found = read(other)
        assert found.unknown_loops == 1
        assert found.kinds["all-reduce"].count == 1


def loop(direction, begin):
    """A loop as libtpu writes it."""
    return f"""HloModule m

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {{
  %p = (s32[]{{:T(128)}}, f32[4]{{0:T(128)}}) parameter(0)
  %x = f32[4]{{0:T(128)}} get-tuple-element(%p), index=1
  %sum = f32[4]{{0:T(128)}} all-reduce(%x), replica_groups=[1,16]<=[16], to_apply=%add
  ROOT %t = (s32[]{{:T(128)}}, f32[4]{{0:T(128)}}) tuple(%i, %sum)
}}

%condition (p.1: (s32[], f32[4])) -> pred[] {{
  %constant.9 = s32[]{{:T(128)}} constant(12)
  %p.1 = (s32[]{{:T(128)}}, f32[4]{{0:T(128)}}) parameter(0)
  %i.1 = s32[]{{:T(128)}} get-tuple-element(%p.1), index=0
  ROOT %lt = pred[]{{:T(512)}} compare(%i.1, %constant.9), direction={direction}, metadata={{op_name="while/cond/lt"}}
}}

ENTRY %main (a: f32[4]) -> f32[4] {{
  %begin = s32[]{{:T(128)}} constant({begin})
  %copy.1 = s32[]{{:T(128)}} copy(%begin)
  %tuple.1 = (s32[]{{:T(128)}}, f32[4]{{0:T(128)}}) tuple(%copy.1, /*index=1*/%a)
  %while.1 = (s32[]{{:T(128)}}, f32[4]{{0:T(128)}}) while(%tuple.1), condition=%condition, body=%body, metadata={{}}
}}
"""


LINES = {  # as TPU and GPU programs write them: result, bytes of the whole array, share of a ring
    "all-gather(%p), replica_groups=[4,4]<=[16], dimensions={0}": ("bf16[64,128]{1,0}", 64 * 128 * 2, 3 / 4),
    "reduce-scatter(%p), replica_groups={{0,1},{2,3}}, to_apply=%a": ("f32[16]{0}", 2 * 16 * 4, 1 / 2),
    "all-gather-start(%p), replica_groups=[1,8]<=[8]": ("(f32[2]{0}, f32[16]{0})", 64, 7 / 8),
    "all-reduce-start(%p), replica_groups=mesh['a'=2,'b'=4] {'b'}": ("f32[10]{0:T(256)}", 40, 2 * 3 / 4),
    "all-to-all(%p), replica_groups=mesh['a'=8] {'a':(2)4}": ("pred[12]{0}", 12, 3 / 4),
    "collective-permute(%p), source_target_pairs={{0,1}}": ("s4[8]{0}", 4, 1),
}


@pytest.mark.parametrize("line", LINES)
def test_sizes_and_groups(line):
    shape, size, share = LINES[line]
    text = f"HloModule m\n\nENTRY %main (p: f32[4]) -> f32[4] {{\n  %x = {shape} {line}\n}}\n"
    (traffic,) = read(text).kinds.values()
    assert (traffic.count, traffic.bytes, traffic.link_bytes) == (1, size, round(size * share))


def test_a_reduce_scatter_of_a_tpu_is_called_by_its_name():
    """libtpu prints it as an operation made of an all-reduce, padded, and the slice that is kept."""
    text = """HloModule m

%all-reduce-scatter.clone (input: bf16[1408,64]) -> bf16[192,64] {
  %input = bf16[1408,64]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = bf16[]{:T(256)} constant(0)
  %pad = bf16[1536,64]{1,0:T(8,128)(2,1)} pad(%input, %zero), padding=0_128x0_0
  %sum = bf16[1536,64]{1,0:T(8,128)(2,1)} all-reduce(%pad), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %at = u32[]{:T(128)} partition-id()
  ROOT %kept = bf16[192,64]{1,0:T(8,128)(2,1)} dynamic-slice(%sum, %at, %at), dynamic_slice_sizes={192,64}
}

ENTRY %main (p: bf16[1408,64]) -> bf16[192,64] {
  %p = bf16[1408,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %x = bf16[192,64]{1,0:T(8,128)(2,1)} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.clone
}
"""
    (traffic,) = read(text).kinds.values()
    size = 1536 * 64 * 2
    assert read(text).kinds == {"reduce-scatter": hlo.Traffic(1, size, size * 7 // 8, ((size, 1),))}
    assert traffic.bytes == size


def test_a_group_of_one_sends_nothing():
    text = "ENTRY %main (p: f32[4]) -> f32[4] {\n  %x = f32[4]{0} all-reduce(%p), replica_groups=[8,1]<=[8]\n}\n"
    assert read(text).kinds == {}


@pytest.mark.parametrize(("true", "start"), [(1, 8), (37, 8), (64, 256), (1000, 8), (3, 4096)])
@pytest.mark.parametrize("bend", [0.0, 0.15])
def test_the_largest_size_is_found_in_six_trials(true, start, bend):
    """Memory that grows a little faster than the size, as padding makes it."""
    unit, fixed = 8, 1_000_000
    limit = fixed + 1000 * unit * true

    def attempt(size):
        assert size % unit == 0
        assert size > 0
        peak = fixed + round(1000 * size * (1 + bend * math.sin(size)))
        return search.Trial(size, peak <= limit, peak)

    found, trials = search.largest(attempt(start), attempt, unit=unit, fixed=fixed, limit=limit, tries=5)
    assert len(trials) <= 6
    assert len({t.size for t in trials}) == len(trials)
    assert found is None or attempt(found).fits
    if bend == 0.0:
        assert found == unit * true
    elif true > 1:
        assert found is not None
        assert found >= 0.7 * unit * true


def test_a_first_size_that_is_no_multiple_is_followed_by_multiples():
    """As where a small batch suits a method that mixes its clips in groups."""
    sizes = []

    def attempt(size):
        sizes.append(size)
        return search.Trial(size, size <= 200, 100 * size)

    for first in (24, 1000):
        one = search.Trial(first, first <= 200, 100 * first)
        found, _ = search.largest(one, attempt, unit=32, fixed=0, limit=20_000, tries=5)
        assert found == 192
    assert all(size % 32 == 0 for size in sizes)


def test_nothing_fits():
    found, trials = search.largest(
        search.Trial(8, False, 99), lambda size: search.Trial(size, False, 99), unit=8, fixed=98, limit=50, tries=5
    )
    assert found is None
    assert len(trials) == 1  # the smallest there is was tried


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (149.06G) exceeds available HBM (15.75G).",
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 149.06G of 15.75G hbm. Exceeded by 133G.",
    ],
)
def test_the_compilers_refusal_is_read(message):
    needed, limit = plan_compile.out_of_memory(message)
    assert needed == int(149.06 * 2**30)
    assert limit == CHIPS["v5e"].hbm_limit
    assert plan_compile.out_of_memory("INTERNAL: something else") == (None, None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v5x:4x4", "did you mean"),
        ("v5e:4x4x4", "2 dimensions, as in v5e:4x4"),
        ("v5p:16", "3 dimensions"),
        ("cpu:", "as in cpu:8"),
        ("cpu:9", "XLA_FLAGS"),
        ("", "v5p:4x4x4"),
    ],
)
def test_a_topology_that_is_not_is_reported(name, expected):
    with pytest.raises(ConfigError, match=expected):
        topology(name)


def test_the_bound_is_the_largest_term():
    sent = hlo.Collectives({"all-reduce": hlo.Traffic(3, 10**9, 4 * 10**9)}, 0)
    parts = {"a": work.Part(1e12, 2e12, 1e9, 0.0), "b": work.Part(0.0, 0.0, 6e9, 0.0)}
    done = work.Work(1e12, 2e12, 7e9, 0.0, parts)
    step = plan_compile.Compiled(True, 1, 1, 1, 3, None, sent, done, 1.0, (), {"data": 4})
    chip = Chip(1e12, 1e9, 1e9, 1, 2, 1, "x")
    found = roofline.bound(step, chip=chip)
    assert found.terms == {"compute": 2.0, "memory": 7.0, "interconnect": 4.0}
    assert (found.by, found.seconds) == ("memory", 7.0)
    assert found.in_sequence == 2.0 + 6.0
    assert roofline.bound(step._replace(kernels=8e12), chip=chip).by == "compute"
    with pytest.raises(ValueError, match="does not fit"):
        roofline.bound(step._replace(fits=False, work=None), chip=chip)
