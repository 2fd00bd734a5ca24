"""Where a padded batch is cut: rows of like length into tiles, time into blocks.

`K` steps of a tile of `b` rows are a block; every array of a block is `[K, b, ...]`. `B` is the
batch size, `T` the number of time steps.

All tiles have the same number of rows, and all blocks the same number of steps. If that does not
divide the batch or the time, the last tile (block) begins early, and so overlaps the one before it.
Every row (step) of an overlap has one owner, the earlier tile (block).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._types import Index, PyTree
from ..loops import (
    dynamic_slice,
    dynamic_slice_in_dim,
    dynamic_update_slice,
    dynamic_update_slice_in_dim,
    repeat,
)
from ..request import Run
from .tuning import Tuning


@dataclasses.dataclass(frozen=True)
class Tiling:
    """The tiles and blocks of one run, and how arrays are read and written by them."""

    run: Run
    order: Any
    """int32 `[B]`: the rows, the longest first; `None`: as they are."""
    ends: jax.Array
    """int32 `[B]`: in that order, the steps up to the last valid one."""
    rows: int
    """`b`."""
    steps: int
    """`K`."""
    runs_whole_blocks: bool
    """Whether all steps of a block are run, valid or not."""

    @classmethod
    def of(cls, run: Run, tuning: Tuning) -> Tiling:
        lengths, order = run.masks.lengths, None
        if lengths is None:
            lengths = run.lengths
        elif tuning.row_tuning is not None:
            # Longest first: rows of like length share a tile, which stops with its longest.
            order = jnp.argsort(-lengths).astype(jnp.int32)
            lengths = lengths[order]
        rows = _rows_of_a_tile(run, tuning)
        steps = _steps_of_a_block(run, tuning, rows)
        return cls(run, order, lengths, rows, steps, tuning.row_tuning is None)

    @property
    def rematerialises(self) -> bool:
        """Whether the backward pass runs each block again, from the state it began with."""
        return self.run.remat_steps is not None

    @property
    def num_tiles(self) -> int:
        return -(-self.run.batch // self.rows)

    @property
    def num_blocks(self) -> int:
        """The blocks of a tile whose longest row has `T` steps."""
        return -(-self.run.time // self.steps)

    def num_blocks_of(self, tile: Index) -> jax.Array:
        """The blocks of a tile."""
        return (self.longest(tile) + self.steps - 1) // self.steps

    def own_steps(self, tile: Index, block: Index) -> tuple[Index, Index] | None:
        """The first step of a block that is run, and the one after the last; `None`: all are.

        Steps of the block before are not run again, nor those after the tile's last valid one.
        """
        if self.runs_whole_blocks:
            return None
        start = self.start(block)
        first = self.first_own_step(block, start)
        return first, jnp.minimum(self.longest(tile) - start, self.steps)

    def first_own_step(self, block: Index, start: jax.Array) -> Index:
        """The first step that the block before does not own, counted from the block's `start`."""
        return block * self.steps - start if self.last_block_overlaps else np.int32(0)

    def tile(self, i: Index) -> Any:
        """The tile of iteration `i`. Tiles are run from last to first, so that an earlier tile
        overwrites what the last one wrote in the rows that they share."""
        return self.num_tiles - 1 - i

    def first_row(self, tile: Index) -> Any:
        """The first row of a tile, earlier than `tile * rows` if the last tile overlaps."""
        return jnp.minimum(tile * self.rows, self.run.batch - self.rows)

    def own_ends(self, tile: Index) -> jax.Array:
        """int32 `[b]`: the steps of each row up to its last valid one; 0 for rows that the tile
        before owns."""
        first = self.first_row(tile)
        ends = dynamic_slice_in_dim(self.ends, first, self.rows)
        if self.run.batch % self.rows == 0:
            return ends
        is_own = first + jnp.arange(self.rows, dtype=jnp.int32) >= tile * self.rows
        return jnp.where(is_own, ends, 0)

    def longest(self, tile: Index) -> jax.Array:
        return self.own_ends(tile).max()

    def start(self, block: Index) -> jax.Array:
        """The first step of a block, earlier than `block * steps` if the last block overlaps."""
        return jnp.minimum(block * self.steps, self.run.time - self.steps)

    def residual_step(self, block: Index, k: Index) -> Any:
        """The step of the buffers of residuals, `[T, B, ...]`, that step k of a block writes.

        On a CPU, steps that the block before owns are not run. On an accelerator they are, and are
        redirected to this block's first own step, which is run after them and overwrites them. A
        reverse run needs no redirection: the block before is run later, and overwrites them itself.
        """
        step = self.start(block) + k
        if self.runs_whole_blocks and self.last_block_overlaps and not self.run.reverse:
            step = jnp.maximum(step, block * self.steps)
        return step

    def valid(self, tile: Index, block: Index) -> jax.Array:
        """bool `[K, b]`: the steps of a block that are valid and its own."""
        t = self.start(block) + jnp.arange(self.steps, dtype=jnp.int32)
        inside = t[:, None] < self.own_ends(tile)[None]
        if self.last_block_overlaps:
            inside = inside & (t >= block * self.steps)[:, None]
        if self.run.masks.may_have_gaps:
            inside = inside & self.read(self.run.masks.valid, tile, block, time_axis=0)
        return inside

    @property
    def all_steps_valid(self) -> bool:
        """Whether all steps of all blocks are valid, and none is shared by two blocks or tiles."""
        divides = not self.last_block_overlaps and self.run.batch % self.rows == 0
        return divides and self.run.masks.valid is None

    @property
    def last_block_overlaps(self) -> bool:
        """Whether the last block overlaps the one before it."""
        return self.run.time % self.steps != 0

    def row_indices(self, tile: Index) -> Any:
        """The rows of a tile, where they are sorted."""
        return dynamic_slice_in_dim(self.order, self.first_row(tile), self.rows)

    def read(self, tree: PyTree, tile: Index, block: Index, time_axis: int | None = None) -> PyTree:
        """A block of arrays `[B, T, ...]`, or `[T, B, ...]`."""
        axis = self.run.time_axis if time_axis is None else time_axis
        start = self.start(block)

        def read_array(x):
            x = dynamic_slice_in_dim(x, start, self.steps, axis)
            x = self._read_rows(x, tile, 1 - axis)
            return x if axis == 0 else jnp.swapaxes(x, 0, 1)

        return jax.tree.map(read_array, tree)

    def read_rows(self, tree: PyTree, tile: Index) -> PyTree:
        """The rows of a tile, of arrays `[B, ...]`."""
        return jax.tree.map(functools.partial(self._read_rows, tile=tile, axis=0), tree)

    def _read_rows(self, x: jax.Array, tile: Index, axis: int) -> jax.Array:
        if self.order is None:
            return dynamic_slice_in_dim(x, self.first_row(tile), self.rows, axis)
        # The indices are within bounds; the default mode would check each and fill with NaN.
        return jnp.take(x, self.row_indices(tile), axis, mode="clip")

    def write(self, buffers: PyTree, ys: PyTree, tile: Index, block: Index) -> PyTree:
        """Writes a block into arrays `[B, T, ...]`, or `[T, B, ...]`."""
        axis = self.run.time_axis

        def write_array(buffer, y):
            y = y if axis == 0 else jnp.swapaxes(y, 0, 1)
            if self.order is None:
                return self._write_from_row(buffer, y, self.first_row(tile), block)
            # Row by row: a scatter of all rows is slower on a CPU.
            indices = self.row_indices(tile)

            def write_row(i, buffer):
                row = dynamic_slice_in_dim(y, i, 1, 1 - axis)
                return self._write_from_row(buffer, row, indices[i], block)

            return repeat(self.rows, write_row, buffer, unroll=2)

        return jax.tree.map(write_array, buffers, ys)

    def _write_from_row(
        self, buffer: jax.Array, y: jax.Array, row: Index, block: Index
    ) -> jax.Array:
        """Writes consecutive rows; steps that the block before owns are not changed."""
        axis, start = self.run.time_axis, self.start(block)
        at: list[Any] = [np.int32(0)] * y.ndim
        at[axis], at[1 - axis] = start, row
        if self.last_block_overlaps:
            is_own = start + jnp.arange(self.steps, dtype=jnp.int32) >= block * self.steps
            is_own = is_own.reshape([self.steps if i == axis else 1 for i in range(y.ndim)])
            y = jnp.where(is_own, y, dynamic_slice(buffer, at, y.shape))
        return dynamic_update_slice(buffer, y, at)

    def write_rows(self, buffers: PyTree, ys: PyTree, tile: Index) -> PyTree:
        """Writes the rows of a tile into arrays `[B, ...]`."""

        def write_array(buffer, y):
            if self.order is None:
                return dynamic_update_slice_in_dim(buffer, y, self.first_row(tile), 0)
            put = buffer.at[self.row_indices(tile)].set
            return put(y, mode="promise_in_bounds", unique_indices=True)

        return jax.tree.map(write_array, buffers, ys)


