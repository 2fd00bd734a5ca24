"""The reference implementation of a run, in Python loops: without `lax.scan` and engines.

Every engine is compared with it. Each step is computed for the whole batch, because a cell draws
its random numbers for the whole batch.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jax_dynrnn._adapter import as_cell


def pick(chosen, yes, no, xp=jnp):
    """Takes row b from `yes` where `chosen[b]`, else from `no`. Leaves are `[B, ...]`."""

    def leaf(y, n):
        flags = np.reshape(chosen, (-1, *(1,) * (y.ndim - 1))) if y.ndim else None
        return xp.where(flags, y, n) if y.ndim else n

    return jax.tree.map(leaf, yes, no)


def with_rank_0_leaves(tree, scalars):
    """The tree with its rank-0 leaves replaced by those of `scalars`."""
    return jax.tree.map(lambda x, s: s if x.ndim == 0 else x, tree, scalars)


def fold_in(key, n):
    return None if key is None else jax.random.fold_in(key, n)


def scalar_update_steps(valid, lengths, reverse):
    """The steps at which rank-0 state leaves are updated: those within TF1's loop bound."""
    T = valid.shape[1]
    some_row = [t for t in range(T) if valid[:, t].any()]
    if not reverse:
        return range(0, max(some_row, default=0) + 1)
    # TF1 runs at least one step, and its reversed run starts at the end of the longest row.
    end = max([1, *map(int, lengths)])
    return range(min(some_row, default=end - 1), end)


STEPPERS = {}
"""Compiled steps, keyed by the id of the cell: a foreign cell may have no hash."""


def stepper(cell):
    """The step function of a cell, from the cache."""
    if id(cell) not in STEPPERS:
        STEPPERS[id(cell)] = cell, new_stepper(as_cell(cell))
    return STEPPERS[id(cell)][1]


def new_stepper(cell):
    """A step function, compiled if it has 100 operations or more.

    For smaller ones the compilation takes longer than it saves.
    """

    def step(prepared, x, state, key):
        return cell.step(prepared, cell.project(prepared, x), state, key=key)

    compiled, eager = jax.jit(step), []

    def choose(*arguments):
        if not eager:
            eager.append(len(jax.make_jaxpr(step)(*arguments).eqns) < 100)
        return (step if eager[0] else compiled)(*arguments)

    return choose


def run(cell, params, inputs, state, lengths, *, mask=None, resets=None, reverse=False, key=None):
    """Returns `(outputs, state)`; all arguments are concrete and batch-major."""
    step, cell = stepper(cell), as_cell(cell)
    B = jax.tree.leaves(inputs)[0].shape[0]
    dtypes = [x.dtype for x in jax.tree.leaves((params, inputs))]
    start = cell.start(params, (B,), next(d for d in dtypes if jnp.issubdtype(d, jnp.floating)))
    # `prepare` has a key of its own, with an index that no step has.
    prepared = cell.prepare(params, key=fold_in(key, 2**31 - 1), batch_shape=(B,))

    def take_step(x, state, t):
        return step(prepared, x, state, fold_in(key, t))

    return loop(take_step, inputs, state, start, lengths, mask=mask, resets=resets, reverse=reverse)


def loop(step, inputs, state, start, lengths, *, mask=None, resets=None, reverse=False, xp=jnp):
    """Loops over time with `step(x, state, t) -> (output, new_state)`.

    With `xp=np`, the step takes and returns NumPy arrays.
    """
    B, T = jax.tree.leaves(inputs)[0].shape[:2]
    valid = np.array([[t < lengths[b] for t in range(T)] for b in range(B)], bool).reshape(B, T)
    valid = valid if mask is None else valid & np.asarray(mask)
    resets = np.zeros((B, T), bool) if resets is None else np.asarray(resets)
    update_steps = scalar_update_steps(valid, lengths, reverse)
    pending = [False] * B  # rows that passed a reset and had no valid step since
    outputs = [None] * T
    for t in reversed(range(T)) if reverse else range(T):
        # A reset at t lies between t - 1 and t: in reverse it acts on step t - 1.
        boundary = t + 1 if reverse else t
        pending = [p or (boundary < T and bool(resets[b, boundary])) for b, p in enumerate(pending)]
        restart = [p and bool(v) for p, v in zip(pending, valid[:, t], strict=True)]
        state = pick(restart, start, state, xp)
        x = jax.tree.map(lambda x, t=t: x[:, t], inputs)
        output, new = step(x, state, t)
        outputs[t] = pick(valid[:, t], output, jax.tree.map(xp.zeros_like, output), xp)
        state = with_rank_0_leaves(
            pick(valid[:, t], new, state, xp), new if t in update_steps else state
        )
        pending = [p and not v for p, v in zip(pending, valid[:, t], strict=True)]
    return jax.tree.map(lambda *y: xp.stack(y, 1), *outputs), state
