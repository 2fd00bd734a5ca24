"""Batches of sequences of different lengths: padded, or packed end to end in rows.

`B` is the batch size, `T` the number of time steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from . import _check_data
from ._arguments import explained
from ._types import DTypeLike, PyTree
from .sequence import valid_steps


@explained
def pad_sequences(
    arrays: Iterable[Any],
    *,
    length: int | None = None,
    buckets: Sequence[int] | None = None,
    value: Any = 0,
    across_hosts: bool = False,
    features: Sequence[int] | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Pads sequences of different lengths to one batch, in NumPy, on the host.

    With `across_hosts=True` it is a collective: every process must call it, in the same order, and
    from one thread.

    Args:
        arrays: one array `[T_b, ...]` per row, of the same shape except for the first size.
        length: the number `T` of time steps; default: the length of the longest row.
        buckets: sizes to which `T` is rounded up, so that few shapes are compiled.
        value: the value that pads the end of each row.
        across_hosts: whether all processes of `jax.distributed` take the largest `T` of any, as
            they must where each has some rows of one global batch. With one process it changes
            nothing.
        features, dtype: the sizes of the features and the dtype, needed where there are no rows. In
            a call across hosts, a process without rows returns as many as the others, each of
            length 0.

    Returns:
        The batch `[B, T, ...]` and its lengths, int32 `[B]`.

    Raises:
        ValueError: there are no arrays, or they differ in their features; `length` and
            `buckets` are both given; a row is longer than they allow; or the dtype of the
            rows cannot represent `value`. Across hosts, every process raises if any process
            passes `length` or has an error, or if rows, features or dtypes do not match.

    Example:
        >>> import numpy as np, jax_dynrnn as rnn
        >>> batch, lengths = rnn.pad_sequences([np.ones(2), np.ones(3)], buckets=[4, 8])
        >>> batch.tolist(), lengths.tolist()
        ([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]], [2, 3])
    """
    _check_data.flag("across_hosts", across_hosts)
    agrees = across_hosts and jax.process_count() > 1
    try:
        rows, batch = _planned(arrays, length, buckets, value, features, dtype)
    except Exception:
        if agrees:
            with contextlib.suppress(ValueError):
                _agreed(None)  # so that other processes do not wait, and raise too
        raise
    if agrees:
        batch = _agreed(batch, fixed_length=length is not None)
    padded = np.full((batch.rows, batch.time, *batch.features), value, batch.dtype)
    for out, row in zip(padded, rows, strict=False):
        out[: len(row)] = row
    lengths = [len(row) for row in rows] + [0] * (batch.rows - len(rows))
    return padded, np.array(lengths, np.int32)


class _Batch(NamedTuple):
    """What a padded batch is like: the same on all hosts."""

    rows: int
    time: int
    features: tuple[int, ...]
    dtype: Any

    def __str__(self) -> str:
        return f"{self.rows} rows of {self.time} steps of {self.features}, {self.dtype}"


def _planned(
    arrays: Iterable[Any],
    length: int | None,
    buckets: Sequence[int] | None,
    value: Any,
    features: Sequence[int] | None,
    dtype: DTypeLike | None,
) -> tuple[list[np.ndarray], _Batch]:
    """The rows, and the batch that they make, after all checks."""
    rows = _rows(arrays)
    shapes = {row.shape[1:] for row in rows}
    if features is not None:
        shapes.add(tuple(_check_data.count("features", n, least=0) for n in features))
    if len(shapes) != 1 or not all(row.ndim for row in rows):
        raise ValueError(
            "pad_sequences: expected at least one array, all [time, *features] with the "
            f"same features, got {len(rows)} arrays of shapes {[r.shape for r in rows][:8]}"
            + ("" if features is None else f" and features={features}")
        )
    longest = max((len(row) for row in rows), default=0)
    length = length if length is None else _check_data.count("length", length, least=0)
    if length is not None and buckets is not None:
        raise ValueError(f"pad_sequences: expected length= or buckets=, got {length}, {buckets}")
    sizes = _sizes(buckets) if buckets is not None else [longest if length is None else length]
    fitting = [size for size in sizes if size >= longest]
    if not fitting:
        raise ValueError(
            f"pad_sequences: expected rows of at most {max(sizes, default=0)} steps, got one "
            f"of {longest}; allow for more, or cut the rows"
        )
    # Empty rows have no say: NumPy makes an empty list an array of float64.
    dtypes = {row.dtype for row in rows if row.size} or {row.dtype for row in rows}
    if dtype is None and not dtypes:
        raise ValueError("pad_sequences: expected dtype= where there are no rows, got none")
    found = np.result_type(*dtypes) if dtype is None else jnp.dtype(dtype)
    is_cut = any(jnp.issubdtype(d, jnp.inexact) for d in dtypes)
    if is_cut and not jnp.issubdtype(found, jnp.inexact):
        raise ValueError(
            f"pad_sequences: expected rows of a dtype that can be cast to dtype={found}, got "
            f"{np.result_type(*dtypes)}"
        )
    if not _can_represent(found, value):
        raise ValueError(
            f"pad_sequences: expected a value that {found}, the dtype of the rows, can hold, "
            f"got {value!r}"
        )
    return rows, _Batch(len(rows), fitting[0], shapes.pop(), found)


