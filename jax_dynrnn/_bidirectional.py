"""Runs in both directions, made of two calls of `dynamic_rnn`.

`B` is the batch size, `T` the number of time steps, `D` a feature size, `H` the units.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from . import _check_cell, _check_data
from ._cell import Params, State, as_cell, output_shape
from ._rnn import dynamic_rnn
from ._tools import is_shape


def init_bidirectional(
    key: jax.Array, cell_fw: Any, cell_bw: Any, input_shape: Any, dtype: Any = jnp.float32
) -> Params:
    """Makes the params of `bidirectional_dynamic_rnn`: `{"fw": ..., "bw": ...}`.

    Args:
        key: for the initialisers.
        cell_fw, cell_bw: the cells of the two directions.
        input_shape: `inputs.shape`, or a pytree of shapes; only the features are read.
        dtype: of the params.

    Raises:
        TypeError: a cell is not a cell.

    Example:
        >>> import jax, jax_dynrnn as rnn
        >>> cell = rnn.BasicRNNCell(4)
        >>> params = rnn.init_bidirectional(jax.random.key(0), cell, cell, (2, 5, 3))
        >>> params["bw"]["kernel"].shape
        (7, 4)
    """
    keys = jax.random.split(key)
    cells = as_cell(cell_fw, "cell_fw"), as_cell(cell_bw, "cell_bw")
    fw, bw = (c.init(k, input_shape, dtype) for c, k in zip(cells, keys, strict=True))
    return {"fw": fw, "bw": bw}


def bidirectional_dynamic_rnn(
    cell_fw: Any,
    cell_bw: Any,
    params: Params,
    inputs: Any,
    sequence_length: ArrayLike | Sequence[int] | None = None,
    initial_state_fw: State | None = None,
    initial_state_bw: State | None = None,
    *,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    time_major: bool = False,
    dtype: Any = None,
    key: jax.Array | None = None,
    unroll: int = 1,
    remat: int | str | None = None,
    implementation: str | None = None,
) -> tuple[tuple[Any, Any], tuple[State, State]]:
    """Runs one cell forward and one backward over each row's valid steps.

    Args:
        cell_fw, cell_bw: the cells of the two directions.
        params: `{"fw": ..., "bw": ...}`, as `init_bidirectional` makes them.
        inputs: pytree of `[B, T, *features]`.
        sequence_length: `[B]` integers, as for `dynamic_rnn`.
        initial_state_fw, initial_state_bw: default: where the cells start.
        mask, resets, time_major, dtype, unroll, remat, implementation: as for
            `dynamic_rnn`.
        key: as for `dynamic_rnn`; forward uses `fold_in(key, 0)`, backward `(key, 1)`.

    Returns:
        `((outputs_fw, outputs_bw), (state_fw, state_bw))`: both outputs `[B, T, H]` in the
        order of the inputs; the backward state is the one after each row's first step.

    Raises:
        TypeError, ValueError, KeyError, NotImplementedError: as `dynamic_rnn`.

    Differs from TF1: backward outputs of nested structure work; lengths over T are an error
    where they are known, as in `dynamic_rnn`, and clamped where they are traced.

    Reference: `tf.nn.bidirectional_dynamic_rnn`; Schuster and Paliwal (1997).

    Example:
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell, inputs = rnn.GRUCell(4), jnp.ones((2, 5, 3))
        >>> params = rnn.init_bidirectional(jax.random.key(0), cell, cell, inputs.shape)
        >>> (fw, bw), (state_fw, state_bw) = rnn.bidirectional_dynamic_rnn(
        ...     cell, cell, params, inputs, [5, 3]
        ... )
        >>> bool(jnp.allclose(bw[:, 0], state_bw)), bool(jnp.allclose(fw[1, 2], state_fw[1]))
        (True, True)
    """
    _check_cell.directions(params, ("fw", "bw"), "bidirectional_dynamic_rnn")
    _check_data.one_key(key)
    runs = []
    for i, (name, cell, initial_state) in enumerate(
        [("fw", cell_fw, initial_state_fw), ("bw", cell_bw, initial_state_bw)]
    ):
        with _named("initial_state", f"initial_state_{name}"):
            run = dynamic_rnn(
                as_cell(cell, f"cell_{name}"),
                params[name],
                inputs,
                sequence_length,
                initial_state,
                mask=mask,
                resets=resets,
                reverse=name == "bw",
                time_major=time_major,
                dtype=dtype,
                key=None if key is None else jax.random.fold_in(key, i),
                unroll=unroll,
                remat=remat,
                implementation=implementation,
            )
        runs.append(run)
    (outputs_fw, state_fw), (outputs_bw, state_bw) = runs
    return (outputs_fw, outputs_bw), (state_fw, state_bw)


@contextlib.contextmanager
def _named(here: str, there: str) -> Iterator[None]:
    """Lets an error about the argument `here` of the run inside be one about `there`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not str(error).startswith(here):
            raise
        raise type(error)(there + str(error).removeprefix(here)) from error


def concatenate(outputs_fw: Any, outputs_bw: Any) -> Any:
    """The outputs of both directions side by side on the last axis.

    Args:
        outputs_fw, outputs_bw: pytrees of one structure, `[B, T, H]`.

    Returns:
        The pytree of `[B, T, H_fw + H_bw]`.

    Raises:
        ValueError: outputs `[B, T]`, whose last axis is no feature axis.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> rnn.concatenate(jnp.ones((2, 5, 3)), jnp.ones((2, 5, 4))).shape
        (2, 5, 7)
    """
    check_features(jax.tree.map(jnp.shape, (outputs_fw, outputs_bw)), rank=3)
    return jax.tree.map(lambda fw, bw: jnp.concatenate([fw, bw], -1), outputs_fw, outputs_bw)


