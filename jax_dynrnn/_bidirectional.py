"""Bidirectional runs: one call of `dynamic_rnn` for each direction.

`B` is the batch size, `T` the number of time steps, `D` a feature size, `H` the units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from . import _check_cell, _check_data
from ._adapter import as_cell
from ._arguments import explained
from ._cell import Params, State
from ._protocol import ask, same_shapes, structure
from ._rnn import dynamic_rnn
from ._tools import fold_in, is_shape
from ._types import CellLike, DTypeLike, Implementation, Inputs, Outputs, Remat, Shapes

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
        key: the key for the initializers.
        cell_fw, cell_bw: the cells of the two directions.
        input_shape: `inputs.shape`, or a pytree of shapes; only the feature sizes are read.
        dtype: the dtype of the params.

    Returns:
        The params, initialised independently for each direction.

    Raises:
        TypeError: `cell_fw` or `cell_bw` is not a cell.

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
    remat: Remat = None,
    implementation: Implementation = None,
) -> tuple[tuple[Any, Any], tuple[State, State]]:
    """Runs one cell forward and one backward over the valid steps of each row.

    Args:
        cell_fw, cell_bw: the cells of the two directions.
        params: `{"fw": ..., "bw": ...}`, as returned by `init_bidirectional`.
        inputs: pytree of `[B, T, *features]`.
        sequence_length: `[B]` integers, as for `dynamic_rnn`.
        initial_state_fw, initial_state_bw: the initial states; default: the start states of
            the cells.
        mask, resets, time_major, dtype, unroll, remat, implementation: as for
            `dynamic_rnn`.
        key: as for `dynamic_rnn`; the forward run uses `fold_in(key, 0)`, the backward run
            `fold_in(key, 1)`.

    Returns:
        `((outputs_fw, outputs_bw), (state_fw, state_bw))`: both outputs `[B, T, H]` in the
        order of the inputs; the backward state is the state after each row's first step, which
        it processes last.

    Raises:
        TypeError, ValueError, KeyError, NotImplementedError: as `dynamic_rnn`.

    Differs from TF1: backward outputs may be nested; lengths greater than T are an error
    if their values are known, as in `dynamic_rnn`, and are clamped if they are traced.

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
    with _check_cell.relabel_errors(ORDER):
        _check_cell.check_param_groups(params, ("fw", "bw"))
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
        # Errors of the inner run use its argument names; they are replaced by the names used here.
        labels = {"params": f'params["{name}"]', "initial_state": f"initial_state_{name}"}
        with _check_cell.relabel_errors(ORDER, **labels):
            runs.append(
                dynamic_rnn(cells[i], params[name], inputs, initial_state=states[i], **options)
            )
    (outputs_fw, state_fw), (outputs_bw, state_bw) = runs
    return (outputs_fw, outputs_bw), (state_fw, state_bw)


@explained
def concatenate(outputs_fw: Outputs, outputs_bw: Outputs) -> Any:
    """Concatenates the outputs of both directions on the last axis.

    Args:
        outputs_fw, outputs_bw: pytrees of the same structure, of `[B, T, H]`.

    Returns:
        A pytree of `[B, T, H_fw + H_bw]`.

    Raises:
        ValueError: the outputs are `[B, T]`, without a feature axis, or differ in structure or
            in another axis.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> rnn.concatenate(jnp.ones((2, 5, 3)), jnp.ones((2, 5, 4))).shape
        (2, 5, 7)
    """
    check_features(jax.tree.map(np.shape, (outputs_fw, outputs_bw)), rank=3)
    # Dropping the last axis leaves the ones that must agree.
    both = jax.tree.map(lambda x: x[..., 0], (outputs_fw, outputs_bw))
    if not same_shapes(*both):
        raise ValueError(
            "concatenate: expected outputs of both directions that differ in their last axis alone,"
            f" got {structure(outputs_fw)} and {structure(outputs_bw)}"
        )
    return concatenate_leaves(outputs_fw, outputs_bw, axis=-1)


def concatenate_leaves(fw: Outputs, bw: Outputs, axis: int) -> Any:
    """Concatenates the leaves of two pytrees pairwise."""

    def concatenate_pair(x, y):
        return jnp.concatenate([x, y], axis)

    return jax.tree.map(concatenate_pair, fw, bw)


def check_features(shapes: Shapes, rank: int) -> None:
    """Checks that outputs of these shapes have a feature axis, and so at least `rank` axes."""
    for shape in jax.tree.leaves(shapes, is_leaf=is_shape):
        if len(shape) < rank:
            raise ValueError(
                "concatenate: expected outputs with a feature axis, on which those of both "
                f"directions lie side by side, got shape {shape}; jnp.stack([fw, bw], -1) makes one"
            )
