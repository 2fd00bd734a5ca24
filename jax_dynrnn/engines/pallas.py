"""One kernel for all steps, of any cell whose step is arithmetic within each unit.

On GPUs of compute capability 9 (measured: an H200), in 16 bit. The recurrent matrix lies in the
shared memory of each multiprocessor that runs a tile of rows, and must fit there: an LSTM or a
reset-after GRU may have 128 units, a vanilla RNN 320.

The inputs' projection before, and the gradients of all weights after, are matmuls of XLA's.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from .._cell import MatmulCell
from . import scan
from ._pallas import mosaic
from ._pallas.kernels import shared_bytes
from ._pallas.passes import backward, forward
from ._pallas.step import Step
from ._pallas.units import Unknown
from ._parts import shapes
from ._run import run_parts
from .call import Call


def unsupported(call: Call) -> str | None:
    """Why it cannot run `call`, or `None`."""
    if (lacking := mosaic.missing()) is not None:
        return lacking
    if not (isinstance(call.time, int) and isinstance(call.batch, int)):
        return "its kernels are made for sizes that are known, not symbolic"
    if jnp.dtype(call.dtype).itemsize != 2:
        return f"its matrix instructions take bfloat16 and float16, not {jnp.dtype(call.dtype)}"
    if call.remat is not None:
        return "its kernels know of no remat"
    cell = call.cell
    if not isinstance(cell, MatmulCell) or not cell.unitwise:
        return f"the step of {type(cell).__name__} is not known as arithmetic within each unit"
    if call.key is not None and type(cell).step is not MatmulCell.step:
        return f"the step of {type(cell).__name__} draws random numbers"
    return _too_much(call)


def _too_much(call: Call) -> str | None:
    """What a kernel cannot compute of the cell, or has no room for."""
    name, units = type(call.cell).__name__, mosaic.UNITS
    try:
        step = Step(*shapes(call))
        step.try_out()
    except Unknown as reason:
        return f"the arithmetic of {name} is not for a kernel: {reason}"
    if step.units % units or step.units > units * mosaic.WARPGROUPS:
        most = units * mosaic.WARPGROUPS
        return f"it takes {units} units or a multiple of that up to {most}, not {step.units}"
    if (wanted := shared_bytes(step, call.dtype)) > mosaic.SHARED:
        return (
            f"{name} with {step.units} units wants {wanted} bytes of shared memory for its "
            f"recurrent matrix, and there are {mosaic.SHARED}"
        )
    return None


def run(call: Call) -> tuple[Any, Any]:
    """Runs the cell -> `(outputs, final_state)`."""
    if call.time == 0 or call.batch == 0:
        return scan.run(call)
    return run_parts(call, forward, backward, kept_rows=2)
