"""How a padded batch is cut: rows of like length into tiles, time into blocks.

On a CPU rows are sorted by length, so that each tile of `b` rows ends at its own longest row. An
accelerator computes all rows at once: there the batch is one tile, in its own order. `K` steps
of a tile are a block. Every array of a block is `[K, b, ...]`. `B` is the batch size, `T` the
number of time steps.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _places as places
from ._loops import repeat
from .call import Call, platform, valid

ROWS = ((2**19, 16), (2**20, 32), (float("inf"), 64))
"""Bytes of all recurrent kernels, and the rows of a tile aimed at below that, if rows may differ in
length: with few, each reads the kernels again, out of the cache if they fit. Half of it for less
than two such tiles."""

SMALLEST = 2**12
"""The numbers in a tile's gates, at least, if the batch then has two tiles: with fewer, starting
the operations takes the time."""

UNSORTED = 2**15
"""The numbers in a tile's gates aimed at, if no row ends early: large tiles lose nothing then."""

BLOCK = 2**18
"""The numbers in a block's gates aimed at: they should stay in the cache, and be many enough
for fast matmuls with all steps of the block."""

MOST = 48
"""The steps of a block aimed at, at most."""

STEPS = 64
"""The steps of a block aimed at on an accelerator: the host is asked once a block."""

