"""What every wrapper of one cell has in common: it passes everything on."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from .._cell import Cell, Params, State, as_cell, take_step
from .._protocol import ask
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
    def feature_ndim(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.feature_ndim

    @property
    def attends(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.attends

    def init(self, key: Any, input_shape: Any, dtype: Any = jnp.float32) -> Params:
        return ask(self.inner, "init", key, input_shape, dtype)

    def zero_state(self, batch_shape: Any = (), dtype: Any = jnp.float32) -> State:
        return ask(self.inner, "zero_state", batch_shape, dtype)

    def prepare(self, params: Params, *, key: Any = None, batch_shape: tuple) -> Params:
        return ask(self.inner, "prepare", params, key=key, batch_shape=batch_shape)

    def attend(self, params: Params, memory: Any, memory_length: Any = None) -> Params:
        return self.inner.attend(params, memory, memory_length)

    def cell_params(self, params: Params) -> Params:
        """The params of `cell` among those of the wrapper."""
        return params

    def start(self, params: Params, batch_shape: Any, dtype: Any) -> State:
        return ask(self.inner, "start", self.cell_params(params), batch_shape, dtype)

    def project(self, params: Params, inputs: Any) -> Any:
        return ask(self.inner, "project", self.cell_params(params), inputs)

    def step(
        self, params: Params, projected: Any, state: State, *, key: Any = None
    ) -> tuple[Any, State]:
        return take_step(self.inner, self.cell_params(params), projected, state, key=key)


@dataclasses.dataclass(frozen=True)
class ParamsWrapper(Wrapper):
    """A wrapper with variables of its own, beside those of its cell under `"cell"`."""

    def cell_params(self, params: Params) -> Params:
        return params["cell"]

    def prepare(self, params: Params, *, key: Any = None, batch_shape: tuple) -> Params:
        cell = ask(self.inner, "prepare", params["cell"], key=key, batch_shape=batch_shape)
        return {**params, "cell": cell}

    def attend(self, params: Params, memory: Any, memory_length: Any = None) -> Params:
        return {**params, "cell": self.inner.attend(params["cell"], memory, memory_length)}


@dataclasses.dataclass(frozen=True)
class AroundWrapper(Wrapper):
    """A wrapper whose work is before and after its cell's step; it leaves the state alone.

        seen, kept = before(x);  y, s' = cell(seen, s);  output = after(kept, y)

    So an engine may do it outside of the loop, batched over all steps, unless `inside_loop` gives
    a reason.
    """

    def before(self, params: Params, inputs: Any, key: Any) -> tuple[Any, Any]:
        """`(seen, kept)`: what the cell sees, and what `after` wants to know."""
        del params, key
        return inputs, None

    def after(self, params: Params, kept: Any, output: Any, key: Any) -> Any:
        """The output."""
        del params, kept, key
        return output

    def cell_key(self, key: Any) -> Any:
        """The key of the cell's step."""
        return key

    def inside_loop(self, key: Any) -> str | None:
        """Why, in a run with this key, it has work inside of the loop, or `None`."""
        del key
        return None

    def project(self, params: Params, inputs: Any) -> Any:
        del params  # what is before the cell may want a key
        return inputs

    def step(
        self, params: Params, projected: Any, state: State, *, key: Any = None
    ) -> tuple[Any, State]:
        seen, kept = self.before(params, projected, key)
        projected = super().project(params, seen)
        output, state = super().step(params, projected, state, key=self.cell_key(key))
        return self.after(params, kept, output, key), state
