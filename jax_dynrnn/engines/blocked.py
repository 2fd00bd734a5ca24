"""The fast engine of plain JAX: little work on padding, weight gradients outside of the loop."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._cell import StagedCell
from ..wrappers import MultiRNNCell
from . import scan
from ._layers import inside_loop, run_apart
from ._parts import Parts
from ._passes import backward, forward
from ._run import run_parts
from ._shapes import collective, innermost, odd
from ._tiles import on_cpu
from .call import Call, explicit, partly_by_hand

FULL = 0.55
"""The part of a batch that is no padding, from which on a scan's forward pass is faster."""

READ = 2**18
"""The bytes that multiply the inputs, from which on a scan's forward pass of one row takes its time
to read them, at every step."""


def unsupported(call: Call) -> str | None:
    """Why it cannot run `call`, or `None`."""
    if not (isinstance(call.time, int) and isinstance(call.batch, int)):
        return "it cuts time and batch into blocks: their sizes must be known, not symbolic"
    if explicit(call):
        return "it takes rows out of their order, which a mesh of explicit axes does not allow"
    return partly_by_hand() or _unknown(call) or collective(call)


def _unknown(call: Call) -> str | None:
    """Why no step of the cell, or of those inside, can be taken apart, or `None`."""
    found = [*map(_unknown_alone, innermost(call))]
    if None in found:  # what it cannot do of a stack, `scan` does
        return None
    of_stack = len(found) > 1 or isinstance(call.cell, MultiRNNCell)
    return f"no layer of the stack can be run by it: {found[0]}" if of_stack else found[0]


def _unknown_alone(call: Call) -> str | None:
    cell = call.cell
    if (reason := inside_loop(call)) is not None:
        return reason
    if not isinstance(cell, StagedCell):
        return f"the step of {type(cell).__name__} is not known as arithmetic between matmuls"
    if call.key is not None and type(cell).step is not StagedCell.step:
        return f"the step of {type(cell).__name__} draws random numbers"
    return odd(call)


def run(call: Call) -> tuple[Any, Any]:
    """Runs the cell -> `(outputs, final_state)`."""
    if call.time == 0 or call.batch == 0 or _unknown(call) is not None:
        return scan.run(call)
    return run_apart(call, run, lambda call: run_parts(call, forward, backward, _plain))


def _plain(parts: Parts, call: Call) -> tuple[Any, Any]:
    """The forward pass alone, where tiles gain only by what they leave out.

    That is padding, and reading the inputs' kernels at every step. On accelerators they leave out
    none: a scan took half their time.
    """
    tiles = lambda call: forward(parts, call, keep=False)[0]  # noqa: E731
    read = sum(w.size * w.dtype.itemsize for w in call.params.project)
    if on_cpu() and call.batch == 1 and read >= READ:
        return tiles(call)
    if not on_cpu() or (call.lengths is None and call.mask is None):
        return scan.run(call)
    if call.lengths is None:
        return tiles(call)
    # As floats: the sum of all lengths may be no int32.
    little = call.lengths.astype(jnp.float32).mean() > FULL * call.time
    return jax.lax.cond(little, scan.run, tiles, call)
