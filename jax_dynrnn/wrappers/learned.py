"""A wrapper whose start state is learned with the other params."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from .. import _check_cell
from .._cell import Params, State
from .._tools import along_last, batch_tuple, unboxed
from .._types import BatchShape, DTypeLike, Key, Shapes
from ._wrapper import AroundWrapper


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LearnedInitialState(AroundWrapper):
    """Makes the start state of a cell part of the params, so that it is learned.

    Runs start from it, and so do resets. It is initialised to the start state of `cell`, zeros for
    most cells. Integer leaves of the state (counters) are not learned.

    Args:
        cell: the cell to run.

    Params: `{"cell": ..., "initial_state": {name of the leaf: [...]}}`, with names such as
    `c`, `h`, or `0/c` in a stack, and `state` if the state is one array; a leading axis of size 1
    is accepted.
    State, output: those of `cell`.

    Raises:
        TypeError: `cell` is not a cell, or is one that attends to a memory, so that the size of
            its state is not fixed.

    Reference: TF1 has no such wrapper; Hinton, Neural networks for machine learning,
    lecture 7 (2012).

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell = rnn.LearnedInitialState(rnn.LSTMCell(4))
        >>> params = cell.init(jax.random.key(0), (2, 5, 3))
        >>> params["initial_state"]["h"] += 1.0
        >>> _, state = rnn.dynamic_rnn(cell, params, jnp.ones((2, 5, 3)), [5, 0])
        >>> state.h[1].tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    params_name: ClassVar[str | None] = "cell"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_cell.fixed_state(self, self.inner)

    def init(self, key: Key, input_shape: Shapes, dtype: DTypeLike = jnp.float32) -> Params:
        params = self.inner.init(key, input_shape, dtype)
        # A start state may be computed from params, which must be arrays for that.
        state = self.inner.start(unboxed(params), (), dtype)
        return {"cell": params, "initial_state": dict(_floating_leaves(state))}

    def start(self, params: Params, batch_shape: BatchShape, dtype: DTypeLike) -> State:
        batch = batch_tuple(batch_shape)
        state = self.inner.start(params["cell"], batch, dtype)

        def learned(name, leaf):
            x = params["initial_state"][name]
            x = x[0] if x.ndim > leaf.ndim - len(batch) else x
            return jnp.broadcast_to(along_last(x, leaf), leaf.shape).astype(leaf.dtype)

        values = {name: learned(name, leaf) for name, leaf in _floating_leaves(state)}

        def learned_or_start(path, leaf):
            return values.get(_leaf_name(path), leaf)

        return jax.tree_util.tree_map_with_path(learned_or_start, state)


def _floating_leaves(state: State) -> list[tuple[str, jax.Array]]:
    """Returns the floating leaves of a state with their names."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return [(_leaf_name(p), x) for p, x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]


def _leaf_name(path: Any) -> str:
    """Returns a path as a name, such as `0/c`; the path of a single array is empty."""
    return jax.tree_util.keystr(path, simple=True, separator="/") or "state"
