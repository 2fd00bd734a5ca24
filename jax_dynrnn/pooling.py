"""Pooling over time: the last, the mean or the maximum of the valid outputs of each row.

`B` is the batch size, `T` the number of time steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from . import _check_data
from ._arguments import explained
from ._types import Lengths, Outputs
from .sequence import valid_steps


def _pool(
    reduce: Callable[..., Any],
    outputs: Outputs,
    sequence_length: Lengths | None,
    mask: ArrayLike | None,
    time_major: bool,
) -> Any:
    """Maps `reduce(x, valid, time_axis)` over the leaves of `outputs`, after checking them.

    `valid` has the rank of `x`, with axes of size 1 after the first two.
    """
    _check_data.flag("time_major", time_major)
    time_axis = 0 if time_major else 1
    outputs, batch, time = _check_data.batches("outputs", outputs, time_axis)
    lengths = sequence_length
    if lengths is not None:
        lengths = _check_data.sequence_length(lengths, batch, time, time_axis)
    if mask is not None:
        mask = _check_data.flags("mask", mask, batch, time, time_axis)
    valid = valid_steps(lengths, mask, batch, time, time_axis)

    def reduce_leaf(x):
        return reduce(x, jnp.expand_dims(valid, tuple(range(2, x.ndim))), time_axis)

    return jax.tree.map(reduce_leaf, outputs)


@explained
def last_output(
    outputs: Outputs,
    sequence_length: Lengths | None = None,
    *,
    mask: ArrayLike | None = None,
    time_major: bool = False,
) -> Any:
    """The output at the last valid step of each row, which `outputs[:, -1]` is not in general.

    Args:
        outputs: pytree of `[B, T, ...]`, or `[T, B, ...]` with `time_major`.
        sequence_length: `[B]` integers, or `None`: all steps are valid.
        mask: bool `[B, T]` (`[T, B]`); if both are given, a step is valid if it is valid by both.
        time_major: whether time is the first axis.

    Returns:
        Pytree of `[B, ...]`; 0 for a row without a valid step.

    Raises:
        TypeError, ValueError: as `dynamic_rnn` for `sequence_length` and `mask`; `outputs` have
            no time axis.

    Reference: TF1's users wrote `tf.gather_nd(outputs, ...)`.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> outputs = jnp.arange(6.0).reshape(2, 3, 1)
        >>> rnn.last_output(outputs, [2, 0]).tolist()
        [[1.0], [0.0]]
    """

    def last(x, valid, time_axis):
        if x.shape[time_axis] == 0:  # a maximum over no steps is an error
            return jnp.zeros((*x.shape[:time_axis], *x.shape[time_axis + 1 :]), x.dtype)
        steps = jnp.arange(x.shape[time_axis], dtype=jnp.int32)
        steps = jnp.expand_dims(steps, [a for a in range(x.ndim) if a != time_axis])
        # -1 marks a row without a valid step; it must not be used as an index.
        index = jnp.max(jnp.where(valid, steps, -1), time_axis, keepdims=True)
        taken = jnp.take_along_axis(x, jnp.maximum(index, 0), time_axis)
        return jnp.where(index >= 0, taken, jnp.zeros_like(taken)).squeeze(time_axis)

    return _pool(last, outputs, sequence_length, mask, time_major)


@explained
def mean_pool(
    outputs: Outputs,
    sequence_length: Lengths | None = None,
    *,
    mask: ArrayLike | None = None,
    time_major: bool = False,
) -> Any:
    """The mean of the outputs over the valid steps of each row.

    Args:
        outputs: pytree of `[B, T, ...]`, or `[T, B, ...]` with `time_major`.
        sequence_length, mask, time_major: as for `last_output`.

    Returns:
        Pytree of `[B, ...]`; 0, with gradients of 0, for a row without a valid step.

    Raises:
        TypeError, ValueError: as `dynamic_rnn` for `sequence_length` and `mask`; `outputs` have
            no time axis.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> outputs = jnp.arange(6.0).reshape(2, 3, 1)
        >>> rnn.mean_pool(outputs, [2, 0]).tolist()
        [[0.5], [0.0]]
    """

    def mean(x, valid, time_axis):
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        dtype = x.dtype if floating else jnp.result_type(float)
        wide = jnp.float32 if dtype.itemsize < 4 else dtype  # a sum in 16 bits overflows
        # Selected, not multiplied by the mask: NaN in the padding must not reach the sum.
        total = jnp.where(valid, x, jnp.zeros_like(x)).astype(wide).sum(time_axis)
        count = jnp.maximum(valid.sum(time_axis), 1)
        return (total / count.astype(wide)).astype(dtype)

    return _pool(mean, outputs, sequence_length, mask, time_major)


@explained
def max_pool(
    outputs: Outputs,
    sequence_length: Lengths | None = None,
    *,
    mask: ArrayLike | None = None,
    time_major: bool = False,
) -> Any:
    """The maximum of the outputs over the valid steps of each row.

    Args:
        outputs: pytree of `[B, T, ...]`, or `[T, B, ...]` with `time_major`.
        sequence_length, mask, time_major: as for `last_output`.

    Returns:
        Pytree of `[B, ...]`; 0, with gradients of 0, for a row without a valid step.

    Raises:
        TypeError, ValueError: as `dynamic_rnn` for `sequence_length` and `mask`; `outputs` have
            no time axis.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> outputs = jnp.arange(6.0).reshape(2, 3, 1) - 9
        >>> rnn.max_pool(outputs, [2, 0]).tolist()
        [[-8.0], [0.0]]
    """

    def maximum(x, valid, time_axis):
        if x.dtype == bool:
            lowest = jnp.asarray(False)
        elif jnp.issubdtype(x.dtype, jnp.floating):
            lowest = jnp.asarray(-jnp.inf, x.dtype)
        else:
            lowest = jnp.asarray(jnp.iinfo(x.dtype).min, x.dtype)
        # `initial` makes the maximum over no steps defined; without a valid step it is not used.
        highest = jnp.max(jnp.where(valid, x, lowest), time_axis, initial=lowest)
        return jnp.where(valid.any(time_axis), highest, jnp.zeros_like(highest))

    return _pool(maximum, outputs, sequence_length, mask, time_major)
