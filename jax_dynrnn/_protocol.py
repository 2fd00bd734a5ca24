"""How the methods of a cell are called, and errors about what a cell of one's own gets wrong.

Nothing here computes; all of it is about structure, and runs while a call is traced.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from ._arguments import refusal
from ._types import Outputs, PyTree, State

SIGNATURES = {
    "init": "init(key, input_shape, dtype=jnp.float32)",
    "zero_state": "zero_state(batch_shape=(), dtype=jnp.float32)",
    "__call__": "__call__(params, inputs, state, *, key=None)",
    "step": "step(params, projected, state, *, key=None)",
    "project": "project(params, inputs)",
    "prepare": "prepare(params, *, key=None, batch_shape)",
    "start": "start(params, batch_shape, dtype)",
}

NUMPY = (
    "expected functions and arrays of JAX, as it is traced, got NumPy's; use jax.numpy, and "
    "jnp.asarray(table) in place of a NumPy table that is indexed"
)

VALUES = (
    "expected a function that can be traced, got one that looks at a value (if, while, float(), "
    "int() of an array), which is not known then; use jnp.where or jax.lax.cond"
)

LOOKS_AT_VALUES = jax.errors.ConcretizationTypeError, jax.errors.TracerIntegerConversionError


def ask(cell: Any, method: str, *arguments: Any, **options: Any) -> Any:
    """Calls a method of a cell; a `TypeError` says how it is defined if it cannot be called so."""
    try:
        return getattr(cell, method)(*arguments, **options)
    except Exception as error:
        if isinstance(error, jax.errors.TracerArrayConversionError) and method != "init":
            raise TypeError(f"{name_of(cell)}.{method}: {NUMPY}") from error
        if isinstance(error, LOOKS_AT_VALUES) and method != "init":
            raise TypeError(f"{name_of(cell)}.{method}: {VALUES}") from error
        if "PRNG key type <class 'NoneType'>" in str(error) and options.get("key", 0) is None:
            raise TypeError(
                f"{name_of(cell)}.{method}: expected it to run with key=None, which a run without "
                "key= gives it, to evaluate; draw only where key is not None"
            ) from error
        if isinstance(error, TypeError):
            _check_signature(cell, method, arguments, options)
        if not _is_ours(cell, method):
            error.add_note(f"{name_of(cell)} was called as {SIGNATURES[method]}")
        raise


def _check_signature(
    cell: Any, method: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    """Checks that a method can be called so at all."""
    try:
        signature = inspect.signature(getattr(cell, method))
    except (TypeError, ValueError):  # of what is written in C
        return
    if refusal(signature, arguments, options) is not None:
        raise TypeError(
            f"{name_of(cell)}.{method}: expected {SIGNATURES[method]}, got {method}{signature}"
        )


def _is_ours(cell: Any, method: str) -> bool:
    """Whether a method is this package's, whose errors need no explanation."""
    return _is_of_package(getattr(cell, method, None))


def _is_of_package(function: Any) -> bool:
    defined_in = getattr(function, "__module__", None) or ""
    return defined_in.partition(".")[0] == __name__.partition(".")[0]


def name_of(cell: Any) -> str:
    """The class of a cell, as its user knows it."""
    return type(getattr(cell, "foreign", cell)).__name__


def result(cell: Any, returned: object, state: State) -> tuple[Any, Any]:
    """What a step from `state` returned, if that is `(output, new_state)`."""
    expected = f"{cell!r}: a step must return (output, new_state)"
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise TypeError(f"{expected}, got {_what(returned, state)}")
    output, new = returned
    if jax.tree.structure(new) != jax.tree.structure(state):
        if same(returned, state):
            raise TypeError(f"{expected}, got the new state alone: {structure(returned)}")
        raise TypeError(
            f"{cell!r}: a step must return the state it was given; expected {structure(state)}, "
            f"got {structure(new)}{swapped(output, new, state)}"
        )
    for name, tree in (("output", output), ("state", new)):
        for path, x in tree_flatten_with_path(tree)[0]:
            if not hasattr(x, "dtype"):
                raise TypeError(
                    f"{expected} of arrays, got {type(x).__name__} {x!r:.60} in "
                    f"{name}{keystr(path)}; jnp.full({_batch(state)}, {x!r:.60}) is one for each "
                    "row"
                )
    for (path, x), old in zip(tree_flatten_with_path(new)[0], jax.tree.leaves(state), strict=True):
        if jnp.shape(x) != jnp.shape(old):
            raise changed(cell, path, old, x, swapped(output, new, state))
    return output, new


