"""The backward pass: tile by tile, block by block, each block's steps in the opposite order.

Only what the state carries from step to step is in the loop over steps. The arithmetic is
linearised for all steps of a block at once, and kernels get their cotangents by one matmul.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._types import Index, Inputs, PyTree
from ..devices import zeros
from ..loops import dynamic_slice, repeat, scan_some_steps
from ..masks import select, zero_where_invalid
from ..staged.split_cell import Weights, accumulator_dtype, kernel_cotangent, merge_steps
from .blocks import Blocks, Residuals


def backward(blocks: Blocks, saved: PyTree, cotangents: PyTree) -> tuple[Any, Any, Any, Any]:
    """The cotangents of the params, the inputs, the initial and the start state of the run."""
    run, tiling = blocks.run, blocks.tiling
    d_outputs, d_final = cotangents
    # Transposed once here: XLA would do it in every block.
    kernels = [kernel.T for kernel in run.params.kernels]

    d_weights = zeros(jax.tree.map(_accumulator, run.params), like=run)
    d_inputs = zeros(jax.tree.map(_if_floating, run.inputs), like=run)
    d_states = zeros((run.initial_state, run.start_state), like=run)

    def run_tile(i, carry):
        tile = tiling.tile(i)
        d_weights, d_inputs, (d_initial, d_start) = carry
        d_state = tiling.read_rows(d_final, tile)

        def run_block(block, carry):
            d_state, d_tile_start, d_weights, d_inputs = carry
            vjp = BlockVJP(blocks, kernels, tile, block)
            d_state, d_reset, d_new, d_x = vjp.run(saved, d_outputs, d_state)
            d_tile_start = jax.tree.map(jnp.add, d_tile_start, d_reset)
            d_weights = jax.tree.map(_add, d_weights, d_new)
            d_inputs = tiling.write(d_inputs, d_x, tile, block)
            return d_state, d_tile_start, d_weights, d_inputs

        carry = d_state, zeros(d_state, like=run), d_weights, d_inputs
        d_state, d_tile_start, d_weights, d_inputs = blocks.repeat(
            tile, run_block, carry, backward=True
        )
        d_initial = tiling.write_rows(d_initial, d_state, tile)
        d_start = tiling.write_rows(d_start, d_tile_start, tile)
        return d_weights, d_inputs, (d_initial, d_start)

    carry = d_weights, d_inputs, d_states
    d_weights, d_inputs, (d_initial, d_start) = repeat(tiling.num_tiles, run_tile, carry)
    d_weights = jax.tree.map(lambda d, w: d.astype(w.dtype), d_weights, run.params)
    return d_weights, d_inputs, d_initial, d_start


@dataclasses.dataclass(frozen=True)
class BlockVJP:
    """The VJP of one block of one tile.

    The function that `jax.vjp` returns is a pytree whose leaves are its residuals. So `vmap` can
    linearise all steps of a block together, and a scan over the result gets one step's VJP in each
    iteration.
    """

    blocks: Blocks
    kernels: list[jax.Array]
    """Of the weights, transposed."""
    tile: Index
    block: Index

    def run(
        self, saved: PyTree, d_outputs: PyTree, d_state: PyTree
    ) -> tuple[Any, Any, Weights, Any]:
        """`(d_state, d_start, d_weights, d_inputs)` of the block."""
        tiling = self.blocks.tiling
        valid = tiling.valid(self.tile, self.block)
        if tiling.all_steps_valid:
            # A constant. Not in the forward pass: without selects XLA fuses its gates with their
            # consumers, and is slower.
            valid = jnp.ones_like(valid)
        inputs = self.blocks.masked_inputs(self.tile, self.block, valid)
        residuals = self._residuals(saved, inputs)
        operands, vjp = self._linearise(residuals)
        d_y = zero_where_invalid(valid, tiling.read(d_outputs, self.tile, self.block))
        d_state, d_start, cotangents = self._scan(vjp, operands, d_y, valid, d_state)
        d_elementwise, d_projected, d_products = self._sum_cotangents(vjp, cotangents, residuals)
        d_kernels = [
            kernel_cotangent(zero_where_invalid(valid, x), d)
            for x, d in zip(operands, d_products, strict=True)
        ]
        d_projection, d_inputs = self._projection_vjp(valid, inputs, d_projected)
        return d_state, d_start, Weights(d_projection, d_kernels, d_elementwise), d_inputs

    def _residuals(self, saved: PyTree, inputs: Inputs) -> Residuals:
        """The residuals of the block's steps: read, or recomputed."""
        tiling, blocks = self.blocks.tiling, self.blocks
        row = tiling.first_row(self.tile)

        def read(tree, start, steps):
            def read_array(buffer):
                at = (start, row, *(np.int32(0),) * (buffer.ndim - 2))
                return dynamic_slice(buffer, at, (steps, tiling.rows, *buffer.shape[2:]))

            return jax.tree.map(read_array, tree)

        if not tiling.rematerialises:
            return blocks.residuals(read(saved, tiling.start(self.block), tiling.steps), inputs)
        state = jax.tree.map(lambda s: s[0], read(saved, self.block, 1))
        buffers = blocks.residual_buffers(tiling.steps, tiling.rows)

        def place(k):
            return k, np.int32(0)

        saved = blocks.forward(self.tile, self.block, state, buffers, place)[2]
        return blocks.residuals(saved, inputs)

    def _linearise(self, residuals: Residuals) -> tuple[list[jax.Array], Any]:
        """The operands that the kernels multiply, and the VJP of each step's arithmetic."""
        split, weights = self.blocks.split, self.blocks.run.params

        def linearise(projected, state, products):
            given = weights.elementwise, projected, state, products
            (operands, _, _), vjp = jax.vjp(split.elementwise, *given)
            return operands, vjp

        products = residuals.products_beside_projected()
        return jax.vmap(linearise)(residuals.projected, residuals.state, products)

    def _scan(
        self, vjp: PyTree, operands: list[Any], d_y: PyTree, valid: jax.Array, d_state: PyTree
    ) -> tuple[Any, Any, Any]:
        """`(d_state, d_start, cotangents)`: those of the results of each step's arithmetic."""
        run = self.blocks.run
        flags, flags_at = self.blocks.flags_of_steps(self.tile, self.block, valid)
        d_start = zeros(d_state, like=run)

        def step(carry, x, k):
            vjp, d_y, flags = x
            return self._step(operands, carry, vjp, d_y, *flags_at(flags, k))

        (d_state, d_start), (d_operands, d_new) = scan_some_steps(
            self._own_steps,
            step,
            (d_state, d_start),
            (vjp, d_y, flags),
            reverse=not run.reverse,
            unroll=run.unroll,
            counts_in_carry=self.blocks.tuning.counts_in_carry,
        )
        return d_state, d_start, (d_operands, d_y, d_new)

    @property
    def _own_steps(self) -> tuple[Index, Index] | None:
        return self.blocks.tiling.own_steps(self.tile, self.block)

    def _step(
        self,
        operands: list[Any],
        carry: PyTree,
        vjp: PyTree,
        d_y: PyTree,
        valid: jax.Array,
        reset: jax.Array | None,
    ) -> tuple[Any, Any]:
        d_state, d_start = carry
        none = jax.tree.map(jnp.zeros_like, d_state)
        d_new = select(valid, d_state, none)
        d_operands = [jnp.zeros_like(operand[0]) for operand in operands]
        for i in reversed(range(len(self.kernels))):  # each operand depends on the products before
            _, _, _, d_products = vjp((d_operands, d_y, d_new))
            d_operands[i] = d_products[i] @ self.kernels[i]
        _, _, d_old, _ = vjp((d_operands, d_y, d_new))
        d_state = jax.tree.map(jnp.add, d_old, select(valid, none, d_state))
        if reset is not None:
            d_start = jax.tree.map(jnp.add, d_start, select(reset, d_state, none))
            d_state = select(reset, none, d_state)
        return (d_state, d_start), (d_operands, d_new)

    def _sum_cotangents(
        self, vjp: PyTree, cotangents: PyTree, residuals: Residuals
    ) -> tuple[list[Any], Any, list[Any]]:
        """The cotangents of the elementwise weights, the projected inputs, and the products."""
        tiling = self.blocks.tiling
        every = jax.vmap(operator.call)(vjp, cotangents)
        if self._own_steps is not None and not tiling.all_steps_valid:
            # Steps that were not run have no residuals: 0 times their derivative may be NaN.
            first, end = self._own_steps
            k = jnp.arange(tiling.steps, dtype=jnp.int32)
            every = zero_where_invalid(jnp.logical_and(first <= k, k < end), every)
        d_elementwise, d_projected, _, d_products = every
        d_elementwise = [d.astype(accumulator_dtype(d.dtype)).sum(0) for d in d_elementwise]
        for p in residuals.preactivations:
            if p.covers_all_columns:  # XLA then computes one of two equal arrays
                d_products[p.product] = jax.tree.leaves(d_projected)[p.leaf]
        return d_elementwise, d_projected, d_products

    def _projection_vjp(
        self, valid: jax.Array, inputs: Inputs, d_projected: PyTree
    ) -> tuple[list[Any], Any]:
        """The cotangents of the projection's weights, and of the inputs."""
        split, weights = self.blocks.split, self.blocks.run.params
        leaves, structure = jax.tree.flatten(inputs)
        floating = [i for i, x in enumerate(leaves) if _is_floating(x)]

        def project(projection, floating_leaves):
            given = [merge_steps(x) for x in leaves]
            for i, x in zip(floating, floating_leaves, strict=True):
                given[i] = x
            of_projection = dataclasses.replace(weights, projection=projection)
            return split.project(of_projection, structure.unflatten(given))

        _, vjp = jax.vjp(project, weights.projection, [merge_steps(leaves[i]) for i in floating])
        d_projection, d_floating = vjp(jax.tree.map(merge_steps, d_projected))
        d_leaves: list[Any] = [None] * len(leaves)
        for i, d in zip(floating, d_floating, strict=True):
            d_leaves[i] = zero_where_invalid(valid, d.reshape(leaves[i].shape))
        return d_projection, structure.unflatten(d_leaves)


def _is_floating(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _if_floating(x: jax.Array) -> jax.Array | None:
    return x if _is_floating(x) else None


def _add(total: jax.Array, x: jax.Array) -> jax.Array:
    """The sum, in the dtype of the total."""
    return total + x.astype(total.dtype)


def _accumulator(x: jax.Array) -> jax.ShapeDtypeStruct:
    """The type of a sum of arrays like `x` over many steps."""
    return jax.ShapeDtypeStruct(x.shape, accumulator_dtype(x.dtype))
