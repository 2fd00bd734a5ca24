"""Whether the collectives in a step allow each device to take its rows in an order of its own."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from ..._tools import inner_jaxprs
from ..devices import varying_axes
from ..request import Request
from .probe import COLLECTIVE_ERRORS, ERRORS, cast_type


def why_collectives_forbid(request: Request) -> str | None:
    """Why the collectives of a step need all devices to take the same steps, or `None`.

    Devices sort their rows by length and stop at their own last valid step. A collective over an
    axis that the rows vary over would mix the wrong rows, or wait for a device that has stopped.
    The step is traced with the types of this request, and the answer is not cached: axes have names
    only where they are mapped.
    """
    leaves = jax.tree.leaves(request)
    if not any(isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct) for x in leaves):
        return None  # nothing is mapped
    try:
        jaxpr = _jaxpr_of_a_step(request)
    except (*ERRORS, *COLLECTIVE_ERRORS):
        # The run traces the same step to check it, and says what is wrong.
        return None
    axes_of_rows = varying_axes((request.inputs, request.lengths, request.mask, request.resets))
    for axis, axes_of_result in _collectives(jaxpr):
        described = (
            f"a step of {type(request.cell).__name__} has a collective over the axis {axis!r}"
        )
        if axis in axes_of_rows:
            return f"{described}, which the rows vary over: each device takes them in its own order"
        # Neither the axes of `vmap` nor any axis with `check_vma=False` are known.
        if axis not in axes_of_result:
            return f"{described}, whose result is not known to vary over it"
    return None


def _jaxpr_of_a_step(request: Request) -> Any:
    cell, dtype, batch = request.cell, request.dtype, (request.batch,)

    def prepare(params, inputs, state):
        def cast(x):
            return jnp.asarray(x, cast_type(jnp.result_type(x), dtype))

        params, inputs = jax.tree.map(cast, (params, inputs))
        take_first = functools.partial(
            jax.lax.index_in_dim, index=0, axis=request.time_axis, keepdims=False
        )
        first = jax.tree.map(take_first, inputs)
        state = cell.start(params, batch, dtype) if state is None else state
        return cell.prepare(params, batch_shape=batch), first, state

    def step(params, inputs, state):
        return cell.step(params, cell.project(params, inputs), state, key=request.key)

    arguments = jax.eval_shape(prepare, request.params, request.inputs, request.initial_state)
    return jax.make_jaxpr(step)(*arguments).jaxpr


def _collectives(jaxpr: Any) -> Iterator[tuple[Any, frozenset[Any]]]:
    """The axes that collectives are over, and the axes that their results vary over.

    Of a jaxpr and those inside. (Not from its effects: a `ppermute` has none.)
    """
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("pvary", "shard_map"):
            continue  # a cast of the type alone; a map with axes of its own
        over = equation.params.get("axes", equation.params.get("axis_name", ()))
        for axis in over if isinstance(over, tuple) else (over,):
            if not isinstance(axis, int):  # that is an axis of an array
                yield axis, equation.outvars[0].aval.manual_axis_type.varying
        for inner in inner_jaxprs(equation):
            yield from _collectives(inner)
