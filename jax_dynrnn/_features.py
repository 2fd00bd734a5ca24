"""The axes of inputs: batch axes first, then the feature axes of the cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ._tools import is_shape
from ._types import CellWithAttributes, Inputs, Shapes


def feature_shapes(cell: CellWithAttributes, input_shape: Shapes) -> Any:
    """Returns the feature sizes of each shape in `input_shape`: those of one step of one row."""

    def features(ndim, shape):
        return tuple(shape)[len(shape) - ndim :]  # not shape[-ndim:], which keeps all if ndim is 0

    return jax.tree.map(
        features, feature_ndims(cell.feature_ndim, input_shape, is_shape), input_shape
    )


def feature_ndims(
    feature_ndim: Any,
    inputs: Inputs,
    is_leaf: Callable[..., Any] | None = None,
    where: str = "inputs",
) -> Any:
    """Returns the number of feature axes of each leaf: ints, in the structure of `inputs`.

    `feature_ndim` may be a prefix of that structure; each int then applies to a whole subtree.

    Raises:
        ValueError: `feature_ndim` has another structure.
    """
    ndims, treedef = jax.tree.flatten(feature_ndim)
    try:
        subtrees = treedef.flatten_up_to(inputs)
    except ValueError as error:
        raise ValueError(
            f"{where}: expected the structure of the cell's feature_ndim={feature_ndim!r}, got "
            f"{jax.tree.structure(inputs, is_leaf=is_leaf)}"
        ) from error
    broadcast = [
        jax.tree.map(lambda _, n=n: n, subtree, is_leaf=is_leaf)
        for n, subtree in zip(ndims, subtrees, strict=True)
    ]
    return treedef.unflatten(broadcast)


def batch_shape_of(inputs: Inputs, feature_ndim: Any) -> tuple[Any, ...]:
    """Returns the sizes before the feature axes: `(B,)` for one step, `()` for one row."""
    return batch_shape_of_shapes(jax.tree.map(np.shape, inputs), feature_ndim)


def batch_shape_of_shapes(input_shape: Shapes, feature_ndim: Any) -> tuple[Any, ...]:
    """Returns the sizes before the feature axes, for inputs of the shapes `input_shape`."""
    ndims = jax.tree.leaves(feature_ndims(feature_ndim, input_shape, is_shape))
    shapes = jax.tree.leaves(input_shape, is_leaf=is_shape)
    return tuple(shapes[0][: len(shapes[0]) - ndims[0]]) if shapes else ()
