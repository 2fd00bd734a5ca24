"""The engine `blocked`."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from ..._types import PyTree
from ..devices import why_axes_remain
from ..engine import Engine
from ..request import Request, Run
from ..scan import run_scan
from ..selection import ON_H200, why_large_steps, why_little_work, why_narrow
from ..staged.collectives import why_collectives_forbid
from ..staged.parts import innermost, is_stack, run_apart, why_not_split
from ..staged.run import EnginePasses, run_passes
from ..staged.split_cell import SplitCell
from .backward import backward
from .blocks import Blocks
from .forward import forward
from .tiling import bytes_of_a_step
from .tuning import CPU, GPU, TPU, Tuning

MEASURED_SPEED = {
    "gpu": f"scan's speed forward, 1.2 to 1.7 times in training steps: {ON_H200}",
    "tpu": "never timed on a TPU: estimated from the compiler's schedules",
    "cpu": "1.25 times the speed of scan in training steps, the mean of 88 problems",
}
"""What `explain` prints, by platform."""


@dataclasses.dataclass(frozen=True)
class Blocked(Engine):
    """Plain JAX, on any platform: little work on padding, weight gradients outside the loop."""

    cpu: Tuning = CPU
    gpu: Tuning = GPU
    tpu: Tuning = TPU

    name = "blocked"
    under_vmap = "problems run one after the other; together in a forward pass with shared params"

    def tuning(self, run: Run) -> Tuning:
        """The tuning for the platform of a run."""
        return {"cpu": self.cpu, "tpu": self.tpu}.get(run.platform, self.gpu)

    def unsupported(self, request: Request) -> str | None:
        """Why it cannot run `request`, or `None`."""
        if not request.has_known_sizes:
            return "it cuts time and batch into blocks: their sizes must be known, not symbolic"
        if request.platform == "tpu" and request.remat == "offload":
            return (
                "on TPUs its residuals would be moved to the host only after the forward pass, and "
                "take more memory of the device than without remat"
            )
        return why_axes_remain() or _why_no_part(request) or why_collectives_forbid(request)

    def slower_because(self, request: Request) -> str | None:
        """Why another engine is faster, or `None`."""
        return why_little_work(request) or why_narrow(request) or why_large_steps(request)

    def chosen_because(self, request: Request) -> str | None:
        """Its measured speed on the platform of a request, or `None`."""
        return MEASURED_SPEED.get(request.platform)

    def run(self, run: Run) -> tuple[Any, Any]:
        """Runs the cell -> `(outputs, final_state)`; the parts of a stack that it cannot run are
        run by `scan`."""
        if run.time == 0 or run.batch == 0:
            return run_scan(run)
        return run_apart(run, self.run, self._run_whole)

    def _run_whole(self, run: Run) -> tuple[Any, Any]:
        if why_not_split(run) is not None:
            return run_scan(run)
        if run.time_axis == 1 and self.tuning(run).arranges_first:
            outputs, state = self._run_whole(run.time_major())
            return jax.tree.map(_swap_axes, outputs), state
        passes = EnginePasses(self._forward, self._backward, self._primal, has_dynamic_loops=True)
        return run_passes(run, passes)

    def _forward(self, split: SplitCell, run: Run) -> tuple[Any, Any]:
        return forward(Blocks.of(split, run, self.tuning(run)), save=True)

    def _backward(
        self, split: SplitCell, run: Run, saved: PyTree, cotangents: PyTree
    ) -> tuple[Any, ...]:
        return backward(Blocks.of(split, run, self.tuning(run)), saved, cotangents)

    def _primal(self, split: SplitCell, run: Run) -> tuple[Any, Any]:
        """The forward pass alone. Tiles gain only by what they leave out: padding, and reading the
        kernels of the inputs at every step. An accelerator's tile leaves out neither."""

        tuning, lengths = self.tuning(run), run.masks.lengths
        if not tuning.replaces_padding:
            run = dataclasses.replace(run, padding=None)

        def tiles():
            return forward(Blocks.of(split, run, tuning), save=False)[0]

        if _has_large_steps(run, tuning):
            return run_scan(run)
        if (of_rows := tuning.row_tuning) is None:
            outputs, state = tiles()
            return (_in_steps(outputs) if tuning.arranges_first else outputs), state
        projection_bytes = sum(w.size * w.dtype.itemsize for w in run.params.projection)
        if run.batch == 1 and projection_bytes >= of_rows.projection_bytes:
            return tiles()
        if lengths is None:
            return run_scan(run)
        if run.masks.may_have_gaps:
            return tiles()
        # As floats: the sum of all lengths may overflow int32.
        is_full = lengths.astype(jnp.float32).mean() > of_rows.scan_if_full * run.time
        # JAX keeps what it traced as long as the function lives: `run_scan` by itself would keep
        # the cell of the run, and every array inside it.
        return jax.lax.cond(is_full, lambda: run_scan(run), tiles)


def _has_large_steps(run: Run, tuning: Tuning) -> bool:
    """Whether the matmuls of a step are so large that blocks make a forward pass no faster."""
    units = max((kernel.shape[0] for kernel in run.params.kernels), default=run.batch)
    rows_per_unit = run.batch / units
    too_large = bytes_of_a_step(run) > tuning.max_forward_bytes
    return too_large or rows_per_unit > tuning.max_forward_rows


def _in_steps(tree: PyTree) -> PyTree:
    """The same arrays, `[T, ...]`, in memory step by step."""
    tree = jax.tree.map(lambda x: with_layout_constraint(x, Layout((*range(x.ndim),))), tree)
    # Without the barrier, arrays that the program returns have the layout of its results from the
    # start, and each block is written in that layout.
    return jax.lax.optimization_barrier(tree)


def _swap_axes(x: jax.Array) -> jax.Array:
    return x.swapaxes(0, 1)


def _why_no_part(request: Request) -> str | None:
    """Why neither the cell nor any cell inside it can be split, or `None`."""
    found = [why_not_split(part) for part in innermost(request)]
    if None in found:  # `scan` runs the other parts
        return None
    return f"no layer of the stack can be run by it: {found[0]}" if is_stack(request) else found[0]
