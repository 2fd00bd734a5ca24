"""Splits off what depends only on the params, to be computed once outside a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from .._types import Params


def hoist(
    f: Callable[..., Any], params: Params, *arguments: Any
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Splits `f(params, *arguments)` -> `(invariants, rest)`, two functions.

    `invariants(params)` is the list of everything that the rest needs of the params: slices,
    concatenations and norms of kernels, as they are used. `rest(invariants, *arguments)` is
    `f`'s result. Only the shapes and dtypes of the arguments given here matter.
    """
    closed, shape = jax.make_jaxpr(f, return_shape=True)(params, *arguments)
    jaxpr, leaves = closed.jaxpr, jax.tree.leaves(params)
    own, others = jaxpr.invars[: len(leaves)], jaxpr.invars[len(leaves) :]
    once, always, invariant = _split(jaxpr, own)
    needed = [v for equation in always for v in equation.invars] + list(jaxpr.outvars)
    needed = [v for v in needed if not isinstance(v, core.Literal) and v in invariant]
    passed = [*dict.fromkeys(needed)]  # each once, in the order of use
    first = _function(jaxpr, closed.consts, own, passed, once)
    second = _function(jaxpr, closed.consts, [*passed, *others], jaxpr.outvars, always)
    structure = jax.tree.structure(shape)

    def invariants(params: Params) -> list[jax.Array]:
        return first(*jax.tree.leaves(params))

    def rest(invariants: list[jax.Array], *arguments: Any) -> Any:
        return structure.unflatten(second(*invariants, *jax.tree.leaves(arguments)))

    return invariants, rest


def _split(jaxpr: core.Jaxpr, params: list[Any]) -> tuple[list[Any], list[Any], set[Any]]:
    """`(once, always, invariant)`: the equations that need only params, the others, and the
    variables that the first compute."""
    invariant, constant = set(params), set(jaxpr.constvars)
    once, always = [], []
    for equation in jaxpr.eqns:
        inputs = {v for v in equation.invars if not isinstance(v, core.Literal)}
        if inputs <= constant:
            # In both: to compute a constant twice is cheaper than to carry it into the loop.
            constant.update(equation.outvars)
            once.append(equation)
            always.append(equation)
        elif inputs <= invariant | constant and not equation.effects:  # effects stay in the loop
            invariant.update(equation.outvars)
            once.append(equation)
        else:
            always.append(equation)
    return once, always, invariant


def _function(
    jaxpr: core.Jaxpr,
    consts: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    equations: list[Any],
) -> Callable[..., Any]:
    # The names in the debug info are of all arguments and results, of which these are some.
    debug_info = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    part = jaxpr.replace(invars=inputs, outvars=outputs, eqns=equations, debug_info=debug_info)
    return core.jaxpr_as_fun(core.ClosedJaxpr(part, consts))
