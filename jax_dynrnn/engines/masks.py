"""Which steps of a padded batch are valid, and what follows from it: computed once for each run.

Masks are time-major: `T` is the number of time steps, `B` the batch size.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .._types import Inputs, PyTree
from ..sequence import take_steps, valid_steps

NEUTRAL_INPUT = 0.5
"""What the cell receives in a row without a valid step.

Its results are discarded, but a NaN in its derivatives would not be (0 * NaN is NaN): a norm, a
root, a logarithm or a quotient has one at 0.
"""


@dataclasses.dataclass(frozen=True)
class Masks:
    """The masks of a run; all are `None` where every step is valid and no state is reset."""

    valid: jax.Array | None = None
    """bool `[T, B]`."""
    lengths: jax.Array | None = None
    """int32 `[B]`: the steps of each row up to its last valid one."""
    first: jax.Array | None = None
    """int32 `[B]`: the first valid step of each row, 0 in a row without one; `None` where it is
    step 0 in every row that has one."""
    resets: jax.Array | None = None
    """bool `[T, B]`: the steps before which the state goes back to the start state. True only at
    valid steps: a reset at an invalid step takes effect at the next valid one."""
    scalar_update_steps: jax.Array | None = None
    """bool `[T]`: the steps at which rank-0 leaves of the state are updated; `None` where there
    are no such leaves, or where they are updated at every step."""

    @classmethod
    def of(cls, request: Any, has_scalars: bool) -> Masks:
        """Those of a request; `has_scalars`: whether a leaf of the state or output has rank 0."""
        time, batch, reverse = request.time, request.batch, request.reverse
        if isinstance(time, int) and time == 0:
            return cls()
        mask, resets = (
            flags if flags is None or request.time_axis == 0 else flags.T
            for flags in (request.mask, request.resets)
        )
        if request.lengths is None and mask is None:
            return cls(resets=None if resets is None else _between_steps(resets, reverse))
        valid = valid_steps(request.lengths, mask, batch, time, 0)
        lengths, first = request.lengths, None
        if mask is not None:
            steps = 1 + jax.lax.iota(jnp.int32, time)
            lengths = jnp.where(valid, steps[:, None], 0).max(0)
            first = jnp.argmax(valid, 0).astype(jnp.int32)
        return cls(
            valid=valid,
            lengths=lengths,
            first=first,
            resets=None if resets is None else _at_valid_steps(resets, valid, reverse),
            scalar_update_steps=_scalar_update_steps(request, valid) if has_scalars else None,
        )

    @property
    def may_have_gaps(self) -> bool:
        """Whether a valid step may follow an invalid one."""
        return self.first is not None


jax.tree_util.register_dataclass(
    Masks, ["valid", "lengths", "first", "resets", "scalar_update_steps"], []
)


def _between_steps(resets: jax.Array, reverse: bool) -> jax.Array:
    """The flags at the steps that follow each reset, in the direction of the run.

    A flag at t is a reset between steps t - 1 and t: a reversed run comes to it before step t - 1.
    """
    if not reverse:
        return resets
    return jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])


def _at_valid_steps(resets: jax.Array, valid: jax.Array, reverse: bool) -> jax.Array:
    """The flags moved to the next valid step in the direction of the run."""
    flags = _between_steps(resets, reverse)
    # A valid step has a reset before it if more have come up to it than up to the last valid step.
    count = jax.lax.cumsum(flags.astype(jnp.int32), reverse=reverse)
    at_last_valid = jax.lax.cummax(jnp.where(valid, count, 0), reverse=reverse)
    none = jnp.zeros_like(count[:1])
    before = [at_last_valid[1:], none] if reverse else [none, at_last_valid[:-1]]
    return valid & (count > jnp.concatenate(before))


def _scalar_update_steps(request: Any, valid: jax.Array) -> jax.Array:
    """TF1's loop bound: the first `min(T, max(1, n))` steps taken, where step n is the last valid
    one of any row. A reversed run begins at the end of the longest row.
    """
    any_row = valid.any(1)
    if request.row_axes:  # the rows of all devices
        any_row = jax.lax.pmax(any_row.astype(jnp.int32), request.row_axes) > 0
    steps = jax.lax.iota(jnp.int32, request.time)
    if not request.reverse:
        return steps <= jnp.where(any_row, steps, 0).max()
    end = request.time
    if request.lengths is not None:
        end = request.lengths.max(initial=1)
        end = jax.lax.pmax(end, request.row_axes) if request.row_axes else end
    last_taken = jnp.where(any_row, steps, end - 1).min()
    return (steps < end) & (steps >= last_taken)


def first_valid_step(masks: Masks, inputs: Inputs, time_axis: int) -> Any:
    """Each row's first valid step, `[B, ...]`; `None` where all steps are valid.

    It is a constant for differentiation: nothing of an invalid step reaches a result. A row
    without a valid step has `NEUTRAL_INPUT`.
    """
    if masks.lengths is None:
        return None
    has_valid = masks.lengths > 0

    def take(x):
        if masks.first is None:  # a static slice is cheaper than a gather
            step = jax.lax.index_in_dim(x, 0, time_axis, keepdims=False)
        else:
            first = jnp.expand_dims(masks.first, time_axis)
            step = take_steps(x, first, time_axis).squeeze(time_axis)
        neutral = NEUTRAL_INPUT if jnp.issubdtype(step.dtype, jnp.floating) else 0
        step = jnp.where(expand_like(has_valid, step), step, jnp.full_like(step, neutral))
        return jax.lax.stop_gradient(step)

    return jax.tree.map(take, inputs)


def expand_like(flags: jax.Array, x: jax.Array) -> jax.Array:
    """Flags, `[B]` say, with the rank of `x` `[B, ...]`."""
    return jnp.expand_dims(flags, tuple(range(flags.ndim, x.ndim)))


def select(flags: jax.Array | None, yes: PyTree, no: PyTree) -> Any:
    """`yes` where `flags` are true, else `no`; their axes are the first of every leaf."""
    if flags is None:
        return yes
    return jax.tree.map(lambda y, n: jnp.where(expand_like(flags, y), y, n), yes, no)


def zero_where_invalid(valid: jax.Array | None, tree: PyTree) -> Any:
    """`tree` with zeros at invalid steps; the axes of `valid` are the first of each leaf."""
    return select(valid, tree, jax.tree.map(jnp.zeros_like, tree))
