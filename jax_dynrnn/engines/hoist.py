"""Takes out of a function what needs only the params, to be computed once outside of a loop."""

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

    `invariants(params)` is a list of all that the rest wants to know of the params: slices,
    concatenations and norms of kernels are in it as they are used. `rest(invariants,
    *arguments)` is `f`'s result. Here only the shapes and dtypes of the arguments matter.
    """
    closed, shape = jax.make_jaxpr(f, return_shape=True)(params, *arguments)
    jaxpr, leaves = closed.jaxpr, jax.tree.leaves(params)
    own, others = jaxpr.invars[: len(leaves)], jaxpr.invars[len(leaves) :]
    once, always, known = _sorted(jaxpr, own)
    wanted = [v for equation in always for v in equation.invars] + list(jaxpr.outvars)
    passed = list(
        dict.fromkeys(v for v in wanted if not isinstance(v, core.Literal) and v in known)
    )
    first = _function(jaxpr, closed.consts, own, passed, once)
    second = _function(jaxpr, closed.consts, [*passed, *others], jaxpr.outvars, always)
    structure = jax.tree.structure(shape)

    def invariants(params: Params) -> list[jax.Array]:
        return first(*jax.tree.leaves(params))

    def rest(invariants: list[jax.Array], *arguments: Any) -> Any:
        return structure.unflatten(second(*invariants, *jax.tree.leaves(arguments)))

    return invariants, rest


def _sorted(jaxpr: core.Jaxpr, params: list[Any]) -> tuple[list[Any], list[Any], set]:
    """The equations that need only params, and the others; those of constants are in both."""
    known, constant = set(params), set(jaxpr.constvars)
    once, always = [], []
    for equation in jaxpr.eqns:
        inputs = {v for v in equation.invars if not isinstance(v, core.Literal)}
        if inputs <= constant:
            constant.update(equation.outvars)
            once.append(equation)
            always.append(equation)
        elif inputs <= known | constant and not equation.effects:
            known.update(equation.outvars)
            once.append(equation)
        else:
            always.append(equation)
    return once, always, known


def _function(
    jaxpr: core.Jaxpr,
    consts: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    equations: list[Any],
) -> Callable[..., Any]:
    debug_info = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    part = jaxpr.replace(invars=inputs, outvars=outputs, eqns=equations, debug_info=debug_info)
    return core.jaxpr_as_fun(core.ClosedJaxpr(part, consts))
