"""The fast engine of plain JAX: little work on padding, weight gradients outside of the loop."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import StagedCell
from ..wrappers import MultiRNNCell
from . import scan
from ._layers import inside, layers, run_inside, run_stack
from ._parts import Parts
from ._passes import backward, forward
from ._rule import differentiable
from ._spmd import NONE, SUM, by_rows, one_at_a_time
from .call import Call, spread, varying


def unsupported(call: Call) -> str | None:
    """Why it cannot run `call`, or `None`."""
    if not (isinstance(call.time, int) and isinstance(call.batch, int)):
        return "it cuts time and batch into blocks: their sizes must be known, not symbolic"
    if any(_explicit(x) for x in jax.tree.leaves(call)):
        return "it takes rows out of their order, which a mesh of explicit axes does not allow"
    return _unknown(dataclasses.replace(call, params=None))  # which nobody has checked yet


def _unknown(call: Call) -> str | None:
    """Why the step of the cell cannot be taken apart, or `None`."""
    cell, within = call.cell, inside(call)
    if isinstance(cell, MultiRNNCell):  # what it cannot do of a stack, `scan` does
        found = [_unknown(layer) for layer in layers(call)]
        return None if None in found else f"no layer of the stack can be run by it: {found[0]}"
    if within is not None:
        return _unknown(within)
    if not isinstance(cell, StagedCell):
        return f"the step of {type(cell).__name__} is not known as arithmetic between matmuls"
    if call.key is not None and type(cell).step is not StagedCell.step:
        return f"the step of {type(cell).__name__} draws random numbers"
    return None


def _explicit(x: Any) -> bool:
    """Whether an array lies on a mesh of explicit axes."""
    mesh = jax.typeof(x).sharding.mesh if isinstance(x, jax.Array) else None
    return mesh is not None and jax.sharding.AxisType.Explicit in mesh.axis_types


def run(call: Call) -> tuple[Any, Any]:
    """Runs the cell -> `(outputs, final_state)`."""
    if call.time == 0 or call.batch == 0 or _unknown(call) is not None:
        return scan.run(call)
    if isinstance(call.cell, MultiRNNCell):
        return run_stack(call, run)
    if inside(call) is not None:
        return run_inside(call, run)
    return _run_cell(call)


def _run_cell(call: Call) -> tuple[Any, Any]:
    parts, call = _in_parts(call)
    leaves, structure = jax.tree.flatten(call)
    places = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]

    def whole(x, given):
        both = [*given]
        for i, leaf in zip(places, x, strict=True):
            both.insert(i, leaf)
        return structure.unflatten(both)

    plain, keeping, transposed = _passes(parts, call)
    f = differentiable(
        reference=lambda x, given: scan.run(whole(x, given)),
        plain=lambda x, given: plain(whole(x, given)),
        forward=lambda x, given: keeping(whole(x, given)),
        backward=lambda x, given, *more: jax.tree.leaves(transposed(whole(x, given), *more)),
        offload=call.remat == "offload",
    )
    return f([leaves[i] for i in places], [x for i, x in enumerate(leaves) if i not in places])


def _in_parts(call: Call) -> tuple[Parts, Call]:
    """The call with a cell of `Weights`, all arrays varying over the same mesh axes."""
    axes = varying(call)
    call = jax.tree.map(lambda x: spread(x, axes), dataclasses.replace(call, key=None))
    parts = Parts(call.cell, call.params)
    row = jax.tree.map(lambda x: x[:1, 0], call.inputs)
    state = jax.tree.map(lambda s: s[:1], call.initial_state)
    weights = parts.weights(call.params, row, state)
    return parts, dataclasses.replace(call, cell=parts, params=weights)


def _passes(parts: Parts, call: Call) -> tuple[Any, Any, Any]:
    """Both passes, as `vmap` and a batch spread over devices should take them."""

    def plain(call):
        return forward(parts, call, keep=False)[0]

    def keeping(call):
        return forward(parts, call, keep=True)

    def transposed(call, kept, cotangents):
        return backward(parts, call, kept, cotangents)

    if varying(call):  # inside of `jax.shard_map` each device has its rows already
        return tuple(map(one_at_a_time, (plain, keeping, transposed)))
    steps, every = 1 - call.time_axis, lambda axis, tree: jax.tree.map(lambda _: axis, tree)
    own = dataclasses.replace(
        every(0, call),
        params=every(NONE, call.params),
        **{name: every(steps, getattr(call, name)) for name in ("inputs", "mask", "resets")},
    )
    result = lambda y: (every(steps, y[0]), every(0, y[1]))  # noqa: E731
    y, kept = jax.eval_shape(keeping, call)
    gradients = lambda g: (every(SUM, g[0]), every(steps, g[1]), every(0, g[2:]))  # noqa: E731
    return (
        one_at_a_time(by_rows(plain, (own,), result)),
        one_at_a_time(by_rows(keeping, (own,), lambda y: (result(y[0]), every(1, y[1])))),
        one_at_a_time(by_rows(transposed, (own, every(1, kept), result(y)), gradients)),
    )
