"""Splits a staged cell into its input projection, recurrent matmuls, and elementwise rest.

A fast engine computes the projections of many steps at once, and the matmuls in its own way. The
`Weights` are what these parts need of the params, computed once outside the loop: slices of
kernels, and vectors. `n` is a number of rows in the shapes below.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from ..._cell import Cell, StagedCell, run_stages
from ..._types import DTypeLike, Inputs, Key, Params, Projected, State
from ..devices import pcast, varying_axes
from ..hoist import hoist
from ..request import Run
from .preactivations import Preactivation, find_preactivations


@dataclasses.dataclass(frozen=True)
class Weights:
    """What does not change in the loop."""

    projection: list[jax.Array]
    """What `Cell.project` needs of the params."""
    kernels: list[jax.Array]
    """The kernels that are multiplied between the stages."""
    elementwise: list[jax.Array]
    """What the arithmetic between the matmuls needs of the params."""


jax.tree_util.register_dataclass(Weights, ["projection", "kernels", "elementwise"], [])


class SplitCell(Cell):
    """A staged cell whose params are `Weights`; made for one structure of params."""

    def __init__(self, cell: StagedCell, params: Params):
        self.cell = cell
        self.param_types: Any = jax.tree.map(jax.typeof, params)
        self._hoisted: dict[Any, Any] = {}

    def weights(self, params: Params, inputs: Inputs, state: State) -> Weights:
        """The weights; `inputs` and `state` are examples of any number of rows."""
        projection, _ = hoist(self.cell.project, params, inputs)
        projected = jax.eval_shape(self.cell.project, params, inputs)
        products = self.product_types(projected, state)
        elementwise, _ = hoist(self._elementwise, params, projected, state, products)
        kernels = self._kernels(params, projected, state)
        return Weights(projection(params), kernels, elementwise(params))

    def project(self, params: Weights, inputs: Inputs) -> Any:
        """`[n, D]` -> the projected inputs."""
        return self._without_invariants(self.cell.project, inputs)(params.projection, inputs)

    def project_steps(self, weights: Weights, inputs: Inputs) -> Any:
        """`[n, m, D]` -> the projected inputs of all steps, as one matmul."""
        shape = jax.tree.leaves(inputs)[0].shape[:2]
        projected = self.project(weights, jax.tree.map(merge_steps, inputs))
        return jax.tree.map(lambda p: p.reshape(*shape, *p.shape[1:]), projected)

    def elementwise(
        self,
        weights: list[jax.Array],
        projected: Projected,
        state: State,
        products: list[jax.Array],
    ) -> tuple[list[jax.Array], Any, Any]:
        """All arithmetic, given the products of all matmuls -> `(operands, output, new_state)`.

        `operands[i]` is what kernel i multiplies; it depends only on the products before i.
        """
        given = projected, state, products
        return self._without_invariants(self._elementwise, *given)(weights, *given)

    def _without_invariants(self, f: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
        """What `hoist` leaves of `f`, which is traced once for arguments of the same types."""
        leaves, structure = jax.tree.flatten(arguments)
        key = f, structure, tuple(map(_type, leaves))
        if key not in self._hoisted:
            self._hoisted[key] = hoist(f, self.param_types, *arguments)[1]
        return self._hoisted[key]

    def step(self, params: Weights, projected: Projected, state: State, *, key: Key = None) -> Any:
        """One step, for the engine `scan`, which knows nothing of split cells."""
        del key
        output, new, _ = self.step_with_products(params, projected, state)
        return output, new

    def step_with_products(
        self, weights: Weights, projected: Projected, state: State
    ) -> tuple[Any, Any, list[Any]]:
        """One step -> `(output, new_state, products)`."""
        types = self.product_types(projected, state)
        products = [jnp.zeros_like(x) for x in types]
        # Operand i is computed with zeros for product i and those after it, on which it does not
        # depend; XLA removes what is computed of the zeros.
        for i, kernel in enumerate(weights.kernels):
            operands, _, _ = self.elementwise(weights.elementwise, projected, state, products)
            products = [*products]
            products[i] = operands[i] @ kernel
        _, output, new = self.elementwise(weights.elementwise, projected, state, products)
        return output, new, products

    def preactivations(
        self, projected: Projected, state: State, products: list[Any]
    ) -> tuple[Preactivation, ...]:
        """Where a step uses only the sum of a product and the projected inputs."""
        given = (self.param_types, projected, state, products)
        jaxpr = jax.make_jaxpr(self._elementwise)(*given).jaxpr
        variables = iter(jaxpr.invars)
        _, of_projected, _, of_products = [
            list(itertools.islice(variables, len(jax.tree.leaves(part)))) for part in given
        ]
        return find_preactivations(jaxpr, of_projected, of_products)

    def _elementwise(
        self, params: Params, projected: Projected, state: State, products: list[Any]
    ) -> Any:
        operands: list[jax.Array] = []

        def multiply(i, x, kernel):
            operands.append(x)
            return products[i]

        output, new = run_stages(self.cell.stages(params, projected, state), multiply)
        return operands, output, new

    def product_types(self, projected: Projected, state: State) -> list[Any]:
        """The products of all matmuls, by shape and dtype."""

        def run(params, projected, state):
            products: list[jax.Array] = []

            def multiply(i, x, kernel):
                products.append(x @ kernel)
                return products[-1]

            run_stages(self.cell.stages(params, projected, state), multiply)
            return products

        return jax.eval_shape(run, self.param_types, projected, state)

    def _kernels(self, params: Params, projected: Projected, state: State) -> list[jax.Array]:
        kernels: list[jax.Array] = []
        # Kernels depend on the params alone: any inputs and state will do.
        zeros = jax.tree.map(jnp.zeros_like, (projected, state))

        def multiply(i, x, kernel):
            kernels.append(kernel)
            return x @ kernel

        run_stages(self.cell.stages(params, *zeros), multiply)
        return kernels


def merge_steps(x: jax.Array) -> jax.Array:
    """`[n, m, ...]` -> `[n * m, ...]`."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def kernel_cotangent(operand: jax.Array, d_product: jax.Array) -> jax.Array:
    """The gradient of a kernel: the sum over all steps and rows, as one matmul."""
    return jnp.matmul(
        merge_steps(operand).T,
        merge_steps(d_product),
        preferred_element_type=accumulator_dtype(d_product.dtype),
    )


