"""Runs a split cell by the two passes of an engine: differentiable and mappable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..request import Run
from ..scan import run_scan
from .batching import sequential_under_vmap
from .linearize import Passes, differentiable
from .split_cell import SplitCell, closes_over_arrays, split_run

Result = tuple[Any, Any]


@dataclasses.dataclass(frozen=True)
class EnginePasses:
    """What an engine has for a split cell; the params of their runs are its `Weights`."""

    forward: Callable[[SplitCell, Run], tuple[Result, Any]]
    """`((outputs, final_state), residuals)`."""
    backward: Callable[[SplitCell, Run, Any, Any], tuple[Any, Any, Any, Any]]
    """`(split, run, residuals, cotangents of the results)` -> the cotangents of the params, the
    inputs, the initial and the start state."""
    primal: Callable[[SplitCell, Run], Result]
    """`(outputs, final_state)`, where no derivative is asked for."""
    has_dynamic_loops: bool
    """Whether there are loops with data-dependent trip counts."""


def run_passes(run: Run, engine: EnginePasses) -> Result:
    """Runs the cell -> `(outputs, final_state)`."""
    if closes_over_arrays(run):
        return run_scan(run)
    split, run = split_run(run)
    offload = run.remat == "offload"
    x, constants = _partition(run)

    def forward(run):
        return engine.forward(split, run)

    def backward(run, residuals, cotangents):
        return engine.backward(split, run, residuals, cotangents)

    def primal(run):
        return engine.primal(split, run)

    if engine.has_dynamic_loops:
        primal = sequential_under_vmap(primal, run_scan)
        forward, backward = map(sequential_under_vmap, (forward, backward))
    passes = Passes(
        reference=_on_combined(run_scan),
        primal=_on_combined(primal),
        forward=_on_combined(forward),
        backward=_on_combined(backward),
        offload=offload,
    )
    return differentiable(passes)(x, constants)


def _on_combined(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f(run, ...)` as a function of `(x, constants, ...)`, which `_partition` splits a run
    into."""

    def of_parts(x, constants, *more):
        return f(_combine(x, constants), *more)

    return of_parts


def _partition(run: Run) -> tuple[Any, Run]:
    """What of a run is differentiated: params, floating inputs, states; and the run without it."""
    leaves, structure = jax.tree.flatten(run.inputs)
    floating = [x if _is_floating(x) else None for x in leaves]
    others = [None if _is_floating(x) else x for x in leaves]
    inputs, others = structure.unflatten(floating), structure.unflatten(others)
    x = run.params, inputs, run.initial_state, run.start_state
    rest = dataclasses.replace(
        run, params=None, inputs=others, initial_state=None, start_state=None
    )
    return x, rest


def _combine(x: Any, rest: Run) -> Run:
    params, inputs, initial_state, start_state = x
    inputs = jax.tree.map(_either, inputs, rest.inputs, is_leaf=_is_none)
    return dataclasses.replace(
        rest, params=params, inputs=inputs, initial_state=initial_state, start_state=start_state
    )


def _either(x: Any, other: Any) -> Any:
    return other if x is None else x


def _is_none(x: object) -> bool:
    return x is None


def _is_floating(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
