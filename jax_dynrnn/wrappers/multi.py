"""Cells on top of each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import Cell, Params, State, as_cell, output_shape, take_step
from .._protocol import ask
from .._tools import fold_in


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class MultiRNNCell(Cell):
    """A stack: the output of each cell is the input of the next.

    The same cell twice has two sets of weights.

    Args:
        cells: one cell or more, the first of which sees the inputs.

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

    def __post_init__(self):
        if not isinstance(self.cells, Sequence) or isinstance(self.cells, str):
            raise TypeError(
                "MultiRNNCell: expected a list or tuple of cells, got "
                f"{type(self.cells).__name__}; write MultiRNNCell([cell])"
            )
        if not self.cells:
            raise ValueError("MultiRNNCell: expected at least one cell, got an empty list")
        object.__setattr__(self, "cells", tuple(self.cells))
        for i, cell in enumerate(self.cells):
            as_cell(cell, f"MultiRNNCell's cell {i}")

    @property
    def feature_ndim(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._layers()[0][1].feature_ndim

    def init(self, key: jax.Array, input_shape: Any, dtype: Any = jnp.float32) -> Params:
        params = {}
        for i, (name, cell) in enumerate(self._layers()):
            if i > 0:
                input_shape = output_shape(self._layers()[i - 1][1], input_shape)
            params[name] = ask(cell, "init", jax.random.fold_in(key, i), input_shape, dtype)
        return params

    def zero_state(self, batch_shape: Any = (), dtype: Any = jnp.float32) -> State:
        return tuple(ask(cell, "zero_state", batch_shape, dtype) for _, cell in self._layers())

    def prepare(self, params: Params, *, key: Any = None, batch_shape: tuple) -> Params:
        return {
            name: ask(cell, "prepare", params[name], key=fold_in(key, i), batch_shape=batch_shape)
            for i, (name, cell) in enumerate(self._layers())
        }

    @property
    def attends(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return any(cell.attends for _, cell in self._layers())

    def attend(self, params: Params, memory: Any, memory_length: Any = None) -> Params:
        if not self.attends:
            return super().attend(params, memory)
        attending = [(name, cell) for name, cell in self._layers() if cell.attends]
        return {
            **params,
            **{name: cell.attend(params[name], memory, memory_length) for name, cell in attending},
        }

    def start(self, params: Params, batch_shape: Any, dtype: Any) -> State:
        layers = self._layers()
        return tuple(ask(cell, "start", params[name], batch_shape, dtype) for name, cell in layers)

    def project(self, params: Params, inputs: Any) -> Any:
        name, cell = self._layers()[0]
        return ask(cell, "project", params[name], inputs)

    def step(
        self, params: Params, projected: Any, state: State, *, key: Any = None
    ) -> tuple[Any, State]:
        if len(state) != len(self.cells):
            raise ValueError(
                f"MultiRNNCell: expected a state of {len(self.cells)} parts, one for each "
                f"cell, got {len(state)}"
            )
        output, states = None, []
        for i, (name, cell) in enumerate(self._layers()):
            if i > 0:
                projected = ask(cell, "project", params[name], output)
            output, new = take_step(cell, params[name], projected, state[i], key=fold_in(key, i))
            states.append(new)
        return output, tuple(states)

    def _layers(self) -> list[tuple[str, Cell]]:
        return [(f"cell_{i}", as_cell(cell)) for i, cell in enumerate(self.cells)]
