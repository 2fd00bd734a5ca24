"""Tools for padded batches of sequences: masks, reversal.

`B` is the batch size, `T` the number of time steps, `D` a feature size.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from . import _check_data
from ._arguments import explained
from ._check_cell import relabel_errors
from ._tools import is_flag, is_symbolic
from ._types import DTypeLike, Inputs, Lengths, Size


def as_lengths(sequence_length: Lengths, time: Size) -> jax.Array:
    """`sequence_length` as int32 within [0, time], whatever integers it came as.

    Args:
        sequence_length: integers of any dtype and shape, an array or a list.
        time: the number of time steps.

    Raises:
        TypeError: it holds no integers.
    """
    given = _check_data.integers(sequence_length)
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise TypeError(
            "sequence_length: expected one integer for each row, got dtype "
            f"{given.dtype}; round floats yourself, and give bools as mask="
        )
    lengths = jnp.asarray(given)
    narrow = lengths.dtype.itemsize < 4  # time may not fit: widen before, else after
    lengths = lengths.astype(jnp.int32) if narrow else lengths
    lengths = jnp.maximum(lengths, jnp.zeros((), lengths.dtype))
    return jnp.minimum(lengths, jnp.asarray(time, lengths.dtype)).astype(jnp.int32)


@explained
def sequence_mask(
    lengths: ArrayLike | Sequence[int], maxlen: Size = None, dtype: DTypeLike = bool
) -> jax.Array:
    """Which steps are real: `mask[..., t] = t < lengths[...]`.

    Args:
        lengths: integers `[...]`, an array or a list; clamped to [0, maxlen].
        maxlen: the number `T` of time steps; default: the largest length, where it is known.
        dtype: of the mask; numbers are 1 where it is True.

    Returns:
        bool `[..., T]`, or of `dtype`.

    Raises:
        TypeError: `lengths` are not integers, `maxlen` is not an int, or either is traced where
            the shape of the mask depends on its value.

    Differs from TF1: under `jax.jit` lengths are not known, and `maxlen` must be given; lengths
    above it are clamped.

    Reference: `tf.sequence_mask`.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> rnn.sequence_mask([1, 3]).tolist()
        [[True, False, False], [True, True, True]]
        >>> rnn.sequence_mask([1, 3], 4, jnp.float32).tolist()
        [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]]
    """
    with relabel_errors(sequence_length="lengths"):
        time = _largest(lengths) if maxlen is None else _time(maxlen)
        rows = as_lengths(lengths, time)
    _check_mask_dtype(dtype)
    steps = jnp.arange(time, dtype=jnp.int32)
    mask = jnp.expand_dims(rows, -1) > jnp.expand_dims(steps, tuple(range(rows.ndim)))
    return mask.astype(dtype)


def _largest(lengths: Lengths) -> int:
    """The largest length, at least 0."""
    given = _check_data.integers(lengths)
    if isinstance(given, jax.core.Tracer) or not getattr(given, "is_fully_addressable", True):
        raise TypeError(
            "sequence_mask: expected maxlen=, the number of time steps: the lengths are traced, as "
            "under jax.jit, or not all on this host, and so the largest one is not known"
        )
    if not jnp.issubdtype(given.dtype, jnp.integer):
        return 0  # as_lengths refuses it
    return int(np.max(given, initial=0))


def _check_mask_dtype(dtype: DTypeLike) -> None:
    try:
        jnp.dtype(dtype)
    except TypeError:
        raise TypeError(
            f"dtype: expected one of numbers or bool, as jnp.float32, got {dtype!r:.80}"
        ) from None


def _time(maxlen: Size) -> Any:
    """`maxlen` as an int, or the symbolic size that it is."""
    if is_symbolic(maxlen):
        return maxlen
    if isinstance(maxlen, jax.core.Tracer):
        raise TypeError(
            f"sequence_mask: expected maxlen as an int, got {maxlen}, which is traced: the shape "
            "of the mask depends on it; give the size of the time axis, as in x.shape[1]"
        )
    try:
        time = None if is_flag(maxlen) else operator.index(maxlen)  # pyright: ignore[reportArgumentType]
    except TypeError:
        time = None
    if time is None or time < 0:
        error = TypeError if time is None else ValueError
        raise error(f"sequence_mask: expected maxlen as an int >= 0, got {maxlen!r:.80}")
    return time


def valid_steps(
    sequence_length: Lengths | None, mask: ArrayLike | None, batch: Size, time: Size, time_axis: int
) -> jax.Array:
    """bool `[B, T]` (`[T, B]` where `time_axis` is 0): where both arguments say so."""
    shape = (batch, time) if time_axis == 1 else (time, batch)
    valid = jnp.ones(shape, bool) if mask is None else jnp.asarray(mask)
    if sequence_length is None:
        return valid
    within = sequence_mask(sequence_length, time)
    return valid & (within if time_axis == 1 else within.T)


def take_steps(x: jax.Array, index: jax.Array, time_axis: int) -> jax.Array:
    """Takes of each row the steps `index`, `[B, n]` (`[n, B]` where `time_axis` is 0)."""
    index = jnp.expand_dims(index, tuple(range(2, x.ndim)))
    return jnp.take_along_axis(x, index, axis=time_axis)


@explained
def transpose_batch_time(x: Any) -> jax.Array:
    """Swaps the first two axes: batch-major and time-major; rank 0 and 1 stay.

    Args:
        x: an array.

    Returns:
        The array with axes 0 and 1 swapped, or as it came.

    Reference: `tf.contrib.rnn.transpose_batch_time`.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> rnn.transpose_batch_time(jnp.zeros((2, 5, 3))).shape
        (5, 2, 3)
    """
    x = jnp.asarray(_check_data.array("x", x))
    return x if x.ndim < 2 else jnp.swapaxes(x, 0, 1)


@explained
def reverse_sequence(
    inputs: Inputs, lengths: ArrayLike | Sequence[int], *, time_major: bool = False
) -> Any:
    """Reverses the first `lengths[b]` steps of each row; the tail stays where it is.

    Args:
        inputs: pytree of `[B, T, ...]`, or `[T, B, ...]` with `time_major`.
        lengths: `[B]` integers, checked as by `dynamic_rnn`.
        time_major: whether time is the first axis.

    Returns:
        What came in, reversed. Reversing twice gives it back.

    Raises:
        TypeError, ValueError: `lengths` are not B integers in [0, T], or `inputs` have no
            time.

    Differs from TF1: takes pytrees, and has no `seq_axis` and `batch_axis`.

    Reference: `tf.reverse_sequence`.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> rnn.reverse_sequence(jnp.array([[1, 2, 3, 4]]), [3]).tolist()
        [[3, 2, 1, 4]]
    """
    _check_data.flag("time_major", time_major)
    time_axis = 0 if time_major else 1
    inputs, batch, time = _check_data.batches("inputs", inputs, time_axis)
    with relabel_errors(sequence_length="lengths"):
        lengths = _check_data.sequence_length(lengths, batch, time, time_axis)
    length = jnp.expand_dims(as_lengths(lengths, time), time_axis)
    steps = jnp.expand_dims(jnp.arange(time, dtype=jnp.int32), 1 - time_axis)
    index = jnp.where(steps < length, length - 1 - steps, steps)
    return jax.tree.map(lambda x: take_steps(x, index, time_axis), inputs)
