"""Type aliases for annotations, and the protocol of objects that are accepted as cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from jax.typing import ArrayLike
from jax.typing import DTypeLike as DTypeLike

# JAX has no static type for a pytree, so these aliases of `Any` only document what is expected.

PyTree: TypeAlias = Any
"""Arrays in any nesting of tuples, lists, dicts and other registered containers."""

Params: TypeAlias = PyTree
"""Nested dicts of arrays, as returned by `Cell.init`."""

State: TypeAlias = PyTree
"""An array, a tuple or a NamedTuple of arrays."""

Inputs: TypeAlias = PyTree
"""Arrays: `[B, T, *features]` in a run, `[B, *features]` in a step."""

Projected: TypeAlias = PyTree
"""The projected inputs, as returned by `Cell.project`."""

Outputs: TypeAlias = PyTree
"""Arrays: `[B, T, ...]` from a run, `[B, ...]` from a step."""

Shapes: TypeAlias = Any
"""One shape, or a pytree of shapes."""

BatchShape: TypeAlias = int | Sequence[Any]
"""The sizes before the feature axes: one size or several, `()` for one row; may be symbolic."""

Size: TypeAlias = Any
"""An int, or a symbolic dimension of `jax.export`."""

Key: TypeAlias = jax.Array | None
"""A key of `jax.random`, or `None` for no randomness, as in evaluation."""

PyTreeDef: TypeAlias = Any
"""The structure of a pytree."""

Index: TypeAlias = int | np.integer | jax.Array
"""An int, or an int32 scalar that may be traced."""

Remat: TypeAlias = int | Literal["sqrt", "offload"] | None
"""What the backward pass may keep: see `dynamic_rnn`."""

Implementation: TypeAlias = Literal["scan", "blocked", "cudnn", "pallas"] | None
"""The name of an engine, or `None`: the fastest is chosen."""

Lengths: TypeAlias = ArrayLike | Sequence[int]
"""One integer for each row."""


@runtime_checkable
class CellLike(Protocol):
    """An object that `dynamic_rnn` accepts as a cell: a `Cell`, or any object with these methods.

    The signatures name the least that is needed. Their parameters are positional-only, so that a
    cell may name its own differently.
    """

    def init(self, key: Any, input_shape: Any, /) -> Any:
        """Initialises the params."""

    def zero_state(self, batch_shape: Any, /) -> Any:
        """Returns a state of zeros."""

    def __call__(self, params: Any, inputs: Any, state: Any, /) -> Any:
        """Takes one step -> `(output, new_state)`."""


class CellWithAttributes(CellLike, Protocol):
    """`Cell`, for modules that `_cell` imports and that so cannot import it."""

    feature_ndim: Any
    attends: Any


Cells: TypeAlias = Any
"""The cells that weights are converted for: one cell, a pair, or a pair of lists of cells."""

Ref: TypeAlias = Any
"""A reference to memory in a Pallas kernel."""

Weights: TypeAlias = Any
"""Arrays by name, or a module or layer of another framework."""

Buffer: TypeAlias = bytes | bytearray | memoryview | np.ndarray
"""The bytes of a file."""