def changed(cell: Any, path: Any, old: State, new: State, hint: str = "") -> TypeError:
    """The error about a leaf of the state that a step returned in another shape or dtype."""
    return TypeError(
        f"{cell!r}: a step must return the state it was given; expected state{keystr(path)} of "
        f"{old.dtype}{list(jnp.shape(old))}, got {new.dtype}{list(new.shape)}{hint}"
    )


def _what(returned: object, state: State) -> str:
    if returned is None:
        return "None: does it end without a return?"
    if isinstance(returned, Generator):
        return "a generator: it has a yield in it"
    if same(returned, state):
        return f"the new state alone, {structure(returned)}"
    return structure(returned)


def _batch(state: State) -> tuple[Any, ...]:
    shapes = [jnp.shape(x) for x in jax.tree.leaves(state)]
    return next((shape[:1] for shape in shapes if shape), ())


def same(tree: PyTree, like: PyTree) -> bool:
    """Whether two pytrees have one structure and the same shapes."""
    if jax.tree.structure(tree) != jax.tree.structure(like):
        return False
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True)
    return all(jnp.shape(x) == jnp.shape(y) for x, y in pairs if hasattr(x, "dtype"))


def swapped(output: Outputs, new: State, state: State) -> str:
    """A hint where the output of a step looks as its state should, and the state does not."""
    is_state = jax.tree.leaves(new) and same(output, state) and not same(new, state)
    return "; return (output, new_state), not Flax's (new_state, output)" if is_state else ""


def match(cell: Any, start: PyTree, given: PyTree, where: str) -> Any:
    """`given` with the structure of `start`; a plain tuple may stand for a named one.

    Shapes are checked, dtypes kept.
    """
    if isinstance(start, tuple):
        fields = getattr(start, "_fields", None)
        others = getattr(given, "_fields", fields)
        if not isinstance(given, tuple) or len(given) != len(start) or others != fields:
            raise ValueError(
                f"{where}: expected {structure(start)} for {cell!r}, got {structure(given)}"
            )
        names = [f".{f}" for f in fields] if fields else [f"[{i}]" for i in range(len(start))]
        parts = [match(cell, s, g, where + n) for s, g, n in zip(start, given, names, strict=True)]
        return type(start)(*parts) if fields else tuple(parts)
    if jax.tree.structure(start) != jax.tree.structure(given):
        raise ValueError(
            f"{where}: expected {structure(start)} for {cell!r}, got {structure(given)}"
        )

    def leaf(path, s, g):
        if tuple(s.shape) != jnp.shape(g):
            raise ValueError(
                f"{where}{keystr(path)}: expected shape {tuple(s.shape)} for {cell!r}, got "
                f"{jnp.shape(g)}; states are not broadcast"
            )
        return jnp.asarray(g)

    return jax.tree_util.tree_map_with_path(leaf, start, given)


def structure(tree: PyTree) -> str:
    """How a state looks, with its shapes: `LSTMStateTuple(c=[2, 4], h=[2, 4])`."""
    if isinstance(tree, tuple | list):
        fields = getattr(tree, "_fields", None)
        parts = [structure(x) for x in tree]
        if fields:
            inside = ", ".join(f"{f}={p}" for f, p in zip(fields, parts, strict=True))
            return f"{type(tree).__name__}({inside})"
        return f"{type(tree).__name__} of {len(tree)} ({', '.join(parts)})"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{name!r}: {structure(x)}" for name, x in tree.items()) + "}"
    return str(list(tree.shape)) if hasattr(tree, "shape") else f"{tree!r:.80}"


@contextlib.contextmanager
def traced(where: str) -> Iterator[None]:
    """Explains what happens to NumPy, and to values, in a function of the user's that is traced."""
    try:
        yield
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError(f"{where}: {NUMPY}") from error
    except LOOKS_AT_VALUES as error:
        raise TypeError(f"{where}: {VALUES}") from error


def call_back(where: str, function: Callable[..., Any], names: str, *arguments: Any) -> Any:
    """Calls a function of the user's with `arguments` of these names while it is traced."""
    with traced(where):
        try:
            return function(*arguments)
        except Exception as error:
            if isinstance(error, TypeError) and takes_other(function, arguments):
                raise TypeError(
                    f"{where}: expected a function of {len(arguments)} ({names}), got one of "
                    f"{inspect.signature(function)}"
                ) from error
            if not _is_of_package(function):
                given = arguments[0] if len(arguments) == 1 else arguments
                error.add_note(f"{where} was called with {names}, {structure(given)}")
            raise


def takes_other(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    """Whether a function cannot be called with so many arguments."""
    try:
        return refusal(inspect.signature(function), arguments, {}) is not None
    except (TypeError, ValueError):  # of what is written in C
        return False
