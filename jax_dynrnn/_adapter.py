"""Objects used as cells: adapted if they are no `Cell`, and the shapes of their outputs."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from ._cell import Cell, separable
from ._features import feature_shapes
from ._protocol import ask
from ._tools import is_shape, map_shapes, unboxed
from ._types import Inputs, Key, Params, Shapes, State


@jax.tree_util.register_static
class Adapter(Cell):
    """An object with the three methods that is not a `Cell`, with the interface of one.

    It is as static as that object: the two adapters of equal objects are equal.
    """

    def __init__(self, cell: Any):
        self.foreign = cell
        self.feature_ndim = getattr(cell, "feature_ndim", 1)
        self.init = cell.init
        self.zero_state = cell.zero_state
        for name in ("prepare", "start"):
            if hasattr(cell, name):
                setattr(self, name, getattr(cell, name))
        if hasattr(cell, "step"):
            self.step = cell.step
            self.project = getattr(cell, "project", self.project)

    def __call__(
        self, params: Params, inputs: Inputs, state: State, *, key: Key = None
    ) -> tuple[Any, State]:
        return ask(self.foreign, "__call__", params, inputs, state, key=key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adapter) and self.foreign == other.foreign

    def __hash__(self) -> int:
        return hash(self.foreign)

    def __repr__(self) -> str:
        return repr(self.foreign)


def as_cell(cell: Any, name: str = "cell") -> Cell:
    """Returns `cell` as a `Cell`: itself, or an `Adapter`.

    Raises:
        TypeError: methods are missing, which the message lists.
    """
    if isinstance(cell, Cell):
        own_step = type(cell).__call__ is not Cell.__call__ or type(cell).step is not Cell.step
        if not own_step and separable(cell) is None:
            raise TypeError(
                f"{name}: expected {type(cell).__name__} to define __call__, or project and "
                "step, or composition, got none of them"
            )
        return cell
    if isinstance(cell, type):
        raise TypeError(
            f"{name}: expected a cell, got the class {cell.__name__} itself; make an "
            f"instance of it, as in {cell.__name__}(128)"
        )
    missing = [m for m in ("init", "zero_state") if not callable(getattr(cell, m, None))]
    missing += [] if callable(cell) else ["__call__"]
    if missing:
        packages = {base.__module__.partition(".")[0] for base in inspect.getmro(type(cell))}
        known = " and ".join(packages & {"flax", "haiku", "equinox"})
        hint = f"; jax_dynrnn.interop.foreign adapts cells of {known}" if known else ""
        raise TypeError(
            f"{name}: expected a cell (an object with init, zero_state and __call__), "
            f"got {type(cell).__name__}, which has no {', '.join(missing)}{hint}"
        )
    return Adapter(cell)


def output_shape(cell: Cell, input_shape: Shapes) -> Any:
    """Returns the shape of the output for one row, by tracing a step without computing it."""
    features = feature_shapes(cell, input_shape)

    def output_of_step(dtype):
        params = unboxed(cell.init(jax.random.key(0), features))
        # None stands for a memory of one slot; no output but the alignments depends on the number.
        params = cell.attend(params, None) if cell.attends else params
        inputs = map_shapes(lambda s: jnp.zeros(s, dtype), features)
        start = ask(cell, "start", params, (), jnp.float32)
        # As a run takes it (prepare, project, step), even where __call__ is overridden.
        return Cell.__call__(cell, params, inputs, start)[0]

    try:
        output = jax.eval_shape(lambda: output_of_step(jnp.float32))
    except TypeError:  # a cell that takes ids refuses floats
        output = jax.eval_shape(lambda: output_of_step(jnp.int32))
    return jax.tree.map(lambda x: x.shape, output)


def output_size(cell: Cell, input_shape: Shapes, owner: object) -> int:
    """Returns the last size of the output of a cell inside `owner`.

    Raises:
        TypeError: the output is not one array.
    """
    shape = output_shape(cell, input_shape)
    if not is_shape(shape) or not shape:
        raise TypeError(
            f"{type(owner).__name__}: expected a cell whose output is one array [batch, features], "
            f"got {cell!r}, whose output has the shape {shape} for each row; put a wrapper like "
            "EmitState outside"
        )
    return shape[-1]
