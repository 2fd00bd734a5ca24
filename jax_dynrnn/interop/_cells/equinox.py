"""Adapts Equinox's cells to this package."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._cell import Cell, Params, State
from ..._rnn import cast
from ..._tools import batch_tuple
from ..._types import BatchShape, DTypeLike, Inputs, Key, Shapes


@dataclasses.dataclass(frozen=True, eq=False)
class EquinoxCell(Cell):
    """Runs an Equinox cell, which takes one row at a time, over a batch.

    Args:
        module: called as `module(input, state) -> new_state`, like the cells of `equinox.nn`;
            with `key=` if the run has a key (each row then receives its own).
        state: the start state of one row; default: zeros, for the cells of `equinox.nn`.

    Params: the module's arrays, `equinox.filter(module, equinox.is_array)`, available as
    `cell.params`. They exist already, so `init` draws nothing: it returns them, in `dtype`. A
    module all of whose leaves are arrays, such as a `GRUCell`, can be used as params itself.
    State: the module's, `(h, c)` for an LSTM. Output: the new state, or the first element of
    one that is a tuple.

    Unlike other cells it is compared by identity, not by value: run it under `jax.jit`. A
    model may construct one around a submodule at every call.

    Raises:
        TypeError: `module` is not callable, or its start state is unknown and `state` is missing.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> import equinox as eqx
        >>> from jax_dynrnn.interop import foreign
        >>> module, inputs = eqx.nn.LSTMCell(3, 4, key=jax.random.key(0)), jnp.ones((2, 5, 3))
        >>> cell = foreign.EquinoxCell(module)
        >>> outputs, (h, c) = rnn.dynamic_rnn(cell, cell.params, inputs, [5, 1])
        >>> bool(jnp.allclose(h[1], module(inputs[1, 0], (jnp.zeros(4), jnp.zeros(4)))[0]))
        True
    """

    module: Any
    state: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.module, type) or not callable(self.module):
            raise TypeError(
                "EquinoxCell: expected an instance of a module, as of equinox.nn.GRUCell, got "
                f"{self.module!r:.60}"
            )
        if self.state is None:
            # The dataclass is frozen.
            object.__setattr__(self, "state", _zero_row_state(self.module))

    def __repr__(self) -> str:
        return f"EquinoxCell({type(self.module).__name__})"

    @property
    def params(self) -> Params:
        """The arrays of the module; `None` takes the place of its other leaves."""
        return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else None, self.module)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        """The arrays of the module, in `dtype`: nothing is drawn."""
        return cast(self.params, dtype)

    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> State:
        """The start state, broadcast to the batch, in `dtype`."""
        batch = batch_tuple(batch_shape)
        row = cast(self.state, dtype)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (*batch, *x.shape)), row)

    def __call__(
        self, params: Params, inputs: Inputs, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        batch = np.shape(jax.tree.leaves(inputs)[0])[: -self.feature_ndim]
        # A dict, since some modules take no `key` at all.
        keys = {} if key is None else {"key": jax.random.split(key, batch)}
        step = _with_params(self.module, params)
        # The module takes one row: one vmap for each axis of the batch.
        for _ in batch:
            step = jax.vmap(step)
        new = step(inputs, state, keys)
        return new[0] if isinstance(new, tuple) else new, new


def _with_params(module: Any, params: Params) -> Any:
    """The step of one row, by a copy of `module` whose arrays are `params`."""

    def is_none(leaf: Any) -> bool:
        return leaf is None

    def replaced(param: Any, leaf: Any) -> Any:
        return leaf if param is None else param

    # `None`, which stands for leaves that are no arrays, would be an empty subtree by default.
    module = jax.tree.map(replaced, params, module, is_leaf=is_none)

    def step(inputs: Inputs, state: State, keys: dict[str, Any]) -> State:
        return module(inputs, state, **keys)

    return step


def _zero_row_state(module: Any) -> State:
    """The start state of one row, for the cells of `equinox.nn`."""
    from equinox import nn

    if not isinstance(module, nn.GRUCell | nn.LSTMCell):
        raise TypeError(
            f"EquinoxCell: expected state=, where a row of {type(module).__name__} begins, got "
            "None; it is known only for equinox.nn.GRUCell and LSTMCell"
        )
    zeros = jnp.zeros(module.hidden_size)
    return zeros if isinstance(module, nn.GRUCell) else (zeros, zeros)
