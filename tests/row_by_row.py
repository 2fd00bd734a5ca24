"""What a run means, row by row in Python loops: no scan, no engine.

Engines are compared with this; it knows nothing of them. It takes one step of the whole
batch at a time only because a cell draws its random numbers for the whole batch.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jax_dynrnn._cell import as_cell


def pick(chosen, yes, no, xp=jnp):
    """Row by row from `yes` where `chosen[b]`, else from `no`. Leaves `[B, ...]`."""

    def leaf(y, n):
        flags = np.reshape(chosen, (-1, *(1,) * (y.ndim - 1))) if y.ndim else None
        return xp.where(flags, y, n) if y.ndim else n

    return jax.tree.map(leaf, yes, no)


def with_ranks_0(tree, scalars):
    """The tree with its rank-0 leaves from `scalars`."""
    return jax.tree.map(lambda x, s: s if x.ndim == 0 else x, tree, scalars)


def fold_in(key, n):
    return None if key is None else jax.random.fold_in(key, n)


def moving_steps(valid, lengths, reverse):
    """At which steps the rank-0 leaves move: TF1's loop bound."""
    T = valid.shape[1]
    some_row = [t for t in range(T) if valid[:, t].any()]
    if not reverse:
        return range(0, max(some_row, default=0) + 1)
    end = max([1, *map(int, lengths)])
    return range(min(some_row, default=end - 1), end)


STEPPERS = {}
"""By the identity of the cell, which may be an object that has no hash."""


def stepper(cell):
    """One step, compiled where it is many operations: else that takes longer than it saves."""
    if id(cell) not in STEPPERS:
        STEPPERS[id(cell)] = cell, new_stepper(as_cell(cell))
    return STEPPERS[id(cell)][1]


def new_stepper(cell):
    def step(prepared, x, state, key):
        return cell.step(prepared, cell.project(prepared, x), state, key=key)

    compiled, eager = jax.jit(step), []

    def choose(*arguments):
        if not eager:
            eager.append(len(jax.make_jaxpr(step)(*arguments).eqns) < 100)
        return (step if eager[0] else compiled)(*arguments)

    return choose


def run(cell, params, inputs, state, lengths, *, mask=None, resets=None, reverse=False, key=None):
    """`-> (outputs, state)`, all arguments concrete, batch-major."""
    step, cell = stepper(cell), as_cell(cell)
    B = jax.tree.leaves(inputs)[0].shape[0]
    dtypes = [x.dtype for x in jax.tree.leaves((params, inputs))]
    start = cell.start(params, (B,), next(d for d in dtypes if jnp.issubdtype(d, jnp.floating)))
    prepared = cell.prepare(params, key=fold_in(key, 2**31 - 1), batch_shape=(B,))

    def take_step(x, state, t):
        return step(prepared, x, state, fold_in(key, t))

    return loop(take_step, inputs, state, start, lengths, mask=mask, resets=resets, reverse=reverse)


def loop(step, inputs, state, start, lengths, *, mask=None, resets=None, reverse=False, xp=jnp):
    """The loop over the steps of `step(x, state, t) -> (output, new_state)`.

    With `xp=np` the step is NumPy's.
    """
    B, T = jax.tree.leaves(inputs)[0].shape[:2]
    valid = np.array([[t < lengths[b] for t in range(T)] for b in range(B)], bool).reshape(B, T)
    valid = valid if mask is None else valid & np.asarray(mask)
    resets = np.zeros((B, T), bool) if resets is None else np.asarray(resets)
    moving = moving_steps(valid, lengths, reverse)
    pending = [False] * B  # rows that met a reset and have not stepped since
    outputs = [None] * T
    for t in reversed(range(T)) if reverse else range(T):
        boundary = t + 1 if reverse else t
        pending = [p or (boundary < T and bool(resets[b, boundary])) for b, p in enumerate(pending)]
        go_back = [p and bool(v) for p, v in zip(pending, valid[:, t], strict=True)]
        state = pick(go_back, start, state, xp)
        x = jax.tree.map(lambda x, t=t: x[:, t], inputs)
        output, new = step(x, state, t)
        outputs[t] = pick(valid[:, t], output, jax.tree.map(xp.zeros_like, output), xp)
        state = with_ranks_0(pick(valid[:, t], new, state, xp), new if t in moving else state)
        pending = [p and not v for p, v in zip(pending, valid[:, t], strict=True)]
    return jax.tree.map(lambda *y: xp.stack(y, 1), *outputs), state
