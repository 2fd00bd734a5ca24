"""Base classes of this package's wrappers of one cell."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from .._adapter import as_cell
from .._cell import Cell, Params, State
from .._composition import Around
from .._tools import check_options
from .._types import Inputs, Key, Outputs, PyTree


@dataclasses.dataclass(frozen=True)
class Wrapper(Cell):
    """Base class of wrappers with work between the steps, which a subclass defines in `step`.

    All other methods default to those of the cell inside. Engines run such a wrapper as a whole.
    """

    cell: Any

    # The class variables below are passed to `Around`, which documents them.

    params_name: ClassVar[str | None] = None
    """The params of `cell` are `params[params_name]`; `None`: the wrapper has no others."""

    same_features: ClassVar[bool] = False
    """Whether `cell` receives as many features as the wrapper."""

    same_output: ClassVar[bool] = False
    """Whether the output has the shape of the output of `cell`."""

    def __post_init__(self) -> None:
        as_cell(self.cell, f"{type(self).__name__}'s cell")
        check_options(self)

    @property
    def inner(self) -> Cell:
        """The cell inside, as a `Cell` with all methods."""
        return as_cell(self.cell)

    def composition(self, key: Key = None) -> Around:
        return Around(
            self.cell,
            name=self.params_name,
            why_not_separable=self.why_not_separable(key),
            same_features=self.same_features,
            same_output=self.same_output,
        )

    def why_not_separable(self, key: Key) -> str | None:
        """What a step does, in a run with `key`, besides the work before and after the step of
        `cell`; `None`: nothing. `explain` prints it."""
        del key
        return "it has work between the steps"

    def cell_step(
        self, params: Params, inputs: Inputs, state: State, key: Key
    ) -> tuple[Any, State]:
        """Takes a step of `cell`, given the params of the wrapper."""
        return self.composition(key).cell_step(params, inputs, state, key)


@dataclasses.dataclass(frozen=True)
class AroundWrapper(Wrapper):
    """Base class of wrappers that work only before and after the step of the cell inside.

    A subclass defines `before`, `after`, or both. Engines run the cell inside on its own, and do
    the work of the wrapper for all steps outside the loop.
    """

    # Most wrappers preserve both; those that project override one.
    same_features = True
    same_output = True

    def composition(self, key: Key = None) -> Around:
        return dataclasses.replace(
            super().composition(key), before=self.before, after=self.after, cell_key=self.cell_key
        )

    def before(self, params: Params, inputs: Inputs, key: Key) -> tuple[Any, Any]:
        """Returns `(cell_inputs, saved)`: the inputs of the cell, and a value for `after`."""
        del params, key
        return inputs, None

    def after(self, params: Params, saved: PyTree, output: Outputs, key: Key) -> Any:
        """Returns the output of the wrapper, from that of the cell."""
        del params, saved, key
        return output

    def cell_key(self, key: Key) -> Any:
        """Returns the key of the cell's step, from that of the wrapper's step."""
        return key

    def why_not_separable(self, key: Key) -> str | None:
        del key
        return None
