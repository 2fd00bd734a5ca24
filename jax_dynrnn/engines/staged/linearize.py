"""One differentiable function made of a reference, a fast forward pass and a fast backward pass.

Reverse mode runs the fast passes, forward mode and higher orders the reference: `grad`,
`jvp`, second order and `vmap` all work, which a `custom_vjp` does not give.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..._types import PyTree


@dataclasses.dataclass(frozen=True)
class Passes:
    """Ways of computing one function `f(x, constants) -> y` of pytrees.

    `x` is differentiated; of `constants` nothing is.
    """

    reference: Callable[[Any, Any], Any]
    """`f` in plain JAX, which defines it and its derivatives."""
    primal: Callable[[Any, Any], Any]
    """`f`, fast, where no derivative is asked for."""
    forward: Callable[[Any, Any], tuple[Any, Any]]
    """`(y, residuals)`, fast."""
    backward: Callable[[Any, Any, Any, Any], Any]
    """`(x, constants, residuals, dy) -> dx`: the transposed derivative of cotangents, fast."""
    offload: bool = False
    """Whether the residuals are kept in host memory between the passes."""


def differentiable(passes: Passes) -> Callable[[Any, Any], Any]:
    """`f`, which JAX can differentiate in any mode, any number of times.

    A function with a derivative of its own is a `jax.custom_jvp`. That of `f` is computed as the
    solution of a linear system, so that its transposition, which reverse mode asks for, is the fast
    backward pass.
    """

    @jax.custom_jvp
    def with_residuals(x, constants):
        return passes.forward(x, constants)

    @with_residuals.defjvp
    def with_residuals_jvp(primals, tangents):
        x, constants = primals
        y, residuals = with_residuals(x, constants)
        y_tangents = _derivative(passes, x, constants, residuals, y, tangents[0])
        unused = jax.tree.map(jnp.zeros_like, residuals)  # no tangent depends on the residuals
        return (y, residuals), (y_tangents, unused)

    @jax.custom_jvp
    def f(x, constants):
        return passes.primal(x, constants)

    @f.defjvp
    def f_jvp(primals, tangents):
        x, constants = primals
        y, residuals = with_residuals(x, constants)
        return y, _derivative(passes, x, constants, residuals, y, tangents[0])

    return f


def _derivative(
    passes: Passes, x: Any, constants: Any, residuals: PyTree, y: Any, x_tangents: PyTree
) -> Any:
    """L v, the derivative L of `f` at `x` applied to the tangents v, as a linear system's solution.

    A(v, w) = (v, w - L v) has an inverse that takes (v, 0) to (v, L v), and a transposed inverse
    that takes (p, q) to (p + transposed L q, q), which the fast backward pass computes. JAX
    differentiates the solution further by differentiating A, where only the reference occurs.
    """
    if passes.offload:
        residuals = jax.device_put(residuals, jax.memory.Space.Host)
    # Without the checkpoint the reference's residuals are computed too, and never used.
    reference = jax.checkpoint(lambda x: passes.reference(x, constants), prevent_cse=False)

    def linear(v):
        return jax.jvp(reference, (x,), (v,))[1]

    def matvec(v_w):
        v, w = _linked(v_w)
        return _linked((v, jax.tree.map(jnp.subtract, w, linear(v))))

    def solve(_, v_w):
        v, w = v_w
        return v, jax.tree.map(jnp.add, w, linear(v))

    def transpose_solve(_, p_q):
        p, q = p_q
        on_device = residuals
        if passes.offload:
            on_device = jax.device_put(residuals, jax.memory.Space.Device)
        x_cotangents = passes.backward(x, constants, on_device, q)
        return jax.tree.map(jnp.add, p, x_cotangents), q

    right_hand_side = _linked((x_tangents, jax.tree.map(jnp.zeros_like, y)))
    return jax.lax.custom_linear_solve(matvec, right_hand_side, solve, transpose_solve)[1]


def _linked(tree: PyTree) -> Any:
    """`tree` plus a zero that depends on every leaf.

    So each output is formally linear in each input, which `custom_linear_solve` requires of what it
    transposes.
    """
    # Slices without elements: their sum is 0 whatever the leaves hold, NaN included.
    empty = [jax.lax.slice_in_dim(jnp.atleast_1d(x), 0, 0) for x in jax.tree.leaves(tree)]
    zero = jnp.asarray(sum(x.sum().astype(jnp.float32) for x in empty))
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), tree)
