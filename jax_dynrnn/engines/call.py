"""One call of `dynamic_rnn`, as an engine gets it, and what every engine derives from it.

`B` is the batch size, `T` the number of time steps.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._cell import Cell
from .._tools import fold_in
from ..sequence import take_steps, valid_steps


@dataclasses.dataclass(frozen=True)
class Call:
    """What was asked for.

    In `unsupported` the arrays may be `jax.ShapeDtypeStruct`s and `initial_state` is
    `None` where it was not given. In `run` everything is there: `params` are cast and
    prepared, both states start states of the run, `inputs` cast.
    """

    cell: Cell
    params: Any
    inputs: Any
    """Pytree of `[B, T, ...]`, or `[T, B, ...]` where `time_axis` is 0."""
    initial_state: Any = None
    start_state: Any = None
    """What a reset goes back to."""
    lengths: Any = None
    """`None`, or int32 `[B]` in [0, T]."""
    mask: Any = None
    """`None`, or bool, laid out like the inputs."""
    resets: Any = None
    key: Any = None
    time_axis: int = 1
    reverse: bool = False
    dtype: Any = jnp.float32
    unroll: int = 1
    remat: Any = None
    derive: tuple[Callable, ...] = ()
    """What a step's key goes through: the cell may be inside of the one that has it."""

    def step_key(self, t: Any) -> Any:
        """The key of step `t`, or `None`."""
        key = fold_in(self.key, t)
        return functools.reduce(lambda key, derive: derive(key), self.derive, key)

    @property
    def time(self) -> Any:
        """`T`: an int, or a symbolic size."""
        return jax.tree.leaves(self.inputs)[0].shape[self.time_axis]

    @property
    def batch(self) -> Any:
        """`B`."""
        return jax.tree.leaves(self.inputs)[0].shape[1 - self.time_axis]


jax.tree_util.register_dataclass(
    Call,
    ["params", "inputs", "initial_state", "start_state", "lengths", "mask", "resets", "key"],
    ["cell", "time_axis", "reverse", "dtype", "unroll", "remat", "derive"],
)


NEUTRAL = 0.5
"""What the cell sees of a row without a valid step.

Its results are discarded, but not so a NaN in its derivatives (0 * NaN is NaN), which 0
gives to a norm, a root, a logarithm or a quotient.
"""


def valid(call: Call) -> jax.Array | None:
    """bool `[T, B]`: which steps are real; `None` where all are."""
    if call.lengths is None and call.mask is None:
        return None
    mask = call.mask
    if mask is not None and call.time_axis == 1:
        mask = mask.T
    return valid_steps(call.lengths, mask, call.batch, call.time, 0)


def resets(call: Call, valid: jax.Array | None) -> jax.Array | None:
    """bool `[T, B]`: before which steps the state goes back to the start state.

    True only at valid steps: what was flagged at steps that are not waits for the next
    one in the direction of travel.
    """
    if call.resets is None:
        return None
    flags = call.resets if call.time_axis == 0 else call.resets.T
    if call.reverse:  # the wall between t - 1 and t is met before step t - 1
        flags = jnp.concatenate([flags[1:], jnp.zeros_like(flags[:1])])
    if valid is None:
        return flags
    met = jax.lax.cumsum(flags.astype(jnp.int32), reverse=call.reverse)
    seen = jax.lax.cummax(jnp.where(valid, met, 0), reverse=call.reverse)
    none = jnp.zeros_like(seen[:1])
    before = [seen[1:], none] if call.reverse else [none, seen[:-1]]
    return valid & (met > jnp.concatenate(before))


def travelled(call: Call, valid: jax.Array | None) -> jax.Array | None:
    """bool `[T]`: the steps at which rank-0 leaves of the state move; `None`: at all.

    They move at each of the first `min(T, max(1, n))` steps taken, `n` steps leading up to
    the last valid one of any row: TF1's loop bound. A reversed run begins at the end of
    the longest row.
    """
    if valid is None:
        return None
    any_row = valid.any(1)
    steps = jnp.arange(call.time, dtype=jnp.int32)
    ends = jnp.where(any_row, steps, 0).max()
    if not call.reverse:
        return steps <= ends
    begin = call.time if call.lengths is None else call.lengths.max(initial=1)
    first = jnp.where(any_row, steps, begin - 1).min()
    return (steps < begin) & (steps >= first)


