"""Costs of a program for a TPU, from short texts like those that libtpu writes."""

import pytest

from benchmarks.schedules import Chip, Cost, Schedule, arrays, issued_bundles, padded_bytes

CHIP = Chip(bytes_per_cycle=512, read_latency=1000, write_latency=400)
STATE = "(s32[]{:T(128)}, f32[16,8,128]{2,1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)})"
PROGRAM = f"""\
HloModule jit_run, is_scheduled=true

%inside (p.0: f32[16,8,128], p.1: s32[]) -> f32[8,128] {{
  %p.0 = f32[16,8,128]{{2,1,0:T(8,128)}} parameter(0)
  %p.1 = s32[]{{:T(128)S(6)}} parameter(1)
  %zero = s32[]{{:T(128)}} constant(0)
  %row = f32[1,8,128]{{2,1,0:T(8,128)}} dynamic-slice(%p.0, %p.1, %zero, %zero), metadata={{}}
  ROOT %root = f32[8,128]{{1,0:T(8,128)S(1)}} bitcast(%row)
}}

%clone (q.0: f32[16,8,128], q.1: s32[]) -> f32[8,128] {{
  %zero.2 = s32[]{{:T(128)}} constant(0)
  %q.0 = f32[16,8,128]{{2,1,0:T(8,128)}} parameter(0)
  %q.1 = s32[]{{:T(128)S(6)}} parameter(1)
  %row.2 = f32[1,8,128]{{2,1,0:T(8,128)}} dynamic-slice(%q.0, %q.1, %zero.2, %zero.2)
  ROOT %root.2 = f32[8,128]{{1,0:T(8,128)S(1)}} bitcast(%row.2)
}}

%body (state: (s32[], f32[16,8,128], f32[8,128])) -> (s32[], f32[16,8,128], f32[8,128]) {{
  %state = {STATE} parameter(0)
  %t = s32[]{{:T(128)}} get-tuple-element(%state), index=0
  %x.1 = f32[16,8,128]{{2,1,0:T(8,128)}} get-tuple-element(%state), index=1
  %one = s32[]{{:T(128)}} constant(1)
  %next = s32[]{{:T(128)}} add(%t, %one)
  %read.1 = f32[8,128]{{1,0:T(8,128)S(1)}} fusion(%x.1, %t), kind=kLoop, calls=%inside
  %read.2 = f32[8,128]{{1,0:T(8,128)S(1)}} fusion(%x.1, %next), kind=kLoop, calls=%clone
  ROOT %new = {STATE} tuple(%next, %x.1, %read.2)
}}

%condition (state.1: (s32[], f32[16,8,128], f32[8,128])) -> pred[] {{
  %state.1 = {STATE} parameter(0)
  %t.1 = s32[]{{:T(128)}} get-tuple-element(%state.1), index=0
  %end = s32[]{{:T(128)}} constant(16)
  ROOT %lt = pred[]{{:T(512)}} compare(%t.1, %end), direction=LT
}}

ENTRY %main (x: f32[16,8,128], w: f32[128,128]) -> f32[8,128] {{
  %x = f32[16,8,128]{{2,1,0:T(8,128)}} parameter(0)
  %w = f32[128,128]{{1,0:T(8,128)}} parameter(1)
  %zero.1 = s32[]{{:T(128)}} constant(0)
  %start = (f32[128,128]{{1,0:T(8,128)S(1)}}, f32[128,128]{{1,0:T(8,128)}}, u32[]) copy-start(%w)
  %done = f32[128,128]{{1,0:T(8,128)S(1)}} copy-done(%start)
  %first = f32[8,128]{{1,0:T(8,128)S(1)}} custom-call(), custom_call_target="AllocateBuffer"
  %tuple = {STATE} tuple(%zero.1, %x, %first)
  %while = {STATE} while(%tuple), condition=%condition, body=%body
  ROOT %last = f32[8,128]{{1,0:T(8,128)S(1)}} get-tuple-element(%while), index=2
}}
"""


def listing(count, special=()):
    """`count` bundles, of which some are given by number."""
    texts = dict(special)
    return "".join(f"{i:#6x}   : > {{ {texts.get(i, '')} }}\n" for i in range(count))


def schedule(tmp_path, text=PROGRAM):
    (tmp_path / "17-read.1-01-packed-bundles-post-ra.txt").write_text(listing(3))
    return Schedule(text, tmp_path, CHIP, dynamic_trips=2)


def test_a_program(tmp_path):
    """A copy, and a loop of 16 iterations with two equal operations, one of which was compiled."""
    copy = 1000 + 128 * 128 * 4 / 512
    read = 1000 + 8 * 128 * 4 / 512 + 3
    size = 128 * 128 * 4 + 16 * 2 * 8 * 128 * 4
    assert schedule(tmp_path).cost() == Cost(copy + 16 * 2 * read, size)


def test_a_loop_whose_end_is_computed(tmp_path):
    """It runs as often as the caller says."""
    text = PROGRAM.replace("s32[]{:T(128)} constant(16)", "s32[]{:T(128)} negate(%t.1)")
    cost = schedule(tmp_path, text).cost()
    assert cost.hbm_bytes == 128 * 128 * 4 + 2 * 2 * 8 * 128 * 4


def test_an_unknown_loop_is_an_error(tmp_path):
    """A loop that does not count upwards is not guessed."""
    with pytest.raises(ValueError, match="the end of while was not found"):
        schedule(tmp_path, PROGRAM.replace("direction=LT", "direction=GT")).cost()


def test_an_operation_in_a_loop_without_bundles_is_an_error(tmp_path):
    """Nothing is estimated from nothing."""
    with pytest.raises(ValueError, match="libtpu wrote no bundles of fusion read.1"):
        Schedule(PROGRAM, tmp_path, CHIP, 2).cost()


def test_loops_of_an_operation():
    """Each bundle counts as often as it is issued: here two windows of 14 bundles, and two more."""
    loop = {
        11: "%p9 = scmp.ge.s32.totalorder %s2, 4 /* loop exit test */",
        12: "%8 = sbr.rel (!%p9) target bundleno = 3 (0x3), region = 3",
    }
    assert issued_bundles(listing(19, loop), windows=2) == 3 + 2 * 14 + 2
    assert issued_bundles(listing(19, loop), windows=1) == 3 + 4 * 14 + 2
    assert issued_bundles(listing(19), windows=1) == 19


def test_a_kernel():
    """The loop over blocks runs twice less than it says, and rare parts of a block are left out."""
    parts = {
        2: "%1 = sbr.rel (%p1) target bundleno = 10 (0xa), region = 1",
        10: "%2 = sbr.rel (%p2) target bundleno = 25 (0x19), region = 2",
        29: "%p9 = scmp.ge.s32.totalorder %s2, 10 /* loop exit test */",
        30: "%8 = sbr.rel (!%p9) target bundleno = 1 (0x1), region = 3",
    }
    assert issued_bundles(listing(40, parts), windows=None) == 1 + 8 * (34 - 3) + 5


def test_bytes_are_those_of_whole_tiles():
    """A type is read with its layout: the fastest axis is rounded up to lanes."""
    (array,) = arrays("bf16[20,64]{1,0:T(8,128)(2,1)}")
    assert array.in_hbm and padded_bytes(array) == 2 * 24 * 128
    (turned,) = arrays("bf16[20,64]{0,1:T(8,128)(2,1)S(1)}")
    assert not turned.in_hbm and padded_bytes(turned) == 2 * 64 * 128
    assert [padded_bytes(a) for a in arrays("(s32[]{:T(128)}, pred[5]{0:T(512)})")] == [0, 512]