TILE = 2 / 3, 3 / 2
SPAN = 11 / 12, 4 / 3
"""What a tile may have of the rows aimed at, and a block on a CPU of the steps: at least, at most.
Blocks of a longer sequence must not be so much shorter that it takes less memory. (A block on an
accelerator has the range of tiles, with which it was measured.)"""


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The cuts of one call."""

    call: Call
    order: Any
    """int32 `[B]`: the rows, the longest first; `None`: as they are."""
    ends: jax.Array
    """int32 `[B]`: in that order, the steps up to the last valid one."""
    valid: jax.Array | None
    """bool `[T, B]`, in the order of the call; `None` where the lengths say all."""

    @classmethod
    def of(cls, call: Call) -> Tiles:
        is_valid = None if call.mask is None else valid(call)
        if call.lengths is None and call.mask is None:
            return cls(call, None, jnp.full(call.batch, call.time, jnp.int32), None)
        ends: Any = call.lengths
        if is_valid is not None:
            steps = jnp.arange(1, call.time + 1, dtype=jnp.int32)
            ends = jnp.where(is_valid, steps[:, None], 0).max(0)
        if not on_cpu():
            return cls(call, None, ends, is_valid)
        order = jnp.argsort(-ends).astype(jnp.int32)
        return cls(call, order, ends[order], is_valid)

    @property
    def rows(self) -> int:
        if not on_cpu():
            return self.call.batch
        if self.order is None:
            return cut(self.call.batch, max(ROWS[-1][1], UNSORTED // self.width), *TILE)
        size = sum(k.size * k.dtype.itemsize for k in self.call.params.kernels)
        aim = next(rows for most, rows in ROWS if size < most)
        aim = max(aim, min(SMALLEST // self.width, self.call.batch // 2))
        return cut(self.call.batch, aim if self.call.batch >= 2 * aim else max(aim // 2, 1), *TILE)

    @property
    def steps(self) -> int:
        remat, time = self.call.remat, self.call.time
        if self.remade:
            return math.isqrt(time - 1) + 1 if remat == "sqrt" else min(remat, time)
        if not on_cpu():
            return cut(time, STEPS, *TILE)
        return cut(time, min(max(BLOCK // (self.rows * self.width), 8), MOST), *SPAN)

    @property
    def width(self) -> int:
        """How many numbers the matmuls of a step give, for each row; 1 if there are none."""
        return sum(kernel.shape[-1] for kernel in self.call.params.kernels) or 1

    @property
    def remade(self) -> bool:
        """Whether the backward pass runs each block again, from the state it began with."""
        return self.call.remat not in (None, "offload")

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return -(-self.call.batch // self.rows)

    @property
    def whole(self) -> int:
        """How many blocks the whole time has."""
        return -(-self.call.time // self.steps)

    def blocks(self, tile: Any) -> jax.Array:
        """How many blocks a tile has."""
        return (self.longest(tile) + self.steps - 1) // self.steps

    def count_steps(self, tile: Any, block: Any) -> Any:
        """How many steps of a block are run: on a CPU those up to the tile's last valid one.

        A GPU asks the host after each turn of a loop whose end is computed: there it is all.
        """
        if not on_cpu():
            return self.steps
        return jnp.minimum(self.longest(tile) - self.start(block), self.steps)

    def at(self, i: Any) -> Any:
        """The tile of iteration `i`: the last one first, since what it writes to rows that it
        shares is then overwritten by the tile that runs them."""
        return self.count - 1 - i

    def first_row(self, tile: Any) -> Any:
        """The row a tile begins with: the last one may reach back into the one before."""
        return jnp.minimum(tile * self.rows, self.call.batch - self.rows)

    def own_ends(self, tile: Any) -> jax.Array:
        """int32 `[b]`: the steps of each row up to its last valid one; 0 for a row that the tile
        shares with the one before, which runs it."""
        first = self.first_row(tile)
        ends = places.slice_in_dim(self.ends, first, self.rows)
        if self.call.batch % self.rows == 0:
            return ends
        own = first + jnp.arange(self.rows, dtype=jnp.int32) >= tile * self.rows
        return jnp.where(own, ends, 0)

    def longest(self, tile: Any) -> jax.Array:
        return self.own_ends(tile).max()

    def start(self, block: Any) -> jax.Array:
        """The step a block begins with: the last one may reach back into the one before."""
        return jnp.minimum(block * self.steps, self.call.time - self.steps)

    def mask(self, tile: Any, block: Any) -> jax.Array:
        """bool `[K, b]`: the steps of a block that are valid, and not of the block before."""
        t = self.start(block) + jnp.arange(self.steps, dtype=jnp.int32)
        inside = t[:, None] < self.own_ends(tile)[None]
        if self.overlap:
            inside = inside & (t >= block * self.steps)[:, None]
        if self.valid is not None:
            inside = inside & self.take(self.valid, tile, block, time_axis=0)
        return inside

    @property
    def all(self) -> bool:
        """Whether all steps of all blocks are known to be valid, none shared by two of them."""
        even = not self.overlap and self.call.batch % self.rows == 0
        return even and self.call.lengths is None and self.call.mask is None

    @property
    def overlap(self) -> bool:
        return self.call.time % self.steps != 0

    def numbers(self, tile: Any) -> Any:
        """The rows of a tile."""
        return places.slice_in_dim(self.order, self.first_row(tile), self.rows)

    def take(self, x: jax.Array, tile: Any, block: Any, time_axis: int | None = None) -> jax.Array:
        """A block of `[B, T, ...]`, or `[T, B, ...]`."""
        axis = self.call.time_axis if time_axis is None else time_axis
        x = places.slice_in_dim(x, self.start(block), self.steps, axis)
        x = self.take_rows(x, tile, 1 - axis)
        return x if axis == 0 else jnp.swapaxes(x, 0, 1)

    def take_rows(self, x: jax.Array, tile: Any, axis: int = 0) -> jax.Array:
        if self.order is None:
            return places.slice_in_dim(x, self.first_row(tile), self.rows, axis)
        return jnp.take(x, self.numbers(tile), axis, mode="clip")

    def put(self, buffer: jax.Array, y: jax.Array, tile: Any, block: Any) -> jax.Array:
        """Writes a block into `[B, T, ...]`, or `[T, B, ...]`."""
        axis = self.call.time_axis
        y = y if axis == 0 else jnp.swapaxes(y, 0, 1)
        start = self.start(block)

        def write(buffer, y, row):
            at: list[Any] = [np.int32(0)] * y.ndim
            at[axis], at[1 - axis] = start, row
            if self.overlap:
                own = start + jnp.arange(self.steps, dtype=jnp.int32) >= block * self.steps
                own = own.reshape([self.steps if i == axis else 1 for i in range(y.ndim)])
                y = jnp.where(own, y, places.slice(buffer, at, y.shape))
            return places.update_slice(buffer, y, at)

        if self.order is None:
            return write(buffer, y, self.first_row(tile))
        numbers = self.numbers(tile)

        def write_row(i, buffer):
            return write(buffer, places.slice_in_dim(y, i, 1, 1 - axis), numbers[i])

        return repeat(self.rows, write_row, buffer, unroll=2)

    def put_rows(self, buffer: jax.Array, y: jax.Array, tile: Any) -> jax.Array:
        if self.order is None:
            return places.update_slice_in_dim(buffer, y, self.first_row(tile), 0)
        return buffer.at[self.numbers(tile)].set(y, mode="promise_in_bounds", unique_indices=True)


def on_cpu() -> bool:
    return platform() == "cpu"


def cut(size: int, aim: int, least: float, most: float) -> int:
    """The size of equal parts of `least` to `most` times `aim`, or of the one part of a small size.

    A divisor of `size` if there is one. Else the last part reaches back into the one before, by
    little: no size costs much more than its neighbours.
    """
    low, high = math.ceil(least * aim), math.floor(most * aim)
    if divisors := [d for d in range(low, min(high, size) + 1) if size % d == 0]:
        return min(divisors, key=lambda d: max(d / aim, aim / d))
    parts = -(-size // high)
    return min(max(-(-size // parts), low), size)
