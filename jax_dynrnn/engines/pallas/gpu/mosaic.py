"""What the kernels use of Pallas for Mosaic GPU, which changes between versions of JAX."""

from __future__ import annotations

import inspect
from typing import Any

import jax

from ...._types import DTypeLike, Ref

ROWS = 16
"""The rows of a tile: few, so that many SMs work on a batch."""
UNITS = 64
"""The units of a warpgroup: as many as one matrix instruction takes."""
MAX_WARPGROUPS = 5
"""In a thread block: a thread then has the registers for a cell of four gates."""
SHARED_MEMORY = 232_448
"""The bytes of shared memory that a thread block may have."""
NUM_SMS = 132
"""Of an H100 (SXM) or H200; each runs one thread block."""
INTERPRET: Any = None
"""What `kernel` takes for `interpret`; tests set it."""


def max_cluster() -> int:
    """The thread blocks that a cluster may have; the interpreter has no clusters."""
    return 8 if INTERPRET is None else 1


def missing() -> str | None:
    """What a kernel would need and this machine lacks, or `None`."""
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


def options(dtype: DTypeLike) -> dict[str, Any]:
    """How a kernel is compiled: for bfloat16 with the GPU's own `tanh`, which is as exact."""
    from jax.experimental.pallas import mosaic_gpu

    approximate = dtype == jax.numpy.bfloat16
    compiled = mosaic_gpu.CompilerParams(approx_math=approximate)
    return {"interpret": INTERPRET, "compiler_params": compiled}


def load(ref: Ref, *index: Any) -> jax.Array:
    """Loads from global memory, into the layout that matrix instructions have over threads."""
    from jax.experimental.pallas import mosaic_gpu

    if INTERPRET is not None:  # the interpreter knows no layouts
        return ref[index]
    options = {"layout": mosaic_gpu.Layout.WGMMA, "optimized": False}
    given = inspect.signature(mosaic_gpu.load).parameters.get("idx")
    if given is not None and given.default is given.empty:  # as in JAX 0.10
        return mosaic_gpu.load(ref, index, **options)
    return mosaic_gpu.load(ref.at[index], **options)


def store(ref: Ref, index: tuple[Any, ...], value: jax.Array) -> None:
    """Stores to global memory, in the dtype of the array there."""
    from jax.experimental.pallas import mosaic_gpu

    value = value.astype(ref.dtype)
    put = getattr(mosaic_gpu, "store", None)  # not in JAX 0.10
    if INTERPRET is None and put is not None:
        put(ref.at[index], value, optimized=False)
    else:
        ref[index] = value


def zeros() -> jax.Array:
    """Zeros for the units of a warpgroup and the rows of a tile, in the layout of `load`."""
    from jax.experimental.pallas import mosaic_gpu

    none = jax.numpy.zeros((UNITS, ROWS), jax.numpy.float32)
    return none if INTERPRET is not None else mosaic_gpu.layout_cast(none, mosaic_gpu.Layout.WGMMA)


def tiled(*shape: int, dtype: DTypeLike) -> Any:
    """Shared memory for operands of matrix instructions: `[..., n, k ROWS]` of 16 bits."""
    from jax.experimental.pallas import mosaic_gpu

    return mosaic_gpu.SMEM(shape, dtype, transforms=transforms())


def transforms() -> tuple[Any, ...]:
    """How shared memory is laid out for matrix instructions."""
    from jax.experimental.pallas import mosaic_gpu

    return mosaic_gpu.TilingTransform((8, ROWS)), mosaic_gpu.SwizzleTransform(2 * ROWS)


def matmuls(sums: list[list[tuple[Any, Any]]]) -> list[jax.Array]:
    """For each list the sum of `a @ b` over its pairs of references to shared memory, in float32.

    `b` has its terms side by side: few columns take no longer than one. All matmuls are issued
    before the first is waited for.
    """
    from jax.experimental import pallas
    from jax.experimental.pallas import mosaic_gpu

    def run(*accumulators):
        for sum_of, pairs in zip(accumulators, sums, strict=True):
            for a, b in pairs:
                mosaic_gpu.wgmma(sum_of, a, b)
        return [_sum_of_terms(sum_of[...]) for sum_of in accumulators]

    columns = sums[0][0][1].shape[-1]
    accumulator = mosaic_gpu.WGMMAAccumulatorRef((UNITS, columns), jax.numpy.float32)
    return pallas.run_scoped(run, *[accumulator] * len(sums))


def _sum_of_terms(x: jax.Array) -> jax.Array:
    """`[UNITS, terms ROWS]` -> `[UNITS, ROWS]`."""
    first, *rest = (x[:, i : i + ROWS] for i in range(0, x.shape[1], ROWS))
    return sum(rest, first)


def inline(text: str, arguments: list[Any]) -> None:
    """Runs PTX, in which `$0` and so on are the arguments: numbers, or shared memory by address."""
    from jax.experimental.mosaic.gpu import utils
    from jax.experimental.pallas import mosaic_gpu
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import llvm

    def value(x):
        return utils.memref_ptr(x) if isinstance(x, ir.Value) else x.registers.flat[0]

    @mosaic_gpu.inline_mgpu(arg_types=tuple(map(_inline_type, arguments)))
    def run(_, *values):
        nothing, constraints = ir.Type.parse("!llvm.void"), ",".join("r" * len(values))
        llvm.inline_asm(nothing, [*map(value, values)], text, constraints, has_side_effects=True)

    run(*arguments)


def _inline_type(x: Any) -> Any:
    from jax.experimental.pallas import mosaic_gpu

    if isinstance(x, jax.Array):
        return mosaic_gpu.Layout.WG_SPLAT
    return mosaic_gpu.RefType(transforms() if len(x.shape) == 2 else ())
