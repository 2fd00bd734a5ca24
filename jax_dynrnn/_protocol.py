"""Calls of a cell's methods, and errors about mistakes in a user's own cell.

Nothing here computes. The checks concern structures and shapes only, and run while a call is
traced.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from ._arguments import binding_error
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
"""How each method of a cell is defined, for error messages."""

NUMPY_MESSAGE = (
    "expected functions and arrays of JAX, as it is traced, got NumPy's; use jax.numpy, and "
    "jnp.asarray(table) in place of a NumPy table that is indexed"
)

VALUE_MESSAGE = (
    "expected a function that can be traced, got one that looks at a value (if, while, float(), "
    "int() of an array), which is unknown while JAX traces; use jnp.where or jax.lax.cond"
)

CONCRETIZATION_ERRORS = jax.errors.ConcretizationTypeError, jax.errors.TracerIntegerConversionError


def ask(cell: Any, method: str, *arguments: Any, **options: Any) -> Any:
    """Calls a method of a cell, and explains the errors that user-written methods often cause."""
    try:
        return getattr(cell, method)(*arguments, **options)
    except Exception as error:
        # `_check_cell.check_params` catches these errors of an `init` that cannot be traced.
        if isinstance(error, jax.errors.TracerArrayConversionError) and method != "init":
            raise TypeError(f"{name_of(cell)}.{method}: {NUMPY_MESSAGE}") from error
        if isinstance(error, CONCRETIZATION_ERRORS) and method != "init":
            raise TypeError(f"{name_of(cell)}.{method}: {VALUE_MESSAGE}") from error
        # A cell that draws with `key=None`: JAX's message does not say where the key is missing.
        if "PRNG key type <class 'NoneType'>" in str(error) and options.get("key", 0) is None:
            raise TypeError(
                f"{name_of(cell)}.{method}: expected it to accept key=None, which a run without "
                "key= passes to evaluate; draw random numbers only if key is not None"
            ) from error
        if isinstance(error, TypeError):
            _check_signature(cell, method, arguments, options)
        # The package's own methods raise errors that need no note.
        if not _is_of_package(getattr(cell, method, None)):
            error.add_note(f"{name_of(cell)} was called as {SIGNATURES[method]}")
        raise


def _check_signature(
    cell: Any, method: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    """Raises if a method does not accept the arguments that every cell's method is called with."""
    try:
        signature = inspect.signature(getattr(cell, method))
    except (TypeError, ValueError):  # a function written in C may have no signature
        return
    if binding_error(signature, arguments, options) is not None:
        raise TypeError(
            f"{name_of(cell)}.{method}: expected {SIGNATURES[method]}, got {method}{signature}"
        )


def _is_of_package(function: Any) -> bool:
    """Whether a function is defined in this package."""
    defined_in = getattr(function, "__module__", None) or ""
    return defined_in.partition(".")[0] == __name__.partition(".")[0]


def name_of(cell: Any) -> str:
    """The class name of a cell; for an adapter, that of the object inside."""
    return type(getattr(cell, "foreign", cell)).__name__


def result(cell: Any, returned: object, state: State) -> tuple[Any, Any]:
    """Checks that a step from `state` returned `(output, new_state)`, and returns that pair."""
    expected = f"{cell!r}: a step must return (output, new_state)"
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise TypeError(f"{expected}, got {_describe_returned(returned, state)}")
    output, new = returned
    if jax.tree.structure(new) != jax.tree.structure(state):
        # The state of an LSTM is a pair too: returned alone, it passes the check of the length.
        if same_shapes(returned, state):
            raise TypeError(f"{expected}, got the new state alone: {structure(returned)}")
        raise TypeError(
            f"{cell!r}: a step must return the state it was given; expected {structure(state)}, "
            f"got {structure(new)}{swap_hint(output, new, state)}"
        )
    for name, tree in (("output", output), ("state", new)):
        for path, x in tree_flatten_with_path(tree)[0]:
            if not hasattr(x, "dtype"):
                raise TypeError(
                    f"{expected} of arrays, got {type(x).__name__} {x!r:.60} in "
                    f"{name}{keystr(path)}; jnp.full({_batch_shape(state)}, {x!r:.60}) is one for "
                    "each row"
                )
    for (path, x), old in zip(tree_flatten_with_path(new)[0], jax.tree.leaves(state), strict=True):
        if np.shape(x) != np.shape(old):
            raise state_change_error(cell, path, old, x, swap_hint(output, new, state))
    return output, new


