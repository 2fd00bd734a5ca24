"""Cells made of other cells: `Stacked` layers, and one cell with work `Around` its steps.

A cell returns one of these from `Cell.composition`. All code that looks inside a cell calls that
method: the engines, which run the inner cells one by one, and `interop`, which looks for the params
of each of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from ._adapter import as_cell, output_shape
from ._cell import Cell, Composition, Params, State, take_step
from ._protocol import ask
from ._tools import fold_in
from ._types import BatchShape, DTypeLike, Inputs, Key, Outputs, PyTree, Shapes


@dataclasses.dataclass(frozen=True, eq=False)
class Stacked(Composition):
    """A stack of cells: the output of each cell is the input of the next.

    The params of the stack are `{name: params of that cell}`. Its state is the tuple
    of the cells' states. In a run with a key, cell i takes its step with
    `fold_in(key, i)`.

    Args:
        cells: the cells, by the names of their params; the first one receives the inputs.

    Raises:
        TypeError: one of them is not a cell. ValueError: there is none.

    Example: a stack of two cells; every engine that runs `MultiRNNCell` runs it
        >>> import dataclasses, jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> @jax.tree_util.register_static
        ... @dataclasses.dataclass(frozen=True)
        ... class Two(rnn.Cell):
        ...     lower: rnn.Cell
        ...     upper: rnn.Cell
        ...     def composition(self, key=None):
        ...         return rnn.Stacked({"lower": self.lower, "upper": self.upper})
        >>> cell, inputs = Two(rnn.GRUCell(4), rnn.LSTMCell(8)), jnp.ones((2, 5, 3))
        >>> params = cell.init(jax.random.key(0), inputs.shape)
        >>> outputs, (lower, upper) = rnn.dynamic_rnn(cell, params, inputs)
        >>> sorted(params), outputs.shape, lower.shape, upper.c.shape
        (['lower', 'upper'], (2, 5, 8), (2, 4), (2, 8))
    """

    cells: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.cells:
            raise ValueError("Stacked: expected at least one cell, got none")
        cells = {name: as_cell(cell, f"Stacked's {name}") for name, cell in self.cells.items()}
        object.__setattr__(self, "cells", cells)

    @property
    def inner(self) -> tuple[Cell, ...]:
        return tuple(self.cells.values())

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike) -> Params:
        params = {}
        for i, (name, cell) in enumerate(self.cells.items()):
            params[name] = ask(cell, "init", jax.random.fold_in(key, i), input_shape, dtype)
            if i + 1 < len(self.cells):  # tracing the last cell would be wasted
                input_shape = output_shape(cell, input_shape)
        return params

    def zero_state(self, batch_shape: BatchShape, dtype: DTypeLike) -> State:
        return tuple(ask(cell, "zero_state", batch_shape, dtype) for cell in self.cells.values())

    def prepare(self, params: Params, *, key: Key, batch_shape: tuple[Any, ...]) -> Params:
        return {
            name: ask(cell, "prepare", params[name], key=fold_in(key, i), batch_shape=batch_shape)
            for i, (name, cell) in enumerate(self.cells.items())
        }

    def start(self, params: Params, batch_shape: BatchShape, dtype: DTypeLike) -> State:
        cells = self.cells.items()
        return tuple(ask(cell, "start", params[name], batch_shape, dtype) for name, cell in cells)

    @property
    def feature_ndim(self) -> Any:
        return next(iter(self.cells.values())).feature_ndim

    @property
    def attends(self) -> bool:
        return any(cell.attends for cell in self.cells.values())

    def attend(self, params: Params, *memory: Any, memory_mask: Any = None) -> Params:
        attending = {name: cell for name, cell in self.cells.items() if cell.attends}
        return {
            **params,
            **{
                name: cell.attend(params[name], *memory, memory_mask=memory_mask)
                for name, cell in attending.items()
            },
        }

    def step(self, params: Params, inputs: Inputs, state: State, key: Key) -> tuple[Any, State]:
        # Engines that run the cells one by one derive the same keys, so that all draw the same.
        output, states = inputs, []
        for i, ((name, cell), old) in enumerate(
            zip(self.cells.items(), self.states(state), strict=True)
        ):
            projected = ask(cell, "project", params[name], output)
            output, new = take_step(cell, params[name], projected, old, key=fold_in(key, i))
            states.append(new)
        return output, tuple(states)

    def states(self, state: State) -> tuple[Any, ...]:
        """Splits the state of the stack into the states of the cells.

        Raises:
            ValueError: it is not a tuple of as many parts as there are cells.
        """
        if not isinstance(state, tuple) or len(state) != len(self.cells):
            got = len(state) if isinstance(state, tuple) else type(state).__name__
            raise ValueError(
                f"state: expected a tuple of {len(self.cells)} parts, one for each cell of the "
                f"stack ({', '.join(self.cells)}), got {got}"
            )
        return state


@dataclasses.dataclass(frozen=True, eq=False)
class Around(Composition):
    """One cell with work before and after each of its steps.

        cell_inputs, saved = before(params, inputs, key)
        cell_output, new_state = step of the cell
        output = after(params, saved, cell_output, key)

    The state is that of the cell. Fast engines call `before` and `after` outside the loop, batched
    over all steps.

    Args:
        cell: the inner cell.
        name: the params of the cell are `params[name]` in those of the wrapper; `None`: both have
            the same params.
        before: `before(params, inputs, key) -> (cell_inputs, saved)`; `saved` is passed to
            `after`. `None`: the cell receives the inputs unchanged, and `saved` is `None`.
        after: `after(params, saved, cell_output, key) -> output`; `None`: the output is the cell's.
        why_not_separable: the reason, for messages, why `before` and `after` do not describe the
            whole wrapper; it must then define `step`. `None`: they do.
        same_features: whether the cell receives as many features as the wrapper.
        same_output: whether the output has the shape of the cell's output. Both flags are only
            hints for `interop`, which infers sizes from weights.
        cell_params: maps the params of the wrapper, raw or prepared, to those of the cell; needed
            if the wrapper's `prepare` returns a structure that `name` does not fit.
        cell_key: maps the key of a step of the wrapper to that of the cell's step; `None`: both
            have the same key.

    `before` and `after` are called with one step, `[B, ...]`, or without a key also with all steps
    of a run, `[B, T, ...]` or `[T, B, ...]`. They must therefore use only the last axes.

    Raises:
        TypeError: `cell` is not a cell.

    Example: a wrapper with one function; every engine that runs its cell runs it
        >>> import dataclasses, jax, jax.numpy as jnp, jax_dynrnn as rnn
        >>> @jax.tree_util.register_static
        ... @dataclasses.dataclass(frozen=True)
        ... class Scaled(rnn.Cell):
        ...     cell: rnn.Cell
        ...     factor: float
        ...     def scale(self, params, saved, output, key):
        ...         return self.factor * output
        ...     def composition(self, key=None):
        ...         return rnn.Around(self.cell, after=self.scale)
        >>> inputs, gru = jnp.ones((2, 5, 3)), rnn.GRUCell(4)
        >>> params = gru.init(jax.random.key(0), inputs.shape)
        >>> plain, _ = rnn.dynamic_rnn(gru, params, inputs)
        >>> scaled, _ = rnn.dynamic_rnn(Scaled(gru, 2.0), params, inputs)
        >>> bool((scaled == 2 * plain).all())
        True
    """

    cell: Any
    _: dataclasses.KW_ONLY
    name: str | None = None
    before: Callable[[Params, Any, Any], tuple[Any, Any]] | None = None
    after: Callable[[Params, Any, Any, Any], Any] | None = None
    why_not_separable: str | None = None
    same_features: bool = False
    same_output: bool = False
    cell_params: Callable[[Params], Params] | None = None
    cell_key: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "cell", as_cell(self.cell, "Around's cell"))

    @property
    def inner(self) -> tuple[Cell, ...]:
        return (self.cell,)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike) -> Params:
        # The params beside params[name] are the wrapper's own, which this class does not know.
        if self.name is not None:
            raise NotImplementedError(
                "init: expected a definition in the wrapper, which has params besides "
                f"params[{self.name!r}], got none"
            )
        return ask(self.cell, "init", key, input_shape, dtype)

    def zero_state(self, batch_shape: BatchShape, dtype: DTypeLike) -> State:
        return ask(self.cell, "zero_state", batch_shape, dtype)

    def prepare(self, params: Params, *, key: Key, batch_shape: tuple[Any, ...]) -> Params:
        inner = self.inner_params(params)
        key = self.inner_key(key)
        prepared = ask(self.cell, "prepare", inner, key=key, batch_shape=batch_shape)
        return self._replace_inner(params, prepared)

    def start(self, params: Params, batch_shape: BatchShape, dtype: DTypeLike) -> State:
        return ask(self.cell, "start", self.inner_params(params), batch_shape, dtype)

    @property
    def feature_ndim(self) -> Any:
        return self.cell.feature_ndim

    @property
    def attends(self) -> bool:
        return self.cell.attends

    def attend(self, params: Params, *memory: Any, memory_mask: Any = None) -> Params:
        inner = self.cell.attend(self.inner_params(params), *memory, memory_mask=memory_mask)
        return self._replace_inner(params, inner)

    def step(self, params: Params, inputs: Inputs, state: State, key: Key) -> tuple[Any, State]:
        cell_inputs, saved = self.work_before(params, inputs, key)
        output, state = self.cell_step(params, cell_inputs, state, self.inner_key(key))
        return self.work_after(params, saved, output, key), state

    def cell_step(
        self, params: Params, cell_inputs: Inputs, state: State, cell_key: Key
    ) -> tuple[Any, State]:
        """Takes a step of the cell, given the params of the wrapper."""
        inner = self.inner_params(params)
        projected = ask(self.cell, "project", inner, cell_inputs)
        return take_step(self.cell, inner, projected, state, key=cell_key)

    def work_before(self, params: Params, inputs: Inputs, key: Key) -> tuple[Any, Any]:
        """Calls `before`, if there is one -> `(cell_inputs, saved)`."""
        return (inputs, None) if self.before is None else self.before(params, inputs, key)

    def work_after(self, params: Params, saved: PyTree, output: Outputs, key: Key) -> Any:
        """Calls `after`, if there is one, and returns the output of the wrapper."""
        return output if self.after is None else self.after(params, saved, output, key)

    def inner_params(self, params: Params) -> Params:
        """Returns the params of the cell, from raw or prepared params of the wrapper."""
        if self.cell_params is not None:
            return self.cell_params(params)
        return params if self.name is None else params[self.name]

    def inner_key(self, key: Key) -> Any:
        """Returns the key of the cell's step, from that of the wrapper's step."""
        return key if self.cell_key is None else self.cell_key(key)

    def _replace_inner(self, params: Params, inner: Params) -> Params:
        """Returns the params of the wrapper, with those of the cell replaced."""
        return inner if self.name is None else {**params, self.name: inner}


def inner_cells(cell: Any) -> Iterator[Any]:
    """Yields a cell, and all cells inside it, outermost first."""
    yield cell
    composition = cell.composition() if isinstance(cell, Cell) else None
    for inner in () if composition is None else composition.inner:
        yield from inner_cells(inner)
