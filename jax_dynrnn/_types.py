"""What annotations say of arguments: pytrees by what they hold, and what stands for a cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from jax.typing import ArrayLike
from jax.typing import DTypeLike as DTypeLike

PyTree: TypeAlias = Any
"""Arrays in any nesting of tuples, lists, dicts and other registered containers."""

Params: TypeAlias = PyTree
"""Nested dicts of arrays, as `Cell.init` makes them."""

State: TypeAlias = PyTree
"""An array, a tuple or a NamedTuple of arrays."""

Inputs: TypeAlias = PyTree
"""Arrays `[B, T, *features]` of a run, `[B, *features]` of a step."""

Projected: TypeAlias = PyTree
"""What `Cell.project` makes of the inputs."""

Outputs: TypeAlias = PyTree
"""Arrays `[B, T, ...]` of a run, `[B, ...]` of a step."""

Shapes: TypeAlias = Any
"""One shape, or a pytree of shapes."""

BatchShape: TypeAlias = int | Sequence[Any]
"""The axes before the features: a size, or several; `()` for one row. Sizes may be symbolic."""

Size: TypeAlias = Any
"""An int, or a symbolic size of `jax.export`."""

Key: TypeAlias = jax.Array | None
"""A key of `jax.random`; `None` where nothing is drawn."""

PyTreeDef: TypeAlias = Any
"""The structure of a pytree."""

Index: TypeAlias = int | np.integer | jax.Array
"""An int, or an int32 scalar that may be traced."""

Lengths: TypeAlias = ArrayLike | Sequence[int]
"""One integer for each row."""


@runtime_checkable
class CellLike(Protocol):
    """What `dynamic_rnn` accepts as a cell: a `Cell`, or any object with these methods."""

    def init(self, key: Any, input_shape: Any, /) -> Any:
        """Makes the params."""

    def zero_state(self, batch_shape: Any, /) -> Any:
        """The state of zeros."""

    def __call__(self, params: Any, inputs: Any, state: Any, /) -> Any:
        """One step -> `(output, new_state)`."""


Cells: TypeAlias = Any
"""What runs of weights are for: one cell, a pair of cells, or a pair of lists of cells."""

Ref: TypeAlias = Any
"""A reference to memory in a kernel of Pallas."""

Weights: TypeAlias = Any
"""Arrays by name, or a module or layer of another framework."""

Buffer: TypeAlias = bytes | bytearray | memoryview | np.ndarray
"""Bytes of a file."""
