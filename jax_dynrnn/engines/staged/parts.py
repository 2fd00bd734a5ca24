"""A stack run layer by layer, and a wrapper as the cell inside it with work before and after.

What is done here for all steps at once, `scan` does step by step.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ..._cell import Cell, StagedCell, separable
from ..._composition import Around, Stacked
from ..._tools import fold_in
from ..._types import PyTree
from ..masks import zero_where_invalid
from ..request import Request, Run
from ..types import with_leading
from .probe import ERRORS, inner_input_types, output_types, why_not_differentiable

Result = tuple[Any, Any]


def innermost(request: Request) -> Iterator[Request]:
    """The requests of the cells that are run one by one: those inside, or the cell itself.

    Their inputs are types of one step of one row, as far as they can be inferred.
    """
    composition = separable(request.cell, request.key)
    if isinstance(composition, Stacked):
        inputs = request.inputs
        for cell, params_of, derive_key in _layers(composition):
            layer = _inner_request(request, cell, params_of, derive_key)
            layer = dataclasses.replace(layer, inputs=inputs)
            yield from innermost(layer)
            inputs = _as_steps(output_types(layer), inputs)
    elif isinstance(composition, Around):
        inputs = _as_steps(inner_input_types(request), request.inputs)
        inner = _inner_request(request, *_inside(composition))
        yield from innermost(dataclasses.replace(inner, inputs=inputs))
    else:
        yield request


def is_stack(request: Request) -> bool:
    """Whether its cell, or the one inside its wrappers, is a stack."""
    composition = separable(request.cell, request.key)
    if isinstance(composition, Around):
        return is_stack(_inner_request(request, *_inside(composition)))
    return isinstance(composition, Stacked)


def why_not_separable(request: Request | Run) -> str | None:
    """Why a wrapper has to be run as a whole, or `None`."""
    composition = request.cell.composition(request.key)
    if composition is None or composition.why_not_separable is None:
        return None
    return f"{type(request.cell).__name__} cannot be decomposed: {composition.why_not_separable}"


def run_apart(
    run: Run, run_part: Callable[[Run], Result], run_whole: Callable[[Run], Result]
) -> Result:
    """The cells inside a stack or wrapper by `run_part`, any other cell by `run_whole`."""
    composition = separable(run.cell, run.key)
    if isinstance(composition, Stacked):
        return _run_stack(run, composition, run_part)
    if isinstance(composition, Around):
        return _run_around(run, composition, run_part)
    return run_whole(run)


def _run_stack(run: Run, stack: Stacked, run_part: Callable[[Run], Result]) -> Result:
    """Each layer by `run_part`."""
    outputs, states = run.inputs, []
    initial, start = stack.states(run.initial_state), stack.states(run.start_state)
    for of_layer, initial_state, start_state in zip(_layers(stack), initial, start, strict=True):
        layer = _inner_run(run, *of_layer)
        layer = dataclasses.replace(layer, initial_state=initial_state, start_state=start_state)
        outputs, state = run_part(layer.with_inputs(outputs))
        states.append(state)
    return outputs, tuple(states)


def _run_around(run: Run, around: Around, run_part: Callable[[Run], Result]) -> Result:
    """The cell inside by `run_part`, between the work of the wrapper for all steps."""

    def before(inputs, key):
        return around.work_before(run.params, inputs, key)

    def after(saved_output, key):
        saved, output = saved_output
        return around.work_after(run.params, saved, output, key)

    # With the padding replaced, nothing of it reaches the wrapper's gradients.
    cell_inputs, saved = _for_every_step(run, before, run.masked_inputs())
    inner = _inner_run(run, *_inside(around))
    outputs, state = run_part(inner.with_inputs(cell_inputs))
    outputs = _for_every_step(run, after, (saved, outputs))
    # The work after a step may give other values than 0 for outputs of 0.
    return zero_where_invalid(run.valid_like_inputs(), outputs), state


def _for_every_step(run: Run, f: Callable[..., Any], tree: PyTree) -> Any:
    """`f(x, key)` of all steps."""
    if run.key is None:
        return f(tree, None)
    steps = jnp.arange(run.time, dtype=jnp.int32)
    axis = run.time_axis
    return jax.vmap(lambda x, t: f(x, run.step_key(t)), (axis, 0), axis)(tree, steps)


def _layers(stack: Stacked) -> Iterator[tuple[Any, Callable[..., Any], Callable[..., Any]]]:
    """Each layer's cell, and the functions that return its params and its key."""
    for i, (name, cell) in enumerate(stack.cells.items()):
        yield cell, operator.itemgetter(name), functools.partial(fold_in, i=i)


def _inside(around: Around) -> tuple[Any, Callable[..., Any], Callable[..., Any]]:
    """The cell inside a wrapper, and the functions that return its params and its key."""
    return around.cell, around.inner_params, around.inner_key


def _inner_run(
    run: Run, cell: Cell, params_of: Callable[..., Any], derive_key: Callable[..., Any]
) -> Run:
    """The run of a cell inside that of `run`."""
    return dataclasses.replace(
        run,
        cell=cell,
        params=params_of(run.params),
        raw_params=params_of(run.raw_params),
        key_derivations=(*run.key_derivations, derive_key),
    )


def _inner_request(
    request: Request, cell: Cell, params_of: Callable[..., Any], derive_key: Callable[..., Any]
) -> Request:
    """The request of a cell inside that of `request`."""
    try:
        params = params_of(request.params)
    except ERRORS:  # they have not been checked
        params = None
    derivations = (*request.key_derivations, derive_key)
    return dataclasses.replace(request, cell=cell, params=params, key_derivations=derivations)


def _as_steps(types: Any, otherwise: Any) -> Any:
    """Types of one row as inputs `[1, 1, ...]`; `otherwise` where they could not be inferred."""
    if types is None:
        return otherwise
    return with_leading(types, 1, 1)


def why_not_split(part: Request | Run) -> str | None:
    """Why a cell that is run as a whole cannot be split into matmuls and arithmetic, or `None`."""
    cell = part.cell
    if (reason := why_not_separable(part)) is not None:
        return reason
    if not isinstance(cell, StagedCell):
        return f"the step of {type(cell).__name__} is not known as arithmetic between matmuls"
    if part.key is not None and type(cell).step is not StagedCell.step:
        return f"the step of {type(cell).__name__} draws random numbers"
    return why_not_differentiable(part)
