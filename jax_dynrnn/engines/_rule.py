"""One differentiable function of a reference, a fast forward and a fast backward pass.

Reverse mode runs the fast passes, forward mode and higher orders the reference: `grad`,
`jvp`, second order and `vmap` all work, which a `custom_vjp` does not give.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def differentiable(
    reference: Callable, plain: Callable, forward: Callable, backward: Callable, offload: bool
) -> Callable:
    """A function `f(x, given) -> y`, differentiable by all floating arrays `x`.

    `reference(x, given)` is plain JAX and defines it; `plain(x, given)` is equal and fast;
    `forward(x, given) -> (y, kept)` also says what `backward(x, given, kept, dy) -> dx`, its
    transposed derivative, wants to know. With `offload` that waits in host memory.

    The derivative L is put as the solution of a linear system: A(v, y) = (v, y - L v) has
    an inverse that takes (v, 0) to (v, L v), and a transposed inverse that takes (p, q) to
    (p + transposed L q, q), which is the fast backward pass. JAX differentiates the system
    further by differentiating A, where only the reference occurs.
    """

    def derivative(x, given, kept, dx, y):
        kept = jax.device_put(kept, jax.memory.Space.Host) if offload else kept
        # Else what the reference keeps for a gradient is computed beside `kept`, and never used.
        lean = jax.checkpoint(lambda x: reference(x, given), prevent_cse=False)
        linear = lambda v: jax.jvp(lean, (x,), (v,))[1]  # noqa: E731
        minus = lambda a, b: jax.tree.map(jnp.subtract, a, b)  # noqa: E731

        def system(v_y):
            v, y = _linked(v_y)
            return _linked((v, minus(y, linear(v))))

        def solve(_, v_y):
            v, y = v_y
            return v, jax.tree.map(jnp.add, y, linear(v))

        def transposed(_, p_q):
            p, q = p_q
            here = jax.device_put(kept, jax.memory.Space.Device) if offload else kept
            return jax.tree.map(jnp.add, p, backward(x, given, here, q)), q

        right = _linked((dx, jax.tree.map(jnp.zeros_like, y)))
        return jax.lax.custom_linear_solve(system, right, solve, transposed)[1]

    @jax.custom_jvp
    def keeping(x, given):
        return forward(x, given)

    @keeping.defjvp
    def keeping_jvp(primals, tangents):
        x, given = primals
        y, kept = keeping(x, given)
        dy = derivative(x, given, kept, tangents[0], y)
        return (y, kept), (dy, jax.tree.map(jnp.zeros_like, kept))  # these are never used

    @jax.custom_jvp
    def f(x, given):
        return plain(x, given)

    @f.defjvp
    def f_jvp(primals, tangents):
        x, given = primals
        y, kept = keeping(x, given)
        return y, derivative(x, given, kept, tangents[0], y)

    return f


def _linked(tree: Any) -> Any:
    """`tree`, every leaf formally linear in every other: what JAX transposes must be."""
    empty = [jax.lax.slice_in_dim(jnp.atleast_1d(x), 0, 0) for x in jax.tree.leaves(tree)]
    nothing = jnp.asarray(sum(x.sum().astype(jnp.float32) for x in empty))
    return jax.tree.map(lambda x: x + nothing.astype(x.dtype), tree)
