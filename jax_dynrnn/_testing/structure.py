"""The law `structure`: names, shapes and dtypes of what a cell returns."""

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


def structure(problem: Problem) -> None:
    """Checks `init`, `zero_state` and a step, mostly by shapes alone."""
    _init(problem)
    _zero_state(problem)
    _step(problem)


def _called(what: str, f: Callable[..., Any]) -> Any:
    """The result of a function of the cell; what it raises is a broken law."""
    try:
        return f()
    except Exception as error:
        raise Broken(f"{what} raises {described(error)}", LAW) from error


def _same(what: str, actual: PyTree, expected: PyTree, where: str) -> None:
    """Checks structure, shapes and dtypes."""
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


def _init(problem: Problem) -> None:
    """It can be traced, as Flax and jit do, and reads nothing but the features."""
    made = _called("init", lambda: problem.params)
    for leading in ((B, T), (B, T + 1), (B + 1, T), ()):
        what = f"init(key, {(*leading, '...')}) under jit"
        traced = _called(what, lambda sizes=leading: jax.eval_shape(lambda: problem.init(*sizes)))
        _same(f"the result of {what}", traced, made, f"of init(key, {(B, T, '...')})")


def _zero_state(problem: Problem) -> None:
    """The same leaves for every batch shape, with it in front, or of rank 0."""
    cell, dtype = problem.cell, problem.dtype

    def zero_state(batch_shape):
        what = f"zero_state({batch_shape})"
        made = lambda: jax.tree.map(jnp.asarray, cell.zero_state(batch_shape, dtype))  # noqa: E731
        return _called(what, lambda: jax.eval_shape(made))

    row, rank_0 = zero_state(()), zero_state(2)
    for batch_shape in BATCH_SHAPES[1:]:
        batch = (batch_shape,) if isinstance(batch_shape, int) else batch_shape

        def leaf(x, of_two, batch=batch):
            shape = x.shape if of_two.ndim == 0 else (*batch, *x.shape)
            return jax.ShapeDtypeStruct(shape, x.dtype)

        what = f"zero_state({batch_shape})"
        found = zero_state(batch_shape)
        if jax.tree.structure(found) != jax.tree.structure(row):
            _same(what, found, row, "of zero_state(())")
        expected = jax.tree.map(leaf, row, rank_0)
        _same(what, found, expected, f"zero_state(()) with {batch} in front, or of rank 0")


def _step(problem: Problem) -> None:
    """It returns the structure, shapes and dtypes of the state it was given, the batch first."""
    one = jax.tree.map(lambda x: x[:, 0], problem.inputs)
    start = _called("start", lambda: problem.start)
    _called("a leaf of the state:", lambda: _check_cell.batch_leaves(problem.cell, start, B, ""))

    def step(key):
        return lambda state: problem.take_step(problem.params, one, state, key)

    for key in (None, problem.key):
        what = "a step" if key is None else "a step with key="
        checked = lambda key=key: _check_cell.check_step(problem.cell, step(key), start, start, B)  # noqa: E731
        _called(what, checked)
