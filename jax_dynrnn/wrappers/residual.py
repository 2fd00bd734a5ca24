"""A wrapper with a residual connection around a cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from .._cell import Params
from .._protocol import call_back
from .._types import Inputs, Key, Outputs, PyTree
from ._wrapper import AroundWrapper


def _add(inputs: Inputs, outputs: Outputs) -> Any:
    """Adds two pytrees leaf by leaf, after checking that their structures and shapes match."""
    structures = jax.tree.structure(inputs), jax.tree.structure(outputs)
    if structures[0] != structures[1]:
        raise TypeError(
            "ResidualWrapper: expected an output of the inputs' structure "
            f"{structures[0]}, got {structures[1]}; pass a residual_fn that adds them"
        )

    def add(x, y):
        if x.shape != y.shape:
            raise ValueError(
                f"ResidualWrapper: expected an output of the inputs' shape {x.shape}, got "
                f"{y.shape}; give the cell as many units as the inputs have features, or "
                "pass a residual_fn"
            )
        return x + y

    return jax.tree.map(add, inputs, outputs)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ResidualWrapper(AroundWrapper):
    """Adds a residual connection: `y = x + cell(x)`; the state does not change.

    Args:
        cell: the cell to run.
        residual_fn: `residual_fn(inputs, outputs) -> outputs`; `None` adds them leaf by
            leaf.

    Params, state: those of `cell`. Output: the result of `residual_fn`.

    Raises:
        TypeError: `cell` is not a cell, or (in a step) inputs and outputs differ in
            structure. ValueError: they differ in shape.

    Reference: `tf.nn.rnn_cell.ResidualWrapper`; Wu et al., arXiv:1609.08144.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell, inputs = rnn.GRUCell(3), jnp.ones((2, 5, 3))
        >>> params = cell.init(jax.random.key(0), inputs.shape)
        >>> plain, _ = rnn.dynamic_rnn(cell, params, inputs)
        >>> added, _ = rnn.dynamic_rnn(rnn.ResidualWrapper(cell), params, inputs)
        >>> bool((added == plain + inputs).all())
        True
    """

    _: dataclasses.KW_ONLY
    residual_fn: Callable[..., Any] | None = None

    @property
    def same_output(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the output has the shape of the cell's; a `residual_fn` may return any shape."""
        return self.residual_fn is None

    def before(self, params: Params, inputs: Inputs, key: Key) -> tuple[Any, Any]:
        return inputs, inputs

    def after(self, params: Params, saved: PyTree, output: Outputs, key: Key) -> Any:
        if self.residual_fn is None:
            return _add(saved, output)
        added = call_back("residual_fn", self.residual_fn, "inputs, outputs", saved, output)
        if added is None:
            raise TypeError("residual_fn: expected it to return the outputs, got None")
        return added
