"""Initialisation of params: TF1's defaults, and kernels filled by two initializers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ._tools import boxed_as, unboxed
from ._types import DTypeLike

Initializer = Callable[..., jax.Array]


def glorot_uniform(
    key: jax.Array, shape: tuple[Any, ...], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """TF1's default for kernels: U(-a, a) with a = sqrt(6 / (fan_in + fan_out)).

    As in TF1, both fans of a vector are its size, and the fans of a convolution are multiplied by
    the size of its window. A kernel without rows (for inputs without features) is empty.
    """
    # jax.nn.initializers.glorot_uniform refuses vectors.
    *window, fan_in, fan_out = shape if len(shape) > 1 else (*shape, *shape)
    limit = (6.0 / max(1, math.prod(window) * (fan_in + fan_out))) ** 0.5
    return jax.random.uniform(key, shape, dtype, minval=-limit, maxval=limit)


def init_kernel(
    key: jax.Array, rows: tuple[int, int], gates: int, cell: Any, dtype: DTypeLike
) -> jax.Array:
    """Initialises the kernel `[input + hidden, gates * units]` of a cell.

    `rows` are the sizes of the input and of the hidden state. The kernel is filled by the cell's
    `kernel_initializer`, and the rows of the hidden state, gate by gate, by its
    `recurrent_initializer` if it has one.
    """
    units = cell.num_units
    initialize = cell.kernel_initializer or glorot_uniform
    kernel = initialize(key, (sum(rows), gates * units), dtype)
    if cell.recurrent_initializer is None or not rows[1]:
        return kernel
    # Gate by gate, so that an orthogonal initializer makes the square matrix of each gate
    # orthogonal, and the fans are those of one gate.
    keys = jax.random.split(jax.random.fold_in(key, 1), gates)
    recurrent = init_gates(cell.recurrent_initializer, keys, (rows[1], units), dtype)
    return with_last_rows(kernel, recurrent)


def init_gates(
    initializer: Initializer, keys: Any, shape: tuple[Any, ...], dtype: DTypeLike
) -> jax.Array:
    """Initialises a kernel gate by gate; `shape` is that of one gate.

    Flax's partitioning metadata is taken from the first gate.
    """
    gates = [initializer(key, shape, dtype) for key in keys]
    return boxed_as(gates[0], jnp.concatenate([unboxed(gate) for gate in gates], -1))


def with_last_rows(kernel: jax.Array, rows: jax.Array, axis: int = 0) -> jax.Array:
    """Returns `kernel` with its last rows replaced by `rows`; its partitioning metadata stays."""
    # Metadata is stripped first: two initializers may add different metadata, or one of them none.
    values, rows = unboxed(kernel), unboxed(rows)
    first = jax.lax.slice_in_dim(values, 0, values.shape[axis] - rows.shape[axis], axis=axis)
    return boxed_as(kernel, jnp.concatenate([first, rows], axis))


def init_dense(
    key: jax.Array, shape: tuple[int, int], cell: Any, dtype: DTypeLike
) -> dict[str, Any]:
    """Initialises the kernel and the bias of a dense layer with the initializers of `cell`."""
    keys = jax.random.split(key)
    return {
        "kernel": (cell.kernel_initializer or glorot_uniform)(keys[0], shape, dtype),
        "bias": init_vector(cell.bias_initializer, zeros, keys[1], shape[1], dtype),
    }


def init_vector(
    initializer: Initializer | None,
    default: Initializer,
    key: jax.Array,
    size: int,
    dtype: DTypeLike,
) -> jax.Array:
    """Initialises a vector `[size]` with `initializer`, or with `default` if that is `None`.

    Partitioning metadata that names one axis is preserved.
    """
    if initializer is None:
        return default(key, (size,), dtype)
    # A user's initializer gets the shape of a column: most of JAX's initializers refuse vectors.
    column = initializer(key, (size, 1), dtype)
    return boxed_as(column, unboxed(column).reshape(size))


zeros = jax.nn.initializers.zeros
ones = jax.nn.initializers.ones
