"""One block of one tile, backward.

Only what the state carries from step to step is in the loop. Gates are computed again, and
linearised, for all steps at once; kernels get their cotangents by one matmul.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _places as places
from ._blocks import Blocks, Known
from ._loops import first_steps
from ._parts import Weights, flat
from .call import rows, select, zeros


@dataclasses.dataclass(frozen=True)
class Transposed:
    """The transposed derivative of a block."""

    blocks: Blocks
    kernels: list[jax.Array]
    """Of the weights, transposed."""
    tile: Any
    block: Any

    def run(self, kept: Any, d_outputs: Any, d_state: Any) -> tuple[Any, Any, Weights, Any]:
        """`(d_state, d_start, d_weights, d_inputs)` of the block."""
        tiles = self.blocks.tiles
        valid = tiles.mask(self.tile, self.block)
        if tiles.all:  # not in the forward pass: without selects XLA fuses its gates, and is slower
            valid = jnp.ones_like(valid)
        inputs = self.blocks.inputs(self.tile, self.block, valid)
        known = self._known(kept, inputs)
        multiplied, pull = self._linearized(known)
        d_y = jax.tree.map(lambda d: tiles.take(d, self.tile, self.block), d_outputs)
        d_y = select(valid, d_y, jax.tree.map(jnp.zeros_like, d_y))
        xs = pull, d_y, valid, self.blocks.reset(self.tile, self.block, valid)
        none = lambda x: zeros(self.blocks.call, x.shape, x.dtype)  # noqa: E731
        carry = d_state, jax.tree.map(none, d_state)
        count = tiles.count_steps(self.tile, self.block)
        step = lambda carry, x, k: self._step(multiplied, carry, x)  # noqa: E731
        (d_state, d_start), (d_multiplied, d_new) = first_steps(
            count, step, carry, xs, not self.blocks.call.reverse, self.blocks.call.unroll
        )
        every = jax.vmap(lambda pull, d: pull(d))(pull, (d_multiplied, d_y, d_new))
        # Of steps that were not run nothing was kept: 0 times what it gives may be NaN.
        if not tiles.all:
            ran = jnp.arange(tiles.steps, dtype=jnp.int32) < count
            every = select(ran, every, jax.tree.map(jnp.zeros_like, every))
        d_between, d_projected, _, d_recurred = every
        d_between = [d.astype(wide(d.dtype)).sum(0) for d in d_between]
        for s in known.sums:
            if s.whole:
                d_recurred[s.result] = jax.tree.leaves(d_projected)[s.leaf]
        d_kernels = [_product(valid, m, d) for m, d in zip(multiplied, d_recurred, strict=True)]
        d_project, d_inputs = self._project(valid, inputs, d_projected)
        return d_state, d_start, Weights(d_project, d_kernels, d_between), d_inputs

    def _known(self, kept: Any, inputs: Any) -> Known:
        """What is known of the block's steps: read, or computed again."""
        tiles = self.blocks.tiles

        def read(buffer, steps):
            at = (
                self.block * steps,
                tiles.first_row(self.tile),
                *(np.int32(0),) * (buffer.ndim - 2),
            )
            return places.slice(buffer, at, (steps, tiles.rows, *buffer.shape[2:]))

        if not tiles.remade:
            kept = jax.tree.map(lambda buffer: read(buffer, tiles.steps), kept)
        else:
            state = jax.tree.map(lambda buffer: read(buffer, 1)[0], kept)
            room, start = self.blocks.room(tiles.steps, tiles.rows), (np.int32(0), np.int32(0))
            kept = self.blocks.run(self.tile, self.block, state, room, start)[2]
        return self.blocks.known(kept, inputs)

    def _linearized(self, known: Known) -> tuple[list[jax.Array], Any]:
        """What the kernels multiply, and the transposed derivative of each step's arithmetic."""
        parts, weights = self.blocks.parts, self.blocks.call.params

        def linear(projected, state, recurred):
            given = weights.between, projected, state, recurred
            (multiplied, _, _), pull = jax.vjp(parts.between, *given)
            return multiplied, pull

        return jax.vmap(linear)(known.projected, known.state, known.results())

    def _step(self, multiplied: list, carry: Any, x: Any) -> tuple[Any, Any]:
        d_state, d_start = carry
        pull, d_y, valid, reset = x
        nothing = jax.tree.map(jnp.zeros_like, d_state)
        d_new = select(valid, d_state, nothing)
        d_multiplied = [jnp.zeros_like(m[0]) for m in multiplied]
        for i in reversed(range(len(self.kernels))):  # each depends on those before it
            d_recurred = pull((d_multiplied, d_y, d_new))[3]
            d_multiplied[i] = d_recurred[i] @ self.kernels[i]
        d_old = pull((d_multiplied, d_y, d_new))[2]
        d_state = jax.tree.map(jnp.add, d_old, select(valid, nothing, d_state))
        if reset is not None:
            d_start = jax.tree.map(jnp.add, d_start, select(reset, d_state, nothing))
            d_state = select(reset, nothing, d_state)
        return (d_state, d_start), (d_multiplied, d_new)

    def _project(self, valid: jax.Array, inputs: Any, d_projected: Any) -> tuple[list, Any]:
        """The cotangents of the projection's weights, and of the inputs."""
        blocks, weights = self.blocks, self.blocks.call.params
        leaves, structure = jax.tree.flatten(inputs)
        floats = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]

        def project(project, floating):
            given = [flat(x) for x in leaves]
            for i, x in zip(floats, floating, strict=True):
                given[i] = x
            weights_ = dataclasses.replace(weights, project=project)
            return blocks.parts.project(weights_, structure.unflatten(given))

        _, pull = jax.vjp(project, weights.project, [flat(leaves[i]) for i in floats])
        d_weights, d_seen = pull(jax.tree.map(flat, d_projected))
        d_leaves: list[Any] = [None] * len(leaves)
        for i, d in zip(floats, d_seen, strict=True):
            d = d.reshape(leaves[i].shape)
            d_leaves[i] = jnp.where(rows(valid, d), d, jnp.zeros_like(d))
        return d_weights, structure.unflatten(d_leaves)


def wide(dtype: Any) -> Any:
    """The dtype that sums over many steps are taken in."""
    return jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype


def _product(valid: jax.Array, x: jax.Array, d: jax.Array) -> jax.Array:
    """The sum over all valid steps of `x` times `d`: the cotangent of a kernel."""
    x = jnp.where(rows(valid, x), x, jnp.zeros_like(x))
    return jnp.matmul(flat(x).T, flat(d), preferred_element_type=wide(d.dtype))
