"""Shapes and dtypes of arrays, without their values."""

from __future__ import annotations

import jax

from .._types import PyTree


def types_of(tree: PyTree) -> PyTree:
    """The type of each array."""
    return with_leading(tree, drop=0)


def with_leading(tree: PyTree, *sizes: int, drop: int = 1) -> PyTree:
    """The types of arrays with axes of these sizes in place of their first `drop` axes."""

    def replace(x):
        return jax.ShapeDtypeStruct((*sizes, *x.shape[drop:]), x.dtype)

    return jax.tree.map(replace, tree)
