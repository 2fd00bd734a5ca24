"""Input projections that are a matmul and a bias for each leaf: a kernel computes them itself.

So the projected inputs, several times as large as the inputs, are never written to memory.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jax.extend import core

from ...._types import Inputs
from ...staged.split_cell import SplitCell, Weights


class Dense(NamedTuple):
    """One leaf of the projected inputs: `inputs @ kernel + bias`."""

    kernel: int
    """Which of `Weights.projection`."""
    bias: int | None
    """Which of `Weights.projection`; `None`: there is none."""


def dense_projection(
    split: SplitCell, weights: Weights, inputs: Inputs
) -> tuple[Dense, ...] | None:
    """The projection of a cell as dense layers, one for each leaf, or `None` if it is none.

    Args:
        split: the cell.
        weights, inputs: its weights and the inputs of one row, or their types.
    """
    leaves = jax.tree.leaves(inputs)
    if len(leaves) != 1 or len(leaves[0].shape) != 2:
        return None
    if not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        return None
    closed = jax.make_jaxpr(split.project)(weights, inputs)
    variables = closed.jaxpr.invars
    of_projection = variables[: len(weights.projection)]
    found = _dense_variables(closed.jaxpr, of_projection, variables[-1])
    dense = [found.get(v) if isinstance(v, core.Var) else None for v in closed.jaxpr.outvars]
    return tuple(d for d in dense if d is not None) if dense and None not in dense else None


def _dense_variables(jaxpr: Any, params: list[Any], inputs: Any) -> dict[Any, Dense]:
    """The variables that are a matmul of the inputs with a param, plus a param or not."""
    vectors = {v: i for i, v in enumerate(params)}
    found: dict[Any, Dense] = {}
    for equation in jaxpr.eqns:
        name, operands = equation.primitive.name, equation.invars
        (result,) = equation.outvars if len(equation.outvars) == 1 else (None,)
        if any(isinstance(v, core.Literal) for v in operands) or result is None:
            continue
        if name in ("broadcast_in_dim", "reshape", "squeeze") and operands[0] in vectors:
            if math.prod(result.aval.shape) == result.aval.shape[-1]:
                vectors[result] = vectors[operands[0]]
        elif name == "dot_general" and operands[0] is inputs and operands[1] in params:
            contracting, batch = equation.params["dimension_numbers"]
            if contracting == ((1,), (0,)) and batch == ((), ()):
                found[result] = Dense(params.index(operands[1]), None)
        elif name == "add":
            for product, bias in (operands, reversed(operands)):
                is_sum = product in found and found[product].bias is None and bias in vectors
                if is_sum and math.prod(bias.aval.shape) == result.aval.shape[-1]:
                    found[result] = Dense(found[product].kernel, vectors[bias])
    return found
