"""What every wrapper of one cell has in common: it passes everything on."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from .._cell import Cell, Params, State, as_cell
from .._tools import check_options


@dataclasses.dataclass(frozen=True)
class Wrapper(Cell):
    """Passes the whole protocol on to `cell`; a wrapper says only what it changes."""

    cell: Any

    def __post_init__(self):
        as_cell(self.cell, f"{type(self).__name__}'s cell")
        check_options(self)

    @property
    def inner(self) -> Cell:
        """The wrapped cell with the whole protocol."""
        return as_cell(self.cell)

    @property
    def feature_ndim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.feature_ndim

    @property
    def attends(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.attends

    def init(self, key: Any, input_shape: Any, dtype: Any = jnp.float32) -> Params:
        return self.inner.init(key, input_shape, dtype)

    def zero_state(self, batch_shape: Any = (), dtype: Any = jnp.float32) -> State:
        return self.inner.zero_state(batch_shape, dtype)

    def prepare(self, params: Params, *, key: Any = None, batch_shape: tuple) -> Params:
        return self.inner.prepare(params, key=key, batch_shape=batch_shape)

    def attend(self, params: Params, memory: Any, memory_length: Any = None) -> Params:
        return self.inner.attend(params, memory, memory_length)

    def start(self, params: Params, batch_shape: Any, dtype: Any) -> State:
        return self.inner.start(params, batch_shape, dtype)

    def project(self, params: Params, inputs: Any) -> Any:
        return self.inner.project(params, inputs)

    def step(
        self, params: Params, projected: Any, state: State, *, key: Any = None
    ) -> tuple[Any, State]:
        return self.inner.step(params, projected, state, key=key)


@dataclasses.dataclass(frozen=True)
class ParamsWrapper(Wrapper):
    """A wrapper with variables of its own, beside those of its cell under `"cell"`."""

    def prepare(self, params: Params, *, key: Any = None, batch_shape: tuple) -> Params:
        cell = self.inner.prepare(params["cell"], key=key, batch_shape=batch_shape)
        return params | {"cell": cell}

    def attend(self, params: Params, memory: Any, memory_length: Any = None) -> Params:
        return params | {"cell": self.inner.attend(params["cell"], memory, memory_length)}

    def start(self, params: Params, batch_shape: Any, dtype: Any) -> State:
        return self.inner.start(params["cell"], batch_shape, dtype)

    def project(self, params: Params, inputs: Any) -> Any:
        return self.inner.project(params["cell"], inputs)

    def step(
        self, params: Params, projected: Any, state: State, *, key: Any = None
    ) -> tuple[Any, State]:
        return self.inner.step(params["cell"], projected, state, key=key)
