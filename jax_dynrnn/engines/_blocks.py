"""One block of one tile: what the forward pass runs, and with `remat` the backward pass again.

Arrays of a block are `[K, b, ...]`: K steps of b rows. Buffers for what is kept have more of both.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _places as places
from ._loops import first_steps
from ._parts import Parts, flat
from ._sums import Sum
from ._tiles import Tiles, on_cpu
from .call import Call, first_valid, resets, rows, select, valid, zeros

CHEAP = 256
"""Multiplications for a result of a matmul that the backward pass computes again on a CPU, at most:
to write it and to read it takes longer, or is some percent faster where all that is kept fits into
the cache (up to 10 for one row alone)."""


@dataclasses.dataclass(frozen=True)
class Known:
    """What the backward pass wants to know of each step."""

    state: Any
    """The state that the step began with."""
    projected: Any
    """The projected inputs, and in the columns of a `Sum` that."""
    recurred: list[jax.Array]
    """The results of its matmuls: all columns that are in no `Sum`, or `None`."""
    sums: tuple[Sum, ...]

    def results(self) -> list[jax.Array]:
        """The results that go with `projected`: where that is a sum, there is nothing to add."""
        leaves, results = jax.tree.leaves(self.projected), [*self.recurred]
        for s in self.sums:
            results[s.result] = s.result_of(results[s.result], leaves[s.leaf])
        return results


jax.tree_util.register_dataclass(Known, ["state", "projected", "recurred"], ["sums"])


@dataclasses.dataclass(frozen=True)
class Blocks:
    """All blocks of a call whose params are `Weights`."""

    parts: Parts
    call: Call
    tiles: Tiles
    padding: Any
    """What the cell sees in place of a step that is not valid, `[B, ...]`, or `None`."""
    resets: jax.Array | None
    """bool `[T, B]`."""
    row: tuple[Any, Known]
    """What comes of one step of one row, by shape and dtype: the output, and what is known."""

    @classmethod
    def of(cls, parts: Parts, call: Call) -> Blocks:
        is_valid = valid(call)
        padding, walls = first_valid(call, is_valid), resets(call, is_valid)
        row = jax.eval_shape(lambda call: _one_row(parts, call), call)
        return cls(parts, call, Tiles.of(call), padding, walls, row)

    def number(self, tile: Any, i: Any, backward: bool = False) -> Any:
        """Which block of a tile is the `i`th to be run."""
        return self.tiles.blocks(tile) - 1 - i if self.call.reverse != backward else i

    def inputs(self, tile: Any, block: Any, valid: jax.Array) -> Any:
        """What the cell sees."""

        def seen(x, padding):
            x = self.tiles.take(x, tile, block)
            return jnp.where(rows(valid, x), x, self.tiles.take_rows(padding, tile)[None])

        if self.padding is None:
            return jax.tree.map(lambda x: self.tiles.take(x, tile, block), self.call.inputs)
        return jax.tree.map(seen, self.call.inputs, self.padding)

    def reset(self, tile: Any, block: Any, valid: jax.Array) -> jax.Array | None:
        if self.resets is None:
            return None
        return valid & self.tiles.take(self.resets, tile, block, time_axis=0)

    def run(
        self, tile: Any, block: Any, state: Any, kept: Any = None, at: Any = None
    ) -> tuple[Any, Any, Any]:
        """One block -> `(state, outputs, kept)`.

        What is to be kept of step k of the block is written into the buffers `kept`, at
        `(at[0] + k, at[1])`.
        """
        valid = self.tiles.mask(tile, block)
        projected = self.parts.project_steps(self.call.params, self.inputs(tile, block, valid))
        start = None
        if self.resets is not None:
            start = jax.tree.map(lambda s: self.tiles.take_rows(s, tile), self.call.start_state)

        def step(carry, x, k):
            state, kept = carry
            projected, valid, reset = x
            state = state if reset is None else select(reset, start, state)
            output, new, recurred = self.parts.steps(self.call.params, projected, state)
            if kept is not None:
                put = lambda buffer, x: write(buffer, x[None], at[0] + k, at[1])  # noqa: E731
                kept = jax.tree.map(put, kept, self.keep(projected, state, recurred))
            output = select(valid, output, jax.tree.map(jnp.zeros_like, output))
            return (select(valid, new, state), kept), output

        xs = projected, valid, self.reset(tile, block, valid)
        count, call = self.tiles.count_steps(tile, block), self.call
        ahead = any(r is not None for r in self.row[1].recurred)
        (state, kept), outputs = first_steps(
            count, step, (state, kept), xs, call.reverse, call.unroll, ahead
        )
        return state, outputs, kept

    def keep(self, projected: Any, state: Any, recurred: list) -> Any:
        """What of a step is kept for the backward pass."""
        return state if self.again else _known(self.row[1].sums, projected, state, recurred)

    def known(self, kept: Any, inputs: Any) -> Known:
        """What is known of the steps of a block of which `kept` is read."""
        if not self.again:
            return kept
        state, inputs = jax.tree.map(flat, (kept, inputs))
        projected = self.parts.project(self.call.params, inputs)
        recurred = self.parts.steps(self.call.params, projected, state)[2]
        shape = self.tiles.steps, self.tiles.rows
        return jax.tree.map(
            lambda x: x.reshape(*shape, *x.shape[1:]),
            _known(self.row[1].sums, projected, state, recurred),
        )

    def room(self, steps: int, rows: int) -> Any:
        """Room for what is kept of so many steps and rows."""
        known = self.row[1]
        kept = known.state if self.again else known
        return jax.tree.map(lambda x: zeros(self.call, (steps, rows, *x.shape[1:]), x.dtype), kept)

    @property
    def again(self) -> bool:
        """Whether the backward pass computes all matmuls of a block again, at once.

        It does not depend on the batch or the time, so that no size costs much more than another.
        """
        weights, known = self.call.params, self.row[1]
        results = jax.tree.leaves((known.projected, known.recurred))
        work = sum(w.size for w in (*weights.project, *weights.kernels))
        return on_cpu() and work <= CHEAP * sum(x.size for x in results)


def _one_row(parts: Parts, call: Call) -> tuple[Any, Known]:
    """The output of one step of one row, and what is known of it."""
    inputs = jax.tree.map(lambda x: x[:1, 0], call.inputs)
    projected = parts.project(call.params, inputs)
    state = jax.tree.map(lambda s: s[:1], call.initial_state)
    output, _, recurred = parts.steps(call.params, projected, state)
    sums = parts.sums(projected, state, recurred)
    return output, _known(sums, projected, state, recurred)


def _known(sums: tuple[Sum, ...], projected: Any, state: Any, recurred: list) -> Known:
    leaves, structure = jax.tree.flatten(projected)
    rest = [*recurred]
    for s in sums:
        leaves[s.leaf] = s.total(leaves[s.leaf], recurred[s.result])
        rest[s.result] = s.rest(recurred[s.result])
    return Known(state, structure.unflatten(leaves), rest, sums)


def write(buffer: jax.Array, x: jax.Array, step: Any, row: Any) -> jax.Array:
    """`x` `[K, b, ...]` into a buffer, from that step and row on."""
    at = (step, row, *(np.int32(0),) * (x.ndim - 2))
    return places.update_slice(buffer, x, at)
