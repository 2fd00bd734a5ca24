"""A wrapper that outputs the state of every step."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from .._cell import Params, State
from .._types import Key, Projected
from ._wrapper import Wrapper


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class EmitState(Wrapper):
    """Outputs `(output, new_state)` at each step: a run returns the states of all steps.

    Like any output, the states are 0 past the sequence length. The final state does not change.

    Args:
        cell: the cell to run.

    Params, state: those of `cell`. Output: `(cell's output, cell's state)`; leaves
    `[B, T, ...]` after a run, `[T]` for a rank-0 leaf of the state.

    Raises:
        TypeError: `cell` is not a cell.

    Reference: TF1 has no such wrapper; its users collect the states in `tf.nn.raw_rnn`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.EmitState(rnn.LSTMCell(4))
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> (outputs, states), state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)))
        >>> states.c.shape, bool(jnp.allclose(states.c[:, -1], state.c))
        ((2, 5, 4), True)
    """

    same_features = True

    def why_not_separable(self, key: Key) -> str | None:
        del key
        return "its output holds the state of every step"

    def step(
        self, params: Params, projected: Projected, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        output, new_state = self.cell_step(params, projected, state, key)
        return (output, new_state), new_state
