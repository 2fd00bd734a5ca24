"""The step of a cell as the kernels compute it: for some of its units, gate by gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..._types import Inputs, PyTree, State
from ..staged.probe import Probe
from ..staged.split_cell import SplitCell, Weights
from .gatewise import Arithmetic, Gates, UnsupportedArithmetic, broadcast, inlined, is_leaf

Leaves = list[Gates]
"""The gates of each leaf of a pytree."""


class Step:
    """What follows the one matmul of a cell.

    Args:
        split: the cell.
        weights, inputs, state: its weights, the inputs and the state of one row, or their types.
        replacements: functions that replace primitives, by their names.

    Raises:
        UnsupportedArithmetic: a kernel cannot compute it; the message says why.

    Attributes:
        units: `H`.
        gates: how many times `H` columns the recurrent matrix has.
        projected, vectors, outputs: how many gates each leaf has.
        states: how many leaves the state has, of one gate each.
        hidden: which leaf of the state is multiplied.
        only_adds_product: whether the product is only added to the projected inputs.
    """

    def __init__(
        self,
        split: SplitCell,
        weights: Weights,
        inputs: Inputs,
        state: State,
        replacements: dict[str, Callable[..., Any]],
    ):
        projected = jax.eval_shape(split.project, weights, inputs)
        products = split.product_types(projected, state)
        if len(products) != 1:
            raise UnsupportedArithmetic(
                f"its step has {len(products)} matmuls, and the kernel has one"
            )
        given = weights.elementwise, projected, state, products
        self.units: int = weights.kernels[0].shape[0]
        self.replacements: dict[str, Callable[..., Any]] = replacements
        self._check(given)
        self.vectors: list[int]
        self.projected: list[int]
        self.gates: int
        self.vectors, self.projected, state_gates, (self.gates,) = map(self._count_gates, given)
        if set(state_gates) != {1}:
            raise UnsupportedArithmetic("a part of its state is not of the size of the hidden one")
        self.states: int = len(state_gates)
        self.arithmetic: Arithmetic = Arithmetic(split.elementwise, self.units, *given)
        _, output, _ = jax.eval_shape(split.elementwise, *given)
        self._check(output)
        self.outputs: list[int] = self._count_gates(output)
        self.output_types: Any = output
        self.hidden: int = self._hidden_leaf()
        preactivations = split.preactivations(projected, state, products)
        covers_all = [p.covers_all_columns for p in preactivations] == [True]
        self.only_adds_product: bool = covers_all and self.projected == [self.gates]

    def _count_gates(self, tree: PyTree) -> list[int]:
        return [x.shape[-1] // self.units for x in jax.tree.leaves(tree)]

    def _hidden_leaf(self) -> int:
        before = len(self.vectors) + len(self.projected)
        operand = self.arithmetic.same(0)
        if operand is None or not 0 <= operand - before < self.states:
            raise UnsupportedArithmetic(
                "its matmul does not multiply one leaf of the state, unchanged"
            )
        return operand - before

    def _check(self, tree: PyTree) -> None:
        """Checks that all leaves are floating vectors of gates of the cell's units."""
        for x in jax.tree.leaves(tree):
            if not jnp.issubdtype(x.dtype, jnp.floating):
                raise UnsupportedArithmetic(f"it computes with {x.dtype}")
            if not x.shape or x.shape[-1] % self.units or not x.shape[-1]:
                raise UnsupportedArithmetic(
                    f"it has an array {x.shape} that is not of its {self.units} units"
                )
            if len(x.shape) > 2 or (len(x.shape) == 2 and x.shape[0] != 1):
                raise UnsupportedArithmetic(f"it has an array {x.shape} that is not one vector")

    def check_arithmetic(self) -> None:
        """Raises `UnsupportedArithmetic` if the arithmetic, or its derivative, cannot be done for
        some units alone."""

        def trial(x):
            def leaves(counts):
                return [[x] * n for n in counts]

            state = [x] * self.states
            given = leaves(self.vectors), leaves(self.projected), state, [x] * self.gates
            return self.vjp(*given, leaves(self.outputs), state)

        jax.eval_shape(trial, jax.ShapeDtypeStruct((8, 8), jnp.float32))

    def run(self, vectors: Leaves, projected: Leaves, state: Gates, products: Gates) -> Any:
        """`(outputs, new_state)` of arrays `[n, units]`."""
        return inlined(self._run, (vectors, projected, state, products), self.replacements)

    def _run(self, vectors: Leaves, projected: Leaves, state: Gates, products: Gates) -> Any:
        given = [*vectors, *projected, *([s] for s in state), products]
        _, output, new = self.arithmetic(given)

        def leaves(tree):
            # A result that is a number is one for every unit.
            found = jax.tree.leaves(tree, is_leaf=is_leaf)
            return [list(broadcast(x, like=state[:1] * len(x))) for x in found]

        return leaves(output), [x[0] for x in leaves(new)]

    def vjp(
        self,
        vectors: Leaves,
        projected: Leaves,
        state: Gates,
        products: Gates,
        d_outputs: Leaves,
        d_state: Gates,
    ) -> Any:
        """The cotangents of the four arguments of `run`, given those of its results."""

        def pull(given, cotangents):
            return jax.vjp(self._run, *given)[1](cotangents)

        given = vectors, projected, state, products
        return inlined(pull, (given, (d_outputs, d_state)), self.replacements)


def step_or_reason(probe: Probe, replacements: dict[str, Callable[..., Any]]) -> Step | str:
    """The step of a cell, or why a kernel cannot compute its arithmetic."""
    try:
        step = Step(probe.split, probe.weights, probe.inputs, probe.state, replacements)
        step.check_arithmetic()
    except UnsupportedArithmetic as reason:
        return f"the arithmetic of {probe.name} cannot be computed by a kernel: {reason}"
    return step
