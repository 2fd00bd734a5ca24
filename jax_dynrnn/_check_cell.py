"""What is checked of params and states against the cell, while a call is traced.

Each error says what was expected, what came, and what to do.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from ._cell import Adapter, Cell, Memory, Params, State
from ._tools import as_dicts, unboxed

ORDER = "the order of arguments is dynamic_rnn(cell, params, inputs, sequence_length)"


def params(cell: Cell, given: Params, input_shape: Any) -> None:
    """Compares names and shapes in `given` with what `cell.init` makes of `input_shape`."""
    if isinstance(cell, Adapter):  # its params are its own affair
        return
    try:
        expected_tree = jax.eval_shape(lambda: unboxed(cell.init(jax.random.key(0), input_shape)))
    except (jax.errors.JAXTypeError, NotImplementedError):
        return  # an init that cannot be traced, or that a foreign cell does not have
    expected, got = by_name(expected_tree), by_name(given)
    if isinstance(expected_tree, Mapping) and not isinstance(given, Mapping):
        raise TypeError(
            f"params: expected a dict of {', '.join(expected) or 'nothing'} for {cell!r}, got "
            f"{_describe(given)}; {ORDER}"
        )
    if set(expected) != set(got):
        missing = [n for n in expected if n not in got]
        unexpected = [n for n in got if n not in expected]
        raise KeyError(
            f"params: expected those of {cell!r}: {', '.join(expected)}; missing: "
            f"{', '.join(missing) or 'none'}; unexpected: {', '.join(unexpected) or 'none'}; "
            f"{ORDER}"
        )
    flat = [n for n in got if "/" in n and isinstance(given, Mapping) and n in given]
    if flat:
        nested = "".join(f"[{part!r}]" for part in flat[0].split("/"))
        raise KeyError(
            f"params: expected nested dicts, params{nested}, got the flat name {flat[0]!r}"
        )
    for name, leaf in expected.items():
        if tuple(leaf.shape) != jnp.shape(got[name]):
            raise ValueError(
                _shape_message(cell, name, leaf.shape, jnp.shape(got[name]), input_shape)
            )


def by_name(tree: Any) -> dict[str, Any]:
    """The params by name; a memory is none of them."""
    tree = as_dicts(tree)  # other mappings may be flattened without their keys
    is_memory = lambda x: isinstance(x, Memory)  # noqa: E731
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_memory)[0]
    path_name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {path_name(p) or "(one array)": x for p, x in leaves if not is_memory(x)}


def _shape_message(cell: Cell, name: str, expected: Any, got: Any, input_shape: Any) -> str:
    message = (
        f"params: expected {name} of shape {tuple(expected)} for {cell!r} on inputs of shape "
        f"{input_shape}, got {tuple(got)}"
    )
    sizes = jax.tree.leaves(input_shape)
    if cell.feature_ndim == 1 and len(expected) == len(got) and expected[1:] == got[1:]:
        fits = sizes[-1] - expected[0] + got[0]
        message += f": the inputs have {sizes[-1]} features, these params were made for {fits}"
    return message


def params_not_inputs(cell: Cell, given: Params) -> None:
    """Refuses an array in the place of the params, where the rest makes no sense either."""
    if not isinstance(cell, Adapter) and hasattr(given, "shape"):
        params(cell, given, tuple(given.shape))


def _describe(x: Any) -> str:
    if hasattr(x, "shape"):
        return f"an array of shape {tuple(x.shape)}"
    return f"{type(x).__name__} {x!r:.60}"


def initial_state(cell: Cell, given: State, start: State, where: str = "initial_state") -> State:
    """`given` with the structure of `start`; shapes are checked, dtypes kept."""
    return _match(cell, start, given, where)


def _match(cell: Cell, start: Any, given: Any, where: str) -> Any:
    if isinstance(start, tuple):
        fields = getattr(start, "_fields", None)
        others = getattr(given, "_fields", fields)
        if not isinstance(given, tuple) or len(given) != len(start) or others != fields:
            raise ValueError(
                f"{where}: expected {_structure(start)} for {cell!r}, got {_structure(given)}"
            )
        names = [f".{f}" for f in fields] if fields else [f"[{i}]" for i in range(len(start))]
        parts = [_match(cell, s, g, where + n) for s, g, n in zip(start, given, names, strict=True)]
        return type(start)(*parts) if fields else tuple(parts)
    if jax.tree.structure(start) != jax.tree.structure(given):
        raise ValueError(
            f"{where}: expected {_structure(start)} for {cell!r}, got {_structure(given)}"
        )

    def leaf(path, s, g):
        if tuple(s.shape) != jnp.shape(g):
            raise ValueError(
                f"{where}{keystr(path)}: expected shape {tuple(s.shape)} for {cell!r}, got "
                f"{jnp.shape(g)}; states are not broadcast"
            )
        return jnp.asarray(g)

    return jax.tree_util.tree_map_with_path(leaf, start, given)


def _structure(tree: Any) -> str:
    """How a state looks, with its shapes: `LSTMStateTuple(c=[2, 4], h=[2, 4])`."""
    if isinstance(tree, tuple | list):
        fields = getattr(tree, "_fields", None)
        parts = [_structure(x) for x in tree]
        if fields:
            inside = ", ".join(f"{f}={p}" for f, p in zip(fields, parts, strict=True))
            return f"{type(tree).__name__}({inside})"
        return f"{type(tree).__name__} of {len(tree)} ({', '.join(parts)})"
    return str(list(tree.shape)) if hasattr(tree, "shape") else repr(tree)


def fixed_state(owner: Any, cell: Cell) -> None:
    """Checks that the state of the cell in `owner` does not depend on a memory."""
    if cell.attends:
        name = type(owner).__name__
        raise TypeError(
            f"{name}: expected a cell with a state of a fixed size, got {type(cell).__name__}, "
            "whose state depends on the memory; put it inside, as in "
            f"AttentionWrapper({name}(...), mechanism)"
        )


def batch_leaves(cell: Cell, tree: Any, batch: Any, where: str) -> None:
    """Checks that every leaf is rank 0 or has the batch as its first axis."""
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if x.ndim and x.shape[0] != batch:
            raise ValueError(
                f"{where}{keystr(path)} of {cell!r}: expected rank 0, or the batch of {batch} as "
                f"the first axis, got shape {tuple(x.shape)}"
            )


def step(cell: Cell, take_step: Any, state: State, start: State, batch: Any) -> None:
    """Traces one step: it must return the state's structure, shapes and dtypes."""
    try:
        output, new = jax.eval_shape(take_step, state)
    except Exception as error:
        _blame_state_dtype(cell, state, start, error)
        raise
    _blame_state_structure(cell, state, new)
    for (path, old), (_, x) in zip(
        jax.tree_util.tree_flatten_with_path(state)[0],
        jax.tree_util.tree_flatten_with_path(new)[0],
        strict=True,
    ):
        if old.shape != x.shape or old.dtype != x.dtype:
            _blame_state_dtype(cell, state, start, None)
            raise TypeError(
                f"{cell!r}: a step must return the state it was given; expected "
                f"state{keystr(path)} of {old.dtype}{list(old.shape)}, got "
                f"{x.dtype}{list(x.shape)}"
            )
    batch_leaves(cell, output, batch, "output")


