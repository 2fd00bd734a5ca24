"""What is known of a cell by shapes alone, before its params have been looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.extend import core

from .._cell import Cell, Memory
from .._memoize import memoize_by_cell
from .._tools import unboxed
from ..wrappers import MultiRNNCell
from ._layers import inside, layers
from ._parts import Parts
from .call import Call, varying


def _of_rows(f: Callable) -> Callable[[Call], Any]:
    """`f(cell, row, dtype, key)` of a call, of equal cells once; the row is of the inputs."""

    def ask(cell, structure, leaves, dtype, draws):
        row = structure.unflatten([jax.ShapeDtypeStruct(*x) for x in leaves])
        return f(cell, row, dtype, jax.random.key(0) if draws else None)

    ask = memoize_by_cell(ask)

    def asked(call: Call) -> Any:
        leaves, structure = jax.tree.flatten(call.inputs)
        row = tuple(((1, *x.shape[2:]), _cast(x.dtype, call.dtype)) for x in leaves)
        return ask(call.cell, structure, row, call.dtype, call.key is not None)

    return asked


def of_shapes(otherwise: str | None) -> Callable[[Callable], Callable[[Call], str | None]]:
    """`f(parts, weights, row, state)` of a staged cell, all of them shapes: a reason, or `None`.

    Neither params nor inputs have been checked: the params are those that the cell makes. Where it
    makes none, or they do not fit, the answer is `otherwise`: whoever runs it says what is wrong.
    """

    def decorated(f):
        @_of_rows
        def asked(cell, row, dtype, key):
            prepares = f"what {type(cell).__name__} prepares"
            try:
                own, params, state = _made(cell, row, dtype)
                if _prepared_sizes(cell, own, key, 1) != _prepared_sizes(cell, own, key, 2):
                    return f"{prepares} has rows, as the batch has"
                parts = Parts(cell, params)
                weights = jax.eval_shape(parts.weights, params, row, state)
            except Exception:  # of the code of a user
                told = type(cell).prepare is Cell.prepare
                return otherwise if told else f"{prepares} cannot be told before it runs"
            return f(parts, weights, row, state)

        return asked

    return decorated


@_of_rows
def _seen(cell: Any, row: Any, dtype: Any, key: Any) -> Any:
    """What the cell inside of a wrapper sees; `None`, where that cannot be told."""
    try:
        _, params, _ = _made(cell, row, dtype)
        return jax.eval_shape(lambda p, x: cell.before(p, x, None)[0], params, row)
    except Exception:  # of the code of a user
        return None


@_of_rows
def _output(cell: Any, row: Any, dtype: Any, key: Any) -> Any:
    """What the next layer of a stack sees; `None`, where that cannot be told."""
    step = lambda p, x, s: cell.step(p, cell.project(p, x), s)[0]  # noqa: E731
    try:
        _, params, state = _made(cell, row, dtype)
        return jax.eval_shape(step, params, row, state)
    except Exception:  # of the code of a user
        return None


def innermost(call: Call) -> Iterator[Call]:
    """The calls of the cells in a stack or in wrappers, whose inputs are shapes of what they see.

    Without params, which nobody has checked yet.
    """
    call = dataclasses.replace(call, params=None)
    if isinstance(call.cell, MultiRNNCell):
        inputs = call.inputs
        for layer in layers(call):
            layer = dataclasses.replace(layer, inputs=inputs)
            yield from innermost(layer)
            inputs = _told(_output, layer)
    elif (within := inside(call)) is not None:
        yield from innermost(dataclasses.replace(within, inputs=_told(_seen, call)))
    else:
        yield call


def _told(f: Callable, call: Call) -> Any:
    """The row that `f` says, as inputs; those that there are, where it cannot be told."""
    row = f(call)
    if row is None:
        return call.inputs
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), row)


@of_shapes(otherwise=None)
def odd(parts: Any, weights: Any, row: Any, state: Any) -> str | None:
    """What of a staged cell is no floating array, or has rows where it should not, or `None`."""
    projected = jax.eval_shape(parts.project, weights, row)
    output, _ = jax.eval_shape(parts.step, weights, projected, state)
    name = type(parts.cell).__name__
    for what, tree in {"params": weights, "state": state, "output": output}.items():
        for x in jax.tree.leaves(tree):
            if not jnp.issubdtype(x.dtype, jnp.floating):
                return f"the {what} of {name} has {x.dtype}, which has no gradient"
            if what != "params" and x.shape[:1] != (1,):
                return f"the {what} of {name} has an array without rows"
    return None


def collective(call: Call) -> str | None:
    """Why the collectives of a step need all devices to take the same steps, or `None`.

    Devices sort their rows by length and stop at their own last valid step. A collective over an
    axis that the rows vary over would mix the wrong rows, or wait for a device that has stopped.
    It is traced with the types of this call, never remembered: axes have names only where they
    are mapped.
    """
    leaves = jax.tree.leaves(call)
    if not any(isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct) for x in leaves):
        return None  # nothing is mapped
    try:
        jaxpr = _jaxpr_of_a_step(call)
    except Exception:  # a run takes the same step first, to check it, and says what is wrong
        return None
    rows = varying((call.inputs, call.lengths, call.mask, call.resets))
    for axis, result in _collectives(jaxpr):
        described = f"a step of {type(call.cell).__name__} has a collective over the axis {axis!r}"
        if axis in rows:
            return f"{described}, which the rows vary over: each device takes them in its own order"
        if axis not in result:  # nor are those of `vmap`, nor any with `check_vma=False`
            return f"{described}, whose result is not known to vary over it"
    return None


def _jaxpr_of_a_step(call: Call) -> Any:
    def prepare(params, inputs, state):
        cast = lambda x: jnp.asarray(x, _cast(jnp.result_type(x), call.dtype))  # noqa: E731
        params, inputs = jax.tree.map(cast, (params, inputs))
        first = jax.tree.map(lambda x: jax.lax.index_in_dim(x, 0, call.time_axis, False), inputs)
        state = call.cell.start(params, (call.batch,), call.dtype) if state is None else state
        return call.cell.prepare(params, batch_shape=(call.batch,)), first, state

    def step(params, inputs, state):
        return call.cell.step(params, call.cell.project(params, inputs), state, key=call.key)

    arguments = jax.eval_shape(prepare, call.params, call.inputs, call.initial_state)
    return jax.make_jaxpr(step)(*arguments).jaxpr


def _collectives(jaxpr: Any) -> Iterator[tuple[Any, frozenset]]:
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
        for inner in jax.tree.leaves(tuple(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                yield from _collectives(getattr(inner, "jaxpr", inner))


def _is_jaxpr(x: Any) -> bool:
    return isinstance(x, core.Jaxpr | core.ClosedJaxpr)


def _prepared_sizes(cell: Any, params: Any, key: Any, rows: int) -> list[tuple]:
    """The shapes of params that are prepared for some rows."""
    prepare = lambda p: cell.prepare(p, key=key, batch_shape=(rows,))  # noqa: E731
    return [x.shape for x in jax.tree.leaves(jax.eval_shape(prepare, params))]


def _made(cell: Any, row: Any, dtype: Any) -> tuple[Any, Any, Any]:
    """The params of a cell, what it prepares of them and its start state, for one row."""
    params = _params(cell, row)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, _cast(x.dtype, dtype)), params)
    state = jax.eval_shape(lambda p: cell.start(p, (1,), dtype), params)
    return params, jax.eval_shape(lambda p: cell.prepare(p, batch_shape=(1,)), params), state


def _params(cell: Any, row: Any) -> Any:
    """Those that the cell makes, with a memory of one row if it attends to one."""
    features = jax.tree.map(jnp.shape, row)
    params = jax.eval_shape(lambda: unboxed(cell.init(jax.random.key(0), features)))
    if not cell.attends:
        return params
    of_one_row = lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype)  # noqa: E731
    is_memory = lambda x: isinstance(x, Memory)  # noqa: E731
    return jax.tree.map(
        lambda x: jax.tree.map(of_one_row, x) if is_memory(x) else x,
        jax.eval_shape(lambda p: cell.attend(p, None), params),
        is_leaf=is_memory,
    )


def _cast(given: Any, dtype: Any) -> Any:
    return dtype if jnp.issubdtype(given, jnp.floating) else given
