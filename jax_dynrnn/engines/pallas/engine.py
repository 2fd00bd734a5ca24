"""The engine `pallas`: what it can run, and when it is the fastest."""

from __future__ import annotations

from typing import Any

from ..._cell import MatmulCell
from ..devices import why_axes_remain, why_checked
from ..engine import Engine
from ..request import Request, Run
from ..scan import run_scan
from ..staged.collectives import why_collectives_forbid
from ..staged.parts import innermost, is_stack, run_apart, why_not_split
from ..staged.run import EnginePasses, run_passes
from ..staged.split_cell import SplitCell
from .gpu import Gpu
from .platform import Platform
from .tpu import Tpu

PLATFORMS: dict[str, Platform] = {"gpu": Gpu(), "tpu": Tpu()}
"""The platforms that have kernels."""


class Pallas(Engine):
    """One kernel for all steps, of any cell whose step is arithmetic within each unit."""

    name = "pallas"
    checks_vma = False

    def unsupported(self, request: Request) -> str | None:
        """Why it cannot run `request`, or `None`."""
        if (platform := PLATFORMS.get(request.platform)) is None:
            return f"it needs an NVIDIA GPU or a TPU, and this run is on {request.platform}"
        if (lacking := platform.unsupported(request)) is not None:
            return lacking
        if not request.has_known_sizes:
            return "its kernels are compiled for sizes that are known, not symbolic"
        if request.remat is not None:
            return "its kernels have no remat"
        if (reason := why_axes_remain() or why_checked(request)) is not None:
            return reason
        for part in innermost(request):
            if (reason := _why_not_in_a_kernel(platform, part)) is not None:
                is_of_layer = is_stack(request)
                return (
                    f"a layer of the stack cannot be run by it: {reason}" if is_of_layer else reason
                )
        return why_collectives_forbid(request)

    def slower_because(self, request: Request) -> str | None:
        """Why another engine is faster, or `None`."""
        return PLATFORMS[request.platform].slower_because(request)

    def chosen_because(self, request: Request) -> str | None:
        """Its measured speed on the platform of a request, or `None`."""
        platform = PLATFORMS.get(request.platform)
        return None if platform is None else platform.chosen_because()

    def run(self, run: Run) -> tuple[Any, Any]:
        """Runs the cell -> `(outputs, final_state)`."""
        if run.time == 0 or run.batch == 0:
            return run_scan(run)
        return run_apart(run, self.run, _run_whole)


def _run_whole(run: Run) -> tuple[Any, Any]:
    platform = PLATFORMS[run.platform]

    def primal(split: SplitCell, run: Run) -> tuple[Any, Any]:
        return platform.forward(split, run, save=False)[0]

    def with_residuals(split: SplitCell, run: Run) -> tuple[Any, Any]:
        return platform.forward(split, run, save=True)

    passes = EnginePasses(with_residuals, platform.backward, primal, has_dynamic_loops=False)
    return run_passes(run, passes)


def _why_not_in_a_kernel(platform: Platform, part: Request) -> str | None:
    """Why the step of a cell that is run as a whole cannot be computed by a kernel, or `None`."""
    if (reason := why_not_split(part)) is not None:
        return reason
    if not isinstance(part.cell, MatmulCell) or not part.cell.unitwise:
        return f"the step of {type(part.cell).__name__} is not known as arithmetic within each unit"
    return platform.why_no_kernel(part)
