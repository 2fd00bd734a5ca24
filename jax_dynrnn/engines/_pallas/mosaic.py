"""What the kernels use of Pallas for Mosaic GPU, in one place: it moves between JAX's versions."""

from __future__ import annotations

import inspect
from typing import Any

import jax

from ..call import platform

ROWS = 16
"""Of a tile: few, so that many multiprocessors work on a batch."""
UNITS = 64
"""Of a warpgroup, at each step: what one matrix instruction takes."""
WARPGROUPS = 5
"""At most, in a block of threads: a thread then has the registers for a cell of four gates."""
SHARED = 232_448
"""Bytes of shared memory that a block may have."""
BLOCKS = 8
"""Of a cluster, at most."""
MULTIPROCESSORS = 132
"""Of an H100 (SXM) or H200; each runs one block."""
INTERPRET: Any = None
"""What `kernel` takes for `interpret`; tests set it."""


def missing() -> str | None:
    """What a kernel would lack here, or `None`."""
    if (here := platform()) != "gpu":
        return f"it needs an NVIDIA GPU, and JAX runs on {here}"
    capability = getattr(jax.devices()[0], "compute_capability", "none")
    if not str(capability).startswith("9."):
        return f"its kernels are for compute capability 9 (H100, H200), and this is {capability}"
    try:
        from jax.experimental.pallas import mosaic_gpu
    except ImportError as error:
        return f"this JAX has no Pallas for Mosaic GPU: {error}"
    needed = ("kernel", "wgmma", "load", "WGMMAAccumulatorRef", "Barrier", "commit_smem", "Layout")
    needed += ("inline_mgpu",)
    lacking = [name for name in needed if not hasattr(mosaic_gpu, name)]
    return f"this JAX's Pallas for Mosaic GPU has no {lacking[0]}" if lacking else None


def options(dtype: Any) -> dict[str, Any]:
    """How a kernel is compiled: the GPU has a `tanh` that is as exact as bfloat16."""
    from jax.experimental.pallas import mosaic_gpu

    approximate = dtype == jax.numpy.bfloat16
    compiled = mosaic_gpu.CompilerParams(approx_math=approximate)
    return {"interpret": INTERPRET, "compiler_params": compiled}


def load(ref: Any, *index: Any) -> jax.Array:
    """From global memory, laid out over the threads as matrix instructions have it."""
    from jax.experimental.pallas import mosaic_gpu

    if INTERPRET is not None:  # knows no layouts
        return ref[index]
    options = {"layout": mosaic_gpu.Layout.WGMMA, "optimized": False}
    given = inspect.signature(mosaic_gpu.load).parameters.get("idx")
    if given is not None and given.default is given.empty:  # as JAX 0.10 wants it
        return mosaic_gpu.load(ref, index, **options)
    return mosaic_gpu.load(ref.at[index], **options)


def store(ref: Any, index: tuple, value: jax.Array) -> None:
    """To global memory, in the dtype that is there."""
    from jax.experimental.pallas import mosaic_gpu

    value = value.astype(ref.dtype)
    put = getattr(mosaic_gpu, "store", None)  # which JAX 0.10 has not
    if INTERPRET is None and put is not None:
        put(ref.at[index], value, optimized=False)
    else:
        ref[index] = value


def zeros() -> jax.Array:
    """Of a warpgroup's units of a tile, laid out like what `load` gives."""
    from jax.experimental.pallas import mosaic_gpu

    none = jax.numpy.zeros((UNITS, ROWS), jax.numpy.float32)
    return none if INTERPRET is not None else mosaic_gpu.layout_cast(none, mosaic_gpu.Layout.WGMMA)


def tiled(*shape: int, dtype: Any) -> Any:
    """Shared memory for operands of matrix instructions, `[..., n, k ROWS]` of 16 bits."""
    from jax.experimental.pallas import mosaic_gpu

    return mosaic_gpu.SMEM(shape, dtype, transforms=transforms())


def transforms() -> tuple:
    """How shared memory is laid out for matrix instructions."""
    from jax.experimental.pallas import mosaic_gpu

    return mosaic_gpu.TilingTransform((8, ROWS)), mosaic_gpu.SwizzleTransform(2 * ROWS)


def matmuls(sums: list[list[tuple[Any, Any]]]) -> list[jax.Array]:
    """Of each list the sum of `a @ b` of references to shared memory, in float32.

    `b` has its pieces side by side: few columns cost as much as one. All are begun before the
    first is waited for.
    """
    from jax.experimental import pallas
    from jax.experimental.pallas import mosaic_gpu

    def run(*accumulators):
        for sum_of, pairs in zip(accumulators, sums, strict=True):
            for a, b in pairs:
                mosaic_gpu.wgmma(sum_of, a, b)
        return [_of_pieces(sum_of[...]) for sum_of in accumulators]

    columns = sums[0][0][1].shape[-1]
    accumulator = mosaic_gpu.WGMMAAccumulatorRef((UNITS, columns), jax.numpy.float32)
    return pallas.run_scoped(run, *[accumulator] * len(sums))


def _of_pieces(x: jax.Array) -> jax.Array:
    """`[UNITS, pieces ROWS]`, the sum over pieces."""
    first, *rest = (x[:, i : i + ROWS] for i in range(0, x.shape[1], ROWS))
    return sum(rest, first)


def inline(text: str, arguments: list[Any]) -> None:
    """PTX, of which `$0` and so on are numbers, or addresses in shared memory."""
    from jax.experimental.mosaic.gpu import utils
    from jax.experimental.pallas import mosaic_gpu
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import llvm

    def value(x):
        return utils.memref_ptr(x) if isinstance(x, ir.Value) else x.registers.flat[0]

    @mosaic_gpu.inline_mgpu(arg_types=tuple(map(_kind, arguments)))
    def run(_, *values):
        nothing, constraints = ir.Type.parse("!llvm.void"), ",".join("r" * len(values))
        llvm.inline_asm(nothing, [*map(value, values)], text, constraints, has_side_effects=True)

    run(*arguments)


def _kind(x: Any) -> Any:
    from jax.experimental.pallas import mosaic_gpu

    if isinstance(x, jax.Array):
        return mosaic_gpu.Layout.WG_SPLAT
    return mosaic_gpu.RefType(transforms() if len(x.shape) == 2 else ())
