"""Which rows and units a warpgroup computes, and which steps its rows take.

A thread block, or a cluster of thread blocks, runs a tile of `ROWS` rows of the batch, up to the
longest of them. Each warpgroup has `UNITS` of the units, with all their gates. Arrays in global
memory are `[T, ..., B]`, rows last: matrix instructions take many units and few rows.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ...._types import DTypeLike, Index, PyTree, Ref
from ..layout import RESET, VALID, round_up
from ..step import Step
from . import mosaic
from .mosaic import ROWS, UNITS


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the kernels of one run are compiled for."""

    step: Step
    batch: int
    """The rows, rounded up to tiles for each group."""
    time: int
    reverse: bool
    dtype: Any
    """That of params and outputs."""
    has_flags: bool
    """Whether steps have flags: there is a mask, or resets."""
    cluster: int
    """The thread blocks of a cluster, which share the recurrent matrix in equal parts."""
    groups: int = 1
    """The groups of rows that follow each other, each with its own params."""

    @property
    def tiles(self) -> int:
        return self.batch // ROWS

    @property
    def units(self) -> int:
        """Those of the cell, rounded up to warpgroups."""
        return round_up(self.step.units, UNITS)

    @property
    def warpgroups(self) -> int:
        """The warpgroups of a cluster."""
        return self.units // UNITS

    @property
    def warpgroups_of_a_block(self) -> int:
        return self.warpgroups // self.cluster

    @property
    def operand_dtype(self) -> Any:
        """The dtype of the operands of matrix instructions, of 16 bits."""
        return operand_dtype(self.dtype)

    @property
    def terms(self) -> int:
        """The operands whose sum each number is multiplied as."""
        return num_terms(self.dtype)

    def over_time(self, width: int, dtype: DTypeLike) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.time, width, self.batch), dtype)

    def rows(self, width: int, dtype: DTypeLike = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((width, self.batch), dtype)


class Position:
    """The rows and the units of one warpgroup, and their places in arrays."""

    def __init__(self, sizes: Sizes):
        from jax.experimental import pallas

        self.sizes: Sizes = sizes
        self.slice: Any = pallas.ds
        self.tile: jax.Array = jax.lax.axis_index("tile")
        self.in_block: jax.Array = jax.lax.axis_index("warpgroup")
        """Which warpgroup of its thread block it is."""
        self.warpgroup: jax.Array = self.in_block
        """Which warpgroup of its cluster it is."""
        if sizes.cluster > 1:
            of_a_block = jnp.int32(sizes.warpgroups_of_a_block)
            self.warpgroup = jax.lax.axis_index("block") * of_a_block + self.in_block
        self.group: Any = 0
        if sizes.groups > 1:
            self.group = jax.lax.div(self.tile, jnp.int32(sizes.tiles // sizes.groups))

    @property
    def rows(self) -> Any:
        return self.slice(self.tile * ROWS, ROWS)

    def units(self, gate: int) -> Any:
        """Its units of a gate, in an array of gates side by side."""
        return self.slice(gate * self.sizes.units + self.warpgroup * UNITS, UNITS)

    def load_step(self, ref: Ref, t: Index) -> list[jax.Array]:
        """The gates of step `t` of an array with time."""
        return [mosaic.load(ref, t, self.units(g), self.rows) for g in range(self.gates(ref, 1))]

    def load_rows(self, ref: Ref) -> list[jax.Array]:
        """The gates of an array without time: a state."""
        return [mosaic.load(ref, self.units(g), self.rows) for g in range(self.gates(ref, 0))]

    def load_flags(self, ref: Ref, t: Index) -> jax.Array:
        """The flags of step `t`, for each unit the same."""
        return mosaic.load(ref, t, self.slice(0, UNITS), self.rows)

    def load_vectors(self, refs: list[Any]) -> list[list[jax.Array]]:
        """The gates of arrays `[k H, groups ROWS]`, the same for all rows of a group."""
        every = self.slice(self.group * ROWS, ROWS)
        return [
            [mosaic.load(ref, self.units(g), every) for g in range(self.gates(ref, 0))]
            for ref in refs
        ]

    def gates(self, ref: Ref, axis: int) -> int:
        """How many gates an array has."""
        return ref.shape[axis] // self.sizes.units

    def store_step(self, ref: Ref, t: Index, gates: list[jax.Array]) -> None:
        for g, gate in enumerate(gates):
            mosaic.store(ref, (t, self.units(g), self.rows), gate)

    def store_rows(self, ref: Ref, gates: list[jax.Array]) -> None:
        for g, gate in enumerate(gates):
            mosaic.store(ref, (self.units(g), self.rows), gate)


class Steps:
    """Which steps a tile takes, in which rows they are valid, and before which they are reset."""

    def __init__(self, position: Position, flags: list[Any], ends: Any, counts: Any):
        self.position: Position = position
        self.flags: list[Any] = flags
        self.ends: jax.Array = position.load_rows(ends)[0]
        self.count: jax.Array = counts[position.tile]

    def time(self, n: Index) -> Any:
        """The time of the step that is taken after `n` others."""
        return jnp.maximum(self.count - 1 - n, 0) if self.position.sizes.reverse else n

    def inside(self, n: Index) -> Any:
        """The step nearest to `n` that exists: a load ahead of the last step is not used."""
        return jnp.clip(n, 0, jnp.maximum(self.count, 1) - 1)

    def valid(self, n: Index) -> jax.Array:
        """bool `[UNITS, ROWS]`."""
        t = self.time(n)
        if not self.flags:
            return self.ends > t
        return self.position.load_flags(self.flags[0], t) >= VALID

    def resets(self, n: Index) -> jax.Array | None:
        """bool `[UNITS, ROWS]`, False past the last step; `None`: no row is ever reset."""
        if not self.flags:
            return None
        inside = (n >= 0) & (n < self.count)
        t = jnp.where(inside, self.time(n), jnp.int32(0))
        flags = self.position.load_flags(self.flags[0], t)
        return flags >= jnp.where(inside, jnp.int32(RESET), jnp.int32(RESET + 1))


def widen(tree: PyTree) -> Any:
    """What was loaded, in float32."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def split_by_flags(flags: jax.Array | None, state: list[Any]) -> tuple[list[Any], list[Any]]:
    """The state where flags are True, and where they are not; 0 elsewhere."""
    none = mosaic.zeros()
    if flags is None:
        return [none] * len(state), state
    return [jnp.where(flags, s, none) for s in state], [jnp.where(flags, none, s) for s in state]


def operand_dtype(dtype: DTypeLike) -> Any:
    """The dtype in which matrix instructions take arrays of `dtype`."""
    return jnp.bfloat16 if jnp.dtype(dtype) == jnp.float32 else dtype


def num_terms(dtype: DTypeLike) -> int:
    """A float32 number is the sum of two bfloat16 numbers, but for its last 8 of 24 bits."""
    return 2 if jnp.dtype(dtype) == jnp.float32 else 1
