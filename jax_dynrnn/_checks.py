"""What `dynamic_rnn` checks before anything runs. Each error says what was expected,
what came, and what to do. `B` is the batch size, `T` the number of time steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._cell import Adapter, Cell, Params, State

ORDER = "the order of arguments is dynamic_rnn(cell, params, inputs, sequence_length)"


def inputs(cell: Cell, inputs: Any, time_axis: int) -> tuple[Any, int, int]:
    """`inputs` as a pytree of arrays, their `B` and `T`."""
    leaves = jax.tree_util.tree_flatten_with_path(inputs)[0]
    if not leaves:
        raise ValueError(f"inputs: expected at least one array, got {inputs!r}")
    _check_not_ragged(cell, inputs, [x for _, x in leaves])
    inputs = jax.tree_util.tree_map_with_path(lambda p, x: array("inputs" + name(p), x), inputs)
    first = None
    for path, x in jax.tree_util.tree_flatten_with_path(inputs)[0]:
        where = "inputs" + name(path)
        _check_rank(cell, where, x, time_axis)
        sizes = (x.shape[1 - time_axis], x.shape[time_axis])
        first = first or (where, sizes)
        if sizes != first[1]:
            raise ValueError(
                f"{where}: expected (batch, time) = {first[1]} as in {first[0]}, got {sizes}"
            )
    return inputs, *first[1]


def _check_not_ragged(cell: Cell, inputs: Any, leaves: list) -> None:
    ranks = [np.ndim(x) for x in leaves if not hasattr(x, "ndim")]
    ranks += [x.ndim for x in leaves if hasattr(x, "ndim")]
    expected = 2 + cell.feature_ndim
    if isinstance(inputs, list | tuple) and max(ranks) <= 2 and max(ranks) != expected:
        raise TypeError(
            f"inputs: expected one padded array [batch, time, ...], got a "
            f"{type(inputs).__name__} of {len(inputs)} items of rank {max(ranks)}; "
            "pad_sequences(arrays) makes the batch and its lengths"
        )


def _check_rank(cell: Cell, where: str, x: Any, time_axis: int) -> None:
    expected = 2 + cell.feature_ndim
    if x.ndim == expected:
        return
    axes = "[batch, time" if time_axis == 1 else "[time, batch"
    features = {0: "]", 1: ", features]"}.get(cell.feature_ndim, f"] + {cell.feature_ndim} axes")
    hint = ""
    if x.ndim == expected - 1:
        axis = "x[None]" if time_axis == 1 else "x[:, None]"
        hint = f"; for one sequence without a batch axis pass {axis}"
    raise ValueError(
        f"{where}: expected rank {expected}, {axes}{features}, for {cell!r} with "
        f"feature_ndim={cell.feature_ndim}, got rank {x.ndim}, shape {tuple(x.shape)}{hint}"
    )


def array(where: str, x: Any) -> Any:
    """`x` as something with a shape and a dtype that JAX computes with."""
    if not hasattr(x, "dtype"):
        x = np.asarray(x)
    if isinstance(x, np.ndarray | np.generic) and x.dtype.kind in "OSUV" and not _extended(x):
        raise TypeError(
            f"{where}: expected an array of numbers, got dtype {x.dtype}; rows of different "
            "length are padded by pad_sequences"
        )
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(
            f"{where}: expected a real dtype, got {x.dtype}; split it into real and imaginary "
            "features"
        )
    return x


def _extended(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.number)  # bfloat16 and its kin


def name(path: Any) -> str:
    """How a leaf is reached: `.c`, `[0].h`, `['kernel']`."""
    return jax.tree_util.keystr(path)


def sequence_length(lengths: Any, batch: Any, time: Any, time_axis: int) -> Any:
    """Checks dtype and shape always, values where they are known."""
    if isinstance(lengths, list | tuple) and any(isinstance(n, jax.Array) for n in lengths):
        lengths = jnp.stack([jnp.asarray(n) for n in lengths])
    elif not hasattr(lengths, "dtype"):
        lengths = np.asarray(lengths)
    expected = f"sequence_length: expected one integer for each of the {batch} rows, "
    if lengths.ndim != 1:
        hint = "; a mask of valid steps is given as mask=" if lengths.dtype == bool else ""
        raise ValueError(f"{expected}a vector, got shape {tuple(lengths.shape)}{hint}")
    if lengths.shape[0] != batch:
        hint = ""
        if lengths.shape[0] == time:
            flag = "time_major=True" if time_axis == 1 else "time_major=False"
            hint = f"; it fits the time axis: is this data for {flag}?"
        raise ValueError(f"{expected}got {lengths.shape[0]}{hint}")
    if lengths.shape[0] == 0:
        return np.zeros(0, np.int32)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"{expected}got dtype {lengths.dtype}; cast what you mean to integers")
    _check_values(lengths, time)
    return lengths


def _check_values(lengths: Any, time: Any) -> None:
    if isinstance(lengths, jax.Array):
        tracing = isinstance(jnp.zeros(()), jax.core.Tracer)
        if tracing or isinstance(lengths, jax.core.Tracer) or not lengths.is_fully_addressable:
            return
    elif not isinstance(lengths, np.ndarray):
        return
    values = np.asarray(lengths)
    longest = time if isinstance(time, int) else np.iinfo(np.int32).max
    bad = np.flatnonzero((values < 0) | (values > longest))
    if bad.size:
        raise ValueError(
            f"sequence_length: expected values in [0, {longest}], the number of time steps, "
            f"got {values[bad[0]]} in row {bad[0]}"
        )


def flags(where: str, x: Any, batch: Any, time: Any, time_axis: int) -> Any:
    """`mask` and `resets`: bool, one for each step."""
    x = x if hasattr(x, "dtype") else np.asarray(x)
    shape = (batch, time) if time_axis == 1 else (time, batch)
    axes = "[batch, time]" if time_axis == 1 else "[time, batch]"
    if tuple(x.shape) != shape:
        raise ValueError(f"{where}: expected shape {shape}, {axes}, got {tuple(x.shape)}")
    if x.dtype != bool:
        raise TypeError(f"{where}: expected dtype bool, got {x.dtype}; compare it with something")
    return x


def params(cell: Cell, given: Params, input_shape: Any) -> None:
    """Compares names and shapes in `given` with what `cell.init` makes of `input_shape`."""
    if isinstance(cell, Adapter):  # its params are its own affair
        return
    expected_tree = jax.eval_shape(lambda: cell.init(jax.random.key(0), input_shape))
    expected, got = _by_name(expected_tree), _by_name(given)
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
    for name, leaf in expected.items():
        if tuple(leaf.shape) != jnp.shape(got[name]):
            raise ValueError(
                _shape_message(cell, name, leaf.shape, jnp.shape(got[name]), input_shape)
            )


def _by_name(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}


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


def initial_state(cell: Cell, given: State, start: State) -> State:
    """`given` with the structure of `start`; shapes are checked, dtypes kept."""
    return _match(cell, start, given, "initial_state")


def _match(cell: Cell, start: Any, given: Any, where: str) -> Any:
    if isinstance(start, tuple):
        fields = getattr(start, "_fields", None)
        if not isinstance(given, tuple) or len(given) != len(start):
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
                f"{where}{name(path)}: expected shape {tuple(s.shape)} for {cell!r}, got "
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


def batch_leaves(cell: Cell, tree: Any, batch: Any, where: str) -> None:
    """Checks that every leaf is rank 0 or has the batch as its first axis."""
    for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if x.ndim and x.shape[0] != batch:
            raise ValueError(
                f"{where}{name(path)} of {cell!r}: expected rank 0, or the batch of {batch} as "
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
                f"state{name(path)} of {old.dtype}{list(old.shape)}, got "
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
                f"initial_state{name(path)}: expected {s.dtype}, in which {cell!r} computes "
                f"here, got {x.dtype}; cast it, or give dtype="
            ) from error


def options(unroll: Any, remat: Any, dtype: Any, key: Any) -> None:
    """Checks what is neither data nor cell."""
    if isinstance(unroll, bool) or not hasattr(unroll, "__index__") or unroll < 1:
        raise ValueError(f"unroll: expected an int >= 1, got {unroll!r}")
    is_size = hasattr(remat, "__index__") and not isinstance(remat, bool) and remat >= 1
    if not (remat is None or remat in ("sqrt", "offload") or is_size):
        raise ValueError(f"remat: expected None, an int >= 1, 'sqrt' or 'offload', got {remat!r}")
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype: expected a real floating dtype, got {jnp.dtype(dtype)}")
    if key is None:
        return
    typed = jnp.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key)
    if jnp.ndim(key) != (0 if typed else 1):
        raise ValueError(
            f"key: expected one key, as of jax.random.key(0), got shape {jnp.shape(key)}"
        )


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
