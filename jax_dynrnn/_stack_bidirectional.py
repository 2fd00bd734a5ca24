"""Stacked bidirectional runs: each layer reads the concatenated outputs of the layer below.

`B` is the batch size, `T` the number of time steps, `D` a feature size, `H` the units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from . import _check_cell, _check_data
from ._adapter import as_cell, output_shape
from ._arguments import explained
from ._bidirectional import (
    bidirectional_dynamic_rnn,
    check_features,
    concatenate,
    init_bidirectional,
)
from ._cell import Params, State
from ._rnn import RunOptions, takes
from ._tools import fold_in, is_shape
from ._types import CellLike, DTypeLike, Inputs, PyTree, Shapes

ORDER = "stack_bidirectional_dynamic_rnn(cells_fw, cells_bw, params, inputs, sequence_length)"


@explained
def init_stack_bidirectional(
    key: jax.Array,
    cells_fw: Sequence[Any],
    cells_bw: Sequence[Any],
    input_shape: Shapes,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Makes the params of `stack_bidirectional_dynamic_rnn`: `{"cell_0": {"fw", "bw"}, ...}`.

    Args:
        key: the key for the initializers.
        cells_fw, cells_bw: one cell per layer, lists of the same length.
        input_shape: `inputs.shape`; only the feature sizes are read.
        dtype: the dtype of the params.

    Returns:
        The params, initialised independently for each layer and direction.

    Raises:
        TypeError, ValueError: the cells are not two lists of the same length.

    Example:
        >>> import jax, jax_dynrnn as rnn
        >>> cells = [rnn.BasicRNNCell(4), rnn.BasicRNNCell(5)]
        >>> params = rnn.init_stack_bidirectional(jax.random.key(0), cells, cells, (2, 5, 3))
        >>> params["cell_1"]["fw"]["kernel"].shape
        (13, 5)
    """
    _check_data.a_key(key)
    params = {}
    for i, (fw, bw) in enumerate(layer_pairs(cells_fw, cells_bw)):
        layer_key = jax.random.fold_in(key, i)
        params[f"cell_{i}"] = init_bidirectional(layer_key, fw, bw, input_shape, dtype)
        # The next layer reads the concatenated outputs of this one: its feature sizes add up.
        shapes = [output_shape(as_cell(cell), input_shape) for cell in (fw, bw)]
        check_features(shapes, rank=1)
        input_shape = jax.tree.map(_concatenated_shape, *shapes, is_leaf=is_shape)
    return params


def _concatenated_shape(fw: tuple[Any, ...], bw: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shape of two outputs concatenated on the last axis."""
    return (*fw[:-1], fw[-1] + bw[-1])


@takes(RunOptions)
def stack_bidirectional_dynamic_rnn(
    cells_fw: Sequence[Any],
    cells_bw: Sequence[Any],
    params: Params,
    inputs: Inputs,
    sequence_length: ArrayLike | Sequence[int] | None = None,
    initial_states_fw: Sequence[State] | None = None,
    initial_states_bw: Sequence[State] | None = None,
    **options: Unpack[RunOptions],
) -> tuple[Any, tuple[State, ...], tuple[State, ...]]:
    """Runs bidirectional layers, each on the concatenated outputs of the layer below.

    Args:
        cells_fw, cells_bw: one cell per layer, lists of the same length.
        params: as returned by `init_stack_bidirectional`.
        inputs: `[B, T, D]`.
        sequence_length: `[B]` integers, as for `dynamic_rnn`.
        initial_states_fw, initial_states_bw: one state per layer; default: the start states
            of the cells.
        mask, resets, time_major, dtype, unroll, remat, implementation: as for `dynamic_rnn`.
        key: as for `dynamic_rnn`; layer i uses `fold_in(key, i)`.

    Returns:
        `(outputs, states_fw, states_bw)`: the outputs `[B, T, H_fw + H_bw]` of the last
        layer, and for each direction a tuple of states, one per layer.

    Raises:
        TypeError, ValueError: the cells or states are not lists of the same length; other
            errors as `dynamic_rnn`.

    Reference: `tf.contrib.rnn.stack_bidirectional_dynamic_rnn`.

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cells, inputs = [rnn.GRUCell(4), rnn.GRUCell(5)], jnp.ones((2, 5, 3))
        >>> params = rnn.init_stack_bidirectional(jax.random.key(0), cells, cells, inputs.shape)
        >>> outputs, states_fw, states_bw = rnn.stack_bidirectional_dynamic_rnn(
        ...     cells, cells, params, inputs, [5, 3]
        ... )
        >>> outputs.shape, len(states_fw)
        ((2, 5, 10), 2)
    """
    pairs = layer_pairs(cells_fw, cells_bw)
    names = tuple(f"cell_{i}" for i in range(len(pairs)))
    with _check_cell.relabel_errors(ORDER):
        _check_cell.check_param_groups(params, names)
    key = options.get("key")
    _check_data.one_key(key)
    initial_fw = _states(initial_states_fw, len(pairs), "initial_states_fw")
    initial_bw = _states(initial_states_bw, len(pairs), "initial_states_bw")
    states = []
    for i, (fw, bw) in enumerate(pairs):
        # Errors of the inner run use its argument names; they are replaced by the names used here.
        labels = {
            "params": f'params["{names[i]}"]',
            "initial_state_fw": f"initial_states_fw[{i}]",
            "initial_state_bw": f"initial_states_bw[{i}]",
        }
        layer_options: Any = {**options, "key": fold_in(key, i)}
        with _check_cell.relabel_errors(ORDER, **labels):
            outputs, state = bidirectional_dynamic_rnn(
                fw,
                bw,
                params[names[i]],
                inputs,
                sequence_length,
                initial_fw[i],
                initial_bw[i],
                **layer_options,
            )
        inputs = concatenate(*outputs)
        states.append(state)
    states_fw, states_bw = zip(*states, strict=True)
    return inputs, states_fw, states_bw


def layer_pairs(
    cells_fw: Sequence[CellLike], cells_bw: Sequence[CellLike]
) -> list[tuple[Any, Any]]:
    """The pair `(cell_fw, cell_bw)` of each layer, after checking the two lists."""
    for name, cells in (("cells_fw", cells_fw), ("cells_bw", cells_bw)):
        if not isinstance(cells, list | tuple):
            raise TypeError(f"{name}: expected a list of cells, got {type(cells).__name__}")
    if len(cells_fw) != len(cells_bw) or not cells_fw:
        raise ValueError(
            "cells_fw, cells_bw: expected two lists of one length, at least one cell each, got "
            f"{len(cells_fw)} and {len(cells_bw)} cells"
        )
    return list(zip(cells_fw, cells_bw, strict=True))


def _states(states: PyTree, num_layers: int, name: str) -> Sequence[Any]:
    """One initial state per layer, after checking their number; `None`s if none are given."""
    if states is None:
        return [None] * num_layers
    if not isinstance(states, list | tuple) or len(states) != num_layers:
        raise ValueError(
            f"{name}: expected a list or tuple of {num_layers} states, one for each layer, got "
            f"{type(states).__name__}"
            + (f" of {len(states)}" if isinstance(states, list | tuple) else "")
        )
    return states