def state_change_error(cell: Any, path: Any, old: State, new: State, hint: str = "") -> TypeError:
    """The error for a state leaf that a step returned with another shape or dtype."""
    return TypeError(
        f"{cell!r}: a step must return the state it was given; expected state{keystr(path)} of "
        f"{old.dtype}{list(np.shape(old))}, got {new.dtype}{list(new.shape)}{hint}"
    )


def _describe_returned(returned: object, state: State) -> str:
    """What a step returned instead of a pair, with its likely cause."""
    if returned is None:
        return "None: does it end without a return?"
    if isinstance(returned, Generator):
        return "a generator: it has a yield in it"
    if same_shapes(returned, state):
        return f"the new state alone, {structure(returned)}"
    return structure(returned)


def _batch_shape(state: State) -> tuple[Any, ...]:
    """The batch axis as a shape `(B,)`; `()` if all leaves have rank 0."""
    shapes = [np.shape(x) for x in jax.tree.leaves(state)]
    return next((shape[:1] for shape in shapes if shape), ())


def same_shapes(tree: PyTree, like: PyTree) -> bool:
    """Whether two pytrees have the same structure and the same shapes."""
    if jax.tree.structure(tree) != jax.tree.structure(like):
        return False
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True)
    return all(np.shape(x) == np.shape(y) for x, y in pairs if hasattr(x, "dtype"))


def swap_hint(output: Outputs, new: State, state: State) -> str:
    """A hint if the output of a step has the shapes of the state, and the new state has not."""
    swapped = jax.tree.leaves(new) and same_shapes(output, state) and not same_shapes(new, state)
    return "; return (output, new_state), not Flax's (new_state, output)" if swapped else ""


def match_structure(cell: Any, start: PyTree, given: PyTree, where: str) -> Any:
    """`given` with the structure of `start`: plain tuples become NamedTuples.

    Shapes are checked, dtypes stay.
    """
    if isinstance(start, tuple):
        fields = getattr(start, "_fields", None)
        # Another NamedTuple is refused: its fields may have the same shapes in another order.
        given_fields = getattr(given, "_fields", fields)
        if not isinstance(given, tuple) or len(given) != len(start) or given_fields != fields:
            raise ValueError(
                f"{where}: expected {structure(start)} for {cell!r}, got {structure(given)}"
            )
        names = [f".{f}" for f in fields] if fields else [f"[{i}]" for i in range(len(start))]
        parts = [
            match_structure(cell, s, g, where + name)
            for s, g, name in zip(start, given, names, strict=True)
        ]
        return type(start)(*parts) if fields else tuple(parts)
    if jax.tree.structure(start) != jax.tree.structure(given):
        raise ValueError(
            f"{where}: expected {structure(start)} for {cell!r}, got {structure(given)}"
        )

    def check_leaf(path, s, g):
        if tuple(s.shape) != np.shape(g):
            raise ValueError(
                f"{where}{keystr(path)}: expected shape {tuple(s.shape)} for {cell!r}, got "
                f"{np.shape(g)}; states are not broadcast"
            )
        return jnp.asarray(g)

    return jax.tree_util.tree_map_with_path(check_leaf, start, given)


def structure(tree: PyTree) -> str:
    """A pytree as text, with shapes for arrays: `LSTMStateTuple(c=[2, 4], h=[2, 4])`."""
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
def explain_tracing_errors(where: str) -> Iterator[None]:
    """Replaces JAX's errors about traced values, raised in a user's function, by advice."""
    try:
        yield
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError(f"{where}: {NUMPY_MESSAGE}") from error
    except CONCRETIZATION_ERRORS as error:
        raise TypeError(f"{where}: {VALUE_MESSAGE}") from error


def call_back(where: str, function: Callable[..., Any], names: str, *arguments: Any) -> Any:
    """Calls a user's function while it is traced, and explains its errors.

    `where` is the argument that it was passed as, `names` are the names of its arguments.
    """
    with explain_tracing_errors(where):
        try:
            return function(*arguments)
        except Exception as error:
            # A `TypeError` may also come from inside the function: it is left as it is.
            if isinstance(error, TypeError) and rejects_arguments(function, arguments):
                raise TypeError(
                    f"{where}: expected a function of {len(arguments)} ({names}), got one of "
                    f"{inspect.signature(function)}"
                ) from error
            if not _is_of_package(function):
                given = arguments[0] if len(arguments) == 1 else arguments
                error.add_note(f"{where} was called with {names}, {structure(given)}")
            raise


def rejects_arguments(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    """Whether a function cannot be called with this number of positional arguments."""
    try:
        return binding_error(inspect.signature(function), arguments, {}) is not None
    except (TypeError, ValueError):  # a function written in C may have no signature
        return False
