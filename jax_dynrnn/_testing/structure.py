"""The law `structure`: what the methods of a cell return has the right names, shapes and dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from .. import _check_cell
from .._types import PyTree
from .compare import Broken, described
from .problem import B, Problem, T

LAW = "structure"
BATCH_SHAPES = ((), 2, (2,), (2, 3))
"""Batch shapes that `zero_state` must accept."""


def structure(problem: Problem) -> None:
    """Checks `init`, `zero_state` and a step, mostly by shapes alone."""
    _check_init(problem)
    _check_zero_state(problem)
    _check_step(problem)


def _called(what: str, f: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `f`, which calls code of the cell; an exception in it breaks the law."""
    try:
        return f(*arguments)
    except Exception as error:
        raise Broken(f"{what} raises {described(error)}", LAW) from error


def _check_same_type(what: str, actual: PyTree, expected: PyTree, where: str) -> None:
    """Checks that structure, shapes and dtypes are those of `expected`."""
    if jax.tree.structure(actual) != jax.tree.structure(expected):
        raise Broken(
            f"{what} has the structure {jax.tree.structure(actual)}, expected that {where}, "
            f"{jax.tree.structure(expected)}",
            LAW,
        )
    both = zip(tree_flatten_with_path(actual)[0], jax.tree.leaves(expected), strict=True)
    for (path, a), b in both:
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise Broken(
                f"{what}{keystr(path)} is {a.dtype}{list(a.shape)}, expected "
                f"{b.dtype}{list(b.shape)}, as {where}",
                LAW,
            )


def _check_init(problem: Problem) -> None:
    """Checks that `init` can be traced, as Flax does, and reads only the feature sizes."""
    made = _called("init", lambda: problem.params)
    for leading in ((B, T), (B, T + 1), (B + 1, T), ()):
        what = f"init(key, {(*leading, '...')}) under jit"

        def init(sizes=leading):
            return problem.init(*sizes)

        traced = _called(what, jax.eval_shape, init)
        _check_same_type(f"the result of {what}", traced, made, f"of init(key, {(B, T, '...')})")


def _check_zero_state(problem: Problem) -> None:
    """Checks that the batch shape precedes the shape of every leaf, or the leaf has rank 0."""
    cell, dtype = problem.cell, problem.dtype

    def zero_state(batch_shape):
        def traced():
            return jax.tree.map(jnp.asarray, cell.zero_state(batch_shape, dtype))

        return _called(f"zero_state({batch_shape})", jax.eval_shape, traced)

    row, two_rows = zero_state(()), zero_state(2)
    for batch_shape in BATCH_SHAPES[1:]:
        batch = (batch_shape,) if isinstance(batch_shape, int) else batch_shape

        def with_batch(x, of_two, batch=batch):
            # A leaf of rank 0 in a batch of two is shared by the rows.
            shape = x.shape if of_two.ndim == 0 else (*batch, *x.shape)
            return jax.ShapeDtypeStruct(shape, x.dtype)

        what = f"zero_state({batch_shape})"
        found = zero_state(batch_shape)
        # Compared first: `tree.map` below needs equal structures.
        if jax.tree.structure(found) != jax.tree.structure(row):
            _check_same_type(what, found, row, "of zero_state(())")
        expected = jax.tree.map(with_batch, row, two_rows)
        where = f"zero_state(()) with {batch} in front, or of rank 0"
        _check_same_type(what, found, expected, where)


def _check_step(problem: Problem) -> None:
    """Checks that a step returns the state with its structure, shapes and dtypes."""
    inputs = problem.inputs_at(0)
    start = _called("start", lambda: problem.start)
    _called("a leaf of the state:", _check_cell.batch_leaves, problem.cell, start, B, "")

    def check_step(key):
        def step(state):
            return problem.take_step(problem.params, inputs, state, key)

        return _check_cell.check_step(problem.cell, step, start, start, B)

    for key in (None, problem.key):
        what = "a step" if key is None else "a step with key="
        _called(what, check_step, key)
