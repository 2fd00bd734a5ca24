"""Loops whose length may be known only when they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _places as places
from .call import spread, varying


def repeat(count: Any, body: Callable, carry: Any, unroll: int | None = None) -> Any:
    """`body(i, carry)` for each int32 `i` below `count`; `unroll` in a turn, if that is known."""
    count = np.int32(count) if isinstance(count, int) else count
    run = lambda i, carry: body(jax.lax.convert_element_type(i, jnp.int32), carry)  # noqa: E731
    return jax.lax.fori_loop(np.int32(0), count, run, carry, unroll=unroll)


def first_steps(
    count: Any,
    step: Callable,
    carry: Any,
    xs: Any,
    reverse: bool,
    unroll: int,
    ahead: bool = False,
) -> tuple[Any, Any]:
    """`lax.scan` of `step(carry, x, k)` over the first `count` of `xs`; other results are 0.

    A `count` that is known is all of them, with `unroll` steps in one iteration. Else `ahead`
    copies the next `x` into the carry: XLA's CPU compiler fuses a read at a changing place into
    the arithmetic, and then gives up vector instructions for much of it.
    """
    length = jax.tree.leaves(xs)[0].shape[0]
    if isinstance(count, int):
        numbered = lambda carry, k_x: step(carry, k_x[1], k_x[0])  # noqa: E731
        every = jnp.arange(length, dtype=jnp.int32), xs
        return jax.lax.scan(numbered, carry, every, reverse=reverse, unroll=min(unroll, length))
    take = lambda k: jax.tree.map(  # noqa: E731
        lambda x: places.index_in_dim(x, k, keepdims=False), xs
    )
    step = jax.jit(step, inline=True)  # traced once
    _, one = jax.eval_shape(step, carry, take(np.int32(0)), np.int32(0))
    axes = varying((carry, xs))
    ys = jax.tree.map(lambda y: spread(jnp.zeros((length, *y.shape), y.dtype), axes), one)

    def place(i):
        return count - 1 - i if reverse else i

    def body(i, loop):
        carry, x, ys = loop
        carry, y = step(carry, x if ahead else take(place(i)), place(i))
        put = lambda ys, y: places.update_index_in_dim(ys, y, place(i), 0)  # noqa: E731
        return carry, take(place(i + 1)) if ahead else None, jax.tree.map(put, ys, y)

    carry, _, ys = repeat(count, body, (carry, take(place(0)) if ahead else None, ys))
    return carry, ys
