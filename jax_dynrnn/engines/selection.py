"""When an engine that can run a request is the fastest: rules that engines share.

The figures behind them are in `benchmarks/results/cpu.json` and `gpu.json`.
"""

from __future__ import annotations

import dataclasses

import jax

from .._cell import Cell
from .._memoize import memoize_by_cell
from .._types import DTypeLike
from .request import Request

MIN_WORK = 500
"""Steps of rows, `B * T`: below it the time to compile counts more than the run."""

NARROW_UNITS = 32
NARROW_BATCH = 32
NARROW_STATE = 2**12
"""A cell is narrow if it has at most these units and elements in a leaf of its state, on at least
these rows: dispatching its operations then takes longer than computing them."""

LARGE_STATE = 2**15
"""Elements in a leaf of the state from which on `scan` is at least as fast on a CPU, if no step is
padding, and there are many rows or few steps."""
MANY_ROWS = 256
"""Rows from which on the matmuls of one step are so large that batching them over steps gains
nothing."""
MANY_MAPPED_ROWS = 128
"""The same for each problem under `jax.vmap`: `scan` runs the steps of all problems together."""
FEW_STEPS = 32
"""Time steps below which `blocked` gains nothing with a large state."""

ACCELERATOR_UNROLL = 8
"""Steps in one iteration of a loop on accelerators, at least: 8 took half the time of one on a GPU;
16 took no less in training steps, and up to 1.6 times as long to compile."""

MAX_TPU_UNROLLED_UNITS = 256
"""Units up to which steps share an iteration on TPUs. That saves the code of an iteration, some 60
cycles forward and up to 460 in training. A step of 512 units is estimated to take 3,200 and 9,100;
with several steps the compiler may also move arrays to the main memory: up to 1.4 times the cycles.
"""

ON_H200 = "LSTM and GRU of 128 units, bfloat16 and float32, an H200"


@memoize_by_cell
def state_units(cell: Cell, dtype: DTypeLike) -> list[int]:
    """The units of each leaf of the state; none where they are not known from the cell alone."""
    try:
        state = jax.eval_shape(lambda: cell.zero_state((), dtype))
    except (TypeError, ValueError):  # without a memory to attend to, or for whole batches only
        return []
    return [s.size for s in jax.tree.leaves(state)]


def why_little_work(request: Request) -> str | None:
    """Why `scan` is preferred for few steps, or `None`."""
    if request.batch * request.time >= MIN_WORK:
        return None
    return f"scan compiles faster, and less than {MIN_WORK} steps in all gain nothing"


def why_narrow(request: Request) -> str | None:
    """Why `scan` is preferred for a cell whose operations are short, or `None`."""
    if request.platform != "cpu" or request.batch < NARROW_BATCH:
        return None
    units = max(state_units(request.cell, request.dtype), default=NARROW_UNITS + 1)
    if units > NARROW_UNITS or request.batch * units > NARROW_STATE:
        return None
    return (
        f"scan has fewer operations, which take the time with up to {NARROW_UNITS} units and "
        f"{NARROW_STATE} elements in a state: up to 1.6 times the speed of blocked"
    )


def why_large_steps(request: Request) -> str | None:
    """Why `scan` is preferred for large steps of a batch without padding, or `None`."""
    has_padding = request.lengths is not None or request.mask is not None
    if request.platform != "cpu" or has_padding:
        return None
    if request.is_mapped:
        if request.batch < MANY_MAPPED_ROWS:
            return None
        return (
            "scan runs the problems of a vmap together: 1.0 to 1.3 times the speed of blocked from "
            f"{MANY_MAPPED_ROWS} rows on"
        )
    elements = request.batch * max(state_units(request.cell, request.dtype), default=0)
    is_long = request.time >= FEW_STEPS and request.batch < MANY_ROWS
    if is_long or elements < LARGE_STATE:
        return None
    return (
        "without padding, scan has 1.0 to 1.2 times the speed of blocked for states of "
        f"{LARGE_STATE} elements, from {MANY_ROWS} rows on or in less than {FEW_STEPS} steps"
    )


def unrolled(request: Request) -> Request:
    """`request` with as many steps in one iteration as are fast; results do not depend on it."""
    if request.platform == "cpu":
        return request
    if request.platform == "tpu":
        units = max(state_units(request.cell, request.dtype), default=0)
        # XLA moves states to the host in loops of one step only.
        if request.remat == "offload" or units > MAX_TPU_UNROLLED_UNITS:
            return request
    return dataclasses.replace(request, unroll=max(request.unroll, ACCELERATOR_UNROLL))
