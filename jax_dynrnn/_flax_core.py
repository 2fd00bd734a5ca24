"""The part of the Linen and the NNX layers that does not depend on Flax.

A layer holds a plan, which is one way of running cells: `cells` lists them (the first receives the
inputs), `init` makes the params, `run` calls one of the pure functions, and `one_step` is traced
to find out whether the cells draw random numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from . import _bidirectional, _check_cell, _check_data, _stack_bidirectional
from ._adapter import as_cell
from ._cell import Cell, Memory, Params
from ._features import batch_shape_of, feature_ndims
from ._memoize import memoize_by_cell
from ._protocol import ask, call_back
from ._rnn import RunOptions, cast, dynamic_rnn, promoted
from ._tools import batch_tuple, depends_on_last
from ._types import BatchShape, CellLike, DTypeLike, Inputs, Key, PyTree, PyTreeDef, Shapes, State


class LayerOptions(RunOptions, total=False):
    """The options of a call of any layer."""

    deterministic: bool | None


class OneCellOptions(LayerOptions, total=False):
    """The options of a call of a layer of one cell."""

    reverse: bool
    memory: Any
    memory_length: Any
    memory_mask: Any


class ScannedOptions(TypedDict, total=False):
    """The options of a call of `ScannedRNN`."""

    sequence_length: Any
    mask: Any
    dtype: Any
    key: Any
    unroll: int
    remat: Any
    implementation: Any
    deterministic: bool | None
    reverse: bool
    memory: Any
    memory_length: Any
    memory_mask: Any


def run_scanned(
    run: Callable[..., Any], carry: Any, inputs: Any, options: dict[str, Any]
) -> tuple[Any, Any]:
    """A call of `ScannedRNN` -> `(carry, outputs)`; `run` is that of the layer."""
    inputs, resets = _inputs_and_resets(inputs)
    lengths = options.pop("sequence_length", None)
    outputs, state = run(inputs, lengths, carry, resets=resets, time_major=True, **options)
    return state, outputs


def _inputs_and_resets(given: Any) -> tuple[Any, Any]:
    """The two parts of what `ScannedRNN` receives for all steps."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise TypeError(
            "inputs: expected a pair (inputs [T, B, ...], resets bool [T, B]), got "
            f"{type(given).__name__}"
            + (f" of {len(given)}" if isinstance(given, tuple | list) else "")
            + "; the order of arguments is layer(carry, (inputs, resets))"
        )
    return given[0], given[1]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Single:
    """The plan of `RNN`: runs one cell by `dynamic_rnn`."""

    cell: Any

    @property
    def cells(self) -> tuple[Any, ...]:
        return (self.cell,)

    def init(self, key: jax.Array, input_shape: Shapes, dtype: DTypeLike) -> Params:
        return ask(as_cell(self.cell), "init", key, input_shape, dtype)

    def attend(self, params: Params, memory: PyTree, length: Any, mask: Any) -> Params:
        return as_cell(self.cell).attend(params, memory, length, memory_mask=mask)

    def run(self, *arguments: Any, **options: Any) -> Any:
        return dynamic_rnn(self.cell, *arguments, **options)

    def one_step(self, params: Params, row: Inputs, key: Key) -> Any:
        cell = as_cell(self.cell)
        # Checked first: with wrong params the trace below fails with a less clear error.
        _check_cell.check_params(cell, params, shapes_of(row))
        start = ask(cell, "start", params, (1,), jnp.float32)
        return Cell.__call__(cell, params, row, start, key=key)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Pair:
    """The plan of `Bidirectional`: `bidirectional_dynamic_rnn`, with the outputs merged."""

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
    """The plan of `StackedBidirectional`: it returns the states of both directions as a pair."""

    cells_fw: Any
    cells_bw: Any

    def __post_init__(self) -> None:
        fw, bw = zip(*_stack_bidirectional.layer_pairs(self.cells_fw, self.cells_bw), strict=True)
        # Tuples, since a static dataclass must be hashable. It is frozen: hence `object`.
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
            # The next layer reads the concatenated outputs, as in a run.
            row = jax.tree.map(lambda *y: jnp.concatenate(y, -1), fw[0], bw[0])
            results.append((fw, bw))
        return results


Plan: TypeAlias = Single | Pair | Stack
"""One way of running cells."""


MEMORY = "memory", "memory_length", "memory_mask"
"""The options of a call that `with_memory` takes."""


