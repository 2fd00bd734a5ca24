"""The reference engine: a plain `lax.scan` with masks, for every cell.

It is the specification: every other engine is defined as equal to it. `B` is the batch
size, `T` the number of time steps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ._hoist import hoist
from .call import Call, explicit, first_valid, resets, rows, spread, travelled, valid, varying

CARRIED = "jax_dynrnn_state"
"""The name under which `remat="offload"` finds the carried state."""


def unsupported(call: Call) -> str | None:
    """Why it cannot run `call`: it can run every one."""
    del call
    return None


def run(call: Call) -> tuple[Any, Any]:
    """Runs the cell -> `(outputs, final_state)`."""
    empty = isinstance(call.time, int) and call.time == 0
    is_valid = None if empty else valid(call)
    xs = {
        "t": jnp.arange(call.time, dtype=jnp.int32),
        "inputs": jax.tree.map(lambda x: jnp.moveaxis(x, call.time_axis, 0), call.inputs),
        "valid": is_valid,
        "reset": resets(call, is_valid),
        "travelled": travelled(call, is_valid),
    }
    state = _distributed(call)
    step = _step(call, _cell_step(call, state, xs), first_valid(call, is_valid))
    if empty:
        outputs = _no_outputs(step, state, xs)
    else:
        state, outputs = _loop(call, step, state, xs)
    return jax.tree.map(lambda y: _from_time_major(y, call), outputs), state


def _cell_step(call: Call, state: Any, xs: Any) -> Callable:
    """`(inputs, state, t) -> (output, new_state)`, all that needs the params alone being known.

    XLA leaves slices of kernels in the loop: with few rows they cost more than the matmuls do.
    """

    def step(params, inputs, state, t):
        projected = call.cell.project(params, inputs)
        return call.cell.step(params, projected, state, key=call.step_key(t))

    known_size = isinstance(call.time, int) and isinstance(call.batch, int)
    as_written = jax.config.jax_disable_jit or explicit(call)  # pyright: ignore
    if not known_size or call.time == 0 or as_written:
        return functools.partial(step, call.params)
    first = jax.tree.map(lambda x: jax.lax.index_in_dim(x, 0, keepdims=False), xs["inputs"])
    once, rest = hoist(step, call.params, first, state, xs["t"][0])
    return functools.partial(rest, once(call.params))


def _step(call: Call, cell_step: Callable, padding: Any) -> Callable:
    """The body of the loop: one time step of the whole batch."""

    def step(state, x):
        valid, ticks = x["valid"], x["travelled"]
        inputs = _select(valid, x["inputs"], padding)
        state = _select(x["reset"], call.start_state, state) if x["reset"] is not None else state
        output, new = cell_step(inputs, state, x["t"])
        output = _select(valid, output, jax.tree.map(jnp.zeros_like, output), ticks)
        return _select(valid, new, state, ticks), output

    return step


def _select(flags: jax.Array | None, yes: Any, no: Any, ticks: jax.Array | None = None) -> Any:
    """Row by row `yes` where `flags` `[B]`, else `no`; a rank-0 leaf where `ticks`."""
    if flags is None:
        return yes

    def select(y, n):
        if y.ndim == 0:
            return n if ticks is None else jnp.where(ticks, y, n)
        return jnp.where(rows(flags, y), y, n)

    return jax.tree.map(select, yes, no)


def _loop(call: Call, step: Callable, state: Any, xs: Any) -> tuple[Any, Any]:
    """Scans all steps, keeping for the backward pass what `remat` says."""
    symbolic = not isinstance(call.time, int)
    unroll = 1 if symbolic else call.unroll
    scan = functools.partial(jax.lax.scan, unroll=unroll, reverse=call.reverse)
    if call.remat == "offload":
        return scan(_offloaded(step), state, xs)
    if call.remat is None or symbolic:
        return scan(step, state, xs)
    size = math.isqrt(call.time - 1) + 1 if call.remat == "sqrt" else call.remat
    chunk = jax.checkpoint(functools.partial(scan, step), prevent_cse=False)
    return _chunked(chunk, state, xs, call.time, size, call.reverse)


def _chunked(
    chunk: Callable, state: Any, xs: Any, time: int, size: int, reverse: bool
) -> tuple[Any, Any]:
    """Scans `chunk` over chunks of `size` steps; the remainder is a shorter chunk."""
    whole = time - time % size
    split = jax.tree.map(lambda x: x[:whole].reshape(whole // size, size, *x.shape[1:]), xs)
    rest = jax.tree.map(lambda x: x[whole:], xs)
    outputs = {}
    for part in ("rest", "split") if reverse else ("split", "rest"):
        if part == "split" and whole:
            state, y = jax.lax.scan(chunk, state, split, reverse=reverse)
            outputs[part] = jax.tree.map(lambda y: y.reshape(whole, *y.shape[2:]), y)
        elif part == "rest" and whole < time:
            state, outputs[part] = chunk(state, rest)
    parts = [outputs[part] for part in ("split", "rest") if part in outputs]
    return state, jax.tree.map(lambda *y: jnp.concatenate(y), *parts)


def _offloaded(step: Callable) -> Callable:
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


def _no_outputs(step: Callable, state: Any, xs: Any) -> Any:
    """The outputs of no steps at all, `[0, B, ...]`."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    outputs = jax.eval_shape(step, state, one)[1]
    return jax.tree.map(lambda y: jnp.zeros((0, *y.shape), y.dtype), outputs)


def _from_time_major(y: jax.Array, call: Call) -> jax.Array:
    return y if y.ndim == 1 else jnp.moveaxis(y, 0, call.time_axis)


def _distributed(call: Call) -> Any:
    """The initial state, spread over the devices as the carry of the loop will be.

    The carry of a scan has one type from the start: inside `jax.shard_map` it varies over
    every mesh axis that anything in `call` does, and on a mesh of explicit axes its rows lie
    where the rows of the inputs do (else they would be gathered at every step).
    """
    axes, inputs = varying(call), jax.typeof(jax.tree.leaves(call.inputs)[0]).sharding
    rows = (*inputs.spec, None, None)[1 - call.time_axis]

    def distribute(x):
        x = spread(x, axes)
        if x.ndim == 0 or rows is None:
            return x
        spec = jax.sharding.PartitionSpec(rows, *(None,) * (x.ndim - 1))
        return jax.reshard(x, jax.sharding.NamedSharding(inputs.mesh, spec))

    return jax.tree.map(distribute, call.initial_state)
