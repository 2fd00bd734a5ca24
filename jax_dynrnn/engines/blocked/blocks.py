"""One block of one tile: what the forward pass runs, and what the backward pass needs of it.

Arrays of a block are `[K, b, ...]`: `K` steps of `b` rows. Buffers of residuals have more of both.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._types import Index, Inputs, Projected, PyTree, State
from ..devices import zeros
from ..loops import dynamic_update_slice, repeat, scan_some_steps
from ..masks import select, zero_where_invalid
from ..request import Run
from ..staged.preactivations import Preactivation
from ..staged.split_cell import SplitCell, merge_steps, one_row
from ..types import with_leading
from .tiling import Tiling
from .tuning import Tuning


@dataclasses.dataclass(frozen=True)
class Residuals:
    """What the backward pass needs of each step."""

    state: Any
    """The state that the step began with."""
    projected: Any
    """The projected inputs; in the columns of a pre-activation, the sum with the product."""
    products: list[Any]
    """The products of the matmuls: the columns outside pre-activations, or `None`."""
    preactivations: tuple[Preactivation, ...]

    @classmethod
    def of(
        cls,
        preactivations: tuple[Preactivation, ...],
        projected: Projected,
        state: State,
        products: list[Any],
    ) -> Residuals:
        leaves, structure = jax.tree.flatten(projected)
        others = [*products]
        for p in preactivations:
            leaves[p.leaf] = p.sum(leaves[p.leaf], products[p.product])
            others[p.product] = p.other_columns(products[p.product])
        return cls(state, structure.unflatten(leaves), others, preactivations)

    def products_beside_projected(self) -> list[jax.Array]:
        """The products to pass with `projected`: 0 where that is already the sum."""
        leaves, products = jax.tree.leaves(self.projected), [*self.products]
        for p in self.preactivations:
            products[p.product] = p.product_beside(leaves[p.leaf], products[p.product])
        return products


jax.tree_util.register_dataclass(Residuals, ["state", "projected", "products"], ["preactivations"])


@dataclasses.dataclass(frozen=True)
class Blocks:
    """All blocks of a run whose params are `Weights`."""

    split: SplitCell
    run: Run
    tuning: Tuning
    tiling: Tiling
    one_output: Any
    """The types of the output of one step of one row."""
    one_residual: Residuals
    """The types of the residuals of one step of one row."""

    @classmethod
    def of(cls, split: SplitCell, run: Run, tuning: Tuning) -> Blocks:
        # Not as an argument: JAX keeps the structures of arguments, and so the cell of the run.
        one = jax.eval_shape(functools.partial(_one_step, split, run))
        return cls(split, run, tuning, Tiling.of(run, tuning), *one)

    def repeat(
        self, tile: Index, body: Callable[..., Any], carry: PyTree, backward: bool = False
    ) -> Any:
        """`body(block, carry)` for each block of a tile, in the order of the pass."""
        if self.tiling.num_blocks == 1:
            # XLA would move what does not depend on the carry out of the loop, and keep it longer.
            return body(np.int32(0), carry)
        count = self.tiling.num_blocks_of(tile)
        is_descending = self.run.reverse != backward

        def run(i, carry):
            return body(count - 1 - i if is_descending else i, carry)

        return repeat(count, run, carry)

    def masked_inputs(self, tile: Index, block: Index, valid: jax.Array) -> Any:
        """The inputs of a block, with the padding replaced."""

        inputs = self.tiling.read(self.run.inputs, tile, block)
        if self.run.padding is None:
            return inputs
        padding = self.tiling.read_rows(self.run.padding, tile)
        return select(valid, inputs, jax.tree.map(lambda x: x[None], padding))

    def resets(self, tile: Index, block: Index, valid: jax.Array) -> jax.Array | None:
        """bool `[K, b]`: the steps of a block before which the state is reset."""
        if self.run.masks.resets is None:
            return None
        return valid & self.tiling.read(self.run.masks.resets, tile, block, time_axis=0)

    def forward(
        self,
        tile: Index,
        block: Index,
        state: State,
        buffers: PyTree = None,
        place: Any = None,
    ) -> tuple[Any, Any, Any]:
        """Runs one block -> `(state, outputs, buffers)`.

        The residuals of step k of the block are written into the `buffers`, if there are any, at
        `place(k)`, a step and a first row.
        """
        run = self.run
        valid = self.tiling.valid(tile, block)
        inputs = self.masked_inputs(tile, block, valid)
        projected = self.split.project_steps(run.params, inputs)
        flags, flags_at = self.flags_of_steps(tile, block, valid)
        start = None
        if run.masks.resets is not None:
            start = self.tiling.read_rows(run.start_state, tile)

        def step(carry, x, k):
            state, buffers = carry
            projected, flags = x
            valid, reset = flags_at(flags, k)
            state = state if reset is None else select(reset, start, state)
            output, new, products = self.split.step_with_products(run.params, projected, state)
            if buffers is not None:
                saved = self._saved(projected, state, products)
                buffers = write_step(buffers, saved, *place(k))
            output = zero_where_invalid(valid, output)
            return (select(valid, new, state), buffers), output

        (state, buffers), outputs = scan_some_steps(
            self.tiling.own_steps(tile, block),
            step,
            (state, buffers),
            (projected, flags),
            reverse=run.reverse,
            unroll=run.unroll,
            counts_in_carry=self.tuning.counts_in_carry,
            read_ahead=any(x is not None for x in self.one_residual.products),
        )
        return state, outputs, buffers

    def flags_of_steps(
        self, tile: Index, block: Index, valid: jax.Array
    ) -> tuple[Any, Callable[[Any, Index], tuple[jax.Array, jax.Array | None]]]:
        """What the loop over steps needs to know which rows are valid, and which are reset.

        Returns:
            `(xs, at)`: arrays to scan, and a function of a step's part of them and of its number k.
            `at(x, k)` is `(valid, reset)`, each `[b]`, or `[b, units]` if repeated for each unit.
        """
        resets = self.resets(tile, block, valid)
        leaves = jax.tree.leaves((self.one_residual.state, self.one_output))
        shapes = {x.shape[1:] for x in leaves}
        # Flags with units can only select between arrays that all have these units.
        units = shapes.pop() if len(shapes) == 1 else ()
        if len(units) != 1 or self.tiling.rows * units[0] > self.tuning.max_repeated_flags:
            return (valid, resets), lambda flags, k: flags

        def for_each_unit(x):
            return x if x is None else jnp.broadcast_to(x[..., None], x.shape + units)

        resets = for_each_unit(resets)
        if self.run.masks.may_have_gaps:
            return (for_each_unit(valid), resets), lambda flags, k: flags
        start = self.tiling.start(block)
        # The barrier keeps XLA from repeating the ends in each step.
        ends = jax.lax.optimization_barrier(for_each_unit(self.tiling.own_ends(tile) - start))

        def at(reset, k):
            valid = k < ends
            if self.tiling.last_block_overlaps:
                valid = valid & (k >= self.tiling.first_own_step(block, start))
            return valid, reset

        return resets, at

    def _saved(self, projected: Projected, state: State, products: list[Any]) -> Any:
        """What is saved of a step for the backward pass."""
        if self.recomputes_products:
            return state
        return Residuals.of(self.one_residual.preactivations, projected, state, products)

    def residuals(self, saved: PyTree, inputs: Inputs) -> Residuals:
        """The residuals of a block, given what was saved of its steps."""
        if not self.recomputes_products:
            return saved
        state, inputs = jax.tree.map(merge_steps, (saved, inputs))
        projected = self.split.project(self.run.params, inputs)
        products = self.split.step_with_products(self.run.params, projected, state)[2]
        steps_and_rows = self.tiling.steps, self.tiling.rows
        return jax.tree.map(
            lambda x: x.reshape(*steps_and_rows, *x.shape[1:]),
            Residuals.of(self.one_residual.preactivations, projected, state, products),
        )

    def residual_buffers(self, steps: int, rows: int) -> Any:
        """Zeros for the residuals of `steps` steps of `rows` rows."""
        saved = self.one_residual.state if self.recomputes_products else self.one_residual
        return zeros(with_leading(saved, steps, rows), like=self.run)

    @property
    def recomputes_products(self) -> bool:
        """Whether the backward pass recomputes all matmuls of a block, as one each.

        On a CPU it does not depend on the batch or the time, so that no size costs much more than
        another.
        """
        run, limit = self.run, self.tuning.recompute_flops
        results = jax.tree.leaves((self.one_residual.projected, self.one_residual.products))
        flops = sum(w.size for w in (*run.params.projection, *run.params.kernels))
        one_step = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self.one_residual))
        saved_bytes = run.batch * (run.remat_steps or run.time) * one_step
        is_cheap = flops <= limit * sum(x.size for x in results)
        return limit > 0 and is_cheap and saved_bytes >= self.tuning.recompute_bytes


def _one_step(split: SplitCell, run: Run) -> tuple[Any, Residuals]:
    """The output and the residuals of one step of one row."""
    inputs, state = one_row(run)
    projected = split.project(run.params, inputs)
    output, _, products = split.step_with_products(run.params, projected, state)
    preactivations = split.preactivations(projected, state, products)
    return output, Residuals.of(preactivations, projected, state, products)


def write_step(buffers: PyTree, tree: PyTree, step: Index, row: Index) -> PyTree:
    """Writes `[b, ...]` into buffers `[steps, B, ...]`, at that step, from that row on."""

    def write(buffer, x):
        at = (step, row, *(np.int32(0),) * (x.ndim - 1))
        return dynamic_update_slice(buffer, x[None], at)

    return jax.tree.map(write, buffers, tree)
