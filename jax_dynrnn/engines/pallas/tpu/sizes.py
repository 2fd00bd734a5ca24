"""What a kernel is compiled for, and how a batch is cut so that it fits into a core's memory.

Arrays in memory are `[T, B, ...]`. A tile of rows is run from its first to its last step in blocks
of `K` steps. The units of a cell are computed in slices of `LANES`: with all their gates side by
side, a slice's columns of the recurrent matrix are one matmul. So an array of `k` gates is
`[..., slices, k, LANES]`, the last three in one axis.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ...._types import DTypeLike
from ..layout import round_up
from ..step import Step
from .projection import Dense

LANES = 128
"""The elements of a vector register in a row."""

BLOCK_STEPS = (16, 8)
"""The steps of a block, if they fit: with more the matmuls of a block are larger."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the kernels of one run are compiled for."""

    step: Step
    batch: int
    """The rows, rounded up to tiles."""
    rows: int
    """Of a tile."""
    time: int
    steps: int
    """`K`."""
    reverse: bool
    dtype: Any
    """That of params and outputs."""
    projection: tuple[Dense, ...] | None
    """The dense layers that the kernel projects its inputs by; `None`: XLA projects them."""
    features: int
    """The columns of the inputs, rounded up to lanes, if the kernel projects them."""
    has_flags: bool
    """Whether steps have flags: there is a mask, or resets."""
    all_valid: bool
    """Whether all steps of all rows of all blocks are valid."""
    precision: Any
    """Of matmuls."""

    @property
    def units(self) -> int:
        """Those of the cell, rounded up to lanes."""
        return round_up(self.step.units, LANES)

    @property
    def slices(self) -> int:
        return self.units // LANES

    @property
    def tiles(self) -> int:
        return self.batch // self.rows

    @property
    def blocks(self) -> int:
        return math.ceil(self.time / self.steps)

    def columns(self, u: int, gates: int, gate: int) -> slice:
        """The columns of a gate of slice `u`, in an array of several gates."""
        first = (u * gates + gate) * LANES
        return slice(first, first + LANES)

    def gates_of(self, u: int, gates: int) -> slice:
        """The columns of all gates of slice `u`."""
        return slice(u * gates * LANES, (u + 1) * gates * LANES)

    def over_time(self, columns: int, dtype: DTypeLike | None = None) -> jax.ShapeDtypeStruct:
        """The type of an array of all steps."""
        return jax.ShapeDtypeStruct((self.time, self.batch, columns), dtype or self.dtype)

    def of_rows(self, columns: int, dtype: DTypeLike = jnp.float32) -> jax.ShapeDtypeStruct:
        """The type of an array of all rows."""
        return jax.ShapeDtypeStruct((self.batch, columns), dtype)

    def of_block(self, columns: int, dtype: DTypeLike | None = None) -> jax.ShapeDtypeStruct:
        """The type of an array of the steps and rows of one block."""
        return jax.ShapeDtypeStruct((self.steps, self.rows, columns), dtype or self.dtype)

    def matrix(self, rows: int, columns: int, dtype: DTypeLike | None = None) -> Any:
        """The type of an array without steps and rows of the batch."""
        return jax.ShapeDtypeStruct((rows, columns), dtype or self.dtype)


def cuts(batch: int, time: int, dtype: DTypeLike) -> Iterator[tuple[int, int]]:
    """`(rows of a tile, steps of a block)`, the fastest first.

    A tile's steps follow each other: fewer tiles take less time than larger blocks save.
    """
    sublanes = row_multiple(dtype)
    seen = set()
    for tiles in range(1, math.ceil(batch / sublanes) + 1):
        rows = round_up(math.ceil(batch / tiles), sublanes)
        if rows not in seen:
            seen.add(rows)
            yield from ((rows, min(steps, time)) for steps in BLOCK_STEPS)


def row_multiple(dtype: DTypeLike) -> int:
    """Rows come in multiples of this: what a vector register holds."""
    return 32 // jnp.dtype(dtype).itemsize


def matmul_precision(dtype: DTypeLike) -> jax.lax.Precision:
    """The precision of matmuls that a kernel has, at least what JAX's setting asks for."""
    asked = jax.config.jax_default_matmul_precision  # pyright: ignore
    low = None, "default", "fastest", "bfloat16", "BF16_BF16_F32"
    if jnp.dtype(dtype) == jnp.float32 and asked not in low:
        return jax.lax.Precision.HIGHEST
    return jax.lax.Precision.DEFAULT