MAX_FEATURE_AXES = 63  # NumPy allows no more, beside that of the rows
NAME_BYTES = 32


def _agreed(batch: _Batch | None, fixed_length: bool = False) -> _Batch:
    """The batch of all processes, of as many steps as the longest; `None` tells of an error."""
    from jax.experimental import multihost_utils  # not needed by those with one process

    every = [_decode(x) for x in multihost_utils.process_allgather(_encode(batch, fixed_length))]
    described = "; ".join(
        f"process {i}: {batch or 'an error of its own'}" + (", length= given" if fixed else "")
        for i, (batch, fixed) in enumerate(every)
    )
    batches = [batch for batch, _ in every if batch is not None]
    if len(batches) < len(every) or any(fixed for _, fixed in every):
        raise ValueError(
            "pad_sequences: expected every process to pad its rows without an error and without "
            f"length=, got {described}"
        )
    some = [batch for batch in batches if batch.rows] or batches
    if len({(b.features, b.dtype) for b in batches}) > 1 or len({b.rows for b in some}) > 1:
        raise ValueError(
            "pad_sequences: expected as many rows on every process (or none), and the same "
            f"features and dtype, got {described}"
        )
    return some[0]._replace(time=max(batch.time for batch in batches))


def _encode(batch: _Batch | None, fixed_length: bool) -> np.ndarray:
    """A batch as int32 numbers, as many for each."""
    numbers = np.zeros(5 + MAX_FEATURE_AXES + NAME_BYTES, np.int32)
    if batch is not None:
        name = str(batch.dtype).encode()[:NAME_BYTES].ljust(NAME_BYTES)
        axes = batch.features[:MAX_FEATURE_AXES]
        numbers[:5] = 1, fixed_length, batch.rows, batch.time, len(batch.features)
        numbers[5 : 5 + len(axes)] = axes
        numbers[5 + MAX_FEATURE_AXES :] = [*name]
    return numbers


def _decode(numbers: np.ndarray) -> tuple[_Batch | None, bool]:
    known, fixed, rows, time, rank = map(int, numbers[:5])
    if not known:
        return None, False
    name = bytes(int(n) for n in numbers[5 + MAX_FEATURE_AXES :]).decode().strip()
    features = tuple(map(int, numbers[5 : 5 + rank]))
    return _Batch(rows, time, features, jnp.dtype(name)), bool(fixed)


def _rows(arrays: PyTree) -> list[np.ndarray]:
    """The rows as NumPy arrays, after checking that they hold numbers."""
    if isinstance(arrays, str | Mapping) or not hasattr(arrays, "__iter__"):
        raise TypeError(
            f"pad_sequences: expected a list of arrays, one for each row, got {arrays!r:.80}"
        )
    try:
        return [np.asarray(_check_data.of_numbers(f"arrays[{i}]", a)) for i, a in enumerate(arrays)]
    except jax.errors.TracerArrayConversionError:
        raise TypeError(
            "pad_sequences: expected arrays whose values are known, got traced ones: it runs "
            "in NumPy, on the host; call it outside of jax.jit"
        ) from None


def _sizes(buckets: Any) -> list[int]:
    """The bucket sizes in ascending order, so that the first one that fits is the smallest."""
    if not isinstance(buckets, list | tuple | range | np.ndarray):
        raise TypeError(f"buckets: expected a list of sizes, got {buckets!r:.80}")
    return sorted(_check_data.count(f"buckets[{i}]", n, least=0) for i, n in enumerate(buckets))