def check_features(shapes: Any, rank: int) -> None:
    """Checks the shapes of outputs, which have `rank` axes if the last is of features."""
    for shape in jax.tree.leaves(shapes, is_leaf=is_shape):
        if len(shape) < rank:
            raise ValueError(
                "concatenate: expected outputs with a feature axis, on which those of both "
                f"directions lie side by side, got shape {shape}; jnp.stack([fw, bw], -1) makes one"
            )


def init_stack_bidirectional(
    key: jax.Array,
    cells_fw: Sequence[Any],
    cells_bw: Sequence[Any],
    input_shape: Any,
    dtype: Any = jnp.float32,
) -> Params:
    """Makes the params of `stack_bidirectional_dynamic_rnn`: `{"cell_0": {"fw", "bw"}, ...}`.

    Args:
        key: for the initialisers.
        cells_fw, cells_bw: one cell a layer, lists of the same length.
        input_shape: `inputs.shape`; only the features are read.
        dtype: of the params.

    Raises:
        TypeError, ValueError: the cells are not two lists of the same length.

    Example:
        >>> import jax, jax_dynrnn as rnn
        >>> cells = [rnn.BasicRNNCell(4), rnn.BasicRNNCell(5)]
        >>> params = rnn.init_stack_bidirectional(jax.random.key(0), cells, cells, (2, 5, 3))
        >>> params["cell_1"]["fw"]["kernel"].shape
        (13, 5)
    """
    params = {}
    for i, (fw, bw) in enumerate(_layers(cells_fw, cells_bw)):
        layer_key = jax.random.fold_in(key, i)
        params[f"cell_{i}"] = init_bidirectional(layer_key, fw, bw, input_shape, dtype)
        shapes = [output_shape(as_cell(cell), input_shape) for cell in (fw, bw)]
        check_features(shapes, rank=1)
        input_shape = jax.tree.map(lambda a, b: (*a[:-1], a[-1] + b[-1]), *shapes, is_leaf=is_shape)
    return params


def stack_bidirectional_dynamic_rnn(
    cells_fw: Sequence[Any],
    cells_bw: Sequence[Any],
    params: Params,
    inputs: Any,
    sequence_length: ArrayLike | Sequence[int] | None = None,
    initial_states_fw: Sequence[State] | None = None,
    initial_states_bw: Sequence[State] | None = None,
    *,
    key: jax.Array | None = None,
    **options: Any,
) -> tuple[Any, tuple[State, ...], tuple[State, ...]]:
    """Bidirectional layers, each on the concatenated outputs of the one below.

    Args:
        cells_fw, cells_bw: one cell a layer, lists of the same length.
        params: as `init_stack_bidirectional` makes them.
        inputs: `[B, T, D]`.
        sequence_length: `[B]` integers, as for `dynamic_rnn`.
        initial_states_fw, initial_states_bw: one state a layer; default: where the cells
            start.
        key: as for `dynamic_rnn`; layer i uses `fold_in(key, i)`.
        **options: `mask`, `resets`, `time_major`, `dtype`, `unroll`, `remat`,
            `implementation`, as for `dynamic_rnn`.

    Returns:
        `(outputs, states_fw, states_bw)`: the outputs `[B, T, H_fw + H_bw]` of the last
        layer, and a tuple of states, one a layer, for each direction.

    Raises:
        TypeError, ValueError: the cells or states are not lists of the same length; all
            else as `dynamic_rnn`.

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
    layers = _layers(cells_fw, cells_bw)
    names = tuple(f"cell_{i}" for i in range(len(layers)))
    _check_cell.directions(params, names, "stack_bidirectional_dynamic_rnn")
    _check_data.one_key(key)
    initial_fw = _states(initial_states_fw, len(layers), "initial_states_fw")
    initial_bw = _states(initial_states_bw, len(layers), "initial_states_bw")
    states = []
    for i, (fw, bw) in enumerate(layers):
        with (
            _named("initial_state_fw", f"initial_states_fw[{i}]"),
            _named("initial_state_bw", f"initial_states_bw[{i}]"),
        ):
            outputs, state = bidirectional_dynamic_rnn(
                fw,
                bw,
                params[names[i]],
                inputs,
                sequence_length,
                initial_fw[i],
                initial_bw[i],
                key=None if key is None else jax.random.fold_in(key, i),
                **options,
            )
        inputs = concatenate(*outputs)
        states.append(state)
    states_fw, states_bw = zip(*states, strict=True)
    return inputs, states_fw, states_bw


def _layers(cells_fw: Any, cells_bw: Any) -> list[tuple[Any, Any]]:
    for name, cells in (("cells_fw", cells_fw), ("cells_bw", cells_bw)):
        if not isinstance(cells, list | tuple):
            raise TypeError(f"{name}: expected a list of cells, got {type(cells).__name__}")
    if len(cells_fw) != len(cells_bw) or not cells_fw:
        raise ValueError(
            "cells_fw, cells_bw: expected two lists of one length, at least one cell each, got "
            f"{len(cells_fw)} and {len(cells_bw)} cells"
        )
    return list(zip(cells_fw, cells_bw, strict=True))


def _states(states: Any, layers: int, name: str) -> Sequence[Any]:
    if states is None:
        return [None] * layers
    if not isinstance(states, list | tuple) or len(states) != layers:
        raise ValueError(
            f"{name}: expected a list or tuple of {layers} states, one for each layer, got "
            f"{type(states).__name__}"
            + (f" of {len(states)}" if isinstance(states, list | tuple) else "")
        )
    return states
