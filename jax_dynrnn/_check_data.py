"""Checks of data and options, made before anything runs.

Every error says what was expected, what was given, and what to do. `B` is the batch size, `T`
the number of time steps.
"""

from __future__ import annotations

import numbers
import operator
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from ._cell import Cell
from ._check_options import a_key as a_key
from ._check_options import floating as floating
from ._check_options import got as _got
from ._check_options import one_key as one_key
from ._features import feature_ndims
from ._tools import is_flag
from ._types import Inputs, Lengths, PyTree, Remat, Size


def check_inputs(cell: Cell, inputs: Inputs, time_axis: int) -> tuple[Any, int, int]:
    """Checks the inputs of a run -> `(inputs as arrays, B, T)`."""
    leaves = jax.tree_util.tree_flatten_with_path(inputs)[0]
    if not leaves:
        raise ValueError(f"inputs: expected at least one array, got {inputs!r}")
    _check_not_ragged(cell, inputs, [x for _, x in leaves])
    inputs = jax.tree_util.tree_map_with_path(lambda p, x: array("inputs" + keystr(p), x), inputs)
    ndims = jax.tree.leaves(feature_ndims(cell.feature_ndim, inputs))
    found = []
    for n, (path, x) in zip(ndims, jax.tree_util.tree_flatten_with_path(inputs)[0], strict=True):
        where = "inputs" + keystr(path)
        _check_rank(cell, where, x, n, time_axis)
        found.append((where, (x.shape[1 - time_axis], x.shape[time_axis])))
    # All leaves must have the batch and time sizes of the first one.
    first, sizes = found[0]
    for where, others in found:
        if others != sizes:
            raise ValueError(
                f"{where}: expected (batch, time) = {sizes} as in {first}, got {others}"
            )
    return inputs, *sizes


def _check_not_ragged(cell: Cell, inputs: Inputs, leaves: list[Any]) -> None:
    """Raises for a list of sequences, which JAX would take as a pytree of inputs."""
    ranks = [np.ndim(x) for x in leaves if not hasattr(x, "ndim")]
    ranks += [x.ndim for x in leaves if hasattr(x, "ndim")]
    expected = 2 + max(jax.tree.leaves(cell.feature_ndim))
    if isinstance(inputs, list | tuple) and max(ranks) <= 2 and max(ranks) != expected:
        raise TypeError(
            f"inputs: expected one padded array [batch, time, ...], got a "
            f"{type(inputs).__name__} of {len(inputs)} items of rank {max(ranks)}; "
            "pad_sequences(arrays) makes the batch and its lengths"
        )


def _check_rank(cell: Cell, where: str, x: Any, feature_ndim: int, time_axis: int) -> None:
    """Checks that `x` has batch and time axes and `feature_ndim` feature axes."""
    expected = 2 + feature_ndim
    if x.ndim == expected:
        return
    axes = "[batch, time" if time_axis == 1 else "[time, batch"
    features = {0: "]", 1: ", features]"}.get(feature_ndim, f"] + {feature_ndim} axes")
    hint = ""
    if x.ndim == expected - 1 and jnp.issubdtype(x.dtype, jnp.integer):
        hint = "; ids are embedded or one-hot encoded first"
    elif x.ndim == expected - 1:
        axis = "x[None]" if time_axis == 1 else "x[:, None]"
        hint = f"; for one sequence without a batch axis pass {axis}"
    raise ValueError(
        f"{where}: expected rank {expected}, {axes}{features}, for {cell!r} with "
        f"feature_ndim={cell.feature_ndim}, got rank {x.ndim}, shape {tuple(x.shape)}{hint}"
    )


def batches(where: str, tree: PyTree, time_axis: int) -> tuple[Any, int, int]:
    """Checks a pytree of arrays `[B, T, ...]` (`[T, B, ...]`) -> `(arrays, B, T)`."""
    found = [
        (where + keystr(path), *steps(where + keystr(path), x, time_axis))
        for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]
    if not found:
        raise ValueError(f"{where}: expected at least one array, got {tree!r}")
    first, _, batch, time = found[0]
    for name, _, *others in found:
        if others != [batch, time]:
            raise ValueError(
                f"{name}: expected (batch, time) = {(batch, time)} as in {first}, got "
                f"{tuple(others)}"
            )
    return jax.tree.structure(tree).unflatten([x for _, x, *_ in found]), batch, time


