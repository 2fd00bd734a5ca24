"""The step of a cell as the kernels compute it: of some of its units, all gates apart."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .._parts import Parts
from .functions import functions
from .gates import Gates, Unknown
from .units import Arithmetic, Leaf, inlined

Every = list[Gates]
"""Of each leaf its gates."""


class Step:
    """What follows the one matmul of a cell.

    Args:
        parts: the cell.
        weights, row, state: its `Weights`, the inputs and the state of a row, or their shapes.

    Raises:
        Unknown: a kernel cannot compute it; the message says why.

    Attributes:
        units: `H`.
        gates: how many `H` columns the recurrent matrix has.
        projected, vectors, outputs: of each leaf, how many gates it has.
        states: of each leaf 1.
        hidden: which leaf of the state is multiplied.
        added: whether all that is done with the product is to add it to the projected inputs.
    """

    def __init__(self, parts: Parts, weights: Any, row: Any, state: Any):
        projected = jax.eval_shape(parts.project, weights, row)
        recurred = parts.recurred(projected, state)
        if len(recurred) != 1:
            raise Unknown(f"its step has {len(recurred)} matmuls, and the kernel has one")
        given = weights.between, projected, state, recurred
        leaves = [jax.tree.leaves(x) for x in given]
        self.units = weights.kernels[0].shape[0]
        self.instead = functions(weights.kernels[0].dtype)
        for x in jax.tree.leaves(given):
            self._check(x)
        self.vectors, self.projected, self.states, (self.gates,) = (
            [x.shape[-1] // self.units for x in part] for part in leaves
        )
        if set(self.states) != {1}:
            raise Unknown("a part of its state is not of the size of the hidden one")
        self.arithmetic = Arithmetic(parts.between, self.units, *given)
        (_, output, _) = jax.eval_shape(parts.between, *given)
        for x in jax.tree.leaves(output):
            self._check(x)
        self.outputs = [x.shape[-1] // self.units for x in jax.tree.leaves(output)]
        before = len(self.vectors) + len(self.projected)
        multiplied = self.arithmetic.same(0)
        if multiplied is None or not 0 <= multiplied - before < len(self.states):
            raise Unknown("what it multiplies is not a part of its state as it is")
        self.hidden = multiplied - before
        sums = parts.sums(projected, state, recurred)
        self.added = [s.whole for s in sums] == [True] and self.projected == [self.gates]

    def _check(self, x: Any) -> None:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise Unknown(f"it computes with {x.dtype}")
        if not x.shape or x.shape[-1] % self.units or not x.shape[-1]:
            raise Unknown(f"it has an array {x.shape} that is not of its {self.units} units")
        if len(x.shape) > 2 or (len(x.shape) == 2 and x.shape[0] != 1):
            raise Unknown(f"it has an array {x.shape} that is not one vector")

    def try_out(self) -> None:
        """Raises `Unknown` where the arithmetic or its derivative is not for some units alone."""

        def trial(x):
            every = lambda counts: [[x] * n for n in counts]  # noqa: E731
            given = every(self.vectors), every(self.projected), [x] * len(self.states)
            return self.transposed(*given, [x] * self.gates, every(self.outputs), given[2])

        jax.eval_shape(trial, jax.ShapeDtypeStruct((8, 8), jnp.float32))

    def run(self, vectors: Every, projected: Every, state: Gates, recurred: Gates) -> Any:
        """`(outputs, new_state)` of arrays `[n, units]`."""
        return inlined(self._run, (vectors, projected, state, recurred), self.instead)

    def _run(self, vectors: Every, projected: Every, state: Gates, recurred: Gates) -> Any:
        given = [*vectors, *projected, *([s] for s in state), recurred]
        _, output, new = self.arithmetic(given)
        leaves = lambda tree: jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Leaf))  # noqa: E731
        return [list(x) for x in leaves(output)], [x[0] for x in leaves(new)]

    def transposed(
        self,
        vectors: Every,
        projected: Every,
        state: Gates,
        recurred: Gates,
        d_outputs: Every,
        d_state: Gates,
    ) -> Any:
        """The cotangents of the four arguments of `run`, of those of its results."""

        def pull(given, cotangents):
            return jax.vjp(self._run, *given)[1](cotangents)

        given = vectors, projected, state, recurred
        return inlined(pull, (given, (d_outputs, d_state)), self.instead)
