"""The passes around the kernels: what XLA computes for all steps at once, before and after them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ...._types import PyTree
from ...devices import pcast, varying_axes
from ...request import Run
from ...staged.split_cell import SplitCell, Weights, kernel_cotangent, one_row
from ..layout import Layout, as_pytree, has_flags, round_up
from ..primitives import for_gpu
from ..step import Step
from . import kernels
from .indexing import Sizes
from .kernels import BackwardArguments, ForwardArguments
from .launch import cluster_size, matrix_tiles
from .mosaic import ROWS, UNITS


@dataclasses.dataclass(frozen=True)
class KernelLayout(Layout):
    """The arrays of a run, of which the params are `Weights`, in the layout of the kernels.

    There rows are last, units are rounded up to warpgroups and rows to tiles.
    """

    sizes: Sizes

    @classmethod
    def of(cls, split: SplitCell, run: Run) -> KernelLayout:
        dtype = run.params.kernels[0].dtype
        step = Step(split, run.params, *one_row(run), for_gpu(dtype))
        batch = round_up(run.batch, ROWS)
        cluster = cluster_size(step, dtype, batch // ROWS)
        assert cluster is not None  # or `unsupported` says so
        sizes = Sizes(step, batch, run.time, run.reverse, dtype, has_flags(run), cluster)
        return cls(split, run, sizes)

    def with_time(self, tree: PyTree, fill: str = "edge") -> list[jax.Array]:
        """The leaves of a tree with time, `[T, k H, B]`."""
        order = (1, 2, 0) if self.run.time_axis == 1 else (0, 2, 1)
        padded = [self._pad_units(x, fill) for x in jax.tree.leaves(tree)]
        return [self._pad_rows(x.transpose(order)) for x in padded]

    def without_time(self, tree: PyTree, fill: str = "edge") -> list[jax.Array]:
        """The leaves of a tree without time, a state, `[k H, B]` in float32."""
        padded = [self._pad_units(x, fill) for x in jax.tree.leaves(tree)]
        return [self._pad_rows(x.T).astype(jnp.float32) for x in padded]

    def _pad_units(self, x: jax.Array, fill: str = "edge") -> jax.Array:
        """`[..., k H]`, with each gate's units rounded up to warpgroups.

        The padding copies each gate's last unit, and no unit depends on it: its arithmetic is as
        finite as that unit's. Cotangents are padded with 0, by `fill="constant"`.
        """
        units, more = self.sizes.step.units, self.sizes.units - self.sizes.step.units
        gates = x.reshape(*x.shape[:-1], x.shape[-1] // units, units)
        gates = jnp.pad(gates, [(0, 0)] * x.ndim + [(0, more)], mode=fill)  # pyright: ignore
        return gates.reshape(*x.shape[:-1], -1)

    def _unpad_units(self, x: jax.Array) -> jax.Array:
        gates = x.reshape(*x.shape[:-1], x.shape[-1] // self.sizes.units, self.sizes.units)
        return gates[..., : self.sizes.step.units].reshape(*x.shape[:-1], -1)

    def matrix(self, transposed: bool) -> jax.Array:
        """The recurrent matrix, 0 in the rows of the padded units, cut for the warpgroups."""
        more = self.sizes.units - self.sizes.step.units
        padded = jnp.pad(self._pad_units(self.run.params.kernels[0]), [(0, more), (0, 0)])
        return matrix_tiles(padded, transposed)[None]

    def _pad_rows(self, x: jax.Array) -> jax.Array:
        """`[..., B]`, with the rows rounded up to tiles."""
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, self.sizes.batch - self.run.batch)])

    def pad_rows(self, xs: list[jax.Array]) -> list[jax.Array]:
        return [self._pad_rows(x) for x in xs]

    def unpad_rows(self, x: jax.Array) -> jax.Array:
        return x[..., : self.run.batch]

    def restore_with_time(self, xs: list[jax.Array], like: PyTree) -> Any:
        """Arrays with time, in the layout of the run, 0 in its padding, as the pytree `like`."""
        order = (2, 0, 1) if self.run.time_axis == 1 else (0, 2, 1)
        masked = [self._mask(self.unpad_rows(x)).transpose(order) for x in xs]
        return as_pytree([self._unpad_units(x) for x in masked], like)

    def restore_without_time(self, xs: list[jax.Array], like: PyTree) -> Any:
        """Arrays without time, in the layout of the run, as the pytree `like`."""
        return as_pytree([self._unpad_units(self.unpad_rows(x).T) for x in xs], like)

    def _mask(self, x: jax.Array) -> jax.Array:
        """`[T, ..., B]`, 0 in the padding, where kernels write nothing."""
        valid = self.run.masks.valid
        return x if valid is None else jnp.where(valid[:, None], x, jnp.zeros_like(x))

    def vectors(self) -> list[jax.Array]:
        """What the arithmetic needs of the params, for each row of a tile."""
        padded = [self._pad_units(x.reshape(1, -1)) for x in self.run.params.elementwise]
        padded = [x.astype(jnp.float32) for x in padded]
        return [jnp.broadcast_to(x.T, (x.shape[1], ROWS)) for x in padded]

    def sum_vectors(self, d_vectors: list[jax.Array]) -> list[jax.Array]:
        """The cotangents of the elementwise weights, of what the kernel summed over time."""
        weights = self.run.params.elementwise
        sums = [self._unpad_units(d.sum(-1)) for d in d_vectors]
        return as_pytree([d.reshape(x.shape) for d, x in zip(sums, weights, strict=True)], weights)

    def steps(self) -> tuple[list[jax.Array], jax.Array, jax.Array]:
        """`(flags, ends, counts)`, as the kernels take them."""
        lengths = self._pad_rows(pcast(self.run.lengths, varying_axes(self.run)))
        counts = lengths.reshape(self.sizes.tiles, ROWS).max(1)
        # Repeated for every unit: the kernels load them in the layout of the state.
        ends = jnp.broadcast_to(lengths, (self.sizes.units, self.sizes.batch))
        return self._flags(), ends, counts

    def _flags(self) -> list[jax.Array]:
        if not self.sizes.has_flags:
            return []
        flags = self.flags()[:, None]
        return [self._pad_rows(jnp.broadcast_to(flags, (self.run.time, UNITS, self.run.batch)))]


def forward(split: SplitCell, run: Run, save: bool) -> tuple[Any, Any]:
    """`((outputs, final_state), states)`: for each leaf of the state, what each step began with."""
    layout = KernelLayout.of(split, run)
    inputs = run.masked_inputs()
    projected = layout.project(run.params.projection, inputs)
    matrix = layout.matrix(transposed=True)
    kernel = kernels.forward(layout.sizes, save)
    arguments = ForwardArguments(
        matrix,
        layout.with_time(projected),
        layout.vectors(),
        layout.without_time(run.initial_state),
        layout.without_time(run.start_state),
        *layout.steps(),
    )
    outputs, final, states = kernel(arguments)
    outputs = layout.restore_with_time(outputs, layout.sizes.step.output_types)
    final = layout.restore_without_time(final, run.initial_state)
    return (outputs, final), [layout.unpad_rows(x) for x in states]


def backward(
    split: SplitCell, run: Run, states: PyTree, cotangents: PyTree
) -> tuple[Weights, Any, Any, Any]:
    """The cotangents of the params, the inputs, the initial and the start state of the run."""
    layout, (d_outputs, d_final) = KernelLayout.of(split, run), cotangents
    step, (kernel,) = layout.sizes.step, run.params.kernels
    projected, vjp = jax.vjp(layout.project, run.params.projection, run.masked_inputs())
    (hidden,) = layout.restore_with_time([states[step.hidden]], [kernel])
    products = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
    gates, products = _gates_and_products(
        step, layout.with_time(projected), layout.with_time([products])
    )
    arguments = BackwardArguments(
        layout.matrix(transposed=False),
        gates,
        layout.vectors(),
        products,
        layout.pad_rows(states),
        layout.with_time(d_outputs, "constant"),
        layout.without_time(d_final, "constant"),
        *layout.steps(),
    )
    d_projected, d_products, d_vectors, d_initial, d_start = kernels.backward(layout.sizes)(
        arguments
    )
    d_projected = layout.restore_with_time(d_projected, projected)
    if step.only_adds_product:
        (d_product,) = jax.tree.leaves(d_projected)
    else:
        (d_product,) = layout.restore_with_time(d_products, [hidden])
    d_kernel = kernel_cotangent(hidden, d_product)
    d_projection, d_inputs = vjp(d_projected)
    d_weights = Weights(
        d_projection, as_pytree([d_kernel], [kernel]), layout.sum_vectors(d_vectors)
    )
    d_initial = layout.restore_without_time(d_initial, run.initial_state)
    if layout.sizes.has_flags:
        d_start = layout.restore_without_time(d_start, run.start_state)
    else:
        d_start = jax.tree.map(jnp.zeros_like, run.start_state)
    return d_weights, d_inputs, d_initial, d_start


def _gates_and_products(
    step: Step, projected: list[Any], products: list[Any]
) -> tuple[list[Any], list[Any]]:
    """The projected inputs and the products; only their sum where the step only adds them."""
    if not step.only_adds_product:
        return projected, products
    return [projected[0].astype(jnp.float32) + products[0]], []
