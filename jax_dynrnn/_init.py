"""Initial values of the params: TF1's defaults, and the two initialisers of a cell."""

from __future__ import annotations

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
    """TF1's default for kernels: U(-a, a), a = sqrt(6 / (fan_in + fan_out)).

    As in TF1, a vector counts as having its size for both fans; a kernel without rows
    (inputs without features) is empty.
    """
    *receptive, fan_in, fan_out = shape if len(shape) > 1 else (*shape, *shape)
    field = 1
    for size in receptive:
        field *= size
    limit = (6.0 / max(1, field * (fan_in + fan_out))) ** 0.5
    return jax.random.uniform(key, shape, dtype, minval=-limit, maxval=limit)


def init_kernel(
    key: jax.Array, rows: tuple[int, int], gates: int, cell: Any, dtype: DTypeLike
) -> jax.Array:
    """The kernel `[input + hidden, gates * units]` of a cell with `kernel_initializer`.

    `rows` are the sizes of the input and of the hidden state. `recurrent_initializer`,
    where the cell has one, fills the rows of the hidden state gate by gate.
    """
    units = cell.num_units
    initialize = cell.kernel_initializer or glorot_uniform
    kernel = initialize(key, (sum(rows), gates * units), dtype)
    if cell.recurrent_initializer is None or not rows[1]:
        return kernel
    keys = jax.random.split(jax.random.fold_in(key, 1), gates)
    recurrent = init_gates(cell.recurrent_initializer, keys, (rows[1], units), dtype)
    return with_last_rows(kernel, recurrent)


def init_gates(
    initializer: Initializer, keys: Any, shape: tuple[Any, ...], dtype: DTypeLike
) -> jax.Array:
    """A kernel whose gates are initialised one by one; `shape` is that of one gate.

    Partitioning metadata is that of the first gate.
    """
    gates = [initializer(key, shape, dtype) for key in keys]
    return boxed_as(gates[0], jnp.concatenate([unboxed(gate) for gate in gates], -1))


def with_last_rows(kernel: jax.Array, rows: jax.Array, axis: int = 0) -> jax.Array:
    """`kernel` whose last rows are replaced by `rows`, with its own partitioning metadata."""
    values, rows = unboxed(kernel), unboxed(rows)
    first = jax.lax.slice_in_dim(values, 0, values.shape[axis] - rows.shape[axis], axis=axis)
    return boxed_as(kernel, jnp.concatenate([first, rows], axis))


def init_dense(
    key: jax.Array, shape: tuple[int, int], cell: Any, dtype: DTypeLike
) -> dict[str, Any]:
    """The kernel and the bias of a dense layer, by the initialisers of `cell`."""
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
    """A `[size]` vector; an initialiser that the user gave gets the shape of a column.

    (Most of JAX's initialisers refuse vectors.) Partitioning metadata is kept where it names
    one axis.
    """
    if initializer is None:
        return default(key, (size,), dtype)
    column = initializer(key, (size, 1), dtype)
    return boxed_as(column, unboxed(column).reshape(size))


zeros = jax.nn.initializers.zeros
ones = jax.nn.initializers.ones