def _can_represent(dtype: DTypeLike, value: Any) -> bool:
    """Whether `dtype` can represent a number, which a floating dtype may round."""
    number = np.asarray(value)
    is_number = jnp.issubdtype(number.dtype, jnp.number) or number.dtype == bool
    loses_imaginary = np.iscomplexobj(number) and not jnp.issubdtype(dtype, jnp.complexfloating)
    if number.ndim or not is_number or loses_imaginary:
        return False
    with np.errstate(invalid="ignore", over="ignore"):
        converted = number.astype(dtype)
    if jnp.issubdtype(dtype, jnp.inexact):
        return bool(np.isfinite(converted) == np.isfinite(number))  # not if it overflows
    return bool(converted == number)


@explained
def segment_starts(
    segment_ids: ArrayLike, *, previous: ArrayLike | None = None, time_major: bool = False
) -> jax.Array:
    """Marks the steps at which a new segment begins in packed rows: `resets` of `dynamic_rnn`.

    Args:
        segment_ids: `[B, T]` integers; the steps of one document have the same id.
        previous: `[B]`, the ids of the step before, if the rows continue those of an earlier
            batch.
        time_major: whether the ids, and the result, are `[T, B]`.

    Returns:
        bool `[B, T]`; at t = 0 False, unless `previous` is another id.

    Raises:
        TypeError: the ids are not integers. ValueError: they have other shapes.

    Example:
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> rnn.segment_starts(jnp.array([[7, 7, 8, 8]])).astype(int).tolist()
        [[0, 0, 1, 0]]
    """
    _check_data.flag("time_major", time_major)
    ids = jnp.asarray(_check_data.array("segment_ids", segment_ids))
    previous = previous if previous is None else _check_data.array("previous", previous)
    for name, given in (("segment_ids", ids), ("previous", previous)):
        if given is not None and not jnp.issubdtype(jnp.asarray(given).dtype, jnp.integer):
            raise TypeError(
                f"segment_starts: expected {name} of integers, got {jnp.asarray(given).dtype}"
            )
    if ids.ndim != 2:
        order = "[time, batch]" if time_major else "[batch, time]"
        raise ValueError(f"segment_starts: expected segment_ids {order}, got shape {ids.shape}")
    axis = 0 if time_major else 1
    batch = ids.shape[1 - axis]
    if previous is not None and np.shape(previous) != (batch,):
        raise ValueError(
            f"segment_starts: expected previous of shape ({batch},), one id for each "
            f"row, got {np.shape(previous)}"
        )
    # The first id stands for the one before it: no segment begins at t = 0.
    first = jax.lax.slice_in_dim(ids, 0, min(1, ids.shape[axis]), axis=axis)
    before = first if previous is None else jnp.expand_dims(jnp.asarray(previous), axis)
    return ids != _step_before(ids, before, axis)


def _step_before(x: jax.Array, first: jax.Array, axis: int) -> jax.Array:
    """`x` one step later, with `first` at the first step."""
    # The slice matters for rows without steps, to which `first` would add one.
    return jax.lax.slice_in_dim(jnp.concatenate([first, x], axis), 0, x.shape[axis], axis=axis)


@explained
def resets_from_done(
    done: ArrayLike, *, previous: ArrayLike | None = None, time_major: bool = False
) -> jax.Array:
    """Makes the `resets` of `dynamic_rnn` from the flags with which an environment ends episodes.

    `done[t]` says that an episode ended *with* step t: the first observation of the next episode is
    that of step t + 1. `resets[t]` resets the state *before* step t. So flags move by one step, and
    the last flag of a chunk belongs to the first step of the next one.

    Args:
        done: bool `[B, T]`; numbers that are 0 or 1 are accepted too.
        previous: `[B]`, the flags of the step before this chunk; default: False.
        time_major: whether `done`, and the result, are `[T, B]`.

    Returns:
        bool `[B, T]`.

    Raises:
        TypeError, ValueError: the flags have another dtype or shape.

    Example: two chunks of one row, whose first episode ends with the first chunk
        >>> import jax.numpy as jnp, jax_dynrnn as rnn
        >>> first, second = jnp.array([[False, False, True]]), jnp.array([[False, True, False]])
        >>> rnn.resets_from_done(first).tolist()
        [[False, False, False]]
        >>> rnn.resets_from_done(second, previous=first[:, -1]).tolist()
        [[True, False, True]]
    """
    _check_data.flag("time_major", time_major)
    flags = _as_flags("done", done)
    if flags.ndim != 2:
        order = "[time, batch]" if time_major else "[batch, time]"
        raise ValueError(f"done: expected bool {order}, got shape {flags.shape}")
    axis = 0 if time_major else 1
    batch = flags.shape[1 - axis]
    before = jnp.zeros(batch, bool) if previous is None else _as_flags("previous", previous)
    if before.shape != (batch,):
        raise ValueError(
            f"previous: expected bool of shape ({batch},), one flag for each row, got shape "
            f"{before.shape}"
        )
    return _step_before(flags, jnp.expand_dims(before, axis), axis)


