"""Loops whose trip count may be known only when they run, and slices at computed indices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._types import Index, PyTree
from .devices import pcast, varying_axes

# Indices are never negative in the engines. JAX's default adds a compare and a select for negative
# ones, which keeps XLA from vectorising short loop bodies.


def _non_negative(f: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return functools.partial(f, allow_negative_indices=False)


dynamic_index_in_dim: Callable[..., jax.Array] = _non_negative(jax.lax.dynamic_index_in_dim)
dynamic_slice: Callable[..., jax.Array] = _non_negative(jax.lax.dynamic_slice)
dynamic_slice_in_dim: Callable[..., jax.Array] = _non_negative(jax.lax.dynamic_slice_in_dim)
dynamic_update_index_in_dim: Callable[..., jax.Array] = _non_negative(
    jax.lax.dynamic_update_index_in_dim
)
dynamic_update_slice: Callable[..., jax.Array] = _non_negative(jax.lax.dynamic_update_slice)
dynamic_update_slice_in_dim: Callable[..., jax.Array] = _non_negative(
    jax.lax.dynamic_update_slice_in_dim
)


def repeat(count: Index, body: Callable[..., Any], carry: PyTree, unroll: int | None = None) -> Any:
    """`body(i, carry)` for each int32 `i` below `count`.

    `unroll` steps are one iteration, if the count is known.
    """
    # Under x64 a Python int is an int64, and each index would be converted in each iteration.
    count = np.int32(count) if isinstance(count, int) else count

    def run(i, carry):
        return body(jax.lax.convert_element_type(i, jnp.int32), carry)

    return jax.lax.fori_loop(np.int32(0), count, run, carry, unroll=unroll)


def scan_some_steps(
    steps: tuple[Index, Index] | None,
    step: Callable[..., Any],
    carry: PyTree,
    xs: PyTree,
    *,
    reverse: bool,
    unroll: int,
    read_ahead: bool = False,
    counts_in_carry: bool = False,
) -> tuple[Any, Any]:
    """`lax.scan` of `step(carry, x, k)` over the `xs` from k = `steps[0]` to `steps[1] - 1`.

    Other results are 0. If `steps` is `None`, all are scanned, and `unroll` steps are one
    iteration. Else `read_ahead` copies the next `x` into the carry: XLA's CPU compiler fuses a read
    at a computed index into the arithmetic, and then vectorises little of it.
    """
    length = jax.tree.leaves(xs)[0].shape[0]
    if steps is None:
        options = {"reverse": reverse, "unroll": min(unroll, length)}
        if counts_in_carry:

            def counted(carry_k, x):
                (carry, k), change = carry_k, np.int32(-1 if reverse else 1)
                carry, y = step(carry, x, k)
                return (carry, k + change), y

            first = jnp.int32(length - 1 if reverse else 0)
            (carry, _), ys = jax.lax.scan(counted, (carry, first), xs, **options)
            return carry, ys

        def numbered(carry, k_x):
            return step(carry, k_x[1], k_x[0])

        every = jnp.arange(length, dtype=jnp.int32), xs
        return jax.lax.scan(numbered, carry, every, **options)

    def read(k):
        return jax.tree.map(lambda x: dynamic_index_in_dim(x, k, keepdims=False), xs)

    first, end = steps
    step = jax.jit(step, inline=True)  # traced once
    _, one = jax.eval_shape(step, carry, read(np.int32(0)), np.int32(0))
    axes = varying_axes((carry, xs))
    ys = jax.tree.map(lambda y: pcast(jnp.zeros((length, *y.shape), y.dtype), axes), one)

    def index(i):
        return end - 1 - i if reverse else first + i

    def body(i, loop):
        carry, x, ys = loop
        k = index(i)
        carry, y = step(carry, x if read_ahead else read(k), k)
        ys = jax.tree.map(lambda ys, y: dynamic_update_index_in_dim(ys, y, k, 0), ys, y)
        return carry, read(index(i + 1)) if read_ahead else None, ys

    x = read(index(0)) if read_ahead else None
    carry, _, ys = repeat(end - first, body, (carry, x, ys))
    return carry, ys
