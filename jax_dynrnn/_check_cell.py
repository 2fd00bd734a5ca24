"""Checks of params and states against the cell, made while a call is traced.

Every error says what was expected, what was given, and what to do.
"""

from __future__ import annotations

import contextlib
import functools
import numbers
import os.path
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from . import _check_options
from ._memoize import memoize_by_cell
from ._protocol import (
    ask,
    match_structure,
    rejects_arguments,
    same_shapes,
    state_change_error,
    structure,
)
from ._repr import as_code
from ._tools import as_dicts, unboxed
from ._types import (
    CellWithAttributes,
    DTypeLike,
    Inputs,
    Params,
    PyTree,
    PyTreeDef,
    Shapes,
    Size,
    State,
)

ORDER = "; the order of arguments is dynamic_rnn(cell, params, inputs, sequence_length)"


def check_params(cell: CellWithAttributes, given: Params, input_shape: Shapes) -> None:
    """Checks the names and shapes of params against those that `cell.init` returns."""
    # An object that is no `Cell` may run on other params than its `init` returns.
    if hasattr(cell, "foreign"):
        return

    def init():
        return unboxed(ask(cell, "init", jax.random.key(0), input_shape))

    try:
        expected_tree = jax.eval_shape(init)
    except (jax.errors.JAXTypeError, NotImplementedError):
        return  # `init` cannot be traced, or a cell of another framework has none
    expected, got = by_name(expected_tree), by_name(given)
    if isinstance(expected_tree, Mapping) and not isinstance(given, Mapping):
        raise TypeError(
            f"params: expected a dict of {_listed(expected)} for {cell!r}, got "
            f"{_describe(given)}{ORDER}"
        )
    if set(expected) != set(got):
        # With metadata stripped the names agree: the arrays are still inside Flax's boxes.
        if set(expected) == set(by_name(unboxed(given))):
            raise TypeError(
                f"params: expected arrays for {cell!r}, got some in Flax's partitioning metadata; "
                "flax.linen.unbox(params) gives the arrays, as the layers do"
            )
        _raise_names(cell, expected, got)
    # The two spellings of a path have the same name here, but a cell reads nested dicts only.
    flat = [n for n in got if "/" in n and isinstance(given, Mapping) and n in given]
    if flat:
        raise KeyError(
            f"params: expected nested dicts, {_where(flat[0])}, got the flat name {flat[0]!r}"
        )
    for name, leaf in expected.items():
        expected_shape, shape = tuple(leaf.shape), np.shape(got[name])
        if shape != expected_shape and not is_learned_row(name, shape, expected_shape):
            raise ValueError(_shape_message(cell, name, expected_shape, shape, input_shape))


