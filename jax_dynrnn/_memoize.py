"""Caches that are keyed by cells, and which cells they may keep.

A cache keeps what it is keyed by as long as the process runs. It may keep a cell that is a
configuration: small, compared by value, without arrays.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import types
import weakref
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ._tools import importable_name
from ._types import CellLike


def why_not_cached(cell: CellLike) -> str | None:
    """Why no cache may keep a cell, or `None` if one may."""
    culprit = _not_static(cell)
    if culprit is not None:
        return (
            f"{type(culprit).__name__} is not registered as static: expected "
            "jax.tree_util.register_static on a frozen dataclass without arrays"
        )
    if _cell_holds_arrays(cell):
        return (
            f"a function in {type(cell).__name__} holds arrays, which a cache would keep alive: "
            "arrays belong in the params"
        )
    return None


def memoize_by_cell(ask: Callable[..., Any]) -> Callable[..., Any]:
    """`ask(cell, ...)` with its answers cached for cells that a cache may keep."""
    cached = functools.lru_cache(1024)(ask)

    def asked(cell: CellLike, *more: Any) -> Any:
        return (cached if why_not_cached(cell) is None else ask)(cell, *more)

    return asked


def is_configuration(cell: CellLike) -> bool:
    """Whether a cell, and every cell inside it, is registered as static: equal ones are alike.

    Any other object is closed over; it is not even hashed.
    """
    return _not_static(cell) is None


def _not_static(cell: Any) -> Any:
    """The cell, or the first one inside it, that is not registered as static; or `None`."""
    if hasattr(cell, "foreign"):  # an object that is no `Cell`, in its adapter
        return _not_static(cell.foreign)
    if jax.tree.leaves(cell):
        return cell
    fields = dataclasses.fields(cell) if dataclasses.is_dataclass(cell) else ()
    values = [getattr(cell, field.name) for field in fields]
    parts = [x for v in values for x in (v if isinstance(v, tuple) else (v,))]
    for part in parts:
        if hasattr(part, "zero_state") and (culprit := _not_static(part)) is not None:
            return culprit
    try:
        hash(cell)
    except TypeError:
        return cell
    return None


_HOLDS_ARRAYS = weakref.WeakKeyDictionary()


def _cell_holds_arrays(cell: CellLike) -> bool:
    """`holds_arrays` of a configuration, which is immutable: every call of a run asks."""
    try:
        if cell not in _HOLDS_ARRAYS:
            _HOLDS_ARRAYS[cell] = holds_arrays(cell)
        return _HOLDS_ARRAYS[cell]
    except TypeError:  # of a class with slots there are no weak references
        return holds_arrays(cell)


def holds_arrays(x: object) -> bool:
    """Whether an array is reached from `x`.

    The way there may be a closure, a partial, a bound method, an attribute, a default argument or
    a container; Python's garbage collector knows them all.
    """
    visited, waiting = set(), [x]
    while waiting:
        x = waiting.pop()
        if isinstance(x, jax.Array | np.ndarray):
            return True
        if id(x) not in visited and not _outlives_caches(x):
            visited.add(id(x))
            waiting += _referents(x)
    return False


def _referents(x: object) -> list[Any]:
    found = gc.get_referents(x)
    if not isinstance(x, types.FunctionType):
        return found
    return [y for y in found if y is not x.__globals__]


_ATOMS = (str, bytes, bool, int, float, complex, type(None), types.CodeType, types.ModuleType)


def _outlives_caches(x: object) -> bool:
    """Whether `x` holds no array, or lives as long as its module does: nothing new is kept.

    Not what is defined in `__main__`: in a notebook it is defined again and again.
    """
    if isinstance(x, _ATOMS):
        return True
    if isinstance(x, type):
        return "<locals>" not in x.__qualname__
    return importable_name(x) is not None and x.__module__ != "__main__"
