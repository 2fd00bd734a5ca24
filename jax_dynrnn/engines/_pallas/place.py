"""Where a warpgroup is, and which steps its rows take.

A block of threads, or a cluster of blocks, runs a tile of `ROWS` rows of the batch, up to its
longest. Each warpgroup has `UNITS` of the units, with all their gates. Arrays in global memory are
`[T, ..., B]`, rows last: matrix instructions want many units, and take few rows.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from . import mosaic
from .mosaic import ROWS, UNITS
from .step import Step

VALID, ANEW = 1, 2
"""The flag of a step that is valid, and of one before which the row begins anew."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What kernels of one call are made for."""

    step: Step
    batch: int
    """Whole tiles for each group."""
    time: int
    reverse: bool
    dtype: Any
    """Of params and outputs."""
    flagged: bool
    """Whether steps have flags: there is a mask, or resets."""
    blocks: int
    """Of a cluster, which share the recurrent matrix; each has as many warpgroups."""
    groups: int = 1
    """Of rows one after the other, each with params of its own."""

    @property
    def tiles(self) -> int:
        return self.batch // ROWS

    @property
    def units(self) -> int:
        """Those of the cell, and what fills the last warpgroup."""
        return whole(self.step.units, UNITS)

    @property
    def parts(self) -> int:
        """Warpgroups of all blocks."""
        return self.units // UNITS

    @property
    def local(self) -> int:
        """Warpgroups of a block."""
        return self.parts // self.blocks

    @property
    def operands(self) -> Any:
        """Of matrix instructions: 16 bits."""
        return operands(self.dtype)

    @property
    def pieces(self) -> int:
        """As how many such numbers each number is multiplied."""
        return pieces(self.dtype)

    def over_time(self, width: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.time, width, self.batch), dtype)

    def rows(self, width: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((width, self.batch), dtype)


class Place:
    """Where a warpgroup is: its rows and its units."""

    def __init__(self, sizes: Sizes):
        from jax.experimental import pallas

        self.sizes, self.slice = sizes, pallas.ds
        self.tile = jax.lax.axis_index("tile")
        self.here = jax.lax.axis_index("part")
        """Of the warpgroups of its block."""
        self.part = self.here
        if sizes.blocks > 1:
            self.part = jax.lax.axis_index("block") * jnp.int32(sizes.local) + self.here
        self.group: Any = 0
        if sizes.groups > 1:
            self.group = jax.lax.div(self.tile, jnp.int32(sizes.tiles // sizes.groups))

    @property
    def rows(self) -> Any:
        return self.slice(self.tile * ROWS, ROWS)

    def units(self, gate: int) -> Any:
        """Its units in an array of gates one after the other."""
        return self.slice(gate * self.sizes.units + self.part * UNITS, UNITS)

    def at_step(self, ref: Any, t: Any) -> list[jax.Array]:
        """All gates of a step."""
        return [mosaic.load(ref, t, self.units(g), self.rows) for g in range(self.gates(ref, 1))]

    def of_rows(self, ref: Any) -> list[jax.Array]:
        """All gates of what has no time: a state."""
        return [mosaic.load(ref, self.units(g), self.rows) for g in range(self.gates(ref, 0))]

    def flags(self, ref: Any, t: Any) -> jax.Array:
        """Of a step, each row's for all of its units."""
        return mosaic.load(ref, t, self.slice(0, UNITS), self.rows)

    def vectors(self, refs: list) -> list[list[jax.Array]]:
        """What is the same for all rows of a group: `[k H, groups ROWS]`."""
        every = self.slice(self.group * ROWS, ROWS)
        return [
            [mosaic.load(ref, self.units(g), every) for g in range(self.gates(ref, 0))]
            for ref in refs
        ]

    def gates(self, ref: Any, axis: int) -> int:
        return ref.shape[axis] // self.sizes.units

    def put(self, ref: Any, t: Any, gates: list[jax.Array]) -> None:
        for g, gate in enumerate(gates):
            mosaic.store(ref, (t, self.units(g), self.rows), gate)

    def put_rows(self, ref: Any, gates: list[jax.Array]) -> None:
        for g, gate in enumerate(gates):
            mosaic.store(ref, (self.units(g), self.rows), gate)


class Steps:
    """Which steps of a tile are taken, of which rows, and before which a row begins anew."""

    def __init__(self, place: Place, flags: list, ends: Any, counts: Any):
        self.place, self.flags = place, flags
        self.ends, self.count = place.of_rows(ends)[0], counts[place.tile]

    def time(self, n: Any) -> Any:
        """Where the step is that is taken after `n` others."""
        return jnp.maximum(self.count - 1 - n, 0) if self.place.sizes.reverse else n

    def inside(self, n: Any) -> Any:
        """The step nearest to `n` that there is: what is read ahead of it is not used."""
        return jnp.clip(n, 0, jnp.maximum(self.count, 1) - 1)

    def valid(self, n: Any) -> jax.Array:
        """bool `[UNITS, ROWS]`."""
        t = self.time(n)
        return self.place.flags(self.flags[0], t) >= VALID if self.flags else self.ends > t

    def anew(self, n: Any) -> jax.Array | None:
        """bool `[UNITS, ROWS]`, false past the last step; `None`: no row ever does."""
        if not self.flags:
            return None
        inside = (n >= 0) & (n < self.count)
        flags = self.place.flags(self.flags[0], jnp.where(inside, self.time(n), jnp.int32(0)))
        return flags >= jnp.where(inside, jnp.int32(ANEW), jnp.int32(ANEW + 1))


def wide(tree: Any) -> Any:
    """What was read, to compute with."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def split(flags: jax.Array | None, state: list) -> tuple[list, list]:
    """A state of the rows with and of those without a flag, 0 in the others."""
    none = mosaic.zeros()
    if flags is None:
        return [none] * len(state), state
    return [jnp.where(flags, s, none) for s in state], [jnp.where(flags, none, s) for s in state]


def operands(dtype: Any) -> Any:
    """What matrix instructions take of arrays of `dtype`."""
    return jnp.bfloat16 if jnp.dtype(dtype) == jnp.float32 else dtype


def pieces(dtype: Any) -> int:
    """A float32 number is the sum of two of bfloat16, but for its last 8 of 24 bits."""
    return 2 if jnp.dtype(dtype) == jnp.float32 else 1


def whole(size: int, of: int) -> int:
    """The next multiple of `of`."""
    return math.ceil(size / of) * of
