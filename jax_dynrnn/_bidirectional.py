"""Runs in both directions, made of two calls of `dynamic_rnn`.

`B` is the batch size, `T` the number of time steps, `D` a feature size, `H` the units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from . import _check_cell, _check_data
from ._arguments import explained
from ._cell import Params, State, as_cell
from ._protocol import ask, same, structure
from ._rnn import dynamic_rnn
from ._tools import fold_in, is_shape
from ._types import CellLike, DTypeLike, Inputs, Outputs, Shapes

ORDER = "bidirectional_dynamic_rnn(cell_fw, cell_bw, params, inputs, sequence_length)"


@explained
def init_bidirectional(
    key: jax.Array,
    cell_fw: CellLike,
    cell_bw: CellLike,
    input_shape: Shapes,
    dtype: DTypeLike = jnp.float32,
) -> Params:
    """Makes the params of `bidirectional_dynamic_rnn`: `{"fw": ..., "bw": ...}`.

    Args:
        key: for the initialisers.
        cell_fw, cell_bw: the cells of the two directions.
        input_shape: `inputs.shape`, or a pytree of shapes; only the features are read.
        dtype: of the params.

    Returns:
        Params, those of each direction drawn on their own.

    Raises:
        TypeError: a cell is not a cell.

    Example:
        >>> import jax, jax_dynrnn as rnn
        >>> cell = rnn.BasicRNNCell(4)
        >>> params = rnn.init_bidirectional(jax.random.key(0), cell, cell, (2, 5, 3))
        >>> params["bw"]["kernel"].shape
        (7, 4)
    """
    _check_data.a_key(key)
    keys = jax.random.split(key)
    cells = as_cell(cell_fw, "cell_fw"), as_cell(cell_bw, "cell_bw")
    fw, bw = (ask(c, "init", k, input_shape, dtype) for c, k in zip(cells, keys, strict=True))
    return {"fw": fw, "bw": bw}


@explained
def bidirectional_dynamic_rnn(
    cell_fw: CellLike,
    cell_bw: CellLike,
    params: Params,
    inputs: Inputs,
    sequence_length: ArrayLike | Sequence[int] | None = None,
    initial_state_fw: State | None = None,
    initial_state_bw: State | None = None,
    *,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    time_major: bool = False,
    dtype: DTypeLike | None = None,
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
    _check_data.one_key(key)
    cells = as_cell(cell_fw, "cell_fw"), as_cell(cell_bw, "cell_bw")
    with _check_cell.located(ORDER):
        _check_cell.directions(params, ("fw", "bw"))
    options: dict[str, Any] = {
        "sequence_length": sequence_length,
        "mask": mask,
        "resets": resets,
        "time_major": time_major,
        "dtype": dtype,
        "key": key,
        "unroll": unroll,
        "remat": remat,
        "implementation": implementation,
    }
    states = initial_state_fw, initial_state_bw
    runs = []
    for i, name in enumerate(("fw", "bw")):
        options["key"] = fold_in(key, i)
        options["reverse"] = name == "bw"
        places = {"params": f'params["{name}"]', "initial_state": f"initial_state_{name}"}
        with _check_cell.located(ORDER, **places):
            runs.append(
                dynamic_rnn(cells[i], params[name], inputs, initial_state=states[i], **options)
            )
    (outputs_fw, state_fw), (outputs_bw, state_bw) = runs
    return (outputs_fw, outputs_bw), (state_fw, state_bw)


@explained
def concatenate(outputs_fw: Outputs, outputs_bw: Outputs) -> Any:
    """The outputs of both directions side by side on the last axis.

    Args:
        outputs_fw, outputs_bw: pytrees of one structure, `[B, T, H]`.

    Returns:
        The pytree of `[B, T, H_fw + H_bw]`.

    Raises:
        ValueError: outputs `[B, T]`, whose last axis is no feature axis, or that differ in
            another axis.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> rnn.concatenate(jnp.ones((2, 5, 3)), jnp.ones((2, 5, 4))).shape
        (2, 5, 7)
    """
    check_features(jax.tree.map(jnp.shape, (outputs_fw, outputs_bw)), rank=3)
    both = jax.tree.map(lambda x: x[..., 0], (outputs_fw, outputs_bw))
    if not same(*both):
        raise ValueError(
            "concatenate: expected outputs of both directions that differ in their last axis alone,"
            f" got {structure(outputs_fw)} and {structure(outputs_bw)}"
        )
    return jax.tree.map(lambda fw, bw: jnp.concatenate([fw, bw], -1), outputs_fw, outputs_bw)


def check_features(shapes: Shapes, rank: int) -> None:
    """Checks the shapes of outputs, which have `rank` axes if the last is of features."""
    for shape in jax.tree.leaves(shapes, is_leaf=is_shape):
        if len(shape) < rank:
            raise ValueError(
                "concatenate: expected outputs with a feature axis, on which those of both "
                f"directions lie side by side, got shape {shape}; jnp.stack([fw, bw], -1) makes one"
            )
