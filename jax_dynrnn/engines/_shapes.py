"""What is known of a cell by shapes alone, before its params have been looked at."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._tools import is_configuration
from ._parts import Parts
from .call import Call


def of_shapes(f: Callable) -> Callable[[Call], Any]:
    """`f(parts, weights, row, state)` of a call, all of them shapes; equal cells are asked once.

    The row is of the inputs. The params are those that the cell makes: nobody has checked yet
    those that were given.
    """

    def ask(cell, structure, leaves, dtype):
        row = structure.unflatten([jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
        return f(*_shapes(cell, row, dtype))

    ask = remembering(ask)

    def asked(call: Call) -> Any:
        leaves, structure = jax.tree.flatten(call.inputs)
        row = tuple(((1, *x.shape[2:]), _cast(x.dtype, call.dtype)) for x in leaves)
        return ask(call.cell, structure, row, call.dtype)

    return asked


def remembering(ask: Callable) -> Callable:
    """`ask(cell, ...)`, which is asked once of cells that are equal."""
    remembered = functools.lru_cache(1024)(ask)
    return lambda cell, *more: (remembered if is_configuration(cell) else ask)(cell, *more)


@of_shapes
def odd(parts: Any, weights: Any, row: Any, state: Any) -> str | None:
    """What of a staged cell is no floating array, or has no row for each sequence, or `None`."""
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


def _shapes(cell: Any, row: Any, dtype: Any) -> tuple[Parts, Any, Any, Any]:
    features = jax.tree.map(lambda x: x.shape, row)
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), features))
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, _cast(x.dtype, dtype)), params)
    state = jax.eval_shape(lambda p: cell.start(p, (1,), dtype), params)
    params = jax.eval_shape(lambda p: cell.prepare(p, batch_shape=(1,)), params)
    parts = Parts(cell, params)
    return parts, jax.eval_shape(parts.weights, params, row, state), row, state


def _cast(given: Any, dtype: Any) -> Any:
    return dtype if jnp.issubdtype(given, jnp.floating) else given
