"""The reference engine: a plain `lax.scan` with masks, for every cell.

It is the specification: every other engine is defined as equal to it. `B` is the batch
size, `T` the number of time steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from .._types import Inputs, Outputs, PyTree, State
from .devices import explicit_axes_remain, pcast, typed_as_results, varying_axes
from .engine import Engine
from .exporters import exporter
from .hoist import hoist
from .masks import expand_like, select
from .request import Request, Run
from .types import with_leading

CARRIED = "jax_dynrnn_state"
"""The name under which `remat="offload"` finds the carried state."""


class Scan(Engine):
    """The reference engine."""

    name = "scan"
    is_exported = True

    def unsupported(self, request: Request) -> str | None:
        """Why it cannot run `request`: it can run every one."""
        del request
        return None

    def slower_because(self, request: Request) -> str | None:
        """Nothing: it is chosen where every other engine has a reason against it."""
        del request
        return None

    def run(self, run: Run) -> tuple[Any, Any]:
        """Runs the cell -> `(outputs, final_state)`."""
        return run_scan(run)


def run_scan(run: Run) -> tuple[Any, Any]:
    """Runs the cell, step by step -> `(outputs, final_state)`."""
    # The carry of a scan has one type from the start: in `jax.shard_map` it varies over every mesh
    # axis that anything in the run does. Params that did not would have their gradients summed over
    # devices at every step.
    run = jax.tree.map(functools.partial(pcast, axes=varying_axes(run)), run)
    xs = {
        # Not `jnp.arange`, which jax2onnx cannot export with a symbolic number of steps.
        "t": jax.lax.iota(jnp.int32, run.time),
        "inputs": _to_time_major(run.inputs, run.time_axis),
        "valid": run.masks.valid,
        "resets": run.masks.resets,
        "scalar_update_steps": run.masks.scalar_update_steps,
    }
    state = run.initial_state
    step = _step(run, _cell_step(run, state, xs))
    if isinstance(run.time, int) and run.time == 0:
        outputs = _no_outputs(step, state, xs)
    else:
        if explicit_axes_remain():
            first = jax.tree.map(lambda x: x[0], xs)
            state = typed_as_results(lambda state: step(state, first)[0], state)
        state, outputs = _loop(run, step, state, xs)
    return _from_time_major(outputs, run.time_axis), state


def _cell_step(run: Run, state: State, xs: PyTree) -> Callable[..., Any]:
    """`(inputs, state, t) -> (output, new_state)`, without what depends on the params alone.

    XLA leaves slices of kernels in the loop: with few rows they cost more than the matmuls do.
    """

    def step(params, inputs, state, t):
        projected = run.cell.project(params, inputs)
        return run.cell.step(params, projected, state, key=run.step_key(t))

    # With jit disabled a user debugs the cell's own Python, not a jaxpr of it.
    traces_as_written = jax.config.jax_disable_jit or explicit_axes_remain()  # pyright: ignore
    if not run.has_known_sizes or run.time == 0 or traces_as_written:
        return functools.partial(step, run.params)
    take_first = functools.partial(jax.lax.index_in_dim, index=0, keepdims=False)
    first = jax.tree.map(take_first, xs["inputs"])
    invariants, rest = hoist(step, run.params, first, state, xs["t"][0])
    return functools.partial(rest, invariants(run.params))


def _step(run: Run, cell_step: Callable[..., Any]) -> Callable[..., Any]:
    """The body of the loop: one time step of the whole batch."""

    def step(state, x):
        valid, updates = x["valid"], x["scalar_update_steps"]
        inputs = x["inputs"]
        if run.padding is not None:
            inputs = select(valid, inputs, run.padding)
        if x["resets"] is not None:
            state = _select(x["resets"], run.start_state, state)
        output, new = cell_step(inputs, state, x["t"])
        output = _select(valid, output, jax.tree.map(jnp.zeros_like, output), updates)
        return _select(valid, new, state, updates), output

    return step


def _select(
    flags: jax.Array | None, yes: PyTree, no: PyTree, updates: jax.Array | None = None
) -> Any:
    """Row by row `yes` where `flags` `[B]`, else `no`; a rank-0 leaf where `updates`."""
    if flags is None:
        return yes

    def select_leaf(y, n):
        if y.ndim == 0:
            return n if updates is None else jnp.where(updates, y, n)
        return jnp.where(expand_like(flags, y), y, n)

    return jax.tree.map(select_leaf, yes, no)


def _loop(run: Run, step: Callable[..., Any], state: State, xs: PyTree) -> tuple[Any, Any]:
    """Scans all steps, keeping for the backward pass what `remat` says."""
    # An unknown number of steps can neither be unrolled nor cut into chunks.
    symbolic = not isinstance(run.time, int)
    unroll = 1 if symbolic else run.unroll
    scan = functools.partial(_scan, unroll=unroll, reverse=run.reverse)
    if run.remat == "offload":
        return scan(_offloaded(step), state, xs)
    if run.remat is None or symbolic:
        return scan(step, state, xs)
    assert run.remat_steps is not None
    # Inside a scan XLA cannot undo the recomputation, which `prevent_cse` is for.
    chunk = jax.checkpoint(functools.partial(scan, step), prevent_cse=False)
    return _chunked(chunk, state, xs, run.time, run.remat_steps, run.reverse)


def _scan(
    step: Callable[..., Any], state: State, xs: PyTree, *, reverse: bool, unroll: int = 1
) -> tuple[Any, Any]:
    """`lax.scan`; as ONNX has forward loops only, a reversed one scans flipped steps there."""
    if not reverse or exporter() != "jax2onnx":
        return jax.lax.scan(step, state, xs, reverse=reverse, unroll=unroll)
    state, ys = jax.lax.scan(step, state, jax.tree.map(jnp.flipud, xs), unroll=unroll)
    return state, jax.tree.map(jnp.flipud, ys)


def _chunked(
    chunk: Callable[..., Any], state: State, xs: PyTree, time: int, size: int, reverse: bool
) -> tuple[Any, Any]:
    """Scans `chunk` over chunks of `size` steps; the remainder is a shorter chunk."""
    full = time - time % size

    def split(x):
        return x[:full].reshape(full // size, size, *x.shape[1:])

    def merge(y):
        return y.reshape(full, *y.shape[2:])

    def remainder(x):
        return x[full:]

    def run_whole_chunks(state):
        state, ys = _scan(chunk, state, jax.tree.map(split, xs), reverse=reverse)
        return state, jax.tree.map(merge, ys)

    def run_remainder(state):
        return chunk(state, jax.tree.map(remainder, xs))

    def join(first, last):
        return jnp.concatenate([first, last])

    if full == time:
        return run_whole_chunks(state)
    if full == 0:
        return run_remainder(state)
    if reverse:  # the remainder is last in time, and so is run first
        state, last = run_remainder(state)
        state, first = run_whole_chunks(state)
    else:
        state, first = run_whole_chunks(state)
        state, last = run_remainder(state)
    return state, jax.tree.map(join, first, last)


def _offloaded(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step` whose carried state waits in host memory, all else being recomputed."""
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[CARRIED],
        offload_src="device",
        offload_dst="pinned_host",
    )

    def named(state, x):
        return step(jax.tree.map(lambda s: checkpoint_name(s, CARRIED), state), x)

    return jax.checkpoint(named, policy=policy, prevent_cse=False)


def _no_outputs(step: Callable[..., Any], state: State, xs: PyTree) -> Any:
    """The outputs of no steps at all, `[0, B, ...]`."""
    outputs = jax.eval_shape(step, state, with_leading(xs, drop=1))[1]
    return jax.tree.map(lambda y: jnp.zeros((0, *y.shape), y.dtype), outputs)


def _to_time_major(inputs: Inputs, time_axis: int) -> Inputs:
    return jax.tree.map(functools.partial(jnp.moveaxis, source=time_axis, destination=0), inputs)


def _from_time_major(outputs: Outputs, time_axis: int) -> Outputs:
    def move(y):
        return y if y.ndim == 1 else jnp.moveaxis(y, 0, time_axis)  # rank 0 at each step

    return jax.tree.map(move, outputs)