def accumulator_dtype(dtype: DTypeLike) -> Any:
    """The dtype of sums over many steps."""
    return jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype


def _type(x: Any) -> Any:
    return x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)


def closes_over_arrays(run: Run) -> bool:
    """Whether a step uses arrays that are not its arguments, in a way that two passes do not allow.

    Only plain JAX differentiates with respect to what is being traced around the run.
    """

    def step(params, inputs, state):
        return run.cell.step(params, run.cell.project(params, inputs), state)

    closed = jax.make_jaxpr(step)(run.params, *one_row(run))
    return any(isinstance(x, jax.core.Tracer) for x in closed.consts)


def split_run(run: Run) -> tuple[SplitCell, Run]:
    """The run with a split cell and its `Weights`, all arrays varying over the same mesh axes."""
    # Loops and custom rules need one type for all arrays, whatever the loop makes of them.
    axes = varying_axes(run)
    run = jax.tree.map(functools.partial(pcast, axes=axes), dataclasses.replace(run, key=None))
    assert isinstance(run.cell, StagedCell)  # or the engine refuses it
    split = SplitCell(run.cell, run.params)
    weights = split.weights(run.params, *one_row(run))
    return split, dataclasses.replace(run, cell=split, params=weights)


def one_row(run: Run) -> tuple[Any, Any]:
    """The inputs of one step of one row, and its state."""
    inputs = jax.tree.map(lambda x: x[:1, 0], run.inputs)
    return inputs, jax.tree.map(lambda s: s[:1], run.initial_state)
