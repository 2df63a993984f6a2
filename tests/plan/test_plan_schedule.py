"""What waits for links in the compiler's order, on programs whose durations are round numbers."""

import pytest

from vmae_jax.plan import hlo, program, schedule
from vmae_jax.plan.topology import Chip

# One product below is 2 * 128^3 operations: a second of the core. A gather sends 3 / 4 of 64 KiB: three seconds. What
# an operation reads and writes is next to nothing.
CHIP = Chip(2 * 128**3, 1e15, 2**14, 1, 2, 1, "x")
HEAD = "HloModule m, is_scheduled=true\n"
MATRIX, SHARD = "f32[128,128]{1,0:T(8,128)}", "f32[32,128]{1,0:T(8,128)}"
GROUPS = "replica_groups=[4,4]<=[16], dimensions={0}"


def dot(name, left="a", right="a"):
    return f"  %{name} = {MATRIX} dot(%{left}, %{right}), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}"


def entry(*lines, before=""):
    given = f"  %a = {MATRIX} parameter(0)", f"  %b = {SHARD} parameter(1)"
    text = "\n".join(
        [HEAD, before, f"ENTRY %main (a: f32[128,128], b: f32[32,128]) -> {MATRIX} {{", *given, *lines, "}"]
    )
    return program.parse(text)


def followed(*lines, before="", kernels=0.0):
    parsed = entry(*lines, before=before)
    found = schedule.schedule(parsed, chip=CHIP, kernels=kernels)
    assert found.links == pytest.approx(hlo.collectives(parsed).link_bytes / CHIP.ici_bandwidth)
    return [round(value, 3) for value in found]  # seconds, links, exposed, beside


START = f"  %s = ({SHARD}, {MATRIX}) all-gather-start(%b), {GROUPS}"
DONE = f"  %d = {MATRIX} all-gather-done(%s)"


def test_a_collective_that_is_one_operation_keeps_the_core_waiting():
    assert followed(dot("x"), f"  %g = {MATRIX} all-gather(%b), {GROUPS}", dot("y")) == [5, 3, 3, 0]


@pytest.mark.parametrize(("products", "waits"), [(0, 3), (2, 1), (5, 0)])
def test_what_lies_between_its_begin_and_its_end_hides_it(products, waits):
    between = [dot(f"x{number}") for number in range(products)]
    assert followed(START, *between, DONE) == [products + waits, 3, waits, 3]


def test_collectives_take_turns_on_the_links():
    second = START.replace("%s =", "%s2 ="), DONE.replace("%d =", "%d2 =").replace("(%s)", "(%s2)")
    assert followed(START, second[0], dot("x"), DONE, second[1]) == [6, 6, 5, 6]


def test_what_is_sent_by_another_unit_of_the_chip():
    """As libtpu hands collectives to the SparseCore: begun without operands, sent from the update on."""
    inside = f"%sent (p: f32[32,128]) -> {MATRIX} {{\n  %p = {SHARD} parameter(0)\n"
    inside += f"  ROOT %g = {MATRIX} all-gather(%p), {GROUPS}\n}}\n"
    lines = [
        "  %s = ((), (), (s32[8]{0})) async-start(), calls=%sent", dot("x"), dot("y"),
        f"  %u = (({SHARD}), {MATRIX}, (s32[8]{{0}})) async-update(%s, %b)", dot("z"),
        f"  %d = {MATRIX} async-done(%u)",
    ]  # fmt: skip
    assert followed(*lines, before=inside) == [5, 3, 2, 3]


def test_a_collective_that_is_spread_over_operations_counts_once():
    """As libtpu has it on v5e: one gather is in several fused operations, which compute meanwhile."""
    inside = "".join(
        f"%part{number} (p: f32[128,128], q: f32[32,128]) -> {MATRIX} {{\n  %a = {MATRIX} parameter(0)\n"
        f"  %q = {SHARD} parameter(1)\n"
        f'  %g = {MATRIX} all-gather(%q), {GROUPS}, frontend_attributes={{chain_id="7"}}\n'
        + dot("r").replace("%r", "ROOT %r", 1) + "\n}\n"
        for number in range(3)
    )  # fmt: skip
    lines = [f"  %f{number} = {MATRIX} fusion(%a, %b), kind=kOutput, calls=%part{number}" for number in range(3)]
    assert followed(*lines, dot("x"), before=inside) == [4, 3, 0, 3]
    assert followed(lines[0], lines[1], START, lines[2], DONE, before=inside) == [6, 6, 3, 6]


def test_a_loop_repeats_what_its_body_takes():
    body = "\n".join([
        f"%body (p: (s32[], {MATRIX}, {SHARD})) -> (s32[], {MATRIX}, {SHARD}) {{",
        f"  %p = (s32[], {MATRIX}, {SHARD}) parameter(0)",
        f"  %a = {MATRIX} get-tuple-element(%p), index=1",
        f"  %b = {SHARD} get-tuple-element(%p), index=2",
        START, dot("x"), DONE, "}\n",
        "%condition (q: s32[]) -> pred[] {", "  %q = s32[] parameter(0)", "  ROOT %c = pred[] constant(true)", "}\n",
    ])  # fmt: skip
    loop = '  %w = (s32[]) while(%a), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"4"}}'
    assert followed(dot("y"), loop, before=body) == [1 + 4 * 3, 4 * 3, 4 * 2, 4 * 3]


def test_an_operation_ends_when_its_products_and_its_memory_have():
    slow = CHIP._replace(hbm_bandwidth=3 * 128 * 128 * 4 / 2.5)  # the product's three arrays take 2.5 seconds
    parsed = entry(dot("x"), f"  ROOT %y = {MATRIX} negate(%x)")
    assert schedule.schedule(parsed, chip=slow).seconds == pytest.approx(2.5 + 2.5 * 2 / 3)


def test_kernels_share_the_operations_that_the_program_does_not_show():
    calls = [f'  %k{n} = {MATRIX} custom-call(%a), custom_call_target="tpu_custom_call"' for n in range(2)]
    assert followed(*calls, kernels=CHIP.flops * 6)[0] == 6
    waits = followed(START, calls[0], DONE, calls[1], kernels=CHIP.flops * 2)
    assert waits == [4, 3, 2, 3]  # only the first of the two kernels runs meanwhile
