"""What is known of a request by shapes alone: nothing is computed, and no params are checked.

A probe traces the methods of a cell with one row. If one of them raises, the request cannot be
probed, which is a reason against an engine; the run then raises the error, with an explanation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._cell import Cell, Memory, StagedCell
from ..._composition import Around
from ..._memoize import memoize_by_cell
from ..._types import DTypeLike, Inputs, Key, Params
from ..request import Request, Run
from ..types import with_leading
from .split_cell import SplitCell, Weights

ERRORS = (AttributeError, LookupError, NotImplementedError, TypeError, ValueError)
"""What tracing a cell raises where its params or inputs do not fit it."""


COLLECTIVE_ERRORS = (AssertionError, NameError)
"""What JAX raises for a collective in a step: outside the map that its axis is of, or inside it for
types that do not vary over the axis."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """A split cell with the types of one row."""

    split: SplitCell
    weights: Weights
    inputs: Any
    state: Any

    @property
    def name(self) -> str:
        """The class of the cell."""
        return type(self.split.cell).__name__


def asks_by_types(ask: Callable[..., Any]) -> Callable[[Request | Run], Any]:
    """`ask(cell, params, inputs, dtype, key)` about a request, once for equal cells and types.

    `inputs` are of one step of one row; all are types.
    """

    def ask_of_types(cell, structure, leaves, dtype, draws):
        params, inputs = structure.unflatten([jax.ShapeDtypeStruct(*x) for x in leaves])
        found = []

        def trace():
            key = jax.random.key(0) if draws else None
            found.append(ask(cell, params, inputs, dtype, key))

        # Not even the key is computed: the default device may be one that only compiles.
        jax.eval_shape(trace)
        return found[0]

    memoized = memoize_by_cell(ask_of_types)

    def asked(request: Request | Run) -> Any:
        inputs = with_leading(request.inputs, 1, drop=2)
        params = jax.tree.map(_of_one_row, request.raw_params, is_leaf=_is_memory)
        leaves, structure = jax.tree.flatten((params, inputs))
        types = tuple((x.shape, cast_type(x.dtype, request.dtype)) for x in leaves)
        return memoized(request.cell, structure, types, request.dtype, request.key is not None)

    return asked


def _is_memory(x: object) -> bool:
    return isinstance(x, Memory)


def _of_one_row(x: Any) -> Any:
    """The types of params; a memory has rows, as the batch has."""
    if isinstance(x, Memory):
        return with_leading(x, 1)
    return jax.ShapeDtypeStruct(np.shape(x), jnp.result_type(x))


def cast_type(given: Any, dtype: DTypeLike) -> Any:
    """The dtype that a run of `dtype` casts an array of the dtype `given` to."""
    return dtype if jnp.issubdtype(given, jnp.floating) else given


def asks_split_cell(
    ask: Callable[[Probe], Any],
) -> Callable[[Request | Run], Any]:
    """`ask(probe)` about the staged cell of a request, or why it cannot be asked."""

    @asks_by_types
    def asked(cell, params, inputs, dtype, key):
        try:
            probe = _probe(cell, params, inputs, dtype, key)
        except COLLECTIVE_ERRORS:
            # `collectives` answers for such a cell, with the types of the request itself.
            return None
        except ERRORS as error:
            return f"the shapes of {type(cell).__name__} cannot be inferred: {error}"
        return probe if isinstance(probe, str) else ask(probe)

    return asked


def _probe(
    cell: StagedCell, params: Params, inputs: Inputs, dtype: DTypeLike, key: Key
) -> Probe | str:
    # The leaves that have rows have other shapes for two rows than for one.
    prepared = [_prepared(cell, params, key, rows) for rows in (1, 2)]
    one, two = ([x.shape for x in jax.tree.leaves(tree)] for tree in prepared)
    if one != two:
        return f"the result of {type(cell).__name__}.prepare has a batch axis"
    state = jax.eval_shape(lambda p: cell.start(p, (1,), dtype), params)
    split = SplitCell(cell, prepared[0])
    weights = jax.eval_shape(split.weights, prepared[0], inputs, state)
    return Probe(split, weights, inputs, state)


def _prepared(cell: Cell, params: Params, key: Key, rows: int) -> Any:
    prepare = functools.partial(cell.prepare, key=key, batch_shape=(rows,))
    return jax.eval_shape(prepare, params)


@asks_split_cell
def why_not_differentiable(probe: Probe) -> str | None:
    """What of a staged cell is not a floating array, or lacks rows, or `None`."""
    split, weights = probe.split, probe.weights
    projected = jax.eval_shape(split.project, weights, probe.inputs)
    output, _ = jax.eval_shape(split.step, weights, projected, probe.state)
    for what, tree in {"params": weights, "state": probe.state, "output": output}.items():
        for x in jax.tree.leaves(tree):
            if not jnp.issubdtype(x.dtype, jnp.floating):
                return f"the {what} of {probe.name} has {x.dtype}, which has no gradient"
            if what != "params" and x.shape[:1] != (1,):
                return f"the {what} of {probe.name} has an array without rows"
    return None


@asks_by_types
def output_types(cell: Cell, params: Params, inputs: Inputs, dtype: DTypeLike, key: Key) -> Any:
    """The output of one step of one row; `None` where it cannot be inferred."""

    def step(params, inputs):
        state = cell.start(params, (1,), dtype)
        params = cell.prepare(params, key=key, batch_shape=(1,))
        return cell.step(params, cell.project(params, inputs), state, key=key)[0]

    try:
        return jax.eval_shape(step, params, inputs)
    except (*ERRORS, *COLLECTIVE_ERRORS):
        return None


@asks_by_types
def inner_input_types(
    cell: Cell, params: Params, inputs: Inputs, dtype: DTypeLike, key: Key
) -> Any:
    """What the cell inside a wrapper receives of one row; `None` where it cannot be inferred."""
    around = cell.composition(key)
    assert isinstance(around, Around)

    def before(params, inputs):
        params = cell.prepare(params, key=key, batch_shape=(1,))
        return around.work_before(params, inputs, key)[0]

    try:
        return jax.eval_shape(before, params, inputs)
    except (*ERRORS, *COLLECTIVE_ERRORS):
        return None
