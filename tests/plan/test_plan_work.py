"""Memory traffic of lines as libtpu prints them, and the parts of the network that they count for."""

import pytest

from vmae_jax.plan import naming, program, report, work

ROW = 8 * 128 * 4
LINES = """HloModule m

%sliced (p0: f32[12,8,128]) -> f32[3,8,128] {
  %p0 = f32[12,8,128]{2,1,0:T(8,128)} parameter(0)
  ROOT %slice = f32[3,8,128]{2,1,0:T(8,128)S(1)} slice(%p0), slice={[0:3], [0:8], [0:128]}
}

ENTRY %main (a: f32[12,8,128], b: f32[8,64]) -> f32[8,64] {
  %a = f32[12,8,128]{2,1,0:T(8,128)} parameter(0)
  %b = f32[8,64]{1,0:T(8,128)} parameter(1)
  %slice-start.7 = ((f32[12,8,128]{2,1,0:T(8,128)}), f32[3,8,128]{2,1,0:T(8,128)S(1)}, s32[]{:S(2)}) \
async-start(%a), calls=%sliced
  %slice-done.7 = f32[3,8,128]{2,1,0:T(8,128)S(1)} async-done(%slice-start.7)
  %use = f32[3,8,128]{2,1,0:T(8,128)S(1)} negate(%slice-done.7), \
metadata={op_name="jit(f)/jvp(E)/tower=encoder/part=mlp/neg"}
  %room = f32[12,8,128]{2,1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"
  %kernel.1 = f32[8,64]{1,0:T(8,128)} custom-call(%b), custom_call_target="tpu_custom_call", \
frontend_attributes={kernel_metadata={
"block": "8"
}}, metadata={op_name="jit(f)/transpose(jvp(D))/tower=decoder/part=scores/pallas_call"}
  ROOT %copy.3 = f32[8,64]{1,0:T(8,128)} copy(%kernel.1)
}
"""


@pytest.fixture(scope="module")
def parsed():
    return program.parse(LINES)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("slice-start.7", 3 * ROW),  # read alone: it goes to the fast memory, and the other nine rows stay
        ("slice-done.7", 0),
        ("use", 0),
        ("room", 0),  # memory set aside, into which nothing is written
        ("kernel.1", 2 * ROW),  # rows of 64 have whole tiles of 128
        ("copy.3", 2 * ROW),
    ],
)
def test_bytes_that_an_operation_moves(parsed, name, size):
    here = parsed.computations["main"]
    assert work.moved(here[name], here, parsed) == size


def test_operations_without_a_name_count_for_their_user_or_for_what_made_their_operand(parsed):
    found = naming.parts(parsed.computations["main"])
    assert found["slice-start.7"] == found["use"] == "fwd encoder mlp"
    assert found["kernel.1"] == "bwd decoder scores"  # its name is on a later line of the program
    assert found["copy.3"] == "bwd decoder scores"
    assert found["room"] == naming.REST


def test_the_largest_movers_come_first(parsed):
    found = work.work(parsed)
    assert found.kernels == 1
    assert found.bytes == 7 * ROW == sum(mover.bytes for mover in found.movers)
    assert [mover.bytes for mover in found.movers] == [3 * ROW, 2 * ROW, 2 * ROW]
    assert found.movers[0] == ("fwd encoder mlp", "slice-start", "f32[12,8,128]", 1, 3 * ROW)
    assert report.movers(found)[0]["operation"] == "slice-start"