def with_memory(plan: Plan, params: Params, memory: PyTree, length: Any, mask: Any) -> Params:
    """The params with the memory to attend to, from the options of a call."""
    if memory is None:
        for name, given in (("memory_length", length), ("memory_mask", mask)):
            if given is not None:
                raise TypeError(f"{name}: expected memory= with it, got None")
        return params
    if not isinstance(plan, Single):
        raise TypeError("memory: expected a layer of one cell, an RNN, got a bidirectional one")
    return plan.attend(params, memory, length, mask)


def start(
    cell: CellLike, params: Params, batch_shape: BatchShape, dtype: DTypeLike | None
) -> State:
    """The start state of a run in `dtype`, for a layer of one cell."""
    dtype = _check_data.floating(dtype)
    return ask(as_cell(cell), "start", cast(params, dtype), batch_tuple(batch_shape), dtype)


def step(
    cell: CellLike, params: Params, inputs: Inputs, state: State, key: Key, dtype: DTypeLike | None
) -> Any:
    """One step of a layer of one cell, in the dtype in which a run would compute."""
    dtype = _check_data.floating(dtype) or promoted((params, inputs))
    params, inputs = cast((params, inputs), dtype)
    cell, like = as_cell(cell), jax.ShapeDtypeStruct((), dtype)
    # A state in fewer bits is widened: `start` makes it without knowing the dtype of the inputs.
    state = jax.tree.map(lambda x: cast(x, promoted((x, like))), state)
    return Cell.__call__(cell, params, inputs, state, key=key)


def check_state(cell: CellLike, params: Params, inputs: Inputs, state: State) -> Any:
    """Checks the inputs and the state of a step, and returns the state.

    This comes first: whether the cell draws random numbers is found by a trace, which needs
    correct inputs.
    """
    cell = as_cell(cell)
    batch_shape = batch_shape_of(inputs, cell.feature_ndim)
    return _check_cell.state_of_step(cell, params, inputs, state, batch_shape)


def check_inputs(plan: Plan, inputs: Inputs, time_major: bool = False) -> Any:
    """Checks the inputs of a run, and returns them as arrays.

    This comes first: making the params, and finding out whether a key is needed, takes correct
    inputs.
    """
    _check_data.flag("time_major", time_major)
    return _check_data.check_inputs(as_cell(plan.cells[0]), inputs, 0 if time_major else 1)[0]


def shapes_of(inputs: Inputs) -> Any:
    """The shapes of the inputs: the `input_shape` of `init`."""
    return jax.tree.map(np.shape, inputs)


def find_key(
    key: Key,
    deterministic: bool | None,
    stream: Callable[[], Any] | None,
    plan: Plan,
    params: Params,
    inputs: Inputs,
) -> Any:
    """The key of a run: `key`, or one of the dropout stream if a cell needs it, or `None`.

    Raises a `ValueError` if a cell draws random numbers and there is neither. `inputs` may
    be those of a run or of one step: only their features matter.
    """
    _check_data.one_key(key)
    if deterministic is not None:
        _check_data.flag("deterministic", deterministic)
    if deterministic:
        return None
    # A cell that draws no random numbers needs no stream, and does not advance one.
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
    """Whether the results of the cells depend on the key, found by tracing one step of one row."""
    ndims = feature_ndims(as_cell(plan.cells[0]).feature_ndim, inputs)

    # One row in float32, as `one_step` has it: calls that differ only in the batch size or in the
    # floating dtype share an entry of the cache.
    def spec(x, shape):
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(shape, jnp.float32 if floating else x.dtype)

    def is_memory(x):
        return isinstance(x, Memory)

    def of_one_row(x):
        return spec(x, (1, *x.shape[1:]))

    def param_spec(x):
        # A memory is in the params, but has a batch axis.
        return jax.tree.map(of_one_row, x) if is_memory(x) else spec(x, x.shape)

    def input_spec(x, feature_ndim):
        return spec(x, (1, *x.shape[x.ndim - feature_ndim :]))

    row = jax.tree.map(input_spec, inputs, ndims)
    params = jax.tree.map(param_spec, params, is_leaf=is_memory)
    types, treedef = jax.tree.flatten((params, row))
    return _uses_key(plan, treedef, tuple(types))


@memoize_by_cell
def _uses_key(plan: Plan, treedef: PyTreeDef, types: tuple[Any, ...]) -> bool:
    params, row = treedef.unflatten(types)
    return depends_on_last(plan.one_step, params, row, jax.random.key(0))
