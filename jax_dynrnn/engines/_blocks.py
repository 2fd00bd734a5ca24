"""One block of one tile: what the forward pass runs, and with `remat` the backward pass again.

Arrays of a block are `[K, b, ...]`: K steps of b rows.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ._parts import Parts
from ._tiles import Tiles, first_steps
from .call import Call, first_valid, resets, rows, select, valid


@dataclasses.dataclass(frozen=True)
class Kept:
    """What the backward pass wants to know of each step."""

    state: Any
    """The state that the step began with."""
    projected: Any
    recurred: list[jax.Array]
    """The results of its matmuls, or `None`."""
    added: tuple[tuple[int, int], ...]
    """The `(i, j)` where result i is `None`, since all that a step does with it is to add it to
    leaf j of `projected`: there is their sum."""


jax.tree_util.register_dataclass(Kept, ["state", "projected", "recurred"], ["added"])


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

    @classmethod
    def of(cls, parts: Parts, call: Call) -> Blocks:
        is_valid = valid(call)
        return cls(parts, call, Tiles.of(call), first_valid(call, is_valid), resets(call, is_valid))

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

    def run(self, tile: Any, block: Any, state: Any, keep: bool) -> tuple[Any, Any, Any]:
        """One block -> `(state, outputs, kept)`."""
        valid = self.tiles.mask(tile, block)
        inputs = self.inputs(tile, block, valid)
        projected = self.parts.project_steps(self.call.params, inputs)
        start = None
        if self.resets is not None:
            start = jax.tree.map(lambda s: self.tiles.take_rows(s, tile), self.call.start_state)

        def step(state, x):
            projected, valid, reset = x
            state = state if reset is None else select(reset, start, state)
            output, new, recurred = self.parts.steps(self.call.params, projected, state)
            kept = self.kept(projected, state, recurred) if keep else None
            output = select(valid, output, jax.tree.map(jnp.zeros_like, output))
            return select(valid, new, state), (output, kept)

        xs = projected, valid, self.reset(tile, block, valid)
        count, call = self.tiles.count_steps(tile, block), self.call
        one = jax.tree.map(lambda p: p[0], projected)
        ahead = not self.parts.all_added(one, state)
        state, (outputs, kept) = first_steps(
            count, step, state, xs, call.reverse, call.unroll, ahead
        )
        return state, outputs, kept

    def kept(self, projected: Any, state: Any, recurred: list) -> Kept:
        """What to keep of a step."""
        leaves, structure = jax.tree.flatten(projected)
        recurred, added = list(recurred), self.parts.added(projected, state, recurred)
        for i, j in added:
            leaves[j], recurred[i] = leaves[j] + recurred[i], None
        return Kept(state, structure.unflatten(leaves), recurred, added)
