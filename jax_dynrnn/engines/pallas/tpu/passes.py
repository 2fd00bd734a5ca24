"""The passes around the kernels: what XLA computes before and after them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...._types import DTypeLike, PyTree
from ...devices import pcast, varying_axes
from ...request import Run
from ...staged.split_cell import SplitCell, Weights, one_row
from ..layout import Layout, as_pytree, has_flags, round_up
from ..primitives import for_tpu
from ..step import Step
from . import arrays, chips
from .arrays import BackwardArguments, ForwardArguments, Masks
from .backward import backward as backward_kernel
from .forward import forward as forward_kernel
from .projection import dense_projection
from .sizes import LANES, Sizes, cuts, matmul_precision


def smallest(step: Step, dtype: DTypeLike) -> Sizes:
    """The sizes that need the least memory: one tile of few rows, the projection by XLA."""
    rows, steps = list(cuts(1, 8, dtype))[-1]
    precision = matmul_precision(dtype)
    return Sizes(step, rows, rows, steps, steps, False, dtype, None, 0, True, False, precision)


def vmem_bytes(sizes: Sizes) -> int:
    """What a training step takes of the vector memory."""
    types = arrays.backward_types(sizes), arrays.forward_types(sizes, save=True)
    places = arrays.BACKWARD_PLACES, arrays.FORWARD_PLACES
    return max(arrays.vmem_bytes(sizes, *of) for of in zip(types, places, strict=True))


def choose_sizes(split: SplitCell, run: Run) -> Sizes:
    """The sizes of a run, that fit: with the fewest tiles, projected by the kernel if it can."""
    weights, (inputs, state) = run.params, one_row(run)
    dtype = weights.kernels[0].dtype
    step = Step(split, weights, inputs, state, for_tpu(dtype))
    dense = dense_projection(split, weights, inputs)
    features = round_up(jax.tree.leaves(inputs)[0].shape[-1], LANES) if dense else 0
    flagged = has_flags(run)
    for rows, steps in cuts(run.batch, run.time, dtype):
        batch = round_up(run.batch, rows)
        fills = batch == run.batch and run.time % steps == 0
        common = {
            **{"step": step, "batch": batch, "rows": rows, "time": run.time, "steps": steps},
            **{"reverse": run.reverse, "dtype": dtype, "has_flags": flagged},
            "all_valid": fills and run.masks.valid is None and not flagged,
            "precision": matmul_precision(dtype),
        }
        for projection, columns in ((dense, features), (None, 0)):
            sizes = Sizes(projection=projection, features=columns, **common)
            if vmem_bytes(sizes) <= chips.bytes_for_arrays(run.device):
                return sizes
    raise AssertionError("`unsupported` says so")


@dataclasses.dataclass(frozen=True)
class KernelLayout(Layout):
    """The arrays of a run, of which the params are `Weights`, in the layout of the kernels.

    There time is first, and rows, features and units are rounded up.
    """

    sizes: Sizes

    @classmethod
    def of(cls, split: SplitCell, run: Run) -> KernelLayout:
        return cls(split, run, choose_sizes(split, run))

    def inputs(self) -> list[jax.Array]:
        """What the kernels receive of the inputs: themselves, or projected."""
        if self.sizes.projection is None:
            projected = self.project(self.run.params.projection, self.run.masked_inputs())
            return self.with_time(projected)
        # The kernels leave out the padding.
        (x,) = jax.tree.leaves(self.run.inputs)
        more = self.sizes.features - x.shape[-1]
        return [self._pad_rows(self.time_first(_pad_last(x, more)), axis=1)]

    def with_time(self, tree: PyTree, fill: str = "edge") -> list[jax.Array]:
        """The leaves of a tree with time, `[T, B, k U]`."""
        units = (self._pad_units(x, fill) for x in jax.tree.leaves(tree))
        return [self._pad_rows(self.time_first(x), axis=1) for x in units]

    def without_time(self, tree: PyTree, fill: str = "edge") -> list[jax.Array]:
        """The leaves of a tree without time, a state, `[B, U]` in float32."""
        units = (self._pad_units(x, fill) for x in jax.tree.leaves(tree))
        return [self._pad_rows(x.astype(jnp.float32), axis=0) for x in units]

    def time_first(self, x: jax.Array) -> jax.Array:
        """`[T, B, ...]`, or in the layout of the run again."""
        return x.swapaxes(0, 1) if self.run.time_axis == 1 else x

    def _pad_rows(self, x: jax.Array, axis: int) -> jax.Array:
        more = self.sizes.batch - self.run.batch
        return jnp.pad(x, [(0, more if i == axis else 0) for i in range(x.ndim)])

    def _pad_units(self, x: jax.Array, fill: str = "edge") -> jax.Array:
        """`[..., k H]` with slices of units, and each gate's units rounded up to lanes.

        The padding copies each gate's last unit, and no unit depends on it: its arithmetic is as
        finite as that unit's. Cotangents are padded with 0, by `fill="constant"`.
        """
        units, slices = self.sizes.step.units, self.sizes.slices
        gates = x.reshape(*x.shape[:-1], -1, units)
        more = [(0, 0)] * x.ndim + [(0, self.sizes.units - units)]
        gates = jnp.pad(gates, more, mode=fill)  # pyright: ignore
        gates = gates.reshape(*gates.shape[:-1], slices, LANES).swapaxes(-2, -3)
        return gates.reshape(*x.shape[:-1], -1)

    def unpad_units(self, x: jax.Array) -> jax.Array:
        """The opposite."""
        slices = x.reshape(*x.shape[:-1], self.sizes.slices, -1, LANES).swapaxes(-2, -3)
        gates = slices.reshape(*slices.shape[:-2], self.sizes.units)
        return gates[..., : self.sizes.step.units].reshape(*x.shape[:-1], -1)

    def restore_with_time(self, xs: list[jax.Array], like: PyTree) -> Any:
        """Arrays with time, in the layout of the run, as the pytree `like`."""
        rows = (x[:, : self.run.batch] for x in xs)
        return as_pytree([self.unpad_units(self.time_first(x)) for x in rows], like)

    def restore_without_time(self, xs: list[jax.Array], like: PyTree) -> Any:
        """Arrays without time, in the layout of the run, as the pytree `like`."""
        return as_pytree([self.unpad_units(x[: self.run.batch]) for x in xs], like)

    def weights(self) -> arrays.Weights:
        params, dense = self.run.params, self.sizes.projection or ()
        units, (kernel,) = self.sizes.step.units, params.kernels
        more_rows = [(0, self.sizes.units - units), (0, 0)]
        kernels = [params.projection[d.kernel] for d in dense]
        features = self.sizes.features
        return arrays.Weights(
            self._pad_units(jnp.pad(kernel, more_rows)),
            [self._pad_units(jnp.pad(w, [(0, features - w.shape[0]), (0, 0)])) for w in kernels],
            [
                self._vector(
                    jnp.zeros(w.shape[1:]) if d.bias is None else params.projection[d.bias]
                )
                for d, w in zip(dense, kernels, strict=True)
            ],
            [self._vector(x) for x in params.elementwise],
        )

    def _vector(self, x: jax.Array) -> jax.Array:
        """`[1, k U]` in float32."""
        return self._pad_units(x.reshape(1, -1)).astype(jnp.float32)

    def steps(self) -> tuple[jax.Array, Masks]:
        """`(counts, masks)`: the number of blocks that each tile runs, and which steps of it."""
        sizes, run = self.sizes, self.run
        lengths = self._pad_rows(pcast(run.lengths, varying_axes(run)), axis=0)
        longest = lengths.reshape(sizes.tiles, sizes.rows).max(1)
        counts = (longest + np.int32(sizes.steps - 1)) // np.int32(sizes.steps)
        ends = jnp.broadcast_to(lengths[:, None], (sizes.batch, LANES))
        return counts, Masks([] if sizes.all_valid else [ends], self._flags())

    def _flags(self) -> list[jax.Array]:
        if not self.sizes.has_flags:
            return []
        flags = self._pad_rows(self.flags(), axis=1)
        return [jnp.broadcast_to(flags[:, :, None], (*flags.shape, LANES))]


def forward(split: SplitCell, run: Run, save: bool) -> tuple[Any, Any]:
    """`((outputs, final_state), states)`: for each leaf of the state, what each step began with."""
    layout = KernelLayout.of(split, run)
    sizes, (counts, masks) = layout.sizes, layout.steps()
    arguments = ForwardArguments(
        layout.weights(),
        layout.inputs(),
        layout.without_time(run.initial_state),
        layout.without_time(run.start_state) if sizes.has_flags else [],
        masks,
    )
    found = forward_kernel(sizes, run.device, save)(counts, arguments)
    outputs = layout.restore_with_time(found.outputs, sizes.step.output_types)
    final = layout.restore_without_time(found.final, run.initial_state)
    return (outputs, final), found.states


def backward(
    split: SplitCell, run: Run, states: PyTree, cotangents: PyTree
) -> tuple[Weights, Any, Any, Any]:
    """The cotangents of the params, the inputs, the initial and the start state of the run."""
    layout, (d_outputs, d_final) = KernelLayout.of(split, run), cotangents
    sizes, (counts, masks), weights = layout.sizes, layout.steps(), layout.weights()
    arguments = BackwardArguments(
        weights,
        weights.kernel.T,
        [w.T for w in weights.projection],
        layout.inputs(),
        states,
        layout.with_time(d_outputs, "constant"),
        layout.without_time(d_final, "constant"),
        masks,
    )
    found = backward_kernel(sizes, run.device)(counts, arguments)
    d_projection, d_inputs = _of_projection(layout, found)
    (kernel,) = run.params.kernels
    d_kernel = layout.unpad_units(found.d_kernel)[: kernel.shape[0]]
    d_vectors = [
        layout.unpad_units(d.sum(0, keepdims=True)).reshape(x.shape).astype(x.dtype)
        for d, x in zip(found.d_vectors, run.params.elementwise, strict=True)
    ]
    d_weights = Weights(d_projection, [d_kernel.astype(kernel.dtype)], d_vectors)
    d_initial = layout.restore_without_time(found.d_state, run.initial_state)
    if sizes.has_flags:
        d_start = layout.restore_without_time(found.d_start, run.start_state)
    else:
        d_start = jax.tree.map(jnp.zeros_like, run.start_state)
    return d_weights, d_inputs, d_initial, d_start


def _of_projection(layout: KernelLayout, found: arrays.BackwardResults) -> tuple[list[Any], Any]:
    """The cotangents of the weights of the projection, and of the inputs."""
    run, sizes, projection = layout.run, layout.sizes, layout.run.params.projection
    if sizes.projection is None:
        projected, vjp = jax.vjp(layout.project, projection, run.masked_inputs())
        return vjp(layout.restore_with_time(found.d_inputs, projected))
    totals = [jnp.zeros(w.shape, jnp.float32) for w in projection]
    for dense, d_kernel, d_bias in zip(
        sizes.projection, found.d_projection, found.d_biases, strict=True
    ):
        rows = projection[dense.kernel].shape[0]
        totals[dense.kernel] += layout.unpad_units(d_kernel)[:rows]
        if dense.bias is not None:
            totals[dense.bias] += layout.unpad_units(d_bias).reshape(projection[dense.bias].shape)
    (x,) = jax.tree.leaves(run.inputs)
    (d_x,) = (layout.time_first(d[:, : run.batch, : x.shape[-1]]) for d in found.d_inputs)
    return as_pytree(totals, projection), as_pytree([d_x], run.inputs)


def _pad_last(x: jax.Array, more: int) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, more)])