MIN_BLOCK_STEPS = 8
"""The smallest target for the steps of a block."""
ONE_BLOCK_STEPS = 32
"""Time steps up to which a run is one block, whatever its width."""


def _elements_of_a_row(run: Run) -> int:
    """The elements of a step's recurrent products for each row; 1 if there are none."""
    return sum(kernel.shape[-1] for kernel in run.params.kernels) or 1


def _rows_of_a_tile(run: Run, tuning: Tuning) -> int:
    of_rows, batch, width = tuning.row_tuning, run.batch, _elements_of_a_row(run)
    if of_rows is None:
        return batch
    if run.masks.valid is None:
        target = max(of_rows.rows_by_kernel_bytes[-1][1], of_rows.full_elements // width)
        return part_size(batch, target, of_rows.rows_range)
    kernel_bytes = sum(k.size * k.dtype.itemsize for k in run.params.kernels)
    target = next(rows for limit, rows in of_rows.rows_by_kernel_bytes if kernel_bytes < limit)
    target = max(target, min(of_rows.min_elements // width, batch // 2))
    target = target if batch >= 2 * target else max(target // 2, 1)
    return part_size(batch, target, of_rows.rows_range)


def _steps_of_a_block(run: Run, tuning: Tuning, rows: int) -> int:
    if run.remat_steps is not None:
        return run.remat_steps
    return steps_of_a_block(run.time, rows, _elements_of_a_row(run), _itemsize(run), tuning)


def bytes_of_a_step(run: Run) -> int:
    """The size of the recurrent products of one step."""
    return run.batch * _elements_of_a_row(run) * _itemsize(run)


def _itemsize(run: Run) -> int:
    return max((kernel.dtype.itemsize for kernel in run.params.kernels), default=1)


def steps_of_a_block(time: int, rows: int, elements: int, itemsize: int, tuning: Tuning) -> int:
    """The steps of a block, if a row has so many `elements` in the recurrent products of a step."""
    # A few short blocks take longer than one that does not fit into the cache.
    fewest = time if time <= ONE_BLOCK_STEPS else MIN_BLOCK_STEPS
    most = min(tuning.block_elements, tuning.block_bytes / itemsize) / elements
    most = min(most, tuning.max_block_rows) / rows
    target = min(max(most, fewest), tuning.max_block_steps)
    return part_size(time, int(target), tuning.block_range)


def part_size(size: int, target: int, part_range: tuple[float, float]) -> int:
    """The size of equal parts: about `target`, within a range of it; or one part of a small size.

    A divisor of `size` if there is one. Else the last part overlaps the one before by little: no
    size costs much more than its neighbours.
    """
    low, high = math.ceil(part_range[0] * target), math.floor(part_range[1] * target)
    if divisors := [d for d in range(low, min(high, size) + 1) if size % d == 0]:
        return min(divisors, key=lambda d: max(d / target, target / d))
    parts = -(-size // high)
    return min(max(-(-size // parts), low), size)
