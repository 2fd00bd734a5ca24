"""Functions on padded batches of sequences: masks, reversal, transposition.

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
    """Converts lengths to int32 and clamps them to [0, time].

    Args:
        sequence_length: integers of any dtype and shape, an array or a list.
        time: the number of time steps.

    Raises:
        TypeError: the lengths are not integers.
    """
    given = _check_data.integers(sequence_length)
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise TypeError(
            "sequence_length: expected one integer for each row, got dtype "
            f"{given.dtype}; round floats yourself, and give bools as mask="
        )
    lengths = jnp.asarray(given)
    # An int8 or int16 is widened before it is clamped, since `time` may not fit; an int64 or
    # uint32 is cast after that, since its own values may not fit int32.
    narrow = lengths.dtype.itemsize < 4
    lengths = lengths.astype(jnp.int32) if narrow else lengths
    lengths = jnp.maximum(lengths, jnp.zeros((), lengths.dtype))
    return jnp.minimum(lengths, jnp.asarray(time, lengths.dtype)).astype(jnp.int32)


@explained
def sequence_mask(
    lengths: ArrayLike | Sequence[int], maxlen: Size = None, dtype: DTypeLike = bool
) -> jax.Array:
    """Makes the mask of valid steps: `mask[..., t] = t < lengths[...]`.

    Args:
        lengths: integers `[...]`, an array or a list; clamped to [0, maxlen].
        maxlen: the number `T` of time steps; default: the largest length, if it is known.
        dtype: the dtype of the mask; in a numeric one True is 1.

    Returns:
        bool `[..., T]`, or of `dtype`.

    Raises:
        TypeError: `lengths` are not integers, `maxlen` is not an int, or either is traced but
            the shape of the mask depends on its value.

    Differs from TF1: under `jax.jit` the values of lengths are unknown, and `maxlen` is required;
    greater lengths are clamped to it.

    Reference: `tf.sequence_mask`.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> rnn.sequence_mask([1, 3]).tolist()
        [[True, False, False], [True, True, True]]
        >>> rnn.sequence_mask([1, 3], 4, jnp.float32).tolist()
        [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]]
    """
    # Errors of the helpers call the argument `sequence_length`.
    with relabel_errors(sequence_length="lengths"):
        time = _largest(lengths) if maxlen is None else _time(maxlen)
        rows = as_lengths(lengths, time)
    _check_mask_dtype(dtype)
    steps = jax.lax.iota(jnp.int32, time)
    mask = jnp.expand_dims(rows, -1) > jnp.expand_dims(steps, tuple(range(rows.ndim)))
    return mask.astype(dtype)


def _largest(lengths: Lengths) -> int:
    """The largest length, at least 0, which must be known: it is the size of the mask."""
    given = _check_data.integers(lengths)
    if isinstance(given, jax.core.Tracer) or not getattr(given, "is_fully_addressable", True):
        raise TypeError(
            "sequence_mask: expected maxlen=, the number of time steps: the lengths are traced, as "
            "under jax.jit, or not all on this host, and so the largest one is not known"
        )
    if not jnp.issubdtype(given.dtype, jnp.integer):
        return 0  # `as_lengths` raises the error
    return int(np.max(given, initial=0))


def _check_mask_dtype(dtype: DTypeLike) -> None:
    """Checks that `dtype` is one that JAX knows."""
    try:
        jnp.dtype(dtype)
    except TypeError:
        raise TypeError(
            f"dtype: expected one of numbers or bool, as jnp.float32, got {dtype!r:.80}"
        ) from None


def _time(maxlen: Size) -> Any:
    """`maxlen` as an int, after checking it; a symbolic size of `jax.export` stays as it is."""
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
    """The mask of steps that are valid by both arguments: bool `[B, T]`, `[T, B]` if time-major."""
    shape = (batch, time) if time_axis == 1 else (time, batch)
    valid = jnp.ones(shape, bool) if mask is None else jnp.asarray(mask)
    if sequence_length is None:
        return valid
    within = sequence_mask(sequence_length, time)
    return valid & (within if time_axis == 1 else within.T)


def take_steps(x: jax.Array, index: jax.Array, time_axis: int) -> jax.Array:
    """Gathers the steps `index` of each row, `[B, n]`, or `[n, B]` if `time_axis` is 0."""
    index = jnp.expand_dims(index, tuple(range(2, x.ndim)))
    return jnp.take_along_axis(x, index, axis=time_axis)


@explained
def transpose_batch_time(x: Any) -> jax.Array:
    """Swaps the first two axes, between batch-major and time-major; rank 0 and 1 are unchanged.

    Args:
        x: an array `[B, T, ...]` or `[T, B, ...]`.

    Returns:
        The array with axes 0 and 1 swapped, or unchanged if its rank is below 2.

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
    """Reverses the first `lengths[b]` steps of each row b, and leaves the padding in place.

    Args:
        inputs: pytree of `[B, T, ...]`, or `[T, B, ...]` with `time_major`.
        lengths: `[B]` integers, checked as by `dynamic_rnn`.
        time_major: whether time is the first axis.

    Returns:
        The reversed inputs. A second call with the same lengths undoes the first.

    Raises:
        TypeError, ValueError: `lengths` are not B integers in [0, T], or `inputs` have no
            time axis.

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
    steps = jnp.expand_dims(jax.lax.iota(jnp.int32, time), 1 - time_axis)
    # Beyond the length every step is its own index: the tail stays in place.
    index = jnp.where(steps < length, length - 1 - steps, steps)
    return jax.tree.map(lambda x: take_steps(x, index, time_axis), inputs)
