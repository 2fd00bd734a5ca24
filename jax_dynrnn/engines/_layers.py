"""A call taken apart: stacks layer by layer, and what wrappers do around the loop.

What is done here for all steps at once, `scan` does step by step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import as_cell
from .._tools import fold_in
from ..wrappers import MultiRNNCell
from ..wrappers._wrapper import AroundWrapper
from .call import Call, seen, select, valid_inputs

Run = Callable[[Call], tuple[Any, Any]]


def layers(call: Call) -> Iterator[Call]:
    """The calls of a stack's layers: their inputs and states are still those of the stack."""
    assert isinstance(call.cell, MultiRNNCell)
    for i, cell in enumerate(call.cell.cells):
        fold = functools.partial(fold_in, i=i)
        params = None if call.params is None else call.params[f"cell_{i}"]
        yield dataclasses.replace(
            call, cell=as_cell(cell), params=params, derive=(*call.derive, fold)
        )


def inside_loop(call: Call) -> str | None:
    """Why the wrapper that the call's cell is has work inside of the loop, or `None`."""
    return call.cell.inside_loop(call.key) if isinstance(call.cell, AroundWrapper) else None


def inside(call: Call) -> Call | None:
    """The call of the cell inside of a wrapper that can be taken off, its inputs not yet seen."""
    cell = call.cell
    if not isinstance(cell, AroundWrapper) or inside_loop(call) is not None:
        return None
    params = None if call.params is None else cell.cell_params(call.params)
    derive = (*call.derive, cell.cell_key)
    return dataclasses.replace(call, cell=cell.inner, params=params, derive=derive)


def run_apart(call: Call, run: Run, alone: Run) -> tuple[Any, Any]:
    """A stack layer by layer, or the cell inside of a wrapper, by `run`; another one by `alone`."""
    if isinstance(call.cell, MultiRNNCell):
        return _run_stack(call, run)
    if inside(call) is not None:
        return _run_inside(call, run)
    return alone(call)


def _run_stack(call: Call, run: Run) -> tuple[Any, Any]:
    """A `MultiRNNCell`, each layer by `run`."""
    outputs, states = call.inputs, []
    for i, layer in enumerate(layers(call)):
        outputs, state = run(
            dataclasses.replace(
                layer,
                inputs=outputs,
                initial_state=call.initial_state[i],
                start_state=call.start_state[i],
            )
        )
        states.append(state)
    return outputs, tuple(states)


def _run_inside(call: Call, run: Run) -> tuple[Any, Any]:
    """The cell inside of a wrapper by `run`, between what the wrapper does."""
    cell, within, is_valid = call.cell, inside(call), valid_inputs(call)
    assert isinstance(cell, AroundWrapper) and within is not None
    every = functools.partial(_every_step, call)
    # Nothing of the padding reaches the wrapper's gradients.
    inputs, kept = every(lambda x, key: cell.before(call.params, x, key), seen(call))
    outputs, state = run(dataclasses.replace(within, inputs=inputs))
    after = lambda x, key: cell.after(call.params, x[0], x[1], key)  # noqa: E731
    outputs = every(after, (kept, outputs))
    if is_valid is not None:
        outputs = select(is_valid, outputs, jax.tree.map(jnp.zeros_like, outputs))
    return outputs, state


def _every_step(call: Call, f: Callable, tree: Any) -> Any:
    """`f(x, key)` of all steps at once."""
    if call.key is None:
        return f(tree, None)
    steps = jnp.arange(call.time, dtype=jnp.int32)
    axis = call.time_axis
    return jax.vmap(lambda x, t: f(x, call.step_key(t)), (axis, 0), axis)(tree, steps)
