"""TPUs. The kernels were compiled for them, and run in Pallas' interpreter; no TPU has run them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ...devices import in_shard_map, on_mesh
from ...request import Request
from ...staged.probe import Probe, asks_split_cell
from ..platform import Platform
from ..primitives import for_tpu
from ..step import step_or_reason
from . import chips, passes

DTYPES = [jnp.dtype(name) for name in ("bfloat16", "float32")]


class Tpu(Platform):
    """Weights and state stay in the vector memory of a core; blocks of steps are streamed."""

    def unsupported(self, request: Request) -> str | None:
        """What is lacking, or `None`."""
        if (lacking := chips.missing(request.device)) is not None:
            return lacking
        if request.row_axes is None and on_mesh(request) and not in_shard_map():
            return "the rows of the batch cannot be divided over the devices of the mesh"
        if (dtype := jnp.dtype(request.dtype)) not in DTYPES:
            return f"a TPU multiplies bfloat16 and float32, not {dtype}"
        return None

    def why_no_kernel(self, part: Request) -> str | None:
        """What is not arithmetic within each unit, or does not fit, or `None`."""
        found = _reason_or_bytes(part)
        if found is None or isinstance(found, str):
            return found
        room = chips.bytes_for_arrays(part.device)
        if found <= room:
            return None
        return (
            f"the weights of {type(part.cell).__name__} and their gradients take "
            f"{found / chips.MIB:.0f} MiB, and a kernel has {room / chips.MIB:.0f} MiB for them on "
            f"{part.device.kind}"
        )

    def slower_because(self, request: Request) -> str | None:
        """Why another engine is preferred."""
        del request
        return "its kernels for TPUs were never timed on one: it runs by name only"

    def chosen_because(self) -> str | None:
        """Nothing was measured."""
        return None

    forward = staticmethod(passes.forward)
    backward = staticmethod(passes.backward)


@asks_split_cell
def _reason_or_bytes(probe: Probe) -> Any:
    """What cannot be computed, or the vector memory that a training step takes at least."""
    dtype = probe.weights.kernels[0].dtype
    step = step_or_reason(probe, for_tpu(dtype))
    return step if isinstance(step, str) else passes.vmem_bytes(passes.smallest(step, dtype))