def _as_flags(name: str, given: ArrayLike) -> jax.Array:
    """Flags as bool: environments return them as numbers too."""
    flags = jnp.asarray(_check_data.array(name, given))
    if flags.dtype == bool:
        return flags
    if not isinstance(flags, jax.core.Tracer) and not np.isin(np.asarray(flags), [0, 1]).all():
        raise ValueError(f"{name}: expected flags, got numbers other than 0 and 1")
    return flags != 0


@explained
def pending_resets(
    resets: ArrayLike,
    sequence_length: ArrayLike | Sequence[int] | None = None,
    *,
    mask: ArrayLike | None = None,
    time_major: bool = False,
    previous: ArrayLike | None = None,
) -> jax.Array:
    """Marks the rows whose last reset comes after their last valid step, and is still pending.

    A reset on a step that is not valid takes effect at the next valid step. If a stream is run
    chunk by chunk, that step may be in the next chunk, which is then run with
    `resets[:, 0] | pending`. This is for forward runs: with `reverse`, the chunk before would
    need it.

    Args:
        resets: bool `[B, T]`, the resets of this chunk, as for `dynamic_rnn`.
        sequence_length: `[B]` integers, the lengths in this chunk, or `None`.
        mask: bool `[B, T]`; if both are given, a step is valid if it is valid by both.
        time_major: whether `resets` and `mask` are `[T, B]`.
        previous: bool `[B]`, the pending resets of the chunk before. They are needed if they are
            not included in `resets[:, 0]`: in a row without a valid step they stay pending.

    Returns:
        bool `[B]`.

    Raises:
        TypeError, ValueError: as `dynamic_rnn` for `resets`, `sequence_length` and `mask`;
            `previous` is not one bool for each row.

    Example: the second document begins on a masked step, at the end of the first chunk
        >>> import jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> cell, inputs = rnn.GRUCell(4), jnp.ones((1, 5, 3))
        >>> params = cell.init(jax.random.key(0), inputs.shape)
        >>> resets, mask = jnp.arange(5)[None] == 2, jnp.arange(5)[None] != 2
        >>> _, state = rnn.dynamic_rnn(
        ...     cell, params, inputs[:, :3], mask=mask[:, :3], resets=resets[:, :3])
        >>> pending = rnn.pending_resets(resets[:, :3], mask=mask[:, :3])
        >>> pending.tolist()
        [True]
        >>> rest = resets[:, 3:].at[:, 0].set(resets[:, 3] | pending)
        >>> outputs, _ = rnn.dynamic_rnn(
        ...     cell, params, inputs[:, 3:], initial_state=state, mask=mask[:, 3:], resets=rest)
        >>> whole, _ = rnn.dynamic_rnn(cell, params, inputs, mask=mask, resets=resets)
        >>> bool(jnp.allclose(outputs, whole[:, 3:]))
        True
    """
    _check_data.flag("time_major", time_major)
    time_axis = 0 if time_major else 1
    flags, batch, time = _check_data.steps("resets", resets, time_axis)
    _check_data.flags("resets", flags, batch, time, time_axis)
    if sequence_length is not None:
        sequence_length = _check_data.sequence_length(sequence_length, batch, time, time_axis)
    if mask is not None:
        mask = _check_data.flags("mask", mask, batch, time, time_axis)
    valid = valid_steps(sequence_length, mask, batch, time, time_axis)
    steps = jnp.expand_dims(jnp.arange(time, dtype=jnp.int32), 1 - time_axis)

    def last_step(flags):
        return jnp.max(jnp.where(flags, steps, -1), time_axis, initial=-1)

    # A reset at the last valid step itself has taken effect: it comes before that step.
    pending = last_step(flags) > last_step(valid)
    if previous is None:
        return pending
    carried = jnp.asarray(_check_data.array("previous", previous))
    if carried.shape != (batch,) or carried.dtype != bool:
        raise ValueError(
            f"previous: expected bool of shape ({batch},), one flag for each row, got "
            f"{carried.dtype} of shape {carried.shape}"
        )
    return pending | (carried & ~valid.any(time_axis))
