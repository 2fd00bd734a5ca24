"""What this package's wrappers of one cell have in common."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from .._cell import Cell, Params, State, as_cell, take_step
from .._composition import Around
from .._tools import check_options
from .._types import Inputs, Key, Outputs, PyTree


@dataclasses.dataclass(frozen=True)
class Wrapper(Cell):
    """A wrapper with work between the steps, which its own `step` does; all else is the cell's."""

    cell: Any

    params_name: ClassVar[str | None] = None
    """Where the params of `cell` are among those of the wrapper; `None`: they are the same."""

    inside_loop: ClassVar[str] = "it has work between the steps"
    """What a step of it does that is not before or after a step of `cell`."""

    same_features: ClassVar[bool] = False
    """Whether `cell` receives as many features as the wrapper."""

    same_output: ClassVar[bool] = False
    """Whether the output has the shape of the output of `cell`."""

    def __post_init__(self) -> None:
        as_cell(self.cell, f"{type(self).__name__}'s cell")
        check_options(self)

    @property
    def inner(self) -> Cell:
        """The wrapped cell with the whole protocol."""
        return as_cell(self.cell)

    def composition(self, key: Key = None) -> Around:
        return Around(
            self.cell,
            name=self.params_name,
            inside_loop=self.inside_loop,
            same_features=self.same_features,
            same_output=self.same_output,
        )

    def cell_params(self, params: Params) -> Params:
        """The params of `cell` among those of the wrapper."""
        return params if self.params_name is None else params[self.params_name]

    def cell_step(
        self, params: Params, inputs: Inputs, state: State, key: Key
    ) -> tuple[Any, State]:
        """A step of `cell`."""
        own = self.cell_params(params)
        projected = self.inner.project(own, inputs)
        return take_step(self.inner, own, projected, state, key=key)


@dataclasses.dataclass(frozen=True)
class AroundWrapper(Wrapper):
    """A wrapper whose work is before and after its cell's step; it leaves the state alone."""

    same_features = True
    same_output = True

    def composition(self, key: Key = None) -> Around:
        return Around(
            self.cell,
            name=self.params_name,
            before=self.before,
            after=self.after,
            inside_loop=self.why_inside_loop(key),
            same_features=self.same_features,
            same_output=self.same_output,
            cell_params=self.cell_params,
            cell_key=self.cell_key,
        )

    def before(self, params: Params, inputs: Inputs, key: Key) -> tuple[Any, Any]:
        """`(cell_inputs, saved)`: what the cell receives, and what `after` needs besides."""
        del params, key
        return inputs, None

    def after(self, params: Params, saved: PyTree, output: Outputs, key: Key) -> Any:
        """The output."""
        del params, saved, key
        return output

    def cell_key(self, key: Key) -> Any:
        """The key of the cell's step."""
        return key

    def why_inside_loop(self, key: Key) -> str | None:
        """Why, in a run with this key, it has work between the steps too, or `None`."""
        del key
        return None
