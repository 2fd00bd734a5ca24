"""Caches that are keyed by cells, programs too, and the check of which cells may be keys.

A cache keeps its keys alive as long as the process runs. So only a cell that is a configuration
may be a key: small, compared by value, without arrays.
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
import jax.core
import jax.stages
import numpy as np

from ._tools import importable_name
from ._types import CellLike


def why_not_cached(cell: CellLike) -> str | None:
    """Why a cell may not be the key of a cache, or `None` if it may."""
    culprit = _first_not_static(cell)
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


def memoize_by_cell(f: Callable[..., Any]) -> Callable[..., Any]:
    """Memoizes `f(cell, ...)` for cells that may be keys of a cache; other calls are not cached."""
    cached = functools.lru_cache(1024)(f)

    def memoized(cell: CellLike, *more: Any) -> Any:
        return (cached if why_not_cached(cell) is None else f)(cell, *more)

    return memoized


def run_compiled(
    loop: Callable[..., Any],
    cell: CellLike,
    options: tuple[Any, ...],
    functions: tuple[Any, ...],
    arrays: tuple[Any, ...],
) -> Any:
    """`loop(cell, *options, *functions, *arrays)`; equal eager calls share a program if they can.

    They can if nothing but arrays may change from call to call: the cell is a configuration,
    options are hashable, and each function is a pytree of arrays (`jax.tree_util.Partial`), a
    static object, which is compared by value, or jitted. Any other function may read variables
    that change, which a program that was compiled before would not see.
    """
    leaves, structure = jax.tree.flatten(functions)
    traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((leaves, arrays)))
    jitted = tuple(None if _is_array(x) else x for x in leaves)
    is_fixed = all(x is None or isinstance(x, jax.stages.Wrapped) for x in jitted)
    if not traced and is_fixed and why_not_cached(cell) is None:
        try:
            program = _program(loop, cell, options, structure, jitted)
        except TypeError:  # something is not hashable
            pass
        else:
            return program([x for x in leaves if _is_array(x)], arrays)
    return loop(cell, *options, *functions, *arrays)


def _is_array(x: object) -> bool:
    return isinstance(x, jax.Array | np.ndarray)


# A program keeps what its jitted functions hold, so only a few are kept.
@functools.lru_cache(32)
def _program(
    loop: Callable[..., Any],
    cell: CellLike,
    options: tuple[Any, ...],
    structure: Any,
    jitted: tuple[Any, ...],
) -> Callable[..., Any]:
    """The program of `run_compiled`, of the arrays in the functions, and of the other arrays."""

    @jax.jit
    def program(in_functions: list[Any], arrays: tuple[Any, ...]) -> Any:
        given = iter(in_functions)
        functions = structure.unflatten([next(given) if x is None else x for x in jitted])
        return loop(cell, *options, *functions, *arrays)

    return program


def is_configuration(cell: CellLike) -> bool:
    """Whether a cell, and every cell inside it, is registered as static.

    Static cells that are equal behave alike, and share one compiled program. Any other object is
    closed over by the program, and is not even hashed.
    """
    return _first_not_static(cell) is None


def _first_not_static(cell: Any) -> Any:
    """Returns the cell, or the first cell inside it, that is not registered as static, or `None`.

    Inner cells are looked for in the fields of a dataclass, and in its composition.
    """
    if hasattr(cell, "foreign"):  # an adapter, which is as static as the object inside it
        return _first_not_static(cell.foreign)
    # A static object is a pytree without leaves; any other object is a leaf itself, or has some.
    if jax.tree.leaves(cell):
        return cell
    fields = dataclasses.fields(cell) if dataclasses.is_dataclass(cell) else ()
    values = [getattr(cell, field.name) for field in fields]
    parts = [x for v in values for x in (v if isinstance(v, tuple) else (v,))]
    if (composition := getattr(cell, "composition", lambda: None)()) is not None:
        parts += composition.inner
    for part in parts:
        if hasattr(part, "zero_state") and (culprit := _first_not_static(part)) is not None:
            return culprit
    try:
        hash(cell)
    except TypeError:
        return cell
    return None


_HOLDS_ARRAYS = weakref.WeakKeyDictionary()


def _cell_holds_arrays(cell: CellLike) -> bool:
    """`holds_arrays` of a cell, memoized by weak reference.

    Every run calls this, and the walk through all referents is slow. A configuration is immutable,
    so the result stays valid.
    """
    try:
        if cell not in _HOLDS_ARRAYS:
            _HOLDS_ARRAYS[cell] = holds_arrays(cell)
        return _HOLDS_ARRAYS[cell]
    except TypeError:  # a class with __slots__ may not support weak references
        return holds_arrays(cell)


def holds_arrays(x: object) -> bool:
    """Whether an array can be reached from `x`.

    References are those that Python's garbage collector knows: closures, partials, bound methods,
    attributes, default arguments and containers.
    """
    visited, pending = set(), [x]
    while pending:
        x = pending.pop()
        if isinstance(x, jax.Array | np.ndarray):
            return True
        if id(x) not in visited and not _outlives_caches(x):
            visited.add(id(x))
            pending += _referents(x)
    return False


def _referents(x: object) -> list[Any]:
    """Returns the objects that `x` refers to, without the globals of a function."""
    found = gc.get_referents(x)
    if not isinstance(x, types.FunctionType):
        return found
    # Globals live as long as their module does, whether or not a cache keeps the function.
    return [y for y in found if y is not x.__globals__]


_ATOMS = (str, bytes, bool, int, float, complex, type(None), types.CodeType, types.ModuleType)


def _outlives_caches(x: object) -> bool:
    """Whether a cache may refer to `x`: it holds no array, or lives as long as its module."""
    if isinstance(x, _ATOMS):
        return True
    if isinstance(x, type):
        return "<locals>" not in x.__qualname__
    # Functions of __main__ do not count: in a notebook, each run of a cell redefines them.
    return importable_name(x) is not None and x.__module__ != "__main__"