def first_valid(call: Call, valid: jax.Array | None) -> Any:
    """What the cell sees in place of padding: `[B, ...]`, each row's first valid step.

    It is a constant for differentiation: nothing of a padded step reaches a result. A row
    without a valid step gets `NEUTRAL`.
    """
    if valid is None:
        return None
    found = valid.any(0) if call.mask is not None else call.lengths > 0
    index = jnp.expand_dims(jnp.argmax(valid, 0), call.time_axis)

    def take(x):
        if call.mask is None:  # it is at t = 0
            step = jax.lax.index_in_dim(x, 0, call.time_axis, keepdims=False)
        else:
            step = take_steps(x, index, call.time_axis).squeeze(call.time_axis)
        neutral = NEUTRAL if jnp.issubdtype(step.dtype, jnp.floating) else 0
        step = jnp.where(rows(found, step), step, jnp.full_like(step, neutral))
        return jax.lax.stop_gradient(step)

    return jax.tree.map(take, call.inputs)


def valid_inputs(call: Call) -> jax.Array | None:
    """What `valid` is, laid out like the inputs."""
    flags = valid(call)
    return flags.T if flags is not None and call.time_axis == 1 else flags


def seen(call: Call) -> Any:
    """The inputs with each row's first valid step in place of its padding."""
    flags, padding = valid_inputs(call), first_valid(call, valid(call))
    if flags is None:
        return call.inputs
    padding = jax.tree.map(lambda x: jnp.expand_dims(x, call.time_axis), padding)
    return select(flags, call.inputs, padding)


def rows(flags: jax.Array, like: jax.Array) -> jax.Array:
    """Flags, `[B]` say, with the rank of `like` `[B, ...]`."""
    return jnp.expand_dims(flags, tuple(range(flags.ndim, like.ndim)))


def select(flags: jax.Array, yes: Any, no: Any) -> Any:
    """Row by row `yes` where `flags`, else `no`; its axes are the first of every leaf."""
    return jax.tree.map(lambda y, n: jnp.where(rows(flags, y), y, n), yes, no)


def varying(tree: Any) -> frozenset:
    """The mesh axes of `jax.shard_map` that anything in `tree` varies over."""
    types = [jax.typeof(x) for x in jax.tree.leaves(tree)]
    return frozenset().union(*(t.manual_axis_type.varying for t in types))


def spread(x: jax.Array, axes: frozenset) -> jax.Array:
    """`x` as varying over all `axes`."""
    missing = tuple(axes - jax.typeof(x).manual_axis_type.varying)
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def zeros(call: Call, shape: tuple, dtype: Any) -> jax.Array:
    """Zeros that vary over the mesh axes that the arrays of the call do."""
    return spread(jnp.zeros(shape, dtype), varying(call))


def explicit(call: Call) -> bool:
    """Whether an array lies on a mesh of explicit axes, or one is set."""
    arrays = [x for x in jax.tree.leaves(call) if isinstance(x, jax.Array)]
    meshes = [jax.typeof(x).sharding.mesh for x in arrays] + [jax.sharding.get_abstract_mesh()]
    return any(m is not None and jax.sharding.AxisType.Explicit in m.axis_types for m in meshes)


def partly_by_hand() -> str | None:
    """Why parts of cells cannot be traced here: inside of a `jax.shard_map` over some axes."""
    types = {*jax.sharding.get_abstract_mesh().axis_types}
    if jax.sharding.AxisType.Manual in types and len(types) > 1:
        return "it knows no jax.shard_map over some of the axes of a mesh"
    return None


def platform() -> str:
    """Of the device that what is traced now runs on, if nothing else is said later."""
    device = jax.config.jax_default_device  # pyright: ignore
    return getattr(device, "platform", device) or jax.default_backend()
