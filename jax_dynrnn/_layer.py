"""What the Linen and the NNX layers are layers of. It does not import flax.

A plan is one way of running cells: `cells` lists them (the first receives the inputs), `init`
makes the params, `run` is one of the pure functions, and `one_step` shows what a step draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from . import _bidirectional, _check_cell, _check_data, _stack_bidirectional
from ._cell import Cell, Memory, Params, as_cell, feature_ndims, leading_shape
from ._memoize import memoize_by_cell
from ._protocol import ask, call_back
from ._rnn import RunOptions, cast, dynamic_rnn, promoted
from ._tools import batch_tuple, depends_on_last
from ._types import BatchShape, CellLike, DTypeLike, Inputs, Key, PyTree, PyTreeDef, Shapes, State


class LayerOptions(RunOptions, total=False):
    """The options of a call of a layer."""

    deterministic: bool | None


class OneCellOptions(LayerOptions, total=False):
    """Those of a layer of one cell."""

    reverse: bool
    memory: Any
    memory_length: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Single:
    """`dynamic_rnn` of one cell."""

    cell: Any

    @property
    def cells(self) -> tuple[Any, ...]:
        return (self.cell,)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike) -> Params:
        return ask(as_cell(self.cell), "init", key, input_shape, dtype)

    def attend(self, params: Params, *memory: Any) -> Params:
        return as_cell(self.cell).attend(params, *memory)

    def run(self, *arguments: Any, **options: Any) -> Any:
        return dynamic_rnn(self.cell, *arguments, **options)

    def one_step(self, params: Params, row: Inputs, key: Key) -> Any:
        cell = as_cell(self.cell)
        _check_cell.check_params(cell, params, input_shape(row))  # or the trace fails, and says less
        start = ask(cell, "start", params, (1,), jnp.float32)
        return Cell.__call__(cell, params, row, start, key=key)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Pair:
    """`bidirectional_dynamic_rnn`, with the outputs merged."""

    cell_fw: Any
    cell_bw: Any
    merge_fn: Callable[..., Any] | None

    def __post_init__(self) -> None:
        if not (self.merge_fn is None or callable(self.merge_fn)):
            raise TypeError(
                "merge_fn: expected a function of both outputs, or None for the pair, got "
                f"{self.merge_fn!r}"
            )

    @property
    def cells(self) -> tuple[Any, ...]:
        return (self.cell_fw, self.cell_bw)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike) -> Params:
        cells = (self.cell_fw, self.cell_bw)
        return _bidirectional.init_bidirectional(key, *cells, input_shape, dtype)

    def run(self, *arguments: Any, **options: Any) -> Any:
        outputs, states = _bidirectional.bidirectional_dynamic_rnn(
            self.cell_fw, self.cell_bw, *arguments, **options
        )
        if self.merge_fn is None:
            return outputs, states
        merged = call_back("merge_fn", self.merge_fn, "outputs_fw, outputs_bw", *outputs)
        return merged, states

    def one_step(self, params: Params, row: Inputs, key: Key) -> Any:
        cells = {"fw": self.cell_fw, "bw": self.cell_bw}
        _check_cell.check_param_groups(params, tuple(cells))
        results = []
        for name, cell in cells.items():
            with _check_cell.relabel_errors(params=f'params["{name}"]'):
                results.append(Single(cell).one_step(params[name], row, key))
        return tuple(results)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Stack:
    """`stack_bidirectional_dynamic_rnn`, with the states as a pair."""

    cells_fw: Any
    cells_bw: Any

    def __post_init__(self) -> None:
        fw, bw = zip(*_stack_bidirectional.layers(self.cells_fw, self.cells_bw), strict=True)
        object.__setattr__(self, "cells_fw", fw)
        object.__setattr__(self, "cells_bw", bw)

    @property
    def cells(self) -> tuple[Any, ...]:
        return (*self.cells_fw, *self.cells_bw)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike) -> Params:
        cells = (self.cells_fw, self.cells_bw)
        return _stack_bidirectional.init_stack_bidirectional(key, *cells, input_shape, dtype)

    def run(self, *arguments: Any, **options: Any) -> Any:
        outputs, fw, bw = _stack_bidirectional.stack_bidirectional_dynamic_rnn(
            self.cells_fw, self.cells_bw, *arguments, **options
        )
        return outputs, (fw, bw)

    def one_step(self, params: Params, row: Inputs, key: Key) -> Any:
        results = []
        names = tuple(f"cell_{i}" for i in range(len(self.cells_fw)))
        _check_cell.check_param_groups(params, names)
        for name, *pair in zip(names, self.cells_fw, self.cells_bw, strict=True):
            with _check_cell.relabel_errors(params=f'params["{name}"]'):
                fw, bw = Pair(pair[0], pair[1], None).one_step(params[name], row, key)
            row = jax.tree.map(lambda *y: jnp.concatenate(y, -1), fw[0], bw[0])
            results.append((fw, bw))
        return results


Plan: TypeAlias = Single | Pair | Stack
"""One way of running cells."""


def with_memory(plan: Plan, params: Params, memory: PyTree, length: Any) -> Params:
    """The params with the memory that `memory=` and `memory_length=` of a call give."""
    if memory is None:
        if length is not None:
            raise TypeError("memory_length: expected memory= with it, got None")
        return params
    if not isinstance(plan, Single):
        raise TypeError("memory: expected a layer of one cell, an RNN, got one of directions")
    return plan.attend(params, memory, length)


def start(
    cell: CellLike, params: Params, batch_shape: BatchShape, dtype: DTypeLike | None
) -> State:
    """Where a run of a layer of one cell begins, in that dtype."""
    dtype = _check_data.floating(dtype)
    return ask(as_cell(cell), "start", cast(params, dtype), batch_tuple(batch_shape), dtype)


def step(
    cell: CellLike, params: Params, inputs: Inputs, state: State, key: Key, dtype: DTypeLike | None
) -> Any:
    """One step of a layer of one cell, in the dtype that a run would have.

    A narrower state is widened to it: `start` does not see the inputs.
    """
    dtype = _check_data.floating(dtype) or promoted((params, inputs))
    params, inputs = cast((params, inputs), dtype)
    cell, like = as_cell(cell), jax.ShapeDtypeStruct((), dtype)
    state = jax.tree.map(lambda x: cast(x, promoted((x, like))), state)
    return Cell.__call__(cell, params, inputs, state, key=key)


def check_state(cell: CellLike, params: Params, inputs: Inputs, state: State) -> Any:
    """The state of a step, after the check that a cell makes of it.

    It is made first: whether the cell draws can only be found with inputs that are inputs.
    """
    cell = as_cell(cell)
    batch_shape = leading_shape(inputs, cell.feature_ndim)
    return _check_cell.state_of_step(cell, params, inputs, state, batch_shape)


def check_inputs(plan: Plan, inputs: Inputs, time_major: bool = False) -> Any:
    """The inputs of a run as arrays, after the check that the run makes of them.

    It is made first: the params and the need of a key depend on what the inputs are.
    """
    _check_data.flag("time_major", time_major)
    return _check_data.check_inputs(as_cell(plan.cells[0]), inputs, 0 if time_major else 1)[0]


def input_shape(inputs: Inputs) -> Any:
    """What `init` wants to know of the inputs."""
    return jax.tree.map(jnp.shape, inputs)


def find_key(
    key: Key,
    deterministic: bool | None,
    stream: Callable[[], Any] | None,
    plan: Plan,
    params: Params,
    inputs: Inputs,
) -> Any:
    """The key of a run: the one given, or for cells that draw the dropout stream's; or none.

    Raises a `ValueError` if a cell draws and there is nothing to draw from. `inputs` may be
    of a whole run or of one step: only the features matter.
    """
    _check_data.one_key(key)
    if deterministic is not None:
        _check_data.flag("deterministic", deterministic)
    if deterministic:
        return None
    if key is not None or not uses_key(plan, params, inputs):
        return key
    if stream is None:
        raise ValueError(
            f"{' and '.join(map(repr, dict.fromkeys(plan.cells)))}: draws random numbers; expected "
            "a stream of keys named 'dropout', got none; give one, or a key=, or pass "
            "deterministic=True to evaluate"
        )
    return stream()


def uses_key(plan: Plan, params: Params, inputs: Inputs) -> bool:
    """Whether what the cells compute depends on the key."""
    ndims = feature_ndims(as_cell(plan.cells[0]).feature_ndim, inputs)

    def one(x, shape):
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(shape, jnp.float32 if floating else x.dtype)

    def param(x):
        if isinstance(x, Memory):
            return jax.tree.map(lambda x: one(x, (1, *x.shape[1:])), x)
        return one(x, x.shape)

    row = jax.tree.map(lambda x, n: one(x, (1, *x.shape[x.ndim - n :])), inputs, ndims)
    params = jax.tree.map(param, params, is_leaf=lambda x: isinstance(x, Memory))
    types, structure = jax.tree.flatten((params, row))
    return _uses_key(plan, structure, tuple(types))


@memoize_by_cell
def _uses_key(plan: Plan, structure: PyTreeDef, types: tuple[Any, ...]) -> bool:
    params, row = structure.unflatten(types)
    return depends_on_last(plan.one_step, params, row, jax.random.key(0))
