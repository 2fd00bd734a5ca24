"""The stack of cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from .._adapter import as_cell
from .._cell import Cell
from .._composition import Stacked
from .._types import Key


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class MultiRNNCell(Cell):
    """A stack of cells: the output of each cell is the input of the next.

    A cell that occurs twice has two separate sets of params.

    Args:
        cells: one or more cells; the first one receives the inputs.

    Params: `{"cell_0": ..., "cell_1": ...}`. State: the tuple of the cells' states.
    Output: that of the last cell.

    Raises:
        TypeError: `cells` is not a sequence of cells. ValueError: it is empty.

    Differs from TF1: there is no `state_is_tuple=False`.

    Reference: `tf.nn.rnn_cell.MultiRNNCell`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.MultiRNNCell([rnn.LSTMCell(8), rnn.GRUCell(4)])
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> outputs, (lower, upper) = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> outputs.shape, lower.c.shape, upper.shape
        ((2, 5, 4), (2, 8), (2, 4))
    """

    cells: Sequence[Any]

    def __post_init__(self) -> None:
        if not isinstance(self.cells, Sequence) or isinstance(self.cells, str):
            raise TypeError(
                "MultiRNNCell: expected a list or tuple of cells, got "
                f"{type(self.cells).__name__}; write MultiRNNCell([cell])"
            )
        if not self.cells:
            raise ValueError("MultiRNNCell: expected at least one cell, got an empty list")
        # A list becomes a tuple, which can be hashed.
        object.__setattr__(self, "cells", tuple(self.cells))
        for i, cell in enumerate(self.cells):
            as_cell(cell, f"MultiRNNCell's cell {i}")

    def composition(self, key: Key = None) -> Stacked:
        return Stacked({f"cell_{i}": cell for i, cell in enumerate(self.cells)})
