"""The engine `pallas`: what it can run, and when it is the fastest.

On GPUs of compute capability 9 (measured: an H200). The recurrent matrix stays in the shared memory
of the SMs that run a tile of rows, one to eight of them, and must fit there: in 16 bit an LSTM may
have 256 units, a reset-after GRU 384, a vanilla RNN 512; in float32 (multiplied as pairs of
bfloat16) 128, 192 and 512.

The projection of the inputs before, and the gradients of all weights after, are matmuls of XLA's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..._cell import MatmulCell
from ..devices import on_mesh, why_axes_remain, why_checked
from ..engine import Engine
from ..request import Request, Run
from ..scan import run_scan
from ..selection import ON_H200, state_units, why_little_work
from ..staged.collectives import why_collectives_forbid
from ..staged.parts import innermost, is_stack, run_apart, why_not_split
from ..staged.probe import Probe, asks_split_cell
from ..staged.run import EnginePasses, run_passes
from ..staged.split_cell import SplitCell
from . import mosaic
from .gatewise import UnsupportedArithmetic
from .launch import cluster_size
from .passes import backward, forward
from .step import Step

DTYPES = [jnp.dtype(name) for name in ("bfloat16", "float16", "float32")]
PRECISIONS = (
    *(None, "default", "high", "bfloat16", "tensorfloat32"),
    *("BF16_BF16_F32", "BF16_BF16_F32_X3", "TF32_TF32_F32"),
)
"""JAX's matmul precisions that ask for no more than the products of float32 have here."""

RUN_ON_A_GPU = frozenset("add gt logistic lt max mul select_n sub tanh".split())
"""Primitives that a GPU has run, in the cells of `benchmarks.gpu_check`."""

MAX_STATE = 1024 * 128
"""Elements in a state: so many keep all SMs of a GPU busy."""

MEASURED_UNITS = (64, 128, 256)
"""Units: clusters of one, two and four SMs."""


class Pallas(Engine):
    """One GPU kernel for all steps, of any cell whose step is arithmetic within each unit."""

    name = "pallas"
    checks_vma = False

    def unsupported(self, request: Request) -> str | None:
        """Why it cannot run `request`, or `None`."""
        if (lacking := mosaic.missing(request.platform)) is not None:
            return lacking
        if not request.has_known_sizes:
            return "its kernels are compiled for sizes that are known, not symbolic"
        if (dtype := jnp.dtype(request.dtype)) not in DTYPES:
            return f"its matrix instructions take bfloat16, float16 and float32, not {dtype}"
        precision = jax.config.jax_default_matmul_precision  # pyright: ignore
        if dtype == jnp.float32 and precision not in PRECISIONS:
            return f"it multiplies float32 as pairs of bfloat16, and {precision!r} is asked for"
        if request.remat is not None:
            return "its kernels have no remat"
        if (reason := why_axes_remain() or why_checked(request)) is not None:
            return reason
        reason = _first_reason(_why_not_in_a_kernel, request)
        if reason is None:
            return why_collectives_forbid(request)
        is_of_layer = is_stack(request)
        return f"a layer of the stack cannot be run by it: {reason}" if is_of_layer else reason

    def slower_because(self, request: Request) -> str | None:
        """Why another engine is faster, or `None`."""
        if jax.device_count() > 1 or request.row_axes is not None or on_mesh(request):
            return "it was measured with one device only, without a mesh"
        units = state_units(request.cell, request.dtype)
        if request.batch * max(units) > MAX_STATE:
            return "more than 1024 rows of 128 units do not run at once, and were not measured"
        if not {*units} <= {*MEASURED_UNITS}:
            return f"it was measured with {MEASURED_UNITS} units only"
        if (names := _first_reason(_primitives_not_measured, request)) is not None:
            return f"no GPU has run these functions of the cell in its kernels yet: {names}"
        return why_little_work(request)

    def chosen_because(self, request: Request) -> str | None:
        """Its measured speed on the platform of a request, or `None`."""
        if request.platform != "gpu":
            return None
        return f"1.1 to 3.1 times blocked's speed forward, 1.5 to 2.8 training: {ON_H200}"

    def run(self, run: Run) -> tuple[Any, Any]:
        """Runs the cell -> `(outputs, final_state)`."""
        if run.time == 0 or run.batch == 0:
            return run_scan(run)
        return run_apart(run, self.run, _run_whole)


def _run_whole(run: Run) -> tuple[Any, Any]:
    def primal(split: SplitCell, run: Run) -> tuple[Any, Any]:
        return forward(split, run, save=False)[0]

    with_residuals = functools.partial(forward, save=True)
    passes = EnginePasses(with_residuals, backward, primal, has_dynamic_loops=False)
    return run_passes(run, passes)


def _first_reason(ask: Callable[..., Any], request: Request) -> str | None:
    """The first reason that `ask` has, about the cell, or those in a stack or a wrapper."""
    return next((reason for reason in map(ask, innermost(request)) if reason is not None), None)


def _why_not_in_a_kernel(part: Request) -> str | None:
    """Why the step of a cell that is run as a whole cannot be computed by a kernel, or `None`."""
    if (reason := why_not_split(part)) is not None:
        return reason
    if not isinstance(part.cell, MatmulCell) or not part.cell.unitwise:
        return f"the step of {type(part.cell).__name__} is not known as arithmetic within each unit"
    return _why_no_kernel(part)


def _step_of(probe: Probe) -> Step:
    return Step(probe.split, probe.weights, probe.inputs, probe.state)


@asks_split_cell
def _why_no_kernel(probe: Probe) -> str | None:
    """What a kernel cannot compute of the cell, or has no room for, or `None`."""
    try:
        step = _step_of(probe)
        step.check_arithmetic()
    except UnsupportedArithmetic as reason:
        return f"the arithmetic of {probe.name} cannot be computed by a kernel: {reason}"
    dtype = probe.weights.kernels[0].dtype
    if cluster_size(step, dtype, tiles=1) is None:
        return (
            f"no cluster of up to {mosaic.max_cluster()} SMs holds the recurrent matrix of "
            f"{probe.name} with {step.units} units in {dtype}, an equal part each"
        )
    return None


@asks_split_cell
def _primitives_not_measured(probe: Probe) -> str | None:
    """The primitives of the step that no GPU has run in a kernel yet, or `None`."""
    primitives = _step_of(probe).arithmetic.primitives
    return ", ".join(sorted(primitives - RUN_ON_A_GPU)) or None
