"""One kernel for all steps, of any cell whose step is arithmetic within each unit.

On GPUs of compute capability 9 (measured: an H200). The recurrent matrix lies in the shared memory
of the multiprocessors that run a tile of rows, one to eight of them, and must fit there: in 16 bit
an LSTM may have 256 units, a reset-after GRU 384, a vanilla RNN 512; in float32 (multiplied as
pairs of bfloat16) 128, 192 and 512.

The inputs' projection before, and the gradients of all weights after, are matmuls of XLA's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import MatmulCell
from ..wrappers import MultiRNNCell
from . import scan
from ._layers import inside_loop, run_apart
from ._pallas import mosaic
from ._pallas.gates import Unknown
from ._pallas.launch import blocks_for
from ._pallas.passes import backward, forward
from ._pallas.step import Step
from ._run import run_parts
from ._shapes import collective, innermost, odd, of_shapes
from .call import Call, partly_by_hand

one_launch = True

DTYPES = [jnp.dtype(name) for name in ("bfloat16", "float16", "float32")]
PRECISIONS = (
    *(None, "default", "high", "bfloat16", "tensorfloat32"),
    *("BF16_BF16_F32", "BF16_BF16_F32_X3", "TF32_TF32_F32"),
)
"""Of JAX's matmuls, for float32: those that ask for no more than it has."""


PROVEN = frozenset("add gt logistic lt max mul select_n sub tanh".split())
"""Primitives that a GPU has run, in the cells of `benchmarks.gpu_check`."""


def unsupported(call: Call) -> str | None:
    """Why it cannot run `call`, or `None`."""
    if (lacking := mosaic.missing()) is not None:
        return lacking
    if not (isinstance(call.time, int) and isinstance(call.batch, int)):
        return "its kernels are made for sizes that are known, not symbolic"
    if (dtype := jnp.dtype(call.dtype)) not in DTYPES:
        return f"its matrix instructions take bfloat16, float16 and float32, not {dtype}"
    precision = jax.config.jax_default_matmul_precision  # pyright: ignore
    if dtype == jnp.float32 and precision not in PRECISIONS:
        return f"it multiplies float32 as pairs of bfloat16, and {precision!r} is asked for"
    if call.remat is not None:
        return "its kernels know of no remat"
    if (reason := partly_by_hand()) is not None:
        return reason
    reason = _first(_unknown, call)
    if reason is None:
        return collective(call)
    of_stack = isinstance(call.cell, MultiRNNCell)
    return f"a layer of the stack cannot be run by it: {reason}" if of_stack else reason


def unmeasured(call: Call) -> str | None:
    """What a cell that it can run computes and no GPU has run yet, or `None`."""
    return _first(_not_measured, call)


def _first(ask: Callable, call: Call) -> str | None:
    """The first reason that `ask` has, of the cell, or of those in a stack or a wrapper."""
    return next((reason for reason in map(ask, innermost(call)) if reason is not None), None)


def _unknown(call: Call) -> str | None:
    """Why the step of a cell is not for a kernel."""
    cell = call.cell
    if (reason := inside_loop(call)) is not None:
        return reason
    if not isinstance(cell, MatmulCell) or not cell.unitwise:
        return f"the step of {type(cell).__name__} is not known as arithmetic within each unit"
    if call.key is not None and type(cell).step is not MatmulCell.step:
        return f"the step of {type(cell).__name__} draws random numbers"
    return odd(call) or _too_much(call)


@of_shapes(otherwise="the shapes of its params cannot be told before it runs")
def _too_much(parts: Any, weights: Any, row: Any, state: Any) -> str | None:
    """What a kernel cannot compute of the cell, or has no room for."""
    name = type(parts.cell).__name__
    try:
        step = Step(parts, weights, row, state)
        step.try_out()
    except Unknown as reason:
        return f"the arithmetic of {name} is not for a kernel: {reason}"
    if blocks_for(step, dtype := weights.kernels[0].dtype, tiles=1) is None:
        return (
            f"no cluster of up to {mosaic.BLOCKS} multiprocessors holds the recurrent matrix of "
            f"{name} with {step.units} units in {dtype}, an equal part each"
        )
    return None


@of_shapes(otherwise=None)
def _not_measured(parts: Any, weights: Any, row: Any, state: Any) -> str | None:
    step = Step(parts, weights, row, state)
    return ", ".join(sorted(step.arithmetic.primitives - PROVEN)) or None


def run(call: Call) -> tuple[Any, Any]:
    """Runs the cell -> `(outputs, final_state)`."""
    if call.time == 0 or call.batch == 0:
        return scan.run(call)
    return run_apart(call, run, _run_alone)


def _run_alone(call: Call) -> tuple[Any, Any]:
    return run_parts(call, forward, backward, kept_rows=2, loops=False)
