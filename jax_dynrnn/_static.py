"""Runs over Python lists of steps: TF1's `static_rnn` and its siblings.

TF1 unrolled the graph. Here the steps are stacked and run by `dynamic_rnn`, so that a list and an
array of the same steps give the same results. `B` is the batch size, `T` the number of time
steps, `D` a feature size, `H` the units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _check_cell
from ._adapter import as_cell
from ._arguments import explained
from ._bidirectional import bidirectional_dynamic_rnn, check_features, concatenate_leaves
from ._cell import Params, State
from ._protocol import structure
from ._rnn import dynamic_rnn
from ._stack_bidirectional import stack_bidirectional_dynamic_rnn
from ._types import CellLike, DTypeLike, Inputs, Lengths, Outputs


@explained
def static_rnn(
    cell: CellLike,
    params: Params,
    inputs: Sequence[Any],
    initial_state: State | None = None,
    *,
    sequence_length: Lengths | None = None,
    dtype: DTypeLike | None = None,
    key: jax.Array | None = None,
) -> tuple[list[Any], State]:
    """Runs a cell over a list of steps, as `dynamic_rnn` does over an array.

    Args:
        cell, params, initial_state, dtype, key: as for `dynamic_rnn`.
        inputs: list of `T` pytrees of `[B, *features]`, one per step.
        sequence_length: `[B]` integers, as for `dynamic_rnn`.

    Returns:
        `(outputs, state)`: the list of `T` outputs `[B, H]`, and the final state.

    Raises:
        TypeError: `inputs` is not a list or tuple. ValueError: it is empty, or its steps
            differ in shape. Other errors as `dynamic_rnn`.

    Differs from TF1: the loop is not unrolled, so that compile time does not grow with `T`.
    Rank-0 leaves of the state are updated at least once, as in `dynamic_rnn`, even if all
    lengths are 0.

    Reference: `tf.nn.static_rnn`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell, steps = rnn.GRUCell(4), [jnp.ones((2, 3))] * 5
        >>> params = cell.init(jax.random.key(0), (2, 3))
        >>> outputs, state = rnn.static_rnn(cell, params, steps, sequence_length=[5, 3])
        >>> len(outputs), outputs[0].shape, bool(jnp.allclose(outputs[2][1], state[1]))
        (5, (2, 4), True)
    """
    with _check_cell.relabel_errors("static_rnn(cell, params, inputs)"):
        outputs, state = dynamic_rnn(
            cell, params, _stacked(inputs), sequence_length, initial_state, time_major=True,
            dtype=dtype, key=key,
        )  # fmt: skip
    return _unstacked(outputs, len(inputs)), state


@explained
def static_bidirectional_rnn(
    cell_fw: CellLike,
    cell_bw: CellLike,
    params: Params,
    inputs: Sequence[Any],
    initial_state_fw: State | None = None,
    initial_state_bw: State | None = None,
    *,
    sequence_length: Lengths | None = None,
    dtype: DTypeLike | None = None,
    key: jax.Array | None = None,
) -> tuple[list[Any], State, State]:
    """Runs two cells over a list of steps in both directions, and concatenates the outputs.

    Args:
        cell_fw, cell_bw, params, initial_state_fw, initial_state_bw, dtype, key: as for
            `bidirectional_dynamic_rnn`.
        inputs: list of `T` pytrees of `[B, *features]`, one per step.
        sequence_length: `[B]` integers, as for `dynamic_rnn`.

    Returns:
        `(outputs, state_fw, state_bw)`: the list of `T` outputs, forward and backward
        concatenated on axis 1, `[B, H_fw + H_bw]`.

    Raises:
        TypeError, ValueError: as `static_rnn`.

    Reference: `tf.nn.static_bidirectional_rnn`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell, steps = rnn.GRUCell(4), [jnp.ones((2, 3))] * 5
        >>> params = rnn.init_bidirectional(jax.random.key(0), cell, cell, (2, 3))
        >>> outputs, fw, bw = rnn.static_bidirectional_rnn(cell, cell, params, steps)
        >>> outputs[0].shape, bool(jnp.allclose(outputs[0][:, 4:], bw))
        ((2, 8), True)
    """
    with _check_cell.relabel_errors("static_bidirectional_rnn(cell_fw, cell_bw, params, inputs)"):
        (outputs_fw, outputs_bw), (state_fw, state_bw) = bidirectional_dynamic_rnn(
            cell_fw, cell_bw, params, _stacked(inputs), sequence_length, initial_state_fw,
            initial_state_bw, time_major=True, dtype=dtype, key=key,
        )  # fmt: skip
    check_features(jax.tree.map(np.shape, (outputs_fw, outputs_bw)), rank=3)
    # TF1 concatenates outputs `[B, ...]` on axis 1, not on the last axis. Time is the first here.
    outputs = concatenate_leaves(outputs_fw, outputs_bw, axis=2)
    return _unstacked(outputs, len(inputs)), state_fw, state_bw


@explained
def stack_bidirectional_rnn(
    cells_fw: Sequence[Any],
    cells_bw: Sequence[Any],
    params: Params,
    inputs: Sequence[Any],
    initial_states_fw: Sequence[State] | None = None,
    initial_states_bw: Sequence[State] | None = None,
    *,
    sequence_length: Lengths | None = None,
    dtype: DTypeLike | None = None,
    key: jax.Array | None = None,
) -> tuple[list[Any], tuple[State, ...], tuple[State, ...]]:
    """Runs bidirectional layers over a list of steps, as `stack_bidirectional_dynamic_rnn` does.

    Args:
        cells_fw, cells_bw, params, initial_states_fw, initial_states_bw, dtype, key: as for
            `stack_bidirectional_dynamic_rnn`.
        inputs: list of `T` arrays `[B, D]`, one per step.
        sequence_length: `[B]` integers, as for `dynamic_rnn`.

    Returns:
        `(outputs, states_fw, states_bw)`: the list of `T` outputs `[B, H_fw + H_bw]` of the
        last layer, and for each direction a tuple of states, one per layer.

    Raises:
        TypeError, ValueError: as `static_rnn` and `stack_bidirectional_dynamic_rnn`.

    Reference: `tf.contrib.rnn.stack_bidirectional_rnn`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cells, steps = [rnn.GRUCell(4), rnn.GRUCell(5)], [jnp.ones((2, 3))] * 5
        >>> params = rnn.init_stack_bidirectional(jax.random.key(0), cells, cells, (2, 3))
        >>> outputs, fw, bw = rnn.stack_bidirectional_rnn(cells, cells, params, steps)
        >>> outputs[0].shape, [state.shape for state in fw]
        ((2, 10), [(2, 4), (2, 5)])
    """
    with _check_cell.relabel_errors("stack_bidirectional_rnn(cells_fw, cells_bw, params, inputs)"):
        outputs, states_fw, states_bw = stack_bidirectional_dynamic_rnn(
            cells_fw, cells_bw, params, _stacked(inputs), sequence_length, initial_states_fw,
            initial_states_bw, time_major=True, dtype=dtype, key=key,
        )  # fmt: skip
    return _unstacked(outputs, len(inputs)), states_fw, states_bw


@explained
def static_state_saving_rnn(
    cell: CellLike,
    params: Params,
    inputs: Sequence[Any],
    state_saver: Mapping[str, jax.Array],
    state_name: Any,
    *,
    sequence_length: Lengths | None = None,
    dtype: DTypeLike | None = None,
    key: jax.Array | None = None,
) -> tuple[list[Any], State, dict[str, jax.Array]]:
    """Runs a long sequence piece by piece: starts from a saved state and saves the final one.

    Args:
        cell, params, dtype, key: as for `dynamic_rnn`.
        inputs: list of `T` pytrees of `[B, *features]`, one per step.
        state_saver: a dict with the saved arrays by name; it may hold other entries.
        state_name: the names of the leaves of the state, in order: a string for one array,
            `("c", "h")` for an LSTM.
        sequence_length: `[B]` integers, as for `dynamic_rnn`.

    Returns:
        `(outputs, state, state_saver)`: `state_saver` is a new dict with the final state in it.

    Raises:
        ValueError: `state_name` does not have one name for each array. KeyError: a name is not
            in `state_saver`. Other errors as `static_rnn`.

    Differs from TF1: a dict is passed in and a new one is returned; TF1's object had
    `state(name)` and `save_state(name, value)`.

    Reference: `tf.nn.static_state_saving_rnn`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell, steps = rnn.LSTMCell(4), [jnp.ones((2, 3))] * 5
        >>> params = cell.init(jax.random.key(0), (2, 3))
        >>> saver = {"c": jnp.zeros((2, 4)), "h": jnp.zeros((2, 4))}
        >>> for piece in range(3):
        ...     outputs, state, saver = rnn.static_state_saving_rnn(
        ...         cell, params, steps, saver, ("c", "h")
        ...     )
        >>> bool((saver["c"] == state.c).all())
        True
    """
    steps, cell = _stacked(inputs), as_cell(cell)
    order = "static_state_saving_rnn(cell, params, inputs, state_saver, state_name)"
    with _check_cell.relabel_errors(order):
        _check_cell.check_params(cell, params, jax.tree.map(np.shape, steps))
    state = jax.eval_shape(lambda: cell.start(params, (1,), jnp.float32))
    names, leaves = jax.tree.leaves(state_name), jax.tree.leaves(state)
    # As in TF1: a string names a state of one array, a tuple the leaves of any other state.
    nested = not isinstance(state_name, str)
    if len(names) != len(leaves) or nested != (not jax.tree_util.all_leaves([state])):
        raise ValueError(
            f"state_name: expected a name for each array of the state, {len(leaves)} in "
            f"{structure(state)}, got {state_name!r}"
        )
    if len({*names}) != len(names):
        raise ValueError(f"state_name: expected different names, got {state_name!r}")
    if not isinstance(state_saver, Mapping):
        raise TypeError(
            f"state_saver: expected a dict of arrays by name, got {type(state_saver).__name__}"
        )
    missing = [name for name in names if name not in state_saver]
    if missing:
        raise KeyError(f"state_saver: expected {names}, missing: {missing}")
    saved = jax.tree.structure(state).unflatten([state_saver[name] for name in names])
    with _check_cell.relabel_errors(order, initial_state="state_saver"):
        outputs, final = dynamic_rnn(
            cell, params, steps, sequence_length, saved, time_major=True, dtype=dtype, key=key
        )
    outputs = _unstacked(outputs, len(inputs))
    return outputs, final, {**state_saver, **dict(zip(names, jax.tree.leaves(final), strict=True))}


def _stacked(inputs: Inputs) -> Any:
    """Stacks a list of steps into one time-major pytree, after checking that they are alike."""
    if not isinstance(inputs, list | tuple):
        raise TypeError(
            f"inputs: expected a list of steps, got {type(inputs).__name__}; dynamic_rnn takes "
            "one array of them"
        )
    if not inputs:
        raise ValueError("inputs: expected at least one step, got an empty list")
    structures = {jax.tree.structure(x): None for x in inputs}
    shapes = {tuple(np.shape(leaf) for leaf in jax.tree.leaves(x)): None for x in inputs}
    if len(structures) > 1 or len(shapes) > 1:
        raise ValueError(
            "inputs: expected steps of one structure and shape, got "
            f"{', '.join(dict.fromkeys(map(structure, inputs)))}"
        )

    def stack(*steps):
        return jnp.stack(steps)

    return jax.tree.map(stack, *inputs)


def _unstacked(outputs: Outputs, time: int) -> list[Any]:
    """Splits time-major outputs into a list of steps."""
    leaves, treedef = jax.tree.flatten(outputs)
    return [treedef.unflatten([y[t] for y in leaves]) for t in range(time)]