def _blame_state_structure(cell: Cell, state: State, new: State) -> None:
    if jax.tree.structure(state) != jax.tree.structure(new):
        raise TypeError(
            f"{cell!r}: a step must return the state it was given; expected "
            f"{_structure(state)}, got {_structure(new)}"
        )


def _blame_state_dtype(cell: Cell, state: State, start: State, error: Any) -> None:
    """Raises if the state that was given has other dtypes than the cell starts from."""
    for (path, x), s in zip(
        jax.tree_util.tree_flatten_with_path(state)[0], jax.tree.leaves(start), strict=True
    ):
        if x.dtype != s.dtype:
            raise TypeError(
                f"initial_state{keystr(path)}: expected {s.dtype}, in which {cell!r} computes "
                f"here, got {x.dtype}; cast it, or give dtype="
            ) from error


def directions(params: Params, names: tuple[str, ...], function: str) -> None:
    """Checks that `params` are those of several runs under `names`."""
    if not isinstance(params, Mapping):
        raise TypeError(
            f"params: expected a dict of {', '.join(names)} for {function}, got "
            f"{_describe(params)}; params follow the cells, then inputs"
        )
    if set(params) != set(names):
        raise KeyError(
            f"params: expected {', '.join(names)} for {function}; missing: "
            f"{', '.join(n for n in names if n not in params) or 'none'}; unexpected: "
            f"{', '.join(str(n) for n in params if n not in names) or 'none'}"
        )
