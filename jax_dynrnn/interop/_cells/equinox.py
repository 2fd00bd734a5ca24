"""Equinox's cells as cells of this package."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ..._cell import Cell, Params, State
from ..._rnn import cast
from ..._tools import batch_tuple
from ..._types import BatchShape, DTypeLike, Inputs, Key, Shapes


@dataclasses.dataclass(frozen=True, eq=False)
class EquinoxCell(Cell):
    """Runs an Equinox cell, which takes one row at a time, over a batch.

    Args:
        module: called as `module(input, state) -> new_state`, as the cells of `equinox.nn`
            are, with `key=` where the run has one (then each row has its own).
        state: where a row begins; default: zeros, for those of `equinox.nn`.

    Params: the module's arrays, `equinox.filter(module, equinox.is_array)`, which
    `cell.params` has. The module has them, so `init` draws nothing: it returns the same, in
    `dtype`. A module all of whose leaves are arrays, such as a `GRUCell`, serves as params
    itself. State: the module's, `(h, c)` of an LSTM. Output: the new state, or the first
    entry of one that is a tuple.

    It is not compared by value, as cells otherwise are: run it under `jax.jit`. A model may
    make one of a submodule at every call.

    Raises:
        TypeError: `module` is not callable, or `state` is needed.

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
            object.__setattr__(self, "state", _zeros(self.module))

    def __repr__(self) -> str:
        return f"EquinoxCell({type(self.module).__name__})"

    @property
    def params(self) -> Params:
        """The params that the module has."""
        return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else None, self.module)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        """The params that the module has, in `dtype`."""
        return cast(self.params, dtype)

    def zero_state(self, batch_shape: BatchShape = (), dtype: DTypeLike = jnp.float32) -> State:
        """`state` for each row, in `dtype`."""
        batch = batch_tuple(batch_shape)
        row = cast(self.state, dtype)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (*batch, *x.shape)), row)

    def __call__(
        self, params: Params, inputs: Inputs, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        batch = jnp.shape(jax.tree.leaves(inputs)[0])[: -self.feature_ndim]
        keys = {} if key is None else {"key": jax.random.split(key, batch)}
        step = _with_params(self.module, params)
        for _ in batch:
            step = jax.vmap(step)
        new = step(inputs, state, keys)
        return new[0] if isinstance(new, tuple) else new, new


def _with_params(module: Any, params: Params) -> Any:
    """The step of one row by `module` with other arrays."""
    is_none = lambda x: x is None  # noqa: E731
    own = lambda given, x: x if given is None else given  # noqa: E731
    module = jax.tree.map(own, params, module, is_leaf=is_none)
    return lambda inputs, state, keys: module(inputs, state, **keys)


def _zeros(module: Any) -> State:
    """Where the cells of `equinox.nn` begin."""
    from equinox import nn

    if not isinstance(module, nn.GRUCell | nn.LSTMCell):
        raise TypeError(
            f"EquinoxCell: expected state=, where a row of {type(module).__name__} begins, got "
            "None; only of equinox.nn.GRUCell and LSTMCell it is known"
        )
    zeros = jnp.zeros(module.hidden_size)
    return zeros if isinstance(module, nn.GRUCell) else (zeros, zeros)