def is_learned_row(path: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether a param is a learned initial state with a batch axis of size 1, as other frameworks
    store it."""
    return "initial_state" in path.split("/") and shape == (1, *expected)


def _raise_names(cell: CellWithAttributes, expected: dict[str, Any], got: dict[str, Any]) -> None:
    """Raises the error about wrong names, which says in which of the nested dicts they are."""
    missing = [name for name in expected if name not in got]
    unexpected = [name for name in got if name not in expected]
    for name in unexpected:
        if inside := _below(missing, f"{name}/"):
            raise TypeError(
                f"{_where(name)}: expected a dict of {_listed(inside)} for {cell!r}, got "
                f"{_describe(got[name])}"
            )
    parts = os.path.commonprefix([name.split("/")[:-1] for name in (*missing, *unexpected)])
    common = "".join(f"{part}/" for part in parts)
    of_flax = '; of the variables of a Flax layer, pass variables["params"]["cell"]'
    raise KeyError(
        f"{_where(common)}: expected those of {cell!r}: {_listed(_below(expected, common))}; "
        f"missing: {_listed(_below(missing, common))}; unexpected: "
        f"{_listed(_below(unexpected, common))}"
        f"{of_flax if _below(unexpected, 'params/cell/') else ORDER}"
    )


def _below(names: Iterable[str], prefix: str) -> list[str]:
    """The names that start with `prefix`, without it."""
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(str, names)) or "none"


def _where(name: str) -> str:
    """The Python expression for a name: `params["cell_0"]["kernel"]` for `cell_0/kernel`."""
    return "params" + "".join(f'["{part}"]' for part in name.split("/") if part)


def by_name(tree: PyTree) -> dict[str, Any]:
    """The params as a flat dict: `{"cell_0/kernel": ...}`. The memory of attention is left out."""
    tree = as_dicts(tree)  # other mappings may be flattened without their keys

    def is_memory(x):
        return getattr(x, "is_param", True) is False

    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_memory)[0]
    path_name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {path_name(p) or "(one array)": x for p, x in leaves if not is_memory(x)}


def _shape_message(
    cell: CellWithAttributes,
    name: str,
    expected: tuple[Any, ...],
    got: tuple[Any, ...],
    input_shape: Shapes,
) -> str:
    message = (
        f"{_where(name)}: expected shape {expected} for {cell!r} on inputs of shape "
        f"{input_shape}, got {got}"
    )
    sizes = jax.tree.leaves(input_shape)
    of_first_layer = not re.search("cell_[1-9]", name)  # the others do not get these inputs
    is_kernel = len(expected) == len(got) > 1 and expected[1:] == got[1:]
    if cell.feature_ndim == 1 and of_first_layer and is_kernel:
        # A kernel may have rows for the hidden state too; the surplus is in those of the inputs.
        fits = sizes[-1] - expected[0] + got[0]
        message += f": the inputs have {sizes[-1]} features, these params were made for {fits}"
    return message


def params_not_inputs(cell: CellWithAttributes, given: Params) -> None:
    """Raises if the inputs stand in place of the params, as in a call with TF1's arguments.

    Called after another argument was rejected: wrong params are the more likely cause.
    """
    if not hasattr(cell, "foreign") and hasattr(given, "shape"):
        check_params(cell, given, tuple(given.shape))


def state_of_step(
    cell: CellWithAttributes,
    params: Params,
    inputs: Inputs,
    state: State,
    batch_shape: tuple[Any, ...],
) -> State:
    """The state in a direct call of a cell, checked as the initial state of a run is."""
    leaves = jax.tree.leaves(inputs)
    is_array = all(hasattr(x, "dtype") for x in leaves) or isinstance(inputs, numbers.Number)
    if not leaves or not is_array:
        raise TypeError(
            f"inputs: expected arrays [batch, features], or of one row, got {structure(inputs)}; "
            "jnp.asarray(x) makes one of a list"
        )
    start = start_shapes(cell, params, batch_shape, jnp.dtype(jnp.float32))
    try:
        return match_structure(cell, start, state, "state")
    except ValueError as error:
        hint = ""
        if same_shapes(inputs, start):
            hint = "; the order of arguments is cell(params, inputs, state)"
        elif len(batch_shape) > 1:
            hint = (
                f"; inputs with the leading axes {batch_shape} are many steps, and a cell takes "
                "one, [batch, features]: dynamic_rnn runs them all"
            )
        raise ValueError(f"{error}{hint}") from None


def start_shapes(
    cell: CellWithAttributes, params: Params, batch_shape: tuple[Any, ...], dtype: DTypeLike
) -> Any:
    """The shapes of the cell's start state. Equal cells are traced once."""
    # A cache needs hashable arguments: shapes and dtypes stand for the arrays.
    leaves, treedef = jax.tree.flatten(params)
    types = tuple(jax.ShapeDtypeStruct(np.shape(x), jnp.result_type(x)) for x in leaves)
    return _start_shapes(cell, treedef, types, batch_shape, dtype)


@memoize_by_cell
def _start_shapes(
    cell: CellWithAttributes,
    treedef: PyTreeDef,
    types: tuple[Any, ...],
    batch_shape: tuple[Any, ...],
    dtype: DTypeLike,
) -> Any:
    params = treedef.unflatten(types)
    return jax.eval_shape(lambda params: ask(cell, "start", params, batch_shape, dtype), params)


def explain_params_error(
    cell: CellWithAttributes, given: Params, inputs: Inputs, state: State, error: Exception
) -> None:
    """Raises an error about the params if `error`, which a direct call raised, is due to them."""
    params_elsewhere = isinstance(inputs, Mapping) or isinstance(state, Mapping)
    if hasattr(given, "shape") and params_elsewhere:
        raise TypeError(
            f"params: expected the params returned by init of {cell!r}, got {_describe(given)}; "
            "the order of arguments is cell(params, inputs, state)"
        ) from error
    if str(error).startswith("state"):
        return
    # The params are checked only after a step has failed: each check traces `init`.
    try:
        with relabel_errors("cell(params, inputs, state)"):
            check_params(cell, given, jax.tree.map(np.shape, inputs))
    except (KeyError, TypeError, ValueError) as about_params:
        if str(about_params.args[0]).startswith("params"):
            raise about_params from error


def explain_argument_error(method: str, given: dict[str, Any], error: Exception) -> None:
    """Raises if an argument is why `init`, `zero_state` or `attend` failed with `error`.

    `given` holds all arguments by name.
    """
    if method == "init" and "key" in given:
        _check_options.a_key(given["key"])
        _check_initializers(given.get("self"), error)
    if method != "attend" and "dtype" in given:
        _check_options.floating(given["dtype"])
    if method == "attend" and not isinstance(given.get("params", {}), Mapping):
        raise TypeError(
            f"params: expected a dict, which init of {given.get('self')!r} made, got "
            f"{_describe(given['params'])}; the order of arguments is "
            "cell.attend(params, memory, memory_length)"
        ) from error


def check_initialized_params(arguments: tuple[Any, ...], params: Params) -> None:
    """Checks what `init` returned: raises if there are functions among the params.

    They come from an initializer that was not called, as `jax.nn.initializers.orthogonal`.
    """
    if any(callable(x) and not hasattr(x, "dtype") for x in jax.tree.leaves(params)):
        _check_initializers(arguments[0], None)


def _check_initializers(cell: Any, error: Exception | None) -> None:
    """Checks that the initializers of a cell take a key, a shape and a dtype."""
    example = jax.random.key(0), (2, 2), jnp.float32
    for name, given in getattr(cell, "__dict__", {}).items():
        if not name.endswith("_initializer") or not callable(given):
            continue
        if rejects_arguments(given, example) or _makes_a_function(given, example):
            raise TypeError(
                f"{type(cell).__name__}: expected {name} to be a function of (key, shape, dtype), "
                f"as jax.nn.initializers.orthogonal() is, got {as_code(given)}; did you mean to "
                "call it?"
            ) from error


def _makes_a_function(initializer: Callable[..., Any], example: tuple[Any, ...]) -> bool:
    """Whether the user passed `orthogonal` instead of `orthogonal()`."""
    try:
        return callable(initializer(*example))
    except Exception:  # an error of the user's own code is raised where it occurred
        return False


def _describe(x: Any) -> str:
    """An argument in an error message: the shape of an array, or the type and the value."""
    if hasattr(x, "shape"):
        return f"an array of shape {tuple(x.shape)}"
    return f"{type(x).__name__} {x!r:.60}"


def match_initial_state(
    cell: CellWithAttributes, given: State, start: State, where: str = "initial_state"
) -> State:
    """`given` with the structure of `start`; its shapes are checked, its dtypes stay."""
    return match_structure(cell, start, given, where)


def fixed_state(owner: object, cell: CellWithAttributes) -> None:
    """Checks that the size of the state of `cell`, inside `owner`, does not depend on a memory."""
    if cell.attends:
        name = type(owner).__name__
        raise TypeError(
            f"{name}: expected a cell with a state of a fixed size, got {type(cell).__name__}, "
            "whose state depends on the memory; put it inside, as in "
            f"AttentionWrapper({name}(...), mechanism)"
        )


def batch_leaves(cell: CellWithAttributes, tree: PyTree, batch: Size, where: str) -> None:
    """Checks that every leaf is rank 0 or has the batch as its first axis."""
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if x.ndim and x.shape[0] != batch:
            raise ValueError(
                f"{where}{keystr(path)} of {cell!r}: expected rank 0, or the batch of {batch} as "
                f"the first axis, got shape {tuple(x.shape)}"
            )


def check_step(
    cell: CellWithAttributes, take_step: Callable[..., Any], state: State, start: State, batch: Size
) -> Any:
    """Traces one step and checks that it returns the state with the same shapes and dtypes.

    Returns the shapes of the output.
    """
    try:
        output, new = jax.eval_shape(take_step, state)
    except Exception as error:
        # A state in the wrong dtype often makes the cell itself fail, with a less clear message.
        _raise_if_wrong_dtype(cell, state, start, error)
        raise
    for (path, old), (_, x) in zip(
        jax.tree_util.tree_flatten_with_path(state)[0],
        jax.tree_util.tree_flatten_with_path(new)[0],
        strict=True,
    ):
        if old.shape != x.shape or old.dtype != x.dtype:
            _raise_if_wrong_dtype(cell, state, start, None)
            raise state_change_error(cell, path, old, x)
    batch_leaves(cell, output, batch, "output")
    return output


def _raise_if_wrong_dtype(cell: CellWithAttributes, state: State, start: State, error: Any) -> None:
    """Raises if the given state has other dtypes than the start state of the cell."""
    for (path, x), s in zip(
        jax.tree_util.tree_flatten_with_path(state)[0], jax.tree.leaves(start), strict=True
    ):
        if x.dtype != s.dtype:
            raise TypeError(
                f"initial_state{keystr(path)}: expected {s.dtype}, in which {cell!r} computes "
                f"here, got {x.dtype}; cast it"
            ) from error


def check_param_groups(params: Params, names: tuple[str, ...]) -> None:
    """Checks that `params` is a dict with the keys `names`: one entry per direction or layer."""
    if not isinstance(params, Mapping):
        raise TypeError(
            f"params: expected a dict of {_listed(names)}, got {_describe(params)}{ORDER}"
        )
    if set(params) != set(names):
        raise KeyError(
            f"params: expected a dict of {_listed(names)}; missing: "
            f"{_listed(n for n in names if n not in params)}; unexpected: "
            f"{_listed(n for n in params if n not in names)}{ORDER}"
        )


@contextlib.contextmanager
def relabel_errors(order: str = "", **labels: str) -> Iterator[None]:
    """Rewrites errors of an inner call to use the argument names of the outer call.

    `order` is the signature of the outer call. `labels` maps argument names of the inner call to
    what the user passed, as in `params='params["fw"]'`.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        if error.args and isinstance(error.args[0], str):
            # Changed in place: the traceback and the type stay those of the inner error.
            error.args = (_relabelled(error.args[0], order, labels), *error.args[1:])
        raise


def _relabelled(message: str, order: str, labels: dict[str, str]) -> str:
    """`message` with another order of arguments, and another name for the argument it is about."""
    order = order and f"; the order of arguments is {order}"
    # A function, since `re.sub` would interpret backslashes in a string.
    message = re.sub("; the order of arguments is .*", lambda _: order, message)
    # Messages begin with the argument: "params: ...", "state.c: ...", "inputs['a']: ...".
    argument = re.match(r"\w*", message)[0]  # pyright: ignore[reportOptionalSubscript]
    if argument in labels and message[len(argument) :].startswith((":", ".", "[")):
        return labels[argument] + message.removeprefix(argument)
    return message
