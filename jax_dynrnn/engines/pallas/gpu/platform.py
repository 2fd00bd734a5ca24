"""NVIDIA GPUs of compute capability 9 (measured: an H200).

The recurrent matrix stays in the shared memory of the SMs that run a tile of rows, one to eight of
them, and must fit there: in 16 bit an LSTM may have 256 units, a reset-after GRU 384, a vanilla RNN
512; in float32 (multiplied as pairs of bfloat16) 128, 192 and 512.

The projection of the inputs before, and the gradients of all weights after, are matmuls of XLA's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ...devices import on_mesh
from ...request import Request
from ...selection import ON_H200, state_units, why_little_work
from ...staged.parts import innermost
from ...staged.probe import Probe, asks_split_cell
from ..platform import Platform
from ..primitives import for_gpu
from ..step import Step, step_or_reason
from . import mosaic, passes
from .launch import cluster_size

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


class Gpu(Platform):
    """One kernel for all steps: its warpgroups have some units each, and exchange them."""

    def unsupported(self, request: Request) -> str | None:
        """What is lacking, or `None`."""
        if (lacking := mosaic.missing()) is not None:
            return lacking
        if (dtype := jnp.dtype(request.dtype)) not in DTYPES:
            return f"its matrix instructions take bfloat16, float16 and float32, not {dtype}"
        precision = jax.config.jax_default_matmul_precision  # pyright: ignore
        if dtype == jnp.float32 and precision not in PRECISIONS:
            return f"it multiplies float32 as pairs of bfloat16, and {precision!r} is asked for"
        return None

    def why_no_kernel(self, part: Request) -> str | None:
        """What is not arithmetic within each unit, or does not fit, or `None`."""
        return _why_no_kernel(part)

    def slower_because(self, request: Request) -> str | None:
        """Why another engine is faster, or `None`."""
        if jax.device_count() > 1 or request.row_axes is not None or on_mesh(request):
            return "it was measured with one device only, without a mesh"
        units = state_units(request.cell, request.dtype)
        if request.batch * max(units) > MAX_STATE:
            return "more than 1024 rows of 128 units do not run at once, and were not measured"
        if not {*units} <= {*MEASURED_UNITS}:
            return f"it was measured with {MEASURED_UNITS} units only"
        if (names := _first(_primitives_not_measured, request)) is not None:
            return f"no GPU has run these functions of the cell in its kernels yet: {names}"
        return why_little_work(request)

    def chosen_because(self) -> str:
        """The measured speed."""
        return f"1.1 to 3.1 times blocked's speed forward, 1.5 to 2.8 training: {ON_H200}"

    forward = staticmethod(passes.forward)
    backward = staticmethod(passes.backward)


def _first(ask: Callable[..., Any], request: Request) -> Any:
    """The first answer that is not `None`, about the cell, or those in a stack or a wrapper."""
    return next((found for found in map(ask, innermost(request)) if found is not None), None)


@asks_split_cell
def _why_no_kernel(probe: Probe) -> str | None:
    dtype = probe.weights.kernels[0].dtype
    step = step_or_reason(probe, for_gpu(dtype))
    if isinstance(step, str):
        return step
    if cluster_size(step, dtype, tiles=1) is None:
        return (
            f"no cluster of up to {mosaic.max_cluster()} SMs holds the recurrent matrix of "
            f"{probe.name} with {step.units} units in {dtype}, an equal part each"
        )
    return None


@asks_split_cell
def _primitives_not_measured(probe: Probe) -> str | None:
    """The primitives of the step that no GPU has run in a kernel yet, or `None`."""
    step = step_or_reason(probe, for_gpu(probe.weights.kernels[0].dtype))
    assert isinstance(step, Step)  # or `why_no_kernel` says so
    primitives = step.arithmetic.primitives
    return ", ".join(sorted(primitives - RUN_ON_A_GPU)) or None
