"""Comparison of results, and messages about where they differ."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from .._types import PyTree

AXES = {
    "outputs": ("row", "step"),
    "output": ("row",),
    "state": ("row",),
    "gradient with respect to inputs": ("row", "step"),
    "gradient with respect to initial_state": ("row",),
}
"""For each result, the leading axes of its leaves, which messages name."""


class Broken(Exception):
    """The exception of a law that does not hold.

    `law` is the name of the broken law if it is not the one that was checked.
    """

    def __init__(self, text: str, law: str | None = None):
        super().__init__(text)
        self.text = text
        self.law = law


def described(error: Exception) -> str:
    """An error in one line: the messages of JAX may go on for pages with a printed program."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def leaves_by_path(tree: PyTree) -> list[tuple[tuple[Any, ...], np.ndarray]]:
    """The leaves with their paths, as NumPy arrays in float64."""
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    # The gradient of an integer has the dtype float0, and no values.
    arrays = [(path, x) for path, x in found if jnp.result_type(x) != jax.dtypes.float0]
    return [(path, np.asarray(x).astype(np.float64)) for path, x in arrays]


def assert_close(
    actual: PyTree, expected: PyTree, tolerance: float, here: str, there: str, row: int = 0
) -> None:
    """Checks `max|a - b| <= tolerance * (1 + max|b|)` for every leaf of two dicts of results.

    In a message `here` and `there` follow the two values and say which runs they are from. `row`
    is the index in the batch of the first row compared.
    """
    if jax.tree.structure(actual) != jax.tree.structure(expected):
        raise Broken(
            f"the results have different structures: {jax.tree.structure(actual)} {here}, "
            f"{jax.tree.structure(expected)} {there}"
        )
    for (path, a), (_, b) in zip(leaves_by_path(actual), leaves_by_path(expected), strict=True):
        if a.shape != b.shape:
            raise Broken(f"{element_name(path)}: shape {a.shape} {here}, {b.shape} {there}")
        if not a.size:
            continue
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            error = np.where(np.isfinite(a) & np.isfinite(b), np.abs(a - b), np.inf)
        # Equal infinities, and two NaNs, count as equal: the law `finite` forbids them.
        error = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, error)
        bound = tolerance * (1 + np.abs(b[np.isfinite(b)]).max(initial=0))
        if error.max() > bound:
            index = np.unravel_index(error.argmax(), error.shape)
            raise Broken(
                f"{element_name(path, index, row)}: {a[index]:.8g} {here}, {b[index]:.8g} {there}"
            )  # fmt: skip


def assert_finite(results: PyTree) -> None:
    """Checks that no leaf contains a NaN or an infinity."""
    for path, x in leaves_by_path(results):
        if not np.isfinite(x).all():
            index = np.unravel_index((~np.isfinite(x)).argmax(), x.shape)
            raise Broken(f"{element_name(path, index)}: {x[index]}")


def element_name(path: tuple[Any, ...], index: tuple[Any, ...] = (), row: int = 0) -> str:
    """The name of a leaf, or of an element of it: `state.c at row 1, element (3,)`."""
    name = path[0].key
    found = []
    for axis, i in zip(AXES.get(name, ()), index, strict=False):
        found.append(f"{axis} {i + row * (axis == 'row')}")
    if rest := tuple(int(i) for i in index[len(found) :]):
        found.append(f"element {rest}")
    return f"{name}{keystr(path[1:])}{' at ' * bool(found)}{', '.join(found)}"
