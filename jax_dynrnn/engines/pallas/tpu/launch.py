"""How a kernel is launched, and what both kernels do with a block: its steps, masks and matmuls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...._types import Index, PyTree, Ref
from ...devices import Device
from ..layout import RESET, VALID
from . import chips
from .arrays import ROWS, WHOLE, Arrays, Masks, in_block, vmem_bytes
from .sizes import LANES, Sizes

UNROLLED_REGISTERS = 16 * 8
"""Steps are unrolled until a gate of theirs takes so many registers in all: more would gain
nothing, and take longer to compile."""

MATMUL_ROWS = 2**10
"""The most rows of a matmul's result, of a block's rows and steps together."""

MATMUL_COLUMNS = 512
"""The most columns."""

GRADIENT_ROWS = 256
"""The most rows of a weight gradient that are computed by one matmul."""


def launch(
    sizes: Sizes,
    device: Device,
    body: Callable[..., None],
    types: Arrays,
    places: Arrays,
    descending: bool,
) -> Callable[..., Any]:
    """The kernel of `body(block, arguments, results, scratch)`, as a function of `(counts,
    arguments)`: the number of blocks that each tile runs, int32 `[tiles]`, and the arrays.

    Args:
        sizes: what it is compiled for.
        device: the TPU that it is compiled for.
        body: the program of one block; arguments, results and scratch are pytrees of references.
        types: the arrays.
        places: the place of each in a block.
        descending: whether the blocks, and their steps, are run from the last to the first.
    """
    from jax.experimental import pallas
    from jax.experimental.pallas import tpu

    structures = [jax.tree.structure(part) for part in types]
    sizes_of_parts = [s.num_leaves for s in structures]

    def flat_body(counts, *refs):
        rest, parts = list(refs), []
        for structure, n in zip(structures, sizes_of_parts, strict=True):
            parts.append(structure.unflatten(rest[:n]))
            rest = rest[n:]
        body(Block(sizes, counts, descending), *parts)

    def specs(places, types, of_time):
        def spec(place, x):
            shape = in_block(sizes, place, x)
            if place == WHOLE:
                return pallas.BlockSpec(
                    shape, lambda *_: (np.int32(0),) * len(shape), pipeline_mode=pallas.Buffered(1)
                )
            if place == ROWS:
                return pallas.BlockSpec(shape, lambda tile, i, counts: (tile, np.int32(0)))
            return pallas.BlockSpec(
                shape, lambda tile, i, counts: (of_time(i, counts[tile]), tile, np.int32(0))
            )

        nested = jax.tree.map(
            lambda place, tree: [spec(place, x) for x in jax.tree.leaves(tree)], places, types
        )
        return jax.tree.leaves(nested, is_leaf=lambda x: isinstance(x, pallas.BlockSpec))

    def read_at(i, count):
        return _block_to_read(i, count, descending)

    def written_at(i, count):
        return _block_to_write(i, count, descending)

    kernel = pallas.pallas_call(
        flat_body,
        out_shape=jax.tree.leaves(types.results),
        grid_spec=tpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(sizes.tiles, sizes.blocks),
            in_specs=specs(places.arguments, types.arguments, read_at),
            out_specs=specs(places.results, types.results, written_at),
            scratch_shapes=[tpu.VMEM(x.shape, x.dtype) for x in jax.tree.leaves(types.scratch)],
        ),
        **chips.options(device, vmem_bytes(sizes, types, places)),
    )

    def run(counts, arguments):
        return structures[1].unflatten(kernel(counts, *jax.tree.leaves(arguments)))

    return run


def _block_to_read(i: Any, count: Any, descending: bool) -> Any:
    """The block that is read in iteration `i`: the last one again once all `count` have been run,
    so that nothing is copied."""
    last = jnp.maximum(count - 1, 0)
    i = jnp.minimum(i, last)
    return last - i if descending else i


def _block_to_write(i: Any, count: Any, descending: bool) -> Any:
    """The block that is written in iteration `i`: those that are not run follow the others."""
    return jnp.where(i < count, count - 1 - i, i) if descending else i


class Block:
    """One block of one tile: an iteration of the grid."""

    def __init__(self, sizes: Sizes, counts: Ref, descending: bool):
        from jax.experimental import pallas

        self.sizes: Sizes = sizes
        self.descending: bool = descending
        self.tile: jax.Array = pallas.program_id(0)
        self.index: jax.Array = pallas.program_id(1)
        self.count: jax.Array = counts[self.tile]
        """The blocks of the tile that are run."""
        self.is_run: Any = self.index < self.count
        self.is_first: Any = self.index == 0
        self.is_first_of_all: Any = jnp.logical_and(self.is_first, self.tile == 0)
        number = _block_to_write(self.index, self.count, descending)
        self.time: Any = number * np.int32(sizes.steps)
        """The block's first step."""

    def run_steps(self, step: Callable[..., Any], carry: PyTree) -> Any:
        """`step(k, carry)` for each step k of the block, in the order of the pass."""
        number = self.sizes.steps
        registers = -(-self.sizes.rows // 8) * self.sizes.slices
        unrolled = largest_divisor(number, UNROLLED_REGISTERS // registers)

        def some(i, carry):
            for j in range(unrolled):
                n = _times(i, unrolled) + j
                carry = step(number - 1 - n if self.descending else n, carry)
            return carry

        return _repeat(number // unrolled, some, carry)

    def masks(self, masks: Masks, k: Index) -> tuple[Any, Any]:
        """`(valid, reset)` of a step: bool `[b, LANES]`, or `None` where none differs."""
        if self.sizes.all_valid:
            return None, None
        valid = masks.ends[0][...] > self.time + k
        if not masks.flags:
            return valid, None
        flags = masks.flags[0][k]
        return jnp.logical_and(valid, flags >= VALID), jnp.logical_and(valid, flags >= RESET)

    def vectors(self, refs: list[Any]) -> list[list[Any]]:
        """For each slice of units the gates of vectors, for each row the same."""
        sizes, counts = self.sizes, self.sizes.step.vectors
        shape = sizes.rows, LANES
        return [
            [
                [jnp.broadcast_to(ref[:, sizes.columns(u, k, g)], shape) for g in range(k)]
                for ref, k in zip(refs, counts, strict=True)
            ]
            for u in range(sizes.slices)
        ]

    def load_gates(self, ref: Ref, k: Index, u: int, gates: int) -> list[Any]:
        """The gates of slice `u` at step k, in float32."""
        columns = (self.sizes.columns(u, gates, g) for g in range(gates))
        return [ref[k, :, c].astype(jnp.float32) for c in columns]

    def store_gates(self, ref: Ref, k: Index, u: int, gates: list[Any]) -> None:
        """Stores the gates of slice `u` at step k, in the dtype of the reference."""
        for g, x in enumerate(gates):
            ref[k, :, self.sizes.columns(u, len(gates), g)] = x.astype(ref.dtype)

    def dot(self, x: jax.Array, y: jax.Array, over_rows: bool = False) -> jax.Array:
        """`x @ y` in float32; with `over_rows` `x.T @ y`."""
        return jax.lax.dot_general(
            x,
            y,
            (((0 if over_rows else 1,), (0,)), ((), ())),
            precision=self.sizes.precision,
            preferred_element_type=jnp.float32,
        )

    def multiply_steps(
        self, pairs: list[tuple[Any, Any]], result: Ref, plus: Any = None, adds: bool = False
    ) -> None:
        """Stores the sum of `x @ w` over the pairs, for all steps of the block.

        Args:
            pairs: references `[K, b, n]` and `[n, m]`.
            result: a reference, `[K, b, m]`.
            plus: a reference `[1, m]`, added to every row.
            adds: whether the sum is added to what the result holds.
        """
        rows, width = self.sizes.rows, result.shape[-1]
        steps = largest_divisor(self.sizes.steps, MATMUL_ROWS // rows)
        size = LANES * largest_divisor(width // LANES, MATMUL_COLUMNS // LANES)

        def some_steps(i):
            at = _slice(_times(i, steps), steps)
            for start in range(0, width, size):
                columns = slice(start, start + size)
                total = plus[:, columns] if plus is not None else None
                for x, w in pairs:
                    merged = x[at].reshape(steps * rows, x.shape[-1])
                    product = self.dot(merged, w[:, columns])
                    total = product if total is None else total + product
                assert total is not None
                total = total.reshape(steps, rows, size)
                if adds:
                    total = result[at, :, columns].astype(jnp.float32) + total
                result[at, :, columns] = total.astype(result.dtype)

        _for_each(self.sizes.steps // steps, some_steps)

    def add_gradient(self, x: Ref, d: Ref, result: Ref) -> None:
        """Adds the sum over steps and rows of `x[k, row, :, None] * d[k, row, None, :]`."""
        height, width = result.shape
        rows = LANES * largest_divisor(height // LANES, GRADIENT_ROWS // LANES)
        size = LANES * largest_divisor(width // LANES, MATMUL_COLUMNS // LANES)
        steps = largest_divisor(self.sizes.steps, MATMUL_ROWS // self.sizes.rows)
        merged = steps * self.sizes.rows

        def some_steps(i):
            at = _slice(_times(i, steps), steps)
            for top in range(0, height, rows):
                x_part = x[at, :, top : top + rows].reshape(merged, rows)
                for start in range(0, width, size):
                    d_part = d[at, :, start : start + size].reshape(merged, size)
                    gradient = self.dot(x_part, d_part, over_rows=True)
                    result[top : top + rows, start : start + size] += gradient

        _for_each(self.sizes.steps // steps, some_steps)

    def add_sum(self, d: Ref, result: Ref) -> None:
        """Adds the sum over steps and rows, `[1, m]`."""

        def one_step(k):
            for start in range(0, result.shape[-1], LANES):
                columns = slice(start, start + LANES)
                result[:, columns] += d[k, :, columns].astype(jnp.float32).sum(0, keepdims=True)

        _for_each(self.sizes.steps, one_step)


def _repeat(count: int, body: Callable[..., Any], carry: PyTree) -> Any:
    """`body(i, carry)` for each `i` below `count`, which is known."""
    if count == 1:
        return body(0, carry)

    # Not `fori_loop`, whose index is an int64 under x64: a TPU has none.
    def numbered(i_carry, _):
        i, carry = i_carry
        return (i + np.int32(1), body(i, carry)), None

    return jax.lax.scan(numbered, (np.int32(0), carry), None, length=count)[0][1]


def _for_each(count: int, body: Callable[..., None]) -> None:
    """`body(i)` for each `i` below `count`, which is known."""
    _repeat(count, lambda i, _: body(i), None)


def _times(i: Index, size: int) -> Any:
    """`i * size`, an int32 if it is not known."""
    return i * size if isinstance(i, int) else i * np.int32(size)


def _slice(start: Any, size: int) -> Any:
    from jax.experimental import pallas

    return pallas.ds(start, size)


def clear(refs: PyTree) -> None:
    """Stores zeros."""
    for ref in jax.tree.leaves(refs):
        ref[...] = jnp.zeros(ref.shape, ref.dtype)


def copy(refs: list[Any], results: list[Any]) -> None:
    for ref, result in zip(refs, results, strict=True):
        result[...] = ref[...]


def as_arrays(tree: PyTree, rows: int) -> Any:
    """Results of a step's arithmetic `[b, LANES]`: those that do not vary are numbers."""
    shape = rows, LANES
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.float32), shape), tree)


def where(flags: Any, x: jax.Array) -> jax.Array:
    """`x` where the flags are True, else 0; `x` if there are none."""
    return x if flags is None else jnp.where(flags, x, jnp.zeros_like(x))


def slices_of(x: jax.Array) -> list[Any]:
    """`[b, U]` as slices of units."""
    return [x[:, start : start + LANES] for start in range(0, x.shape[-1], LANES)]


def joined(slices: list[Any]) -> jax.Array:
    """Slices of units, or gates, side by side."""
    return slices[0] if len(slices) == 1 else jnp.concatenate(slices, -1)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` up to `limit`, at least 1."""
    return max(d for d in range(1, number + 1) if number % d == 0 and d <= max(limit, 1))
