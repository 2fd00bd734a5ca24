"""Adapts Haiku's cores to this package."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..._cell import Cell, Params, State
from ..._rnn import cast
from ..._tools import batch_tuple, map_shapes
from ..._types import BatchShape, DTypeLike, Inputs, Key, Shapes


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class HaikuCell(Cell):
    """Runs a Haiku core.

    Args:
        make_core: a function that makes the `hk.RNNCore`, since one can be made only inside of
            `hk.transform`. Cells are equal if it is the same function.
        feature_ndim: the number of axes of the inputs beside batch and time; 3 for a
            `Conv2DLSTM`.

    Params: Haiku's two levels, as in `{"lstm/linear": {"w": ..., "b": ...}}`; for a core
    inside a model, remove the model's name from the module names first. State: that of
    `initial_state`, `LSTMState(hidden, cell)` for an LSTM. Output: the core's. The key of a
    step is what `hk.next_rng_key()` splits; without one, a core that draws random numbers
    fails.

    Raises:
        TypeError: `make_core` is not a function.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> import haiku as hk
        >>> from jax_dynrnn.interop import foreign
        >>> cell, inputs = foreign.HaikuCell(lambda: hk.LSTM(4)), jnp.ones((2, 5, 3))
        >>> params = cell.init(jax.random.key(0), inputs.shape)
        >>> outputs, state = rnn.dynamic_rnn(cell, params, inputs, [5, 3])
        >>> state.cell.shape
        (2, 4)
    """

    make_core: Callable[[], Any]
    feature_ndim: int = 1

    def __post_init__(self) -> None:
        if not callable(self.make_core):
            raise TypeError(
                "HaikuCell: expected a function that makes a core, as lambda: hk.LSTM(128), got "
                f"{self.make_core!r:.60}"
            )

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        ndim = self.feature_ndim
        row = map_shapes(lambda s: jnp.zeros((1, *s[len(s) - ndim :]), dtype), input_shape)
        return cast(self._step.init(key, row, self.zero_state(1, dtype)), dtype)

    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> State:
        """The core's `initial_state`, in `dtype`."""
        # `initial_state(None)` is Haiku's state without a batch axis.
        batch_size = batch_tuple(batch_shape) or (None,)
        initial = _transform(lambda: self.make_core().initial_state(*batch_size))
        return cast(initial.apply({}, None), dtype)

    def __call__(
        self, params: Params, inputs: Inputs, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        return self._step.apply(params, key, inputs, state)

    @property
    def _step(self) -> Any:
        return _transform(lambda inputs, state: self.make_core()(inputs, state))


def _transform(function: Callable[..., Any]) -> Any:
    """`hk.transform`; Haiku is imported only where a cell is used."""
    import haiku as hk

    return hk.transform(function)
