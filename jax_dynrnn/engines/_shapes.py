"""What is known of a cell by shapes alone, before its params have been looked at."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import Cell, Memory
from .._tools import is_configuration, unboxed
from ._layers import inside, layers
from ._parts import Parts
from .call import Call


def _of_rows(f: Callable) -> Callable[[Call], Any]:
    """`f(cell, row, dtype, key)` of a call, of equal cells once; the row is of the inputs."""

    def ask(cell, structure, leaves, dtype, draws):
        row = structure.unflatten([jax.ShapeDtypeStruct(*x) for x in leaves])
        return f(cell, row, dtype, jax.random.key(0) if draws else None)

    ask = remembering(ask)

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
                params, state = _made(cell, row, dtype)
                if _prepared_sizes(cell, row, key, 1) != _prepared_sizes(cell, row, key, 2):
                    return f"{prepares} has rows, as the batch has"
                parts = Parts(cell, params)
                weights = jax.eval_shape(parts.weights, params, row, state)
            except Exception:  # of the code of a user
                own = type(cell).prepare is not Cell.prepare
                return f"{prepares} cannot be told before it runs" if own else otherwise
            return f(parts, weights, row, state)

        return asked

    return decorated


def remembering(ask: Callable) -> Callable:
    """`ask(cell, ...)`, which is asked once of cells that are equal.

    Not of those that hold arrays, or what is being traced: they would live as long as the process.
    """
    remembered = functools.lru_cache(1024)(ask)

    def asked(cell, *more):
        return (remembered if is_configuration(cell) and not _closes_over_arrays(cell) else ask)(
            cell, *more
        )

    return asked


def _closes_over_arrays(x: Any) -> bool:
    """Whether functions in a configuration close over arrays."""
    if isinstance(x, tuple | list):
        return any(map(_closes_over_arrays, x))
    if dataclasses.is_dataclass(x):
        return any(map(_closes_over_arrays, vars(x).values()))
    cells = getattr(x, "__closure__", None) or ()
    return any(isinstance(cell.cell_contents, jax.Array) for cell in cells)


@_of_rows
def _seen(cell: Any, row: Any, dtype: Any, key: Any) -> Any:
    """What the cell inside of a wrapper sees; `None`, where that cannot be told."""
    try:
        params, _ = _made(cell, row, dtype)
        return jax.eval_shape(lambda p, x: cell.before(p, x, None)[0], params, row)
    except Exception:  # of the code of a user
        return None


@_of_rows
def _output(cell: Any, row: Any, dtype: Any, key: Any) -> Any:
    """What the next layer of a stack sees; `None`, where that cannot be told."""
    step = lambda p, x, s: cell.step(p, cell.project(p, x), s)[0]  # noqa: E731
    try:
        params, state = _made(cell, row, dtype)
        return jax.eval_shape(step, params, row, state)
    except Exception:  # of the code of a user
        return None


def inside_by_shapes(call: Call) -> Call | None:
    """`inside(call)`, whose inputs are the shapes of what that cell sees."""
    within = inside(call)
    return None if within is None else dataclasses.replace(within, inputs=_told(_seen, call))


def layers_by_shapes(call: Call) -> Iterator[Call]:
    """`layers(call)`, whose inputs are the shapes of what each of them sees."""
    inputs = call.inputs
    for layer in layers(call):
        layer = dataclasses.replace(layer, inputs=inputs)
        yield layer
        inputs = _told(_output, layer)


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


def _prepared_sizes(cell: Any, row: Any, key: Any, rows: int) -> list[tuple]:
    """The shapes of params that are prepared for some rows."""
    prepare = lambda p: cell.prepare(p, key=key, batch_shape=(rows,))  # noqa: E731
    return [x.shape for x in jax.tree.leaves(jax.eval_shape(prepare, _params(cell, row)))]


def _made(cell: Any, row: Any, dtype: Any) -> tuple[Any, Any]:
    """The prepared params and the start state of a cell, for one row."""
    params = _params(cell, row)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, _cast(x.dtype, dtype)), params)
    state = jax.eval_shape(lambda p: cell.start(p, (1,), dtype), params)
    return jax.eval_shape(lambda p: cell.prepare(p, batch_shape=(1,)), params), state


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