def steps(where: str, x: Any, time_axis: int) -> tuple[jax.Array, int, int]:
    """Checks one array `[B, T, ...]` (`[T, B, ...]`) -> `(array, B, T)`."""
    x = jnp.asarray(array(where, x))
    if x.ndim < 2:
        axes = "[batch, time, ...]" if time_axis == 1 else "[time, batch, ...]"
        raise ValueError(
            f"{where}: expected arrays {axes}, got one of shape {x.shape}; JAX takes a list "
            "as a pytree of its items, and np.asarray(x) makes an array of it"
        )
    return x, x.shape[1 - time_axis], x.shape[time_axis]


def array(where: str, x: Any) -> Any:
    """`x` as an array of real numbers, of JAX or NumPy; a `jax.ShapeDtypeStruct` stays one."""
    x = of_numbers(where, x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(
            f"{where}: expected a real dtype, got {x.dtype}; split it into real and imaginary "
            "features"
        )
    return x


def of_numbers(where: str, given: Any) -> Any:
    """`given` as an array of numbers, of JAX or NumPy."""
    x = _of_numpy_or_jax(where, given)
    # Objects, bytes, text and void; but NumPy also gives bfloat16 the kind "V".
    not_numeric = isinstance(x, np.ndarray | np.generic) and x.dtype.kind in "OSUV"
    if not_numeric and not _is_extended_float(x):
        is_array = hasattr(given, "dtype") or isinstance(given, list | tuple)
        found = f"dtype {x.dtype}" if is_array else f"{type(given).__name__} {given!r:.60}"
        hint = "; rows of different length are padded by pad_sequences" if is_array else ""
        raise TypeError(f"{where}: expected an array of numbers, got {found}{hint}")
    return x


def arrays(where: str, tree: PyTree) -> None:
    """Checks that all leaves of params or of a state are arrays or numbers."""
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        is_text = isinstance(getattr(x, "dtype", None), np.dtype) and x.dtype.kind in "OSU"
        if is_text or not (hasattr(x, "dtype") or isinstance(x, numbers.Number)):
            of = f" of {x.dtype}" if is_text else f" {x!r:.60}" if isinstance(x, str) else ""
            of = type(x).__name__ + of
            raise TypeError(f"{where}{keystr(path)}: expected an array, got {of}")


def _of_numpy_or_jax(where: str, x: Any) -> Any:
    """`x` as an array with a dtype of NumPy or JAX; raises for tensors of other frameworks."""
    x = x if hasattr(x, "dtype") else _asarray(where, x)
    if isinstance(x, jax.Array) or isinstance(x.dtype, np.dtype):
        return x
    kind = f"{type(x).__module__.partition('.')[0]}'s {type(x).__name__}"
    raise TypeError(
        f"{where}: expected an array of JAX or NumPy, got {kind} of {x.dtype}; np.asarray(x) "
        "makes one of most"
    )


def _asarray(where: str, x: Any) -> Any:
    """A Python number, or a nested list of numbers, as an array."""
    try:
        return np.asarray(x)
    except jax.errors.TracerArrayConversionError:  # a list that holds traced values
        return jnp.asarray(x)
    except ValueError:
        raise TypeError(
            f"{where}: expected an array, got a {type(x).__name__} of parts of different shapes; "
            "pad_sequences pads rows of different length"
        ) from None


def _is_extended_float(x: Any) -> bool:
    """Whether the dtype is bfloat16 or another one that JAX adds to those of NumPy."""
    return jnp.issubdtype(x.dtype, jnp.number)


def sequence_length(given: Any, batch: Size, time: Size, time_axis: int) -> Any:
    """Checks the lengths of a run; their values only if they are not traced."""
    lengths = integers(given)
    expected = f"sequence_length: expected one integer for each of the {batch} rows, "
    if lengths.ndim != 1:
        hint = "; a mask of valid steps is given as mask=" if lengths.dtype == bool else ""
        raise ValueError(f"{expected}a vector, got shape {tuple(lengths.shape)}{hint}")
    if lengths.shape[0] != batch:
        hint = ""
        if lengths.shape[0] == time:
            layout = "time_major=True" if time_axis == 1 else "time_major=False"
            hint = f"; it fits the time axis: is this data for {layout}?"
        raise ValueError(f"{expected}got {lengths.shape[0]}{hint}")
    if lengths.shape[0] == 0:  # an empty batch, whose lengths may have any dtype
        return np.zeros(0, np.int32)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(
            f"{expected}got dtype {lengths.dtype}; cast the lengths to an integer dtype"
        )
    known_values("sequence_length", lengths, time, "number of time steps")
    return lengths


def integers(lengths: Lengths, where: str = "sequence_length") -> Any:
    """`lengths`, an array, a list or a number, as an array."""
    if hasattr(lengths, "dtype"):
        return _of_numpy_or_jax(where, lengths)
    # Lists of Python numbers stay in NumPy, so that their values are known under `jax.jit` too.
    traced = any(isinstance(n, jax.Array) for n in jax.tree.leaves(lengths))
    try:
        x = (jnp if traced else np).asarray(lengths)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{where}: expected a list of integers, got {lengths!r:.80}") from error
    if x.dtype == object and not x.ndim:
        raise TypeError(f"{where}: expected a list of integers, got {lengths!r:.80}")
    return x if x.size else x.astype(np.int32)  # NumPy makes an empty list an array of floats


def known_values(where: str, lengths: Lengths, most: Any, of: str) -> None:
    """Checks that lengths are in [0, most], if their values are known."""
    if isinstance(lengths, jax.Array):
        # A JAX array is read only outside of any trace, and only if all of it is on this host.
        tracing = isinstance(jnp.zeros(()), jax.core.Tracer)
        if tracing or isinstance(lengths, jax.core.Tracer) or not lengths.is_fully_addressable:
            return
    elif not isinstance(lengths, np.ndarray):
        return
    values = np.asarray(lengths)
    # A symbolic size of `jax.export` has no value to compare with.
    longest = most if isinstance(most, int) else np.iinfo(np.int32).max
    bad = np.flatnonzero((values < 0) | (values > longest))
    if bad.size:
        raise ValueError(
            f"{where}: expected values in [0, {longest}], the {of}, "
            f"got {values[bad[0]]} in row {bad[0]}"
        )


def flags(where: str, x: Any, batch: Size, time: Size, time_axis: int) -> Any:
    """Checks `mask` or `resets`: bool, one value for each step."""
    x = _of_numpy_or_jax(where, x)
    shape = (batch, time) if time_axis == 1 else (time, batch)
    axes = "[batch, time]" if time_axis == 1 else "[time, batch]"
    if tuple(x.shape) != shape:
        raise ValueError(f"{where}: expected shape {shape}, {axes}, got {tuple(x.shape)}")
    if x.dtype != bool:
        raise TypeError(
            f"{where}: expected dtype bool, got {x.dtype}; convert it to bool, for example by x > 0"
        )
    return x


def flag(where: str, x: Any) -> None:
    """Checks that `x` is True or False."""
    if not is_flag(x):
        raise TypeError(f"{where}: expected True or False, got {_got(x)}")


def count(where: str, n: Any, least: int) -> int:
    """`n` as an int, after checking that it is an integer of at least `least`."""
    try:
        # `operator.index` accepts NumPy's integers but no floats; bools are ints in Python.
        number = None if is_flag(n) else operator.index(n)
    except TypeError:  # no integer, or a traced one
        number = None
    if number is None or number < least:
        raise ValueError(f"{where}: expected an int >= {least}, got {_got(n)}")
    return number


def remat(given: Any) -> Remat:
    """Checks the option `remat`: which states are saved for the backward pass."""
    if given is None or (isinstance(given, str) and given in ("sqrt", "offload")):
        return given
    try:
        return count("remat", given, least=1)
    except ValueError:
        raise ValueError(
            f"remat: expected None, an int >= 1, 'sqrt' or 'offload', got {_got(given)}"
        ) from None
